package neural

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// Each of three data sets routes to experts of its own, in different numbers of
// documents: what is fitted on the others names none of them.
func TestLeaveOut(t *testing.T) {
	h := trace.Header{Model: trace.Model{Name: "apart", Layers: 2, Experts: 7, TopK: 2, Vocabulary: 3}}
	docs := func(n, tokens int) speculate.Data {
		var out []*trace.Document
		for s, set := range []string{"c", "a", "b"} {
			for i := range n + s {
				d := &trace.Document{Dataset: set, ID: fmt.Sprint(i)}
				for range tokens * 2 {
					d.Experts, d.Weights = append(d.Experts, int32(2*s), int32(2*s+1)), append(d.Weights, .5, .5)
				}
				d.Tokens = make([]int32, tokens)
				out = append(out, d)
			}
		}
		return speculate.Slice(h, out)
	}
	parts := speculate.Parts{Train: docs(6, 10), Valid: docs(4, 9), Test: docs(8, 5)}
	var stages []string
	o := CompareOptions{MLPs: []MLPConfig{}, Only: []string{"frequency", "transition"}, Train: TrainOptions{Horizons: speculate.LayersAhead(1)},
		Stage: func(what string) { stages = append(stages, what) }}
	r, err := LeaveOneOut(context.Background(), parts, o)
	if err != nil {
		t.Fatal(err)
	}
	hz := o.Train.Horizons[0]
	for i, set := range []string{"a", "b", "c"} {
		all, without := rowOf(r.All, "transition", hz, set), rowOf(r.Without, "transition", hz, set)
		if all.RecallK != 1 || without.RecallK != 0 || without.Documents != []int{9, 10, 8}[i] || without.Pairs != int64(5*without.Documents) {
			t.Errorf("%s: recall %.3f over all and %.3f without it, %d documents, %d pairs", set, all.RecallK, without.RecallK, without.Documents, without.Pairs)
		}
	}
	if rows := r.Without.Find("transition", hz, "all"); len(rows) > 0 || len(r.Without.Find("frequency", hz, "dataset")) != 3 {
		t.Errorf("rows without a data set: %+v", r.Without.Rows)
	}
	var table, js bytes.Buffer
	if err := r.WriteTable(&table); err != nil || !strings.Contains(table.String(), "1.000 / 0.000") || strings.Contains(table.String(), "oracle") {
		t.Errorf("%v\n%s", err, &table)
	}
	if err := r.WriteJSON(&js); err != nil || !strings.Contains(js.String(), `"without": {`) {
		t.Errorf("%v, %.200s", err, &js)
	}
	if s := strings.Join(stages, "\n"); strings.Count(s, "without b: counting") != 1 {
		t.Errorf("stages %s", s)
	}
	only := func(d speculate.Data) speculate.Data {
		return d.Filter(func(x *trace.Document) bool { return x.Dataset == "a" })
	}
	if _, err := LeaveOneOut(context.Background(), speculate.Parts{Train: only(parts.Train), Valid: only(parts.Valid), Test: only(parts.Test)}, o); err == nil {
		t.Error("the only data set was left out")
	}
}

// A trace of routing alone, without token ids: the next layer's expert is the
// one after this layer's.
func TestFitWithoutIDs(t *testing.T) {
	h := trace.Header{Model: trace.Model{Name: "no ids", Layers: 3, Experts: 5, TopK: 1}}
	docs := func(n int) speculate.Data {
		var out []*trace.Document
		for i := range n {
			d := &trace.Document{Dataset: "a", ID: fmt.Sprint(i)}
			for t := range 20 {
				d.Tokens = append(d.Tokens, trace.NoToken)
				for l := range 3 {
					d.Experts, d.Weights = append(d.Experts, int32(i+t*t+l)%5), append(d.Weights, 1)
				}
			}
			out = append(out, d)
		}
		return speculate.Slice(h, out)
	}
	c, err := Compare(context.Background(), speculate.Parts{Train: docs(20), Valid: docs(7), Test: docs(9)},
		CompareOptions{MLPs: []MLPConfig{InterLayer(8)}, Train: TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1, 2), Batch: 32, Tokens: 3200, Rate: .02}})
	if err != nil {
		t.Fatal(err)
	}
	if r, ok := c.Results.Recall("inter-layer", speculate.Horizon{Layers: 1}); !ok || r < .99 {
		t.Errorf("recall %.3f, %v", r, ok)
	}
}
