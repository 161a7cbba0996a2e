package viz

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/expertspec/expertspec/speculate"
)

// prediction is the section of a report about an evaluation: recall by distance,
// by layer, by data set and by k, cost, and a table of all measures. It omits the
// oracle, whose recall is 1 by definition.
func prediction(r *speculate.Results) Section {
	r = withoutOracle(r)
	s := Section{ID: "prediction", Title: "Prediction"}
	k := r.Shape.TopK
	s.Text = append(s.Text, fmt.Sprintf(
		"How many of the %s experts chosen at each layer were among the first %d that a predictor named before the layer ran. "+
			"%s test documents, %s tokens. Intervals are 95 %% intervals from resampled documents.",
		count(k), k, thousands(strconv.Itoa(r.Documents)), thousands(strconv.Itoa(r.Tokens))))
	for _, w := range r.Warnings {
		s.Text = append(s.Text, "Caution: "+w+".")
	}
	s.add(recallByDistance(r))
	s.Blocks = append(s.Blocks, measuresTable(r))
	layers, datasets := Figures{Label: "Known"}, Figures{Label: "Known"}
	for _, h := range r.Horizons {
		if f := recallByLayer(r, h); len(f.Curves) > 0 {
			layers.add(horizonText(h), f)
		}
		if f := recallByDataset(r, h); len(f.Data) > 0 {
			datasets.add(horizonText(h), f)
		}
	}
	s.Blocks = append(s.Blocks, layers, datasets)
	if len(r.Horizons) > 0 {
		s.add(recallByK(r, r.Horizons[0]), calibrationError(r))
		if f := recallAgainstTime(r, r.Horizons[0]); len(f.Curves) > 0 {
			s.add(f)
		}
	}
	return s
}

func withoutOracle(r *speculate.Results) *speculate.Results {
	out := *r
	out.Predictors = slices.DeleteFunc(slices.Clone(r.Predictors), func(p string) bool { return p == (speculate.Oracle{}).Name() })
	return &out
}

func count(n int) string {
	if words := []string{"no", "one", "two", "three", "four", "five", "six", "seven", "eight"}; n < len(words) {
		return words[n]
	}
	return strconv.Itoa(n)
}

// horizonText returns a horizon in words: "2 layers ahead".
func horizonText(h speculate.Horizon) string {
	switch {
	case h.Layers == 1:
		return "1 layer ahead"
	case h.Layers > 1:
		return fmt.Sprintf("%d layers ahead", h.Layers)
	case h.KnownID:
		return "1 token ahead, its id known"
	}
	return "1 token ahead"
}

// horizonName returns a horizon as part of a figure's name.
func horizonName(h speculate.Horizon) string {
	switch {
	case h.Layers > 0:
		return "h" + strconv.Itoa(h.Layers)
	case h.KnownID:
		return "token-id"
	}
	return "token"
}

// chance returns the expected recall@K, in percent, of K of E experts chosen at random.
func chance(s speculate.Shape) []Reference {
	if s.Experts < 1 {
		return nil
	}
	v := 100 * float64(s.TopK) / float64(s.Experts)
	return []Reference{{v, fmt.Sprintf("chance, K/E = %s %%", short(v, 3))}}
}

func recallAxis(s speculate.Shape) string { return fmt.Sprintf("recall@%d (%%)", s.TopK) }

// recallInterval returns the interval of a row's recall, in percent; NaN: none.
func recallInterval(r speculate.Row) (low, high float64) {
	if r.RecallKInterval == nil {
		return math.NaN(), math.NaN()
	}
	return 100 * r.RecallKInterval.Low, 100 * r.RecallKInterval.High
}

// addRecall adds a row's recall, in percent, at x.
func (c *Curve) addRecall(x float64, r speculate.Row) {
	lo, hi := recallInterval(r)
	c.addInterval(x, 100*r.RecallK, lo, hi)
}

// eachPredictor adds to f a curve for each predictor for which add adds points.
func (f *Lines) eachPredictor(r *speculate.Results, add func(predictor string, c *Curve)) {
	for _, p := range r.Predictors {
		c := Curve{Name: p}
		if add(p, &c); len(c.X) > 0 {
			f.Curves = append(f.Curves, c)
		}
	}
}

// recallByDistance shows recall@K by the distance in layers.
func recallByDistance(r *speculate.Results) Lines {
	f := Lines{
		Info: Info{Name: "recall-by-distance", Title: "Recall by distance",
			Caption: "How early a prediction is made: at distance h, the routing of a layer is predicted from what is known h layers before it. Mean over layers. Whiskers are 95 % intervals over documents."},
		XAxis: "distance h (layers)", YAxis: recallAxis(r.Shape), IntegerX: true, References: chance(r.Shape),
	}
	hs := slices.Clone(r.Horizons)
	slices.SortStableFunc(hs, func(a, b speculate.Horizon) int { return cmp.Compare(a.Layers, b.Layers) })
	f.eachPredictor(r, func(p string, c *Curve) {
		for _, h := range hs {
			if h.Layers > 0 {
				for _, row := range r.Find(p, h, "all") {
					c.addRecall(float64(h.Layers), row)
				}
			}
		}
	})
	return f
}

// recallByLayer shows recall@K by the layer that is predicted.
func recallByLayer(r *speculate.Results, h speculate.Horizon) Lines {
	f := Lines{
		Info: Info{Name: "recall-by-layer-" + horizonName(h), Title: "Recall by layer, " + horizonText(h),
			Caption: "The layer is the one whose experts are predicted. Bands are 95 % intervals over documents."},
		XAxis: "layer", YAxis: recallAxis(r.Shape), IntegerX: true, References: chance(r.Shape), layers: stacksOfShape(r.Shape),
	}
	f.eachPredictor(r, func(p string, c *Curve) {
		for _, row := range r.Find(p, h, "layer") {
			if l, err := strconv.Atoi(row.Key); err == nil {
				c.addRecall(float64(l), row)
			}
		}
	})
	return f
}

