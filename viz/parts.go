package viz

import (
	"fmt"
	"math"
)

// parts shows what wholes consist of: for each category a bar of 100 %.
type parts struct {
	Info
	Axis       string // what the length means, with its unit
	Categories []string
	// Names are those of the parts, and Values their percentages, [category][part];
	// NaN: no bar.
	Names  []string
	Values [][]float64

	tones []string // colours of the parts; nil: partTones
	row   float64  // height of a row; 0: partsRow
}

// partTones are colours of parts, the best first.
var partTones = []string{"s2", "s0", "s5", "s4", "s1", "s3", "s6", "s7"}

func (f parts) check() error {
	if n := len(f.Categories); n > maxSide || len(f.Values) != n {
		return fmt.Errorf("viz: figure %s: got %d categories for %d bars, expected as many and at most %d", f.Name, n, len(f.Values), maxSide)
	}
	for i, v := range f.Values {
		sum := 0.
		for _, x := range v {
			sum += x
			if x < 0 {
				sum = math.Inf(1)
			}
		}
		if len(v) != len(f.Names) || !math.IsNaN(sum) && sum > 100.1 {
			return fmt.Errorf("viz: figure %s: bar %d is %v, expected %d parts of 100 %%", f.Name, i, v, len(f.Names))
		}
	}
	return nil
}

// Table implements Figure.
func (f parts) Table() Table {
	t := Table{Info: f.Info, Columns: []Column{{Name: "category"}, {Name: "part"}, {Name: orElse(f.Axis, "share (%)")}}}
	for i, c := range f.Categories {
		for j, n := range f.Names {
			t.Rows = append(t.Rows, []any{c, n, f.Values[i][j]})
		}
	}
	return t
}

func (f parts) keys(s Style) []key {
	var keys []key
	for j, n := range f.Names {
		keys = append(keys, key{text: label(n, 40), tone: f.tone(s, j), mark: -1})
	}
	return keys
}

func (f parts) tone(s Style, j int) tone {
	if j < len(f.tones) {
		return s.tone(f.tones[j])
	}
	return s.tone(partTones[j%len(partTones)])
}

const partsRow = 26

func (f parts) rowHeight() float64 { return math.Max(f.row, partsRow) }

func (f parts) size(width float64, s Style) float64 {
	return math.Max(60, legendHeight(s, f.keys(s), width)+f.rowHeight()*float64(len(f.Categories))+6+bottomMargin(f.Axis))
}

func (f parts) draw(p *pen, at rect) hover {
	if len(f.Categories) == 0 || len(f.Names) == 0 {
		p.drawAbsent(at, "Nothing to draw: no parts were given.")
		return hover{}
	}
	keys := f.keys(p.style)
	p.drawLegend(keys, at)
	box := p.drawCategories(f.Categories, at, legendHeight(p.style, keys, at.w)+4, 18, f.rowHeight(), 0.36)
	x := axis{label: f.Axis, max: 100, ticks: linearTicks(0, 100, int(math.Max(2, box.w/70))), from: box.x, to: box.x + box.w}
	p.drawX(&x, box, true)
	t, height := textStyle{size: 10, h: 0.5, v: 0.5}, f.rowHeight()-8
	var h hover
	for i, c := range f.Categories {
		y, from := box.y+f.rowHeight()*(float64(i)+0.5)-height/2, 0.
		for j, v := range f.Values[i] {
			if !(v > 0) {
				continue
			}
			x0, x1 := x.at(from), x.at(from+v)
			from += v
			ground := f.tone(p.style, j)
			p.rect(x0, y, math.Max(0.5, x1-x0-1), height, ground)
			if s := short(v, 2); x1-x0 >= t.measure(s)+5 {
				t.tone = textOn(ground.c)
				p.text((x0+x1)/2, y+height/2, s, t)
			}
			h.Spots = append(h.Spots, spot{X: x0, Y: y, W: x1 - x0, H: height, Text: c + "\n" + f.Names[j] + ": " + short(v, 3) + " %"})
		}
	}
	p.line(box.x, box.y, box.x, box.y+box.h, 1, p.style.tone("axis"))
	return h
}
