package viz

import (
	"math"
	"strconv"
)

type tick struct {
	v     float64
	label string
}

// axis maps values to a range of the page.
type axis struct {
	label    string
	min, max float64
	log      bool
	ticks    []tick
	from, to float64 // page
}

func (a *axis) at(v float64) float64 {
	lo, hi := a.min, a.max
	if a.log {
		lo, hi, v = math.Log2(lo), math.Log2(hi), math.Log2(v)
	}
	if hi == lo {
		return (a.from + a.to) / 2
	}
	return a.from + (v-lo)/(hi-lo)*(a.to-a.from)
}

// wider reports whether hi exceeds lo by more than rounding.
func wider(lo, hi float64) bool {
	return hi-lo > 1e-9*math.Max(math.Abs(lo), math.Abs(hi)) && !math.IsInf(hi-lo, 0)
}

// linearTicks returns about n round values from lo to hi.
func linearTicks(lo, hi float64, n int) []tick {
	if n < 1 || !wider(lo, hi) {
		return []tick{{lo, short(lo, 3)}}
	}
	return stepTicks(lo, hi, roundStep((hi-lo)/float64(n)))
}

// niceRange widens lo and hi to round values and returns about n ticks.
func niceRange(lo, hi float64, n int) (float64, float64, []tick) {
	if !wider(lo, hi) {
		d := math.Max(math.Abs(lo)*0.1, 1e-3)
		lo, hi = lo-d, hi+d
	}
	step := roundStep((hi - lo) / float64(max(n, 1)))
	lo, hi = math.Floor(lo/step+1e-9)*step, math.Ceil(hi/step-1e-9)*step
	return lo, hi, stepTicks(lo, hi, step)
}

// roundStep returns the least of ..., 1, 2, 5, 10, ... that is at least raw.
func roundStep(raw float64) float64 {
	mag := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 5} {
		if m*mag >= raw*0.999 {
			return m * mag
		}
	}
	return 10 * mag
}

// stepTicks returns the multiples of step from lo to hi.
func stepTicks(lo, hi, step float64) []tick {
	digits := int(math.Max(0, -math.Floor(math.Log10(step)+1e-9)))
	var out []tick
	for k := math.Ceil(lo/step - 1e-9); k*step <= hi+step*1e-9; k++ {
		v := k * step
		if v == 0 {
			v = 0 // no negative zero
		}
		out = append(out, tick{v, thousands(strconv.FormatFloat(v, 'f', digits, 64))})
	}
	return out
}

// integerTicks returns at most about n integers from lo to hi.
func integerTicks(lo, hi float64, n int) []tick {
	n = max(n, 1)
	step := 1.0
	for _, s := range []float64{1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, 128} {
		step = s
		if (hi-lo)/step <= float64(n) {
			break
		}
	}
	for (hi-lo)/step > float64(n) {
		step *= 2
	}
	var out []tick
	for v := math.Ceil(lo/step) * step; v <= hi+1e-9; v += step {
		out = append(out, tick{v, thousands(strconv.FormatFloat(v, 'f', 0, 64))})
	}
	return out
}

// powerTicks returns the powers of base from lo to hi.
func powerTicks(base, lo, hi float64) []tick {
	var out []tick
	log := func(v float64) float64 { return math.Log2(v) / math.Log2(base) }
	for k := math.Ceil(log(lo) - 1e-9); k <= log(hi)+1e-9; k++ {
		v := math.Pow(base, k)
		out = append(out, tick{v, short(v, 4)})
	}
	return out
}

// short formats a number with at most n significant digits.
func short(v float64, n int) string {
	if math.IsNaN(v) {
		return "no value"
	}
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return thousands(strconv.FormatFloat(v, 'f', 0, 64))
	}
	s := strconv.FormatFloat(v, 'g', n, 64)
	if f, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(f) >= 1e-4 && math.Abs(f) < 1e9 {
		s = strconv.FormatFloat(f, 'f', -1, 64)
		return thousands(s)
	}
	return s
}

func tickStyle(s Style) textStyle  { return textStyle{size: 11, tone: s.tone("soft")} }
func labelStyle(s Style) textStyle { return textStyle{size: 12, tone: s.tone("ink")} }

// leftMargin returns the width of the labels of a y axis.
func leftMargin(s Style, label string, ticks []tick, most float64) float64 {
	w := 0.0
	for _, t := range ticks {
		w = math.Max(w, tickStyle(s).measure(t.label))
	}
	w = math.Min(w, most) + 8
	if label != "" {
		w += 20
	}
	return w
}

