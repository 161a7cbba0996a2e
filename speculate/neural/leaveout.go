package neural

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/expertspec/expertspec/speculate"
)

// LeaveOneOutResults compares predictors on data sets that they were and were not
// fitted on.
type LeaveOneOutResults struct {
	// All are the results of predictors fitted on all data sets.
	All *speculate.Results `json:"all"`
	// Without has rows by data set only. Each is of predictors that were fitted,
	// chosen and calibrated without that data set. It has no costs.
	Without *speculate.Results `json:"without"`
}

// LeaveOneOut fits predictors on all data sets, and again without each data set,
// and evaluates both on that data set's documents of parts.Test. With n data sets
// it takes n+1 times as long as [Compare].
func LeaveOneOut(ctx context.Context, parts speculate.Parts, o CompareOptions) (*LeaveOneOutResults, error) {
	all, err := Compare(ctx, parts, o)
	if err != nil {
		return nil, err
	}
	r := &LeaveOneOutResults{All: all.Results}
	without := *all.Results
	without.Rows, without.Costs, without.Warnings = nil, nil, nil
	r.Without = &without
	sets := r.datasets()
	if len(sets) < 2 {
		return nil, fmt.Errorf("neural: got data sets %q, expected at least two", sets)
	}
	stage, resume := o.Stage, o.Train.Resume
	for _, set := range sets {
		if resume != "" { // a network of the same name, on other documents
			o.Train.Resume = filepath.Join(resume, "without-"+url.PathEscape(set))
		}
		if stage != nil {
			o.Stage = func(what string) { stage("without " + set + ": " + what) }
		}
		c, err := Compare(ctx, parts.HoldOut(set), o)
		if err != nil {
			return nil, fmt.Errorf("without %s: %w", set, err)
		}
		for _, row := range c.Results.Rows {
			if row.By == "dataset" {
				without.Rows = append(without.Rows, row)
			}
		}
	}
	return r, nil
}

// datasets returns the data sets that were evaluated, sorted.
func (r *LeaveOneOutResults) datasets() []string {
	var sets []string
	for _, x := range r.All.Rows {
		if x.By == "dataset" && !slices.Contains(sets, x.Key) {
			sets = append(sets, x.Key)
		}
	}
	slices.Sort(sets)
	return sets
}

// WriteTable writes, for each horizon, data set and predictor, recall@K if fitted
// on all data sets, a slash, and recall@K if fitted without this data set. The last
// line of a horizon has the means over data sets.
func (r *LeaveOneOutResults) WriteTable(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, h := range r.All.Horizons {
		var names []string
		for _, p := range r.All.Predictors {
			if len(r.All.Find(p, h, "dataset")) > 0 && p != (speculate.Oracle{}).Name() {
				names = append(names, p)
			}
		}
		fmt.Fprintf(tw, "recall@%d, %v\tdocuments\t%s\n", r.All.Shape.TopK, h, strings.Join(names, "\t"))
		sums, sets := make([][2]float64, len(names)), r.datasets()
		for _, set := range sets {
			line := ""
			docs := 0
			for i, p := range names {
				a, b := rowOf(r.All, p, h, set), rowOf(r.Without, p, h, set)
				line += fmt.Sprintf("\t%.3f / %.3f", a.RecallK, b.RecallK)
				sums[i][0], sums[i][1], docs = sums[i][0]+a.RecallK, sums[i][1]+b.RecallK, a.Documents
			}
			fmt.Fprintf(tw, "%s\t%d%s\n", set, docs, line)
		}
		fmt.Fprint(tw, "mean\t")
		for _, s := range sums {
			fmt.Fprintf(tw, "\t%.3f / %.3f", s[0]/float64(len(sets)), s[1]/float64(len(sets)))
		}
		fmt.Fprintln(tw)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "fitted on all data sets / without that of the line; %d test documents\n", r.All.Documents)
	for _, m := range r.All.Warnings {
		if err == nil {
			_, err = fmt.Fprintln(w, "warning:", m)
		}
	}
	return err
}

// WriteJSON writes r as indented JSON.
func (r *LeaveOneOutResults) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(r)
}

// rowOf returns a predictor's row of a data set, or the zero Row.
func rowOf(r *speculate.Results, predictor string, h speculate.Horizon, set string) speculate.Row {
	for _, x := range r.Find(predictor, h, "dataset") {
		if x.Key == set {
			return x
		}
	}
	return speculate.Row{}
}
