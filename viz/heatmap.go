package viz

import (
	"fmt"
	"image"
	"image/color"
	"math"
	"strconv"

	"gonum.org/v1/plot/vg"
)

// HeatMap colours the values of a matrix: usage of experts by layer,
// transitions between layers, pairs of experts.
type HeatMap struct {
	Info
	// Data are the values, rows from the top, all of equal length. NaN means
	// that a cell has no value.
	Data [][]float64
	// Rows and Columns are the labels; nil: 0, 1, 2, ...
	Rows, Columns []string
	// RowAxis and ColumnAxis name what rows and columns are ("expert").
	RowAxis, ColumnAxis string
	// Value names what a cell holds ("share of choices"), Unit its unit ("%").
	Value, Unit string
	// Range is the range of the colours; both 0: that of the data.
	Range [2]float64
	// Diverging colours values by their distance from Center.
	Diverging bool
	Center    float64
	// Reference is marked on the colour bar, unless it is nil.
	Reference *Reference

	inner        bool // a panel, whose colour bar is drawn elsewhere
	noRow, noCol bool // a panel whose neighbour has the label of the axis
}

func (h HeatMap) check() error {
	if err := checkGrid(h.Name, h.Data); err != nil {
		return err
	}
	r, c := dims(h.Data)
	if h.Rows != nil && len(h.Rows) != r || h.Columns != nil && len(h.Columns) != c {
		return fmt.Errorf("viz: figure %s: got %d row and %d column labels for %d x %d values", h.Name, len(h.Rows), len(h.Columns), r, c)
	}
	return nil
}

// labelOf returns label i, or i where there are no labels.
func labelOf(labels []string, i int) string {
	if labels == nil {
		return strconv.Itoa(i)
	}
	return labels[i]
}

// Table implements Figure, with a row per cell.
func (h HeatMap) Table() Table {
	t := Table{Info: h.Info, Columns: []Column{
		{Name: orElse(h.RowAxis, "row")}, {Name: orElse(h.ColumnAxis, "column")}, {Name: orElse(h.Value, "value"), Unit: h.Unit},
	}}
	r, c := dims(h.Data)
	for i := range r {
		for j := range c {
			t.Rows = append(t.Rows, []any{labelOf(h.Rows, i), labelOf(h.Columns, j), h.Data[i][j]})
		}
	}
	return t
}

// limits returns the range of the colours.
func (h HeatMap) limits() (lo, hi float64) {
	lo, hi = h.Range[0], h.Range[1]
	if lo == 0 && hi == 0 {
		lo, hi = math.Inf(1), math.Inf(-1)
		r, c := dims(h.Data)
		for i := range r {
			for j := range c {
				if v := h.Data[i][j]; !math.IsNaN(v) {
					lo, hi = math.Min(lo, v), math.Max(hi, v)
				}
			}
		}
		if math.IsInf(lo, 0) {
			lo, hi = 0, 1
		}
		if lo > 0 && (lo < hi/2 || !wider(lo, hi)) {
			lo = 0
		}
	}
	if h.Diverging {
		d := math.Max(math.Abs(hi-h.Center), math.Abs(h.Center-lo))
		lo, hi = h.Center-d, h.Center+d
	}
	if !wider(lo, hi) {
		hi = lo + math.Max(1, math.Abs(lo)*0.1)
	}
	return lo, hi
}

func (h HeatMap) color(v, lo, hi float64) color.NRGBA {
	x := (v - lo) / (hi - lo)
	if h.Diverging {
		return ramp(blueOrange, x)
	}
	return ramp(viridis, x)
}

const barHeight = 46

func (h HeatMap) columnLabel() string {
	if h.noCol {
		return ""
	}
	return h.ColumnAxis
}

func (h HeatMap) rowLabel() string {
	if h.noRow {
		return ""
	}
	return h.RowAxis
}

func (h HeatMap) bodyHeight() float64 {
	r, _ := dims(h.Data)
	per := 26.0
	if h.inner {
		per = 14
	}
	switch {
	case r == 0:
		return 60
	case r > 64:
		per = math.Max(1, math.Min(6, 800/float64(r)))
	case r > 20:
		per = 11
	}
	return math.Max(40, math.Ceil(per*float64(r)))
}

func (h HeatMap) size(width float64, s Style) float64 {
	y := h.bodyHeight() + bottomMargin(h.columnLabel())
	if !h.inner {
		y += barHeight
	}
	return y
}

func (h HeatMap) draw(p *pen, at rect) hover {
	r, c := dims(h.Data)
	if r == 0 || c == 0 {
		p.drawAbsent(at, "Nothing to draw: no "+orElse(h.Value, "values")+" were given.")
		return hover{}
	}
	lo, hi := h.limits()
	top := at.y
	if !h.inner {
		h.drawBar(p, at, lo, hi)
		top += barHeight
	}
	x := axis{label: h.columnLabel(), min: -0.5, max: float64(c) - 0.5}
	y := axis{label: h.rowLabel(), min: -0.5, max: float64(r) - 0.5}
	body := h.bodyHeight()
	y.ticks = gridTicks(r, h.Rows, body/14)
	left := leftMargin(p.style, h.RowAxis, y.ticks, at.w*0.4) // equal in all panels
	box := rect{at.x + left, top, at.w - left - 2, body}
	widest := 10.0
	for j := range c {
		widest = math.Max(widest, tickStyle(p.style).measure(labelOf(h.Columns, j)))
	}
	x.ticks = gridTicks(c, h.Columns, box.w/(widest+6))
	x.from, x.to, y.from, y.to = box.x, box.x+box.w, box.y, box.y+box.h
	h.drawCells(p, box, lo, hi)
	p.drawX(&x, box, false)
	p.drawY(&y, box, at.x, false)
	g := cells{Box: [4]float64{box.x, box.y, box.w, box.h}, Row: h.RowAxis, Col: h.ColumnAxis, Unit: h.Unit}
	if h.inner {
		g.Title = h.Title
	}
	for i := range r {
		g.Rows = append(g.Rows, labelOf(h.Rows, i))
		for j := range c {
			g.Values = append(g.Values, jsonNum(h.Data[i][j]))
		}
	}
	for j := range c {
		g.Cols = append(g.Cols, labelOf(h.Columns, j))
	}
	return hover{Cells: []cells{g}}
}

