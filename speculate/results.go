package speculate

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/expertspec/expertspec/trace"
)

// Interval is a 95 % interval: the 2.5th and 97.5th percentile over resampled documents.
type Interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// Row is one line of an evaluation.
type Row struct {
	Predictor string  `json:"predictor"`
	Horizon   Horizon `json:"horizon"`
	// By is "all", "layer", "dataset" or "phase"; Key is its value.
	By  string `json:"by"`
	Key string `json:"key,omitempty"`
	// Stack is that of a row by layer in a model with an encoder, [trace.Encoder] or
	// [trace.Decoder]. Layers are counted over both.
	Stack string `json:"stack,omitempty"`
	// Documents is the number of documents that the row is over.
	Documents int `json:"documents"`
	Metrics
	// RecallK is recall@K for the model's top-k K, and RecallKInterval its interval.
	RecallK         float64   `json:"recall_k"`
	RecallKInterval *Interval `json:"recall_k_interval,omitempty"`
}

// Cost is the cost of a predictor. 0 means unknown.
type Cost struct {
	Parameters   int64   `json:"parameters,omitempty"`    // numbers that it learned
	TrainSeconds float64 `json:"train_seconds,omitempty"` // wall time of its training; 0: it counts, in one reading of the trace
	Microseconds float64 `json:"microseconds,omitempty"`  // a decision at one (token, layer), one core
}

// Results are the figures of an evaluation: rows for all predictors, horizons,
// layers, data sets and phases.
type Results struct {
	Shape      Shape           `json:"shape"`
	Predictors []string        `json:"predictors"`
	Horizons   []Horizon       `json:"horizons"`
	Documents  int             `json:"documents"`
	Tokens     int             `json:"tokens"`
	Rows       []Row           `json:"rows"`
	Costs      map[string]Cost `json:"costs,omitempty"`
	// Warnings name what makes the figures unreliable, for example few documents.
	Warnings []string `json:"warnings,omitempty"`
}

// Find returns the rows by ("all", "layer", "dataset", "phase") of a predictor at h.
func (r *Results) Find(predictor string, h Horizon, by string) []Row {
	var out []Row
	for _, x := range r.Rows {
		if x.Predictor == predictor && x.Horizon == h && x.By == by {
			out = append(out, x)
		}
	}
	return out
}

// Recall returns the mean recall@K over target layers, and false where the
// predictor does not support h.
func (r *Results) Recall(predictor string, h Horizon) (float64, bool) {
	for _, x := range r.Find(predictor, h, "all") {
		return x.RecallK, true
	}
	return 0, false
}

// WriteJSON writes the results as indented JSON.
func (r *Results) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(r)
}

// WriteTable writes recall@K by predictor and horizon, with its interval, as
// text, and the warnings.
func (r *Results) WriteTable(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "recall@%d", r.Shape.TopK)
	for _, h := range r.Horizons {
		fmt.Fprintf(tw, "\t%v", h)
	}
	fmt.Fprintln(tw)
	for _, p := range r.Predictors {
		fmt.Fprint(tw, p)
		for _, h := range r.Horizons {
			rows := r.Find(p, h, "all")
			text := "-"
			if len(rows) > 0 {
				text = recallText(rows[0])
			}
			fmt.Fprint(tw, "\t", text)
		}
		fmt.Fprintln(tw)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	note := ""
	if len(r.Rows) > 0 && r.Rows[0].RecallKInterval != nil {
		note = "; 95 % intervals from resampled documents"
	}
	_, err := fmt.Fprintf(w, "%d documents, %d tokens%s\n", r.Documents, r.Tokens, note)
	for _, m := range r.Warnings {
		if err == nil {
			_, err = fmt.Fprintln(w, "warning:", m)
		}
	}
	return err
}

