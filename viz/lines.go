package viz

import (
	"fmt"
	"math"
	"slices"
)

// Lines draws curves over one axis: recall by distance, entropy by layer,
// losses of training, hit rate by cache size.
type Lines struct {
	Info
	// XAxis and YAxis are the labels of the axes with their units: "recall (%)".
	XAxis, YAxis string
	Curves       []Curve
	// References are drawn as labelled horizontal lines.
	References []Reference
	// IntegerX places ticks at integers only: layers, distances.
	IntegerX bool
	// LogX makes x logarithmic; every x must be positive.
	LogX bool
	// Diagonal draws the line y = x.
	Diagonal bool
	// YRange is the range of y; both 0: that of the data.
	YRange [2]float64
	// Height in points; 0 means 300.
	Height float64

	named    bool     // each curve is a point, with its name beside it; LogX by powers of ten
	frontier []string // of these points, in order, a line goes through those, and others are grey; nil: none
	layers   stacks   // of the layers on the x axis
}

func (l Lines) check() error {
	if err := checkHeight(l.Name, l.Height); err != nil {
		return err
	}
	for _, c := range l.Curves {
		if err := c.check(len(c.X)); err != nil {
			return fmt.Errorf("viz: figure %s: curve %w", l.Name, err)
		}
		for i, x := range c.X {
			if math.IsNaN(x) || math.IsInf(x, 0) {
				return fmt.Errorf("viz: figure %s: curve %q: x of point %d is %g; must be finite", l.Name, c.Name, i, x)
			}
			if l.LogX && x <= 0 {
				return fmt.Errorf("viz: figure %s: curve %q: x of point %d is %g; must be positive on a logarithmic axis", l.Name, c.Name, i, x)
			}
		}
	}
	return nil
}

// Table implements Figure, with a row per point.
func (l Lines) Table() Table {
	first := "curve"
	if l.named {
		first = "name"
	}
	t := Table{Info: l.Info, Columns: []Column{
		{Name: first}, {Name: orElse(l.XAxis, "x")}, {Name: orElse(l.YAxis, "y")}, {Name: "low"}, {Name: "high"},
	}}
	if l.frontier != nil {
		t.Columns = append(t.Columns, Column{Name: "frontier"})
	}
	for _, c := range l.Curves {
		for i := range c.X {
			lo, hi := c.interval(i)
			x := any(c.X[i])
			if l.layers.names != nil {
				x = l.layers.number(int(c.X[i]))
			}
			row := []any{c.Name, x, c.Y[i], lo, hi}
			if l.frontier != nil {
				row = append(row, map[bool]string{true: "yes", false: "no"}[slices.Contains(l.frontier, c.Name)])
			}
			t.Rows = append(t.Rows, row)
		}
	}
	return t
}

func (l Lines) size(width float64, s Style) float64 {
	if l.empty() {
		return 60
	}
	h := l.Height
	if h == 0 {
		h = 300
	}
	return h + legendHeight(s, l.keys(s), width)
}

func (l Lines) keys(s Style) []key {
	if l.named || len(l.Curves) == 1 && l.Curves[0].Name == "" {
		return nil
	}
	var keys []key
	for i, c := range l.Curves {
		keys = append(keys, key{text: label(c.Name, 48), tone: s.series(i), mark: markOf(i), dash: dashOf(i)})
	}
	return keys
}

// Colours, markers and dashes have different periods, 8, 6 and, with a shift
// after every eighth curve, 8, so that 48 curves can be told apart.
func markOf(i int) int       { return i % 6 }
func dashOf(i int) []float64 { return dashes[(i+i/seriesColours)%len(dashes)] }

// empty reports whether there is no point to draw.
func (l Lines) empty() bool {
	for _, c := range l.Curves {
		for _, y := range c.Y {
			if !math.IsNaN(y) {
				return false
			}
		}
	}
	return true
}