// gridTicks returns the labels of n rows or columns for which there is room.
func gridTicks(n int, labels []string, room float64) []tick {
	room = math.Max(1, room)
	if labels == nil {
		ticks := integerTicks(0, float64(n-1), int(room))
		for i := range ticks {
			ticks[i].label = strconv.Itoa(int(ticks[i].v))
		}
		return ticks
	}
	var out []tick
	for i := 0; i < n; i += max(1, int(math.Ceil(float64(n)/room))) {
		out = append(out, tick{float64(i), labels[i]})
	}
	return out
}

func (h HeatMap) drawCells(p *pen, box rect, lo, hi float64) {
	r, c := dims(h.Data)
	w, ht := box.w/float64(c), box.h/float64(r)
	missing := p.style.tone("missing")
	digits := 0
	if hi-lo <= 10 {
		digits = 1
	}
	if hi-lo <= 1 {
		digits = 2
	}
	t := textStyle{size: 10, h: 0.5, v: 0.5}
	longest := math.Max(t.measure(strconv.FormatFloat(hi, 'f', digits, 64)), t.measure(strconv.FormatFloat(lo, 'f', digits, 64)))
	write := w >= longest+4 && ht >= 13
	asImage := p.image && (r*c > 2500 || p.report && r*c > 16)
	if asImage {
		p.rect(box.x, box.y, box.w, box.h, missing) // visible where there is no value
		img := image.NewNRGBA(image.Rect(0, 0, c, r))
		for i := range r {
			for j := range c {
				if v := h.Data[i][j]; !math.IsNaN(v) {
					img.SetNRGBA(j, i, h.color(v, lo, hi))
				}
			}
		}
		p.c.DrawImage(vg.Rectangle{Min: p.pt(box.x, box.y+box.h), Max: p.pt(box.x+box.w, box.y)}, img)
		if !write {
			return
		}
	}
	for i := range r {
		for j := range c {
			v := h.Data[i][j]
			x, y := box.x+w*float64(j), box.y+ht*float64(i)
			// Cells extend under their neighbours, so that no seams show.
			cw, ch := math.Min(w+0.5, box.x+box.w-x), math.Min(ht+0.5, box.y+box.h-y)
			if math.IsNaN(v) {
				if !asImage {
					p.rect(x, y, cw, ch, missing)
				}
				p.line(x, y+ht, x+w, y, 1, p.style.tone("ground"))
				continue
			}
			col := h.color(v, lo, hi)
			if !asImage {
				p.rect(x, y, cw, ch, plain(col))
			}
			if write {
				t.tone = textOn(col)
				s := strconv.FormatFloat(v, 'f', digits, 64)
				if s == "-0" || s == "-0.0" || s == "-0.00" {
					s = s[1:]
				}
				p.text(x+w/2, y+ht/2, s, t)
			}
		}
	}
}

// drawBar draws the colour bar, its unit and ticks above the cells.
func (h HeatMap) drawBar(p *pen, at rect, lo, hi float64) {
	w := math.Min(240, at.w*0.62)
	name := h.Value
	if h.Unit != "" {
		name += " (" + h.Unit + ")"
	}
	l := labelStyle(p.style)
	p.text(at.x, at.y, l.fit(name, at.w), l)
	x, y := at.x+8, at.y+14
	const n = 64
	for i := range n {
		f := float64(i) / n
		v := lo + (hi-lo)*(float64(i)+0.5)/n
		cw := math.Min(w/n+0.5, w-w*f)
		p.rect(x+w*f, y, cw, 8, plain(h.color(v, lo, hi)))
	}
	t := tickStyle(p.style)
	t.h = 0.5
	a := axis{min: lo, max: hi, from: x, to: x + w}
	var taken [][2]float64
	put := func(v float64, s string) {
		px, half := a.at(v), t.measure(s)/2
		mid := math.Max(at.x+half, math.Min(at.x+at.w-half, px)) // complete at the edge of the page too
		for _, k := range taken {
			if mid+half+4 > k[0] && mid-half-4 < k[1] {
				return
			}
		}
		taken = append(taken, [2]float64{mid - half, mid + half})
		p.line(px, y+8, px, y+11, 1, p.style.tone("axis"))
		p.text(mid, y+13, s, t)
	}
	if r := h.Reference; r != nil && r.Value >= lo && r.Value <= hi {
		px := a.at(r.Value)
		p.line(px, y-2, px, y+10, 2, p.style.tone("ink"))
		put(r.Value, r.Label)
	}
	for _, k := range linearTicks(lo, hi, 4) {
		put(k.v, k.label)
	}
}
