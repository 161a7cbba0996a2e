package viz

import (
	"fmt"
	"math"
)

// bars compares values by category: data sets, policies, two traces. The bars
// are horizontal, so that names of any length can be read.
type bars struct {
	Info
	Axis       string // what the length means, with its unit
	Categories []string
	// Groups have a bar in each category: Y, and the interval around it. X is
	// not used.
	Groups []Curve
}

func (b bars) check() error {
	if n := len(b.Categories); n > maxSide {
		return fmt.Errorf("viz: figure %s: got %d categories, expected at most %d", b.Name, n, maxSide)
	}
	for _, g := range b.Groups {
		if err := g.check(len(b.Categories)); err != nil {
			return fmt.Errorf("viz: figure %s: bars %w", b.Name, err)
		}
	}
	return nil
}

// Table implements Figure.
func (b bars) Table() Table {
	t := Table{Info: b.Info, Columns: []Column{{Name: "category"}, {Name: "bar"}, {Name: orElse(b.Axis, "value")}, {Name: "low"}, {Name: "high"}}}
	for i, c := range b.Categories {
		for _, g := range b.Groups {
			lo, hi := g.interval(i)
			t.Rows = append(t.Rows, []any{c, g.Name, g.Y[i], lo, hi})
		}
	}
	return t
}

// heights returns the heights of a bar and of a category.
func (b bars) heights() (bar, row float64) {
	n := len(b.Groups)
	if n <= 1 {
		return 18, 26
	}
	bar = math.Max(5, math.Min(13, 44/float64(n)))
	return bar, bar*float64(n) + 10
}

func (b bars) keys(s Style) []key {
	if len(b.Groups) < 2 {
		return nil
	}
	var keys []key
	for i, g := range b.Groups {
		keys = append(keys, key{text: label(g.Name, 40), tone: b.tone(s, i), mark: -1})
	}
	return keys
}

// tone returns the colour of a group: those of curves, lighter where they repeat.
func (b bars) tone(s Style, i int) tone {
	return s.series(i).fade(math.Pow(0.6, float64(i/seriesColours)))
}

func (b bars) size(width float64, s Style) float64 {
	_, row := b.heights()
	return math.Max(60, legendHeight(s, b.keys(s), width)+row*float64(len(b.Categories))+6+bottomMargin(b.Axis))
}

func (b bars) limits() (lo, hi float64) {
	for i := range b.Categories {
		for _, g := range b.Groups {
			low, high := g.interval(i)
			for _, v := range []float64{g.Y[i], low, high} {
				if !math.IsNaN(v) {
					lo, hi = math.Min(lo, v), math.Max(hi, v)
				}
			}
		}
	}
	if !wider(lo, hi) {
		hi = lo + 1
	}
	return lo, hi
}

func (b bars) draw(p *pen, at rect) hover {
	if len(b.Categories) == 0 || len(b.Groups) == 0 {
		p.drawAbsent(at, "Nothing to draw: no bars were given.")
		return hover{}
	}
	keys := b.keys(p.style)
	head := legendHeight(p.style, keys, at.w)
	p.drawLegend(keys, at)
	bar, row := b.heights()
	lo, hi := b.limits()
	box := p.drawCategories(b.Categories, at, head+4, 44, row, 0.36)
	x := axis{label: b.Axis, min: lo, max: hi, ticks: linearTicks(lo, hi, int(math.Max(2, box.w/70))), from: box.x, to: box.x + box.w}
	p.drawX(&x, box, true)
	var h hover
	for i := range b.Categories {
		y := box.y + row*float64(i)
		for k, g := range b.Groups {
			if math.IsNaN(g.Y[i]) {
				continue
			}
			by := y + (row-bar)/2
			if len(b.Groups) > 1 {
				by = y + 5 + bar*float64(k)
			}
			h.Spots = append(h.Spots, b.drawBar(p, &x, i, k, math.Max(lo, math.Min(0, hi)), by, bar))
		}
	}
	p.line(x.at(math.Max(lo, 0)), box.y, x.at(math.Max(lo, 0)), box.y+box.h, 1, p.style.tone("axis"))
	return h
}

func (b bars) drawBar(p *pen, x *axis, i, k int, from, y, height float64) spot {
	g := b.Groups[k]
	x0, x1 := x.at(from), x.at(g.Y[i])
	if x1 < x0 {
		x0, x1 = x1, x0
	}
	w := x1 - x0
	tone := b.tone(p.style, k)
	p.rect(x0, y, w, math.Max(1, height-1), tone)
	text := b.Categories[i] + ": " + short(g.Y[i], 4)
	if g.Name != "" && len(b.Groups) > 1 {
		text = g.Name + ", " + text
	}
	t := textStyle{size: 10, tone: p.style.tone("ink"), v: 0.5}
	end := x1
	if lo, hi := g.interval(i); !math.IsNaN(lo) && !math.IsNaN(hi) {
		text += intervalText(lo, hi)
		mid := y + height/2
		p.line(x.at(lo), mid, x.at(hi), mid, 1.4, p.style.tone("ink"))
		p.line(x.at(lo), mid-3, x.at(lo), mid+3, 1.4, p.style.tone("ink"))
		p.line(x.at(hi), mid-3, x.at(hi), mid+3, 1.4, p.style.tone("ink"))
		end = math.Max(end, x.at(hi))
	}
	if height >= 9 {
		p.text(end+5, y+height/2, short(g.Y[i], 3), t)
	}
	return spot{X: x0, Y: y, W: math.Max(w, 1), H: height, Text: text}
}