func bottomMargin(label string) float64 {
	if label == "" {
		return 22
	}
	return 40
}

// drawX draws ticks and label of a horizontal axis below a box, without labels
// that would touch.
func (p *pen) drawX(a *axis, box rect, grid bool) {
	t := tickStyle(p.style)
	t.h, t.v = 0.5, 0
	last := math.Inf(-1)
	for _, k := range a.ticks {
		x := a.at(k.v)
		if grid {
			p.line(x, box.y, x, box.y+box.h, 1, p.style.tone("grid"))
		}
		w := t.measure(k.label)
		if x-w/2 < last+5 {
			continue
		}
		last = x + w/2
		p.line(x, box.y+box.h, x, box.y+box.h+4, 1, p.style.tone("axis"))
		p.text(x, box.y+box.h+8, k.label, t)
	}
	l := labelStyle(p.style)
	l.h, l.v = 0.5, 1
	mid := box.x + box.w/2
	s := l.fit(a.label, p.width-8)
	if half := l.measure(s) / 2; mid+half > p.width-4 {
		mid = p.width - 4 - half
	} else if mid < half+4 {
		mid = half + 4
	}
	p.text(mid, box.y+box.h+36, s, l)
}

// drawY draws ticks and label of a vertical axis to the left of a box.
func (p *pen) drawY(a *axis, box rect, left float64, grid bool) {
	t := tickStyle(p.style)
	t.h, t.v = 1, 0.5
	room := box.x - left - 8
	if a.label != "" {
		room -= 18
	}
	last := math.Inf(1)
	for _, k := range a.ticks {
		y := a.at(k.v)
		if grid {
			p.line(box.x, y, box.x+box.w, y, 1, p.style.tone("grid"))
		}
		if math.Abs(last-y) < 12 {
			continue
		}
		last = y
		p.line(box.x-4, y, box.x, y, 1, p.style.tone("axis"))
		p.text(box.x-7, y, t.fit(k.label, room), t)
	}
	l := labelStyle(p.style)
	l.h, l.v, l.rotate = 0.5, 0, 0.25
	p.text(left+1, box.y+box.h/2, l.fit(a.label, box.h+40), l)
}

// key is an entry of a legend.
type key struct {
	text string
	tone tone
	mark int // -1: a patch
	dash []float64
}

func (k key) width(s Style) float64 {
	return 26 + tickStyle(s).measure(k.text) + 16
}

// legendHeight returns the height of a legend of the given width.
func legendHeight(s Style, keys []key, width float64) float64 {
	if len(keys) == 0 {
		return 0
	}
	x, rows := 0.0, 1
	for _, k := range keys {
		if w := k.width(s); x > 0 && x+w > width+16 {
			x, rows = 0, rows+1
		}
		x += k.width(s)
	}
	return float64(rows)*18 + 6
}

func (p *pen) drawLegend(keys []key, at rect) {
	x, y := at.x, at.y
	t := tickStyle(p.style)
	t.tone, t.v = p.style.tone("ink"), 0.5
	for _, k := range keys {
		w := k.width(p.style)
		if x > at.x && x-at.x+w > at.w+16 {
			x, y = at.x, y+18
		}
		if k.mark < 0 {
			p.rect(x+6, y+3, 12, 10, k.tone)
		} else {
			p.line(x, y+8, x+22, y+8, 2, k.tone, k.dash...)
			p.mark(k.mark, x+11, y+8, 3.2, k.tone)
		}
		p.text(x+27, y+8, t.fit(k.text, at.w-30), t)
		x += w
	}
}

// drawCategories draws names beside the rows of a box that is as wide as the
// names permit, and returns the box. top is the distance of the box from at.
func (p *pen) drawCategories(names []string, at rect, top, right, rowHeight, share float64) rect {
	t := tickStyle(p.style)
	t.tone, t.h, t.v = p.style.tone("ink"), 1, 0.5
	left := 0.0
	for _, n := range names {
		left = math.Max(left, t.measure(label(n, 60)))
	}
	left = math.Min(left, at.w*share) + 8
	for i, n := range names {
		p.text(at.x+left-7, at.y+top+rowHeight*(float64(i)+0.5), t.fit(n, left-8), t)
	}
	return rect{at.x + left, at.y + top, at.w - left - right, rowHeight * float64(len(names))}
}
