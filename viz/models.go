package viz

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/expertspec/expertspec/speculate/comparison"
)

// ComparisonReport is the report of a comparison of models over the same texts: its
// table, section by section, with what each row means, and figures with a curve or a
// bar for each stack of each model.
func ComparisonReport(r *comparison.Result) (Report, error) {
	if len(r.Columns) == 0 {
		return Report{}, fmt.Errorf("viz: comparison: nothing was measured")
	}
	var names []string
	for _, c := range r.Columns {
		if !slices.Contains(names, c.Model) {
			names = append(names, c.Model)
		}
	}
	out := Report{Title: strings.Join(names, " against "),
		Lead: fmt.Sprintf("How %s route the same texts. Intervals are of 95 %%, by the jackknife over documents.", strings.Join(names, " and "))}
	out.Facts = append(out.Facts, Fact{"documents", thousands(fmt.Sprint(r.Documents)), fmt.Sprintf("predictors scored on %d", len(r.Test))})
	for _, c := range r.Columns {
		out.Facts = append(out.Facts, Fact{c.Name, fmt.Sprintf("top-%d of %d", c.TopK, c.Experts), fmt.Sprintf("%d layers, %s tokens", c.Layers, thousands(fmt.Sprint(c.Tokens)))})
	}
	figures := map[string][]Figure{}
	for section, f := range map[string]Figure{
		"Load balance": modelBalance(r), "Dropped tokens": modelOverflow(r), "Repetition": modelRepetition(r), "Information about the expert": modelInformation(r),
		"Gate reuse": modelReuse(r), "Prediction at equal shares of the experts": modelRecall(r, false), "Prediction at equal bytes": modelRecall(r, true),
		"Expert cache": modelCaches(r), "Working set": modelSets(r),
	} {
		if hasData(f) {
			figures[section] = append(figures[section], f)
		}
	}
	for i := 0; i < len(r.Rows); {
		k := i
		for k < len(r.Rows) && r.Rows[k].Section == r.Rows[i].Section {
			k++
		}
		s := modelSection(r, r.Rows[i:k])
		if f := figures[s.Title]; len(f) > 0 {
			s.add(f...)
		}
		out.Sections = append(out.Sections, s)
		i = k
	}
	if len(r.Warnings) > 0 {
		out.Sections[0].Text = append(out.Sections[0].Text, "Warning: "+strings.Join(r.Warnings, "; ")+".")
	}
	return out, nil
}

// modelSection is the table of a section, with a sentence about each row.
func modelSection(r *comparison.Result, rows []comparison.Row) Section {
	title := rows[0].Section
	id := strings.ReplaceAll(strings.ToLower(title), " ", "-")
	t := Table{Info: Info{Name: id + "-table", Title: title}, Columns: []Column{{Name: "measure"}}}
	for _, c := range r.Columns {
		t.Columns = append(t.Columns, Column{Name: c.Name})
	}
	s := Section{ID: id, Title: title}
	same := map[string]int{} // rows with a meaning
	for _, row := range rows {
		same[row.Meaning]++
	}
	said := map[string]bool{}
	for _, row := range rows {
		cells := []any{strings.TrimSpace(row.Label())}
		for _, c := range row.Cells {
			cells = append(cells, c.String())
		}
		t.Rows = append(t.Rows, cells)
		if !said[row.Meaning] {
			said[row.Meaning] = true
			switch name := strings.TrimSpace(row.Name); same[row.Meaning] {
			case len(rows):
				s.Text = append(s.Text, row.Meaning)
			case 1:
				s.Text = append(s.Text, name+": "+row.Meaning)
			default:
				s.Text = append(s.Text, name+" and its like: "+row.Meaning)
			}
		}
	}
	s.Blocks = append(s.Blocks, t)
	return s
}

// addValue adds a value and its interval times by.
func (c *Curve) addValue(x float64, v comparison.Value, by float64) {
	c.addInterval(x, by*v.Value, by*v.Low, by*v.High)
}

// depth is the share of a stack's depth of layer l, in percent.
func depth(l, layers int) float64 {
	if layers < 2 {
		return 50
	}
	return 100 * float64(l) / float64(layers-1)
}

// byDepth draws a measure of each layer, with a curve for each stack.
func byDepth(r *comparison.Result, title, axis string, k comparison.Kind, by float64) Lines {
	f := Lines{Info: panel(title), XAxis: "share of the depth (%)", YAxis: axis, Height: 250}
	for _, col := range r.Columns {
		c := Curve{Name: col.Name}
		layers := col.Measures[k].Layers
		for l, v := range layers {
			c.addValue(depth(l, len(layers)), v, by)
		}
		f.Curves = append(f.Curves, c)
	}
	return f
}