// ranges returns the range of the data.
func (l Lines) ranges() (x0, x1, y0, y1 float64) {
	x0, x1, y0, y1 = math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, c := range l.Curves {
		for i, y := range c.Y {
			if math.IsNaN(y) {
				continue
			}
			x0, x1, y0, y1 = math.Min(x0, c.X[i]), math.Max(x1, c.X[i]), math.Min(y0, y), math.Max(y1, y)
			if lo, hi := c.interval(i); !math.IsNaN(lo) && !math.IsNaN(hi) {
				y0, y1 = math.Min(y0, lo), math.Max(y1, hi)
			}
		}
	}
	for _, r := range l.References {
		y0, y1 = math.Min(y0, r.Value), math.Max(y1, r.Value)
	}
	if l.YRange != [2]float64{} {
		y0, y1 = l.YRange[0], l.YRange[1]
	}
	return x0, x1, y0, y1
}

// axes returns the axes, rounded outward to ticks.
func (l Lines) axes(width, height float64) (x, y axis) {
	x0, x1, y0, y1 := l.ranges()
	x = axis{label: l.XAxis, log: l.LogX}
	y = axis{label: l.YAxis, min: y0, max: y1}
	ny := int(math.Max(2, height/48))
	if l.YRange == [2]float64{} {
		y.min, y.max, y.ticks = niceRange(y0, y1, ny)
	} else {
		y.ticks = linearTicks(y0, y1, ny)
	}
	switch {
	case l.LogX && l.named:
		x0, x1 = math.Pow(10, math.Floor(math.Log10(x0)+1e-9)), math.Pow(10, math.Ceil(math.Log10(x1)-1e-9))
		if x0 == x1 {
			x1 *= 10
		}
		x.ticks = powerTicks(10, x0, x1)
	case l.LogX:
		if !wider(x0, x1) {
			x0, x1 = x0/2, x1*2
		}
		x.ticks = powerTicks(2, x0, x1)
	default:
		if !wider(x0, x1) {
			x0, x1 = x0-1, x1+1
		}
		if nx := math.Max(2, width/44); l.layers.names != nil {
			x.ticks = l.layers.ticks(x0, x1)
		} else if l.IntegerX {
			x.ticks = integerTicks(x0, x1, int(nx))
		} else {
			x.ticks = linearTicks(x0, x1, int(nx*0.7))
		}
	}
	x.min, x.max = x0, x1
	return x, y
}

func (l Lines) draw(p *pen, at rect) hover {
	if l.empty() {
		p.drawAbsent(at, "Nothing to draw: no points were given.")
		return hover{}
	}
	keys := l.keys(p.style)
	head := legendHeight(p.style, keys, at.w)
	p.drawLegend(keys, rect{at.x, at.y, at.w, head})
	height, gap, right, pad := at.h-head, 6.0, 14.0, 8.0
	if l.named {
		height, right, pad = at.h-46, 10, 10
	}
	x, y := l.axes(at.w, height)
	left := leftMargin(p.style, y.label, y.ticks, at.w*0.3)
	for _, r := range l.References {
		if y.max-r.Value < 0.08*(y.max-y.min) {
			gap = 17 // its label is above the box, clear of the curves
		}
	}
	box := rect{at.x + left, at.y + head + gap, at.w - left - right, at.h - head - gap - bottomMargin(x.label)}
	x.from, x.to, y.from, y.to = box.x+pad, box.x+box.w-pad, box.y+box.h, box.y
	p.drawY(&y, box, at.x, true)
	p.drawX(&x, box, false)
	p.line(box.x, box.y+box.h, box.x+box.w, box.y+box.h, 1, p.style.tone("axis"))
	l.drawReferences(p, nil, &y, box)
	if lo, hi := math.Max(x.min, y.min), math.Min(x.max, y.max); l.Diagonal && hi > lo {
		p.line(x.at(lo), y.at(lo), x.at(hi), y.at(hi), 1.2, p.style.tone("soft"), 4, 3)
	}
	var h hover
	if l.named {
		h.Spots = l.drawNamed(p, &x, &y, box)
		return h
	}
	for i, c := range l.Curves {
		for _, r := range l.layers.parts(c.X) {
			l.drawBand(p, i, r[0], r[1], &x, &y)
		}
	}
	for i := range l.Curves {
		h.Spots = append(h.Spots, l.drawCurve(p, i, &x, &y)...)
	}
	l.drawReferences(p, &x, &y, box)
	return h
}