// recallByDataset shows recall@K by predictor and data set. Data is empty if the
// results have no data sets at this horizon.
func recallByDataset(r *speculate.Results, h speculate.Horizon) HeatMap {
	f := HeatMap{
		Info: Info{Name: "recall-by-dataset-" + horizonName(h), Title: "Recall by data set, " + horizonText(h),
			Caption: "Grey: not evaluated."},
		RowAxis: "predictor", ColumnAxis: "data set", Value: fmt.Sprintf("recall@%d", r.Shape.TopK), Unit: "%",
	}
	value := map[[2]string]float64{}
	for _, p := range r.Predictors {
		rows := r.Find(p, h, "dataset")
		for _, row := range rows {
			value[[2]string{p, row.Key}] = 100 * row.RecallK
			f.Columns = appendNew(f.Columns, row.Key)
		}
		if len(rows) > 0 {
			f.Rows = append(f.Rows, p)
		}
	}
	slices.Sort(f.Columns)
	f.Data = newGrid(len(f.Rows), len(f.Columns), func(i, j int) float64 {
		if v, ok := value[[2]string{f.Rows[i], f.Columns[j]}]; ok {
			return v
		}
		return math.NaN()
	})
	return f
}

// recallByK shows recall@k by k, the number of experts named.
func recallByK(r *speculate.Results, h speculate.Horizon) Lines {
	f := Lines{
		Info: Info{Name: "recall-by-k-" + horizonName(h), Title: "Recall by number of experts named, " + horizonText(h),
			Caption: "Share of the chosen experts among the first k that the predictor names: those that would be ready if k experts were fetched."},
		XAxis: "experts named, k", YAxis: "recall@k (%)", IntegerX: true,
	}
	f.eachPredictor(r, func(p string, c *Curve) {
		for _, row := range r.Find(p, h, "all") {
			for k := 1; k <= min(speculate.MaxRank, r.Shape.Experts); k++ {
				c.add(float64(k), 100*row.Recall[k-1])
			}
			for _, b := range row.Budgets {
				if b.Experts > speculate.MaxRank {
					c.add(float64(b.Experts), 100*b.Recall)
				}
			}
		}
	})
	return f
}

// recallAgainstTime shows recall@K and the time of a decision of the predictors
// whose time is known.
func recallAgainstTime(r *speculate.Results, h speculate.Horizon) Lines {
	f := Lines{
		Info: Info{Name: "recall-against-time", Title: "Recall against the time of a decision, " + horizonText(h),
			Caption: "A predictor must cost less than it saves. Time of one decision, for one token at one layer, on one core."},
		XAxis: "time of a decision (µs)", YAxis: recallAxis(r.Shape), LogX: true, Height: 320, named: true,
	}
	frontier, below := r.Frontier(h)
	f.frontier = frontier
	if len(f.frontier) > 0 {
		f.Caption += " The line is the frontier: no other predictor finds more in as little time."
	}
	if len(below) > 0 {
		f.Caption += " Below it, and grey: " + strings.Join(below, ", ") + "."
	}
	f.eachPredictor(r, func(p string, c *Curve) {
		for _, row := range r.Find(p, h, "all") {
			if us := r.Costs[p].Microseconds; us > 0 {
				c.addRecall(us, row)
			}
		}
	})
	return f
}

// measuresTable has every measure of every predictor at every horizon.
func measuresTable(r *speculate.Results) Table {
	t := Table{
		Info: Info{Name: "measures", Title: "All measures",
			Caption: "recall: share of the chosen experts among the first K named, with its 95 % interval; top-1: the first named is the first chosen; top-1 bound: the maximum that Fano's inequality permits for a predictor with the same information; exact set: the first K named are the chosen ones; ECE: expected calibration error, 0 is best. The best value of a column is bold."},
		Columns: []Column{
			{Name: "predictor"}, {Name: "known"}, {Name: fmt.Sprintf("recall@%d", r.Shape.TopK), Unit: "%", Digits: 1, Best: 1},
			{Name: "low", Unit: "%", Digits: 1}, {Name: "high", Unit: "%", Digits: 1},
			{Name: "top-1", Unit: "%", Digits: 1, Best: 1}, {Name: "top-1 bound", Unit: "%", Digits: 1}, {Name: "exact set", Unit: "%", Digits: 1, Best: 1},
			{Name: "at least one", Unit: "%", Digits: 1, Best: 1}, {Name: "ECE", Digits: 3, Best: -1},
		},
	}
	costs := len(r.Costs) > 0
	if costs {
		t.Columns = append(t.Columns, Column{Name: "parameters"}, Column{Name: "decision", Unit: "µs", Digits: 2}, Column{Name: "training", Unit: "s", Digits: 1})
	}
	for _, h := range r.Horizons {
		for _, p := range r.Predictors {
			for _, x := range r.Find(p, h, "all") {
				lo, hi := recallInterval(x)
				row := []any{p, horizonText(h), 100 * x.RecallK, lo, hi, 100 * x.Top1, orNaN(100 * x.TopBound), 100 * x.Exact, 100 * x.AtLeastOne, x.ECE}
				if costs {
					c := r.Costs[p]
					row = append(row, int(c.Parameters), orNaN(c.Microseconds), orNaN(c.TrainSeconds))
				}
				t.Rows = append(t.Rows, row)
			}
		}
	}
	return t
}

func orNaN(x float64) float64 {
	if x == 0 {
		return math.NaN()
	}
	return x
}