func modelBalance(r *comparison.Result) Figure {
	return Panels{Info: Info{Name: "models-balance", Title: "Load balance by layer",
		Caption: "Left: entropy of the load by its maximum, 100 % for an even load. Right: the load of the busiest expert by the mean load. Layers are placed by their share of their stack's depth."},
		Figures: []Figure{
			byDepth(r, "Entropy of the load", "share of log E (%)", comparison.Entropy, 100),
			byDepth(r, "Busiest expert", "maximum / mean", comparison.MaxOverMean, 1),
		}}
}

// grouped has a bar for each stack in each category.
func grouped(r *comparison.Result, info Info, axis string, categories []string, value func(c *comparison.Column, i int) comparison.Value, by float64) bars {
	f := bars{Info: info, Axis: axis, Categories: categories}
	for i := range r.Columns {
		g := Curve{Name: r.Columns[i].Name}
		for k := range categories {
			g.addValue(float64(k), value(&r.Columns[i], k), by)
		}
		f.Groups = append(f.Groups, g)
	}
	return f
}

func modelOverflow(r *comparison.Result) Figure {
	kinds := [][2]comparison.Kind{{comparison.Overflow1, comparison.Overflow1Chance}, {comparison.Overflow125, comparison.Overflow125Chance}, {comparison.Overflow2, comparison.Overflow2Chance}}
	return grouped(r, Info{Name: "models-overflow", Title: "Choices beyond a capacity",
		Caption: "The share of choices that a capacity of this many times the mean load of each text would drop, by the recorded routing, and what it would drop of independent tokens with the same load in all: texts of few tokens an expert drop some by chance."},
		"share of choices (%)", []string{"factor 1", "independent tokens, 1", "factor 1.25", "independent tokens, 1.25", "factor 2", "independent tokens, 2"},
		func(c *comparison.Column, i int) comparison.Value { return c.Measures[kinds[i/2][i%2]].Mean }, 100)
}

func modelRepetition(r *comparison.Result) Figure {
	var names []string
	observed, chance := Curve{Name: "observed"}, Curve{Name: "independent tokens"}
	for i, c := range r.Columns {
		names = append(names, c.Name)
		observed.addValue(float64(i), c.Measures[comparison.Repetition].Mean, 100)
		chance.addValue(float64(i), c.Measures[comparison.RepetitionChance].Mean, 100)
	}
	return Panels{Info: Info{Name: "models-repetition", Title: "The expert of the token before",
		Caption: "Left: how often a token has the first choice of the token before, and what independent tokens with the same load have. Right: the one by the other, by layer; 1 is no memory."},
		Figures: []Figure{
			bars{Info: panel("Same first choice"), Axis: "share of tokens (%)", Categories: names, Groups: []Curve{observed, chance}},
			byDepth(r, "Times chance", "times chance", comparison.RepetitionLift, 1),
		}}
}

func modelInformation(r *comparison.Result) Figure {
	kinds := []comparison.Kind{comparison.DomainShare, comparison.TokenShare, comparison.PreviousShare}
	return grouped(r, Info{Name: "models-information", Title: "What says which expert",
		Caption: "Mutual information with the first choice, less what chance gives, as a share of its entropy: 100 % would determine the expert."},
		"share of H(expert) (%)", []string{"data set", "token id", "previous layer's expert"},
		func(c *comparison.Column, i int) comparison.Value { return c.Measures[kinds[i]].Mean }, 100)
}

// aboveChanceValue is (recall - chance) / (1 - chance), NaN where all are named.
func aboveChanceValue(v comparison.Value, chance float64) comparison.Value {
	of := func(x float64) float64 {
		if chance >= 1 {
			return math.NaN()
		}
		return (x - chance) / (1 - chance)
	}
	return comparison.Value{Value: of(v.Value), Low: of(v.Low), High: of(v.High)}
}

