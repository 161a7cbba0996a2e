package viz

import (
	"math"
	"slices"
)

// drawNamed draws the first point of each curve with the curve's name beside it, and
// the frontier.
func (l Lines) drawNamed(p *pen, x, y *axis, box rect) (spots []spot) {
	var taken []rect
	var xs, ys []float64
	at := func(c Curve) (px, py float64) { return x.at(c.X[0]), y.at(c.Y[0]) }
	curves := map[string]int{}
	for i, c := range l.Curves {
		px, py := at(c)
		curves[c.Name] = i
		taken = append(taken, rect{px - 5, py - 5, 10, 10})
	}
	var order []int // the best of the frontier first: for its name there is room then
	for _, name := range slices.Backward(l.frontier) {
		px, py := at(l.Curves[curves[name]])
		xs, ys, order = append(xs, px), append(ys, py), append(order, curves[name])
	}
	p.polyline(xs, ys, 1.4, p.style.tone("axis"), nil)
	on := len(order)
	for i := range l.Curves {
		if !slices.Contains(order[:on], i) {
			order = append(order, i)
		}
	}
	for n, i := range order {
		c := l.Curves[i]
		px, py := at(c)
		tone, ink := p.style.series(i), p.style.tone("ink")
		if l.frontier != nil && n >= on {
			tone, ink = p.style.tone("soft").fade(0.6), p.style.tone("soft")
		}
		if lo, hi := c.interval(0); !math.IsNaN(lo) && !math.IsNaN(hi) {
			p.line(px, y.at(lo), px, y.at(hi), 1.4, tone)
		}
		p.mark(markOf(i), px, py, 4.5, tone)
		spots = append(spots, spot{X: px, Y: py, Text: l.pointText(c, 0)})
		taken = p.placeName(textStyle{size: 11, tone: ink, v: 0.5}, label(c.Name, 32), px, py, box, taken)
	}
	return spots
}

// placeName writes the name of a point where it covers nothing, or not at all,
// and returns the places that are taken.
func (p *pen) placeName(t textStyle, name string, px, py float64, box rect, taken []rect) []rect {
	w := t.measure(name)
next:
	for _, at := range []rect{{px + 9, py - 6, w, 12}, {px - 9 - w, py - 6, w, 12}, {px - w/2, py - 21, w, 12}, {px - w/2, py + 9, w, 12},
		{px + 6, py - 20, w, 12}, {px + 6, py + 8, w, 12}, {px - 6 - w, py - 20, w, 12}, {px - 6 - w, py + 8, w, 12}} {
		if at.x < box.x || at.x+at.w > box.x+box.w || at.y < box.y || at.y+at.h > box.y+box.h {
			continue
		}
		for _, o := range taken {
			if at.x < o.x+o.w && o.x < at.x+at.w && at.y < o.y+o.h && o.y < at.y+at.h {
				continue next
			}
		}
		p.text(at.x, at.y+6, name, t)
		return append(taken, at)
	}
	return taken
}
