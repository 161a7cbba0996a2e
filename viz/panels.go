package viz

import "math"

// Panels draws figures side by side, for example one data set, phase or trace
// beside another.
type Panels struct {
	Info
	Figures []Figure
	// Columns is the number of panels in a row of 760 points; 0 means 2. A
	// narrower figure has fewer.
	Columns int
	// Shared draws all heat maps with one range of colours and one colour bar.
	Shared bool
}

func (p Panels) check() error {
	for _, f := range p.Figures {
		if err := f.check(); err != nil {
			return err
		}
	}
	return nil
}

// Table implements Figure. It has the rows of all panels, each with its panel's
// title. A column whose name differs between panels is named "value".
func (p Panels) Table() Table {
	t := Table{Info: p.Info}
	for i, f := range p.Figures {
		sub := f.Table()
		if i == 0 {
			t.Columns = append([]Column{{Name: "panel"}}, sub.Columns...)
		}
		for j := range t.Columns[1:] {
			if j < len(sub.Columns) && sub.Columns[j].head() != t.Columns[j+1].head() {
				t.Columns[j+1] = Column{Name: "value"}
			}
		}
		for _, r := range sub.Rows {
			row := append([]any{f.Describe().Title}, r...)
			for len(row) < len(t.Columns) {
				row = append(row, "")
			}
			t.Rows = append(t.Rows, row[:len(t.Columns)])
		}
	}
	return t
}

const panelTitle, panelGap = 20, 18

func (p Panels) columns(width float64) int {
	n := p.Columns
	if n < 1 {
		n = 2
	}
	for n > 1 && width/float64(n) < 150 {
		n--
	}
	if width < 480 && p.Columns <= 2 {
		n = 1
	}
	return min(n, max(1, len(p.Figures)))
}

// shared returns the panels with one range of colours, and one that draws the
// colour bar; nil: none.
func (p Panels) shared(width float64) (figs []Figure, bar *HeatMap) {
	if !p.Shared {
		return p.Figures, nil
	}
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, f := range p.Figures {
		if h, ok := f.(HeatMap); ok {
			a, b := h.limits()
			lo, hi = math.Min(lo, a), math.Max(hi, b)
		}
	}
	n := p.columns(width)
	for i, f := range p.Figures {
		h, ok := f.(HeatMap)
		if ok {
			h.Range, h.inner = [2]float64{lo, hi}, true
			h.noRow, h.noCol = i%n > 0, i+n < len(p.Figures)
			if bar == nil {
				b := h
				bar = &b
			}
			figs = append(figs, h)
			continue
		}
		figs = append(figs, f)
	}
	return figs, bar
}

// rows returns the heights of the rows and the width of a panel.
func (p Panels) rows(figs []Figure, width float64, s Style) (heights []float64, each float64) {
	n := p.columns(width)
	each = (width - panelGap*float64(n-1)) / float64(n)
	for i, f := range figs {
		if i%n == 0 {
			heights = append(heights, 0)
		}
		heights[i/n] = math.Max(heights[i/n], f.size(each, s)+panelTitle)
	}
	return heights, each
}

func (p Panels) size(width float64, s Style) float64 {
	figs, bar := p.shared(width)
	heights, _ := p.rows(figs, width, s)
	total := 0.0
	for _, h := range heights {
		total += h + 6
	}
	if bar != nil {
		total += barHeight + 4
	}
	return math.Max(60, total)
}

func (p Panels) draw(pn *pen, at rect) hover {
	if len(p.Figures) == 0 {
		pn.drawAbsent(at, "Nothing to draw: no panels were given.")
		return hover{}
	}
	figs, bar := p.shared(at.w)
	heights, each := p.rows(figs, at.w, pn.style)
	n := p.columns(at.w)
	y := at.y
	if bar != nil {
		lo, hi := bar.limits()
		bar.drawBar(pn, at, lo, hi)
		y += barHeight + 4
	}
	var h hover
	t := textStyle{size: 12, bold: true, tone: pn.style.tone("ink")}
	for i, f := range figs {
		x := at.x + float64(i%n)*(each+panelGap)
		pn.text(x, y, t.fit(f.Describe().Title, each), t)
		h.add(f.draw(pn, rect{x, y + panelTitle, each, f.size(each, pn.style)}))
		if i%n == n-1 {
			y += heights[i/n] + 6
		}
	}
	return h
}