// modelReuse shows gate reuse by distance in layers and in blocks.
func modelReuse(r *comparison.Result) Figure {
	panels := Panels{Info: Info{Name: "models-reuse", Title: "Gate reuse by distance",
		Caption: "Recall of the K chosen experts by the layer's router on an earlier router input, above chance: (recall − K/E) / (1 − K/E). Left: distances in MoE layers. Right: in blocks, of which each takes about the same time."}}
	for _, blocks := range []bool{false, true} {
		f := Lines{Info: panel("By MoE layers"), XAxis: "MoE layers ahead", YAxis: "recall above chance (%)", IntegerX: true, YRange: [2]float64{0, 100}, Height: 250}
		if blocks {
			f.Info, f.XAxis = panel("By blocks"), "blocks ahead"
		}
		for _, col := range r.Columns {
			c := Curve{Name: col.Name}
			for _, x := range col.Recalls {
				at := x.Layers
				if blocks {
					at = x.Blocks
				}
				if x.Predictor == "gate reuse" && x.Named == col.TopK && at > 0 {
					c.addValue(float64(at), aboveChanceValue(x.Recall, float64(x.Named)/float64(col.Experts)), 100)
				}
			}
			if len(c.X) > 0 {
				f.Curves = append(f.Curves, c)
			}
		}
		if len(f.Curves) > 0 {
			panels.Figures = append(panels.Figures, f)
		}
	}
	return panels
}

// modelRecall shows, for each predictor, recall one MoE layer ahead by the share of a
// layer's experts that are named, or by their bytes.
func modelRecall(r *comparison.Result, bytes bool) Figure {
	p := Panels{Info: Info{Name: "models-recall-share", Title: "Recall by the share of experts named",
		Caption: "One MoE layer ahead, recall of all chosen experts. The line is chance: the share itself."}, Columns: 2}
	if bytes {
		p.Info = Info{Name: "models-recall-bytes", Title: "Recall by bytes named at a layer",
			Caption: "One MoE layer ahead, recall of all chosen experts when experts of this size in all are named at a layer."}
		if len(r.Budgets.Layer) == 0 {
			return p
		}
	}
	for _, name := range r.Predictors() {
		f := Lines{Info: panel(name), XAxis: "share of a layer's experts (%)", YAxis: "recall (%)", YRange: [2]float64{0, 100}, Diagonal: !bytes, Height: 230}
		if bytes {
			f.XAxis, f.LogX = "kB named at a layer", true
		}
		for _, col := range r.Columns {
			c := Curve{Name: col.Name}
			for _, x := range col.Recalls {
				at := 100 * float64(x.Named) / float64(col.Experts)
				if bytes {
					at = float64(x.Named) * float64(col.ExpertBytes) / 1000
				}
				if x.Predictor == name && x.Layers == 1 {
					c.addValue(at, x.Recall, 100)
				}
			}
			if len(c.X) == 0 { // keeps the colours of the others
				c.Name += ": none"
			}
			f.Curves = append(f.Curves, c)
		}
		p.Figures = append(p.Figures, f)
	}
	return p
}

// modelCaches shows hit rates by size, in bytes if those are known.
func modelCaches(r *comparison.Result) Figure {
	p := Panels{Info: Info{Name: "models-cache", Title: "Hit rate by size of the cache",
		Caption: "Texts computed token by token, with an empty cache at the start of each; OPT knows the future. Curves end where all experts of the stack fit: what still misses is their first use in a text. LRU has no hits where fewer fit than a token uses in all layers."}}
	bytes := len(r.Budgets.Cache) > 0
	var policies []string
	for _, col := range r.Columns {
		for _, x := range col.Caches {
			if !slices.Contains(policies, string(x.Policy)) {
				policies = append(policies, string(x.Policy))
			}
		}
	}
	for _, policy := range policies {
		f := Lines{Info: panel(policy), XAxis: "share of the stack's experts (%)", YAxis: "hit rate (%)", YRange: [2]float64{0, 100}, Height: 250}
		if bytes {
			f.XAxis = "MB"
		}
		for _, col := range r.Columns {
			c := Curve{Name: col.Name}
			for _, x := range col.Caches {
				at := 100 * float64(x.Experts) / float64(col.Layers*col.Experts)
				if bytes {
					at = float64(x.Bytes) / 1e6
				}
				if string(x.Policy) == policy {
					c.addValue(at, x.HitRate, 100)
				}
			}
			if len(c.X) == 0 { // keeps the colours of the others
				c.Name += ": one step a text"
			}
			f.Curves = append(f.Curves, c)
		}
		p.Figures = append(p.Figures, f)
	}
	return p
}

func modelSets(r *comparison.Result) Figure {
	kinds := []comparison.Kind{comparison.PrefixShare, comparison.WorkingShare}
	return grouped(r, Info{Name: "models-sets", Title: "Share of a layer's experts that a text uses", Caption: "Of the stack's first 32 tokens of a text, and of all of them."},
		"share of E (%)", []string{"first 32 tokens", "whole text"},
		func(c *comparison.Column, i int) comparison.Value { return c.Measures[kinds[i]].Mean }, 100)
}