// WriteMeasures writes a line for each row by ("all", "layer", "dataset",
// "phase"): recall@K with its interval, top-1, exact set, at least one and ECE;
// by all also what the predictor costs, where that is known, with a mark at those of
// [Results.Frontier].
func (r *Results) WriteMeasures(w io.Writer, by string) error {
	if groupings := []string{"all", "layer", "dataset", "phase"}; !slices.Contains(groupings, by) {
		return fmt.Errorf("speculate: rows by %q: must be one of %q", by, groupings)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(tw, "predictor\thorizon")
	if by == "all" {
		fmt.Fprint(tw, "\tparameters\ttraining (s)\tdecision (us)")
	} else {
		fmt.Fprintf(tw, "\t%s\tdocuments", by)
	}
	fmt.Fprintf(tw, "\trecall@%d\ttop-1\texact set\tat least one\tECE\n", r.Shape.TopK)
	frontier, below := map[Horizon][]string{}, map[Horizon][]string{}
	for _, h := range r.Horizons {
		frontier[h], below[h] = r.Frontier(h)
	}
	for _, x := range r.Rows {
		if x.By != by {
			continue
		}
		fmt.Fprintf(tw, "%s\t%v", x.Predictor, x.Horizon)
		if by == "all" {
			c, mark := r.Costs[x.Predictor], ""
			if slices.Contains(frontier[x.Horizon], x.Predictor) {
				mark = " *"
			}
			fmt.Fprintf(tw, "\t%s\t%s\t%s%s", known("%.0f", float64(c.Parameters)), known("%.0f", c.TrainSeconds), known("%.2f", c.Microseconds), mark)
		} else {
			fmt.Fprintf(tw, "\t%s\t%d", x.Key, x.Documents)
		}
		fmt.Fprintf(tw, "\t%s\t%.3f\t%.3f\t%.3f\t%.3f\n", recallText(x), x.Top1, x.Exact, x.AtLeastOne, x.ECE)
	}
	err := tw.Flush()
	if by != "all" {
		return err
	}
	for _, h := range r.Horizons {
		if err == nil && len(frontier[h]) > 0 {
			_, err = fmt.Fprintf(w, "* %v: no other finds more in as little time; below them: %s\n", h, cmp.Or(strings.Join(below[h], ", "), "none"))
		}
	}
	return err
}

// known writes a cost, or a dash for none.
func known(format string, x float64) string {
	if x == 0 {
		return "-"
	}
	return fmt.Sprintf(format, x)
}

// recallText is a row's recall@K with its interval, where it has one.
func recallText(x Row) string {
	if i := x.RecallKInterval; i != nil {
		return fmt.Sprintf("%.3f (%.3f-%.3f)", x.RecallK, i.Low, i.High)
	}
	return fmt.Sprintf("%.3f", x.RecallK)
}

// minDocuments is the number of documents, of all or of a data set, below which
// an evaluation warns that its intervals are unreliable.
const minDocuments = 20

// collector sums documents' reports.
type collector struct {
	e        *evaluation
	cells    []cell
	datasets map[string][]tally
	docsOf   map[string]int
	phaseDoc map[trace.Phase]int
	docs     int
	tokens   int
	resampled
}

func newCollector(e *evaluation) *collector {
	c := &collector{e: e, datasets: map[string][]tally{}, docsOf: map[string]int{}, phaseDoc: map[trace.Phase]int{},
		cells: make([]cell, len(e.o.Horizons)*len(e.ps))}
	for i := range c.cells {
		c.cells[i] = cell{layers: make([]tally, e.shape.Layers), phases: map[trace.Phase]*tally{}}
	}
	return c
}

func (c *collector) recallIndex() int { return sumRecall + min(c.e.shape.TopK, MaxRank) - 1 }

func (c *collector) add(doc *trace.Document, r *report) {
	nl, ri := c.e.shape.Layers, c.recallIndex()
	d := docSum{dataset: doc.Dataset, docs: 1, n: make([]float64, len(c.cells)), recall: make([]float64, len(c.cells)),
		ln: make([]float64, len(c.cells)*nl), lr: make([]float64, len(c.cells)*nl)}
	set := c.datasets[doc.Dataset]
	if set == nil {
		set = make([]tally, len(c.cells))
		c.datasets[doc.Dataset] = set
	}
	phases := map[trace.Phase]bool{}
	for i := range r.cells {
		in, out := &r.cells[i], &c.cells[i]
		out.all.add(&in.all)
		set[i].add(&in.all)
		d.n[i], d.recall[i] = in.all.n, in.all.sum[ri]
		for l := range in.layers {
			out.layers[l].add(&in.layers[l])
			d.ln[i*nl+l], d.lr[i*nl+l] = in.layers[l].n, in.layers[l].sum[ri]
		}
		for ph, t := range in.phases {
			if out.phases[ph] == nil {
				out.phases[ph] = &tally{}
			}
			out.phases[ph].add(t)
			phases[ph] = true
		}
	}
	for ph := range phases {
		c.phaseDoc[ph]++
	}
	c.docsOf[doc.Dataset]++
	c.docs++
	c.resampled.add(d)
	c.tokens += r.tokens
}

func (c *collector) results() *Results {
	e := c.e
	r := &Results{Shape: e.shape, Horizons: e.o.Horizons, Documents: c.docs, Tokens: c.tokens}
	n := e.o.Resamples
	if n == 0 {
		n = 1000
	}
	var draws [][]float64
	if n > 0 && c.docs > 1 {
		draws = resample(len(c.sums), n, e.o.Seed)
	}
	for _, p := range e.ps {
		r.Predictors = append(r.Predictors, p.Name())
	}
	for j, p := range e.ps {
		for i, h := range e.o.Horizons {
			if p.Supports(h) {
				c.rows(r, p.Name(), h, i*len(e.ps)+j, draws)
			}
		}
	}
	if c.docs < minDocuments {
		r.Warnings = append(r.Warnings, fmt.Sprintf("%d test documents: too few to conclude, expected at least %d", c.docs, minDocuments))
	}
	var few []string
	for set, k := range c.docsOf {
		if k < minDocuments {
			few = append(few, fmt.Sprintf("%s (%d)", set, k))
		}
	}
	if len(few) > 0 && c.docs >= minDocuments {
		slices.Sort(few)
		r.Warnings = append(r.Warnings, fmt.Sprintf("fewer than %d test documents in: %s; their own figures are weak", minDocuments, strings.Join(few, ", ")))
	}
	return r
}

// rows appends all rows of one predictor at one horizon.
func (c *collector) rows(r *Results, name string, h Horizon, i int, draws [][]float64) {
	nl, k := c.e.shape.Layers, min(c.e.shape.TopK, MaxRank)
	row := func(by, key string, docs int, t *tally, iv *Interval) {
		m := t.metrics(c.e.shape.Experts)
		r.Rows = append(r.Rows, Row{Predictor: name, Horizon: h, By: by, Key: key, Documents: docs, Metrics: m, RecallK: m.Recall[k-1], RecallKInterval: iv})
	}
	row("all", "", c.docs, &c.cells[i].all, interval(draws,
		func(d int) float64 { return c.sums[d].recall[i] }, func(d int) float64 { return c.sums[d].n[i] }))
	for _, l := range c.e.shape.Targets(h) {
		if !Supports(c.e.ps[i%len(c.e.ps)], c.e.shape, h, l) {
			continue
		}
		row("layer", fmt.Sprint(l), c.docs, &c.cells[i].layers[l], interval(draws,
			func(d int) float64 { return c.sums[d].lr[i*nl+l] }, func(d int) float64 { return c.sums[d].ln[i*nl+l] }))
		if c.e.shape.Encoder > 0 {
			r.Rows[len(r.Rows)-1].Stack = trace.Decoder
			if l < c.e.shape.Encoder {
				r.Rows[len(r.Rows)-1].Stack = trace.Encoder
			}
		}
	}
	for _, set := range sortedKeys(c.datasets) {
		of := func(x []float64, d int) float64 {
			if c.sums[d].dataset != set {
				return 0
			}
			return x[i]
		}
		row("dataset", set, c.docsOf[set], &c.datasets[set][i], interval(draws,
			func(d int) float64 { return of(c.sums[d].recall, d) }, func(d int) float64 { return of(c.sums[d].n, d) }))
	}
	for _, ph := range sortedKeys(c.cells[i].phases) {
		row("phase", string(ph), c.phaseDoc[ph], c.cells[i].phases[ph], nil)
	}
}

func sortedKeys[K ~string, V any](m map[K]V) []K {
	ks := make([]K, 0, len(m))
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}