// drawReferences draws the lines, or, after the curves, if x is not nil, their labels:
// each on the right, in the middle or on the left, where it covers the fewest points.
func (l Lines) drawReferences(p *pen, x, y *axis, box rect) {
	t := textStyle{size: 10, tone: p.style.tone("soft"), h: 1, v: 1}
	for _, r := range l.References {
		v := y.at(r.Value)
		if v < box.y-1 || v > box.y+box.h+1 {
			continue
		}
		if x == nil {
			p.line(box.x, v, box.x+box.w, v, 1.2, p.style.tone("soft"), 4, 3)
			continue
		}
		s := t.fit(r.Label, box.w-4)
		w := t.measure(s) + 4
		label, fewest := rect{}, math.MaxInt
		for _, at := range []float64{box.x + box.w - w, box.x + (box.w-w)/2, box.x} {
			here := rect{at, v - 13, w, 11}
			if n := l.within(here, x, y); n < fewest {
				label, fewest = here, n
			}
		}
		p.rect(label.x, label.y, label.w, label.h, p.style.tone("ground").fade(0.8))
		p.text(label.x+w-2, v-4, s, t)
	}
}

// within returns the number of the curves' points in a part of the drawing.
func (l Lines) within(r rect, x, y *axis) (n int) {
	for _, c := range l.Curves {
		for k := range c.X {
			if px, py := x.at(c.X[k]), y.at(c.Y[k]); px >= r.x && px <= r.x+r.w && py >= r.y && py <= r.y+r.h {
				n++
			}
		}
	}
	return n
}

// drawBand draws the intervals of points from..to-1 of a curve as a band and, if they
// are few, as whiskers.
func (l Lines) drawBand(p *pen, i, from, to int, x, y *axis) {
	c := l.Curves[i]
	var xs, lo, hi []float64
	for k := from; k < to; k++ {
		a, b := c.interval(k)
		if math.IsNaN(c.Y[k]) || math.IsNaN(a) || math.IsNaN(b) {
			continue
		}
		xs, lo, hi = append(xs, x.at(c.X[k])), append(lo, y.at(a)), append(hi, y.at(b))
	}
	tone := p.style.series(i)
	if len(xs) <= 10 {
		for k := range xs {
			p.line(xs[k], lo[k], xs[k], hi[k], 1.2, tone.fade(0.8))
			p.line(xs[k]-3, lo[k], xs[k]+3, lo[k], 1.2, tone.fade(0.8))
			p.line(xs[k]-3, hi[k], xs[k]+3, hi[k], 1.2, tone.fade(0.8))
		}
	}
	if len(xs) < 2 {
		return
	}
	for k := len(xs) - 1; k >= 0; k-- {
		xs, lo = append(xs, xs[k]), append(lo, hi[k])
	}
	p.polygon(xs, lo, tone.fade(0.14))
}

// pointText returns the text shown at point k of a curve.
func (l Lines) pointText(c Curve, k int) string {
	text := ""
	if c.Name != "" {
		text = c.Name + "\n"
	}
	x := short(c.X[k], 5)
	if l.layers.names != nil {
		x = l.layers.number(int(c.X[k]))
	}
	text += orElse(l.XAxis, "x") + " " + x + ": " + short(c.Y[k], 4)
	return text + intervalText(c.interval(k))
}

func intervalText(lo, hi float64) string {
	if math.IsNaN(lo) || math.IsNaN(hi) {
		return ""
	}
	return " [" + short(lo, 4) + ", " + short(hi, 4) + "]"
}

func (l Lines) drawCurve(p *pen, i int, x, y *axis) []spot {
	c := l.Curves[i]
	tone := p.style.series(i)
	var xs, ys []float64
	var spots []spot
	flush := func() {
		p.polyline(xs, ys, 2, tone, dashOf(i))
		xs, ys = nil, nil
	}
	for _, r := range l.layers.parts(c.X) {
		for k := r[0]; k < r[1]; k++ {
			if math.IsNaN(c.Y[k]) {
				flush()
				continue
			}
			s := spot{X: x.at(c.X[k]), Y: y.at(c.Y[k]), Text: l.pointText(c, k)}
			xs, ys, spots = append(xs, s.X), append(ys, s.Y), append(spots, s)
		}
		flush()
	}
	first, step := 0, 1
	if n := len(spots); n > 40 { // more markers would hide the line
		first, step = n/24, max(1, n/12)
	}
	for k := first; k < len(spots); k += step {
		p.mark(markOf(i), spots[k].X, spots[k].Y, 3.2, tone)
	}
	return spots
}
