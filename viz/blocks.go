package viz

import (
	"fmt"
	"html/template"
	"math"
	"strings"
)

type blockHTML struct {
	ID, Label            string
	Title, Caption, Note string
	Figures              []figureHTML
	Table                *tableHTML
}

type figureHTML struct {
	Info
	Option       string
	Wide, Narrow template.HTML
}

type figureJSON struct {
	Value string     `json:"value,omitempty"`
	Cells []cellJSON `json:"cells,omitempty"`
	Spots []spotJSON `json:"spots,omitempty"`
	Table *tableJSON `json:"table,omitempty"`
}

type cellJSON struct {
	cells
	Box [8]jsonNum `json:"box"` // wide, narrow
}

type spotJSON struct {
	Text string     `json:"t"`
	P    [8]jsonNum `json:"p"` // wide, narrow
}

const narrowWidth = 358

func (f Figures) block(p *page) (blockHTML, error) {
	out := blockHTML{Label: f.Label}
	if f.Options != nil && len(f.Options) != len(f.List) {
		return out, fmt.Errorf("viz: report: choice %q: got %d options for %d figures", f.Label, len(f.Options), len(f.List))
	}
	if len(f.List) < 2 {
		out.Label = ""
	}
	for i, fig := range f.List {
		info := fig.Describe()
		if err := p.claim(info); err != nil {
			return out, err
		}
		if i == 0 {
			out.ID = info.Name
		}
		h := figureHTML{Info: info, Option: info.Title}
		if f.Options != nil {
			h.Option = f.Options[i]
		}
		wide, hw, err := renderSVG(fig, Style{NoTitle: true}, true)
		if err != nil {
			return out, err
		}
		narrow, hn, err := renderSVG(fig, Style{NoTitle: true, Width: narrowWidth}, true)
		if err != nil {
			return out, err
		}
		h.Wide, h.Narrow = labelled(wide, info), labelled(narrow, info)
		p.figures[info.Name] = hoverJSON(fig, hw, hn)
		out.Figures = append(out.Figures, h)
	}
	return out, nil
}

// labelled adds the accessible name to a picture. The SVG is our own; its text
// is escaped.
func labelled(svg string, i Info) template.HTML {
	name := template.HTMLEscapeString(strings.TrimSpace(i.Title + ". " + i.Caption))
	return template.HTML(strings.Replace(svg, "<svg ", `<svg role="img" aria-label="`+name+`" `, 1))
}

func hoverJSON(fig Figure, wide, narrow hover) figureJSON {
	var out figureJSON
	for i, c := range wide.Cells {
		j := cellJSON{cells: c}
		for k := range 4 {
			j.Box[k] = round(c.Box[k])
			if i < len(narrow.Cells) {
				j.Box[4+k] = round(narrow.Cells[i].Box[k])
			}
		}
		out.Cells = append(out.Cells, j)
	}
	for i, s := range wide.Spots {
		j := spotJSON{Text: s.Text, P: [8]jsonNum{round(s.X), round(s.Y), round(s.W), round(s.H)}}
		if i < len(narrow.Spots) {
			n := narrow.Spots[i]
			j.P[4], j.P[5], j.P[6], j.P[7] = round(n.X), round(n.Y), round(n.W), round(n.H)
		}
		out.Spots = append(out.Spots, j)
	}
	t := fig.Table()
	if len(out.Cells) > 0 && len(out.Spots) == 0 { // the cells hold the numbers
		out.Value = "value"
		if n := len(t.Columns); n > 0 {
			out.Value = t.Columns[n-1].Name
		}
		return out
	}
	if len(t.Columns) > 0 {
		j := t.forJSON()
		out.Table = &j
	}
	return out
}

func round(x float64) jsonNum { return jsonNum(math.Round(x*100) / 100) }

type tableHTML struct {
	Info
	Columns []headHTML
	Rows    [][]cellHTML
}

type headHTML struct {
	Head    string
	Numeric bool
}

type cellHTML struct {
	Text, Value   string
	Numeric, Best bool
}

func (t Table) block(p *page) (blockHTML, error) {
	if err := p.claim(t.Info); err != nil {
		return blockHTML{}, err
	}
	if err := t.check(); err != nil {
		return blockHTML{}, err
	}
	out := &tableHTML{Info: t.Info}
	best := make([]float64, len(t.Columns))
	for j, c := range t.Columns {
		h := headHTML{Head: c.head()}
		best[j] = math.NaN()
		for _, r := range t.Rows {
			v, ok := number(r[j])
			h.Numeric = h.Numeric || ok
			if ok && !math.IsNaN(v) && (math.IsNaN(best[j]) || float64(c.Best)*(v-best[j]) > 0) {
				best[j] = v
			}
		}
		out.Columns = append(out.Columns, h)
	}
	for _, r := range t.Rows {
		row := make([]cellHTML, len(r))
		for j, v := range r {
			f, ok := number(v)
			row[j] = cellHTML{Text: t.Columns[j].show(v), Numeric: out.Columns[j].Numeric}
			if ok {
				row[j].Value = exact(v)
				row[j].Best = t.Columns[j].Best != 0 && f == best[j] && len(t.Rows) > 1
			}
		}
		out.Rows = append(out.Rows, row)
	}
	p.tables[t.Name] = t.forJSON()
	return blockHTML{Table: out}, nil
}

func number(v any) (float64, bool) {
	switch x := v.(type) {
	case int:
		return float64(x), true
	case float64:
		return x, true
	}
	return 0, false
}
