package neural

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Each of three data sets routes to its own experts, which predictors fitted on the
// others never predict. The data sets have different numbers of documents.
func TestLeaveOneOut(t *testing.T) {
	h := trace.Header{Model: trace.Model{Name: "apart", Layers: 2, Experts: 7, TopK: 2, Vocabulary: 3}}
	docs := func(n, tokens int) speculate.Data {
		var out []*trace.Document
		for s, set := range []string{"c", "a", "b"} {
			router := tracetest.Router{Header: h, Rule: tracetest.Choose(func(*tracetest.Step) []int32 { return []int32{int32(2 * s), int32(2*s + 1)} })}
			for i := range n + s {
				out = append(out, router.Document(set, fmt.Sprint(i), make([]int32, tokens)))
			}
		}
		return speculate.Slice(h, out)
	}
	parts := speculate.Parts{Train: docs(6, 10), Valid: docs(4, 9), Test: docs(8, 5)}
	var stages []string
	o := CompareOptions{MLPs: []MLPConfig{}, Only: []string{"frequency", "transition"}, Train: TrainOptions{Horizons: speculate.LayersAhead(1)},
		Stage: func(what string) { stages = append(stages, what) }}
	r, err := LeaveOneOut(context.Background(), parts, o)
	require.NoError(t, err)
	hz := o.Train.Horizons[0]
	for i, set := range []string{"a", "b", "c"} {
		all, without := rowOf(r.All, "transition", hz, set), rowOf(r.Without, "transition", hz, set)
		assert.Equal(t, 1., all.RecallK, set)
		assert.Equal(t, 0., without.RecallK, set)
		assert.Equal(t, []int{9, 10, 8}[i], without.Documents, set)
		assert.Equal(t, int64(5*without.Documents), without.Pairs, set)
	}
	assert.Empty(t, r.Without.Find("transition", hz, "all"))
	assert.Len(t, r.Without.Find("frequency", hz, "dataset"), 3)
	var table, js bytes.Buffer
	require.NoError(t, r.WriteTable(&table))
	assert.Contains(t, table.String(), "1.000 / 0.000")
	assert.NotContains(t, table.String(), "oracle")
	require.NoError(t, r.WriteJSON(&js))
	assert.Contains(t, js.String(), `"without": {`)
	assert.Equal(t, 1, strings.Count(strings.Join(stages, "\n"), "without b: counting"))
	only := func(d speculate.Data) speculate.Data {
		return d.Filter(func(x *trace.Document) bool { return x.Dataset == "a" })
	}
	_, err = LeaveOneOut(context.Background(), speculate.Parts{Train: only(parts.Train), Valid: only(parts.Valid), Test: only(parts.Test)}, o)
	assert.ErrorContains(t, err, "at least two")
}

// A trace without token ids is enough for a network of routing: the expert of the
// next layer is the one after this layer's.
func TestFitWithoutIDs(t *testing.T) {
	router := tracetest.Router{
		Header: trace.Header{Model: trace.Model{Name: "no ids", Layers: 3, Experts: 5, TopK: 1}},
		Rule: tracetest.Choose(func(s *tracetest.Step) []int32 {
			return []int32{int32(len(s.Document)+s.Position*s.Position+s.Layer) % 5}
		}),
	}
	ids := slices.Repeat([]int32{trace.NoToken}, 20)
	docs := func(n int) speculate.Data {
		var out []*trace.Document
		for i := range n {
			out = append(out, router.Document("a", strings.Repeat("x", i+1), ids))
		}
		return speculate.Slice(router.Header, out)
	}
	c, err := Compare(context.Background(), speculate.Parts{Train: docs(20), Valid: docs(7), Test: docs(9)},
		CompareOptions{MLPs: []MLPConfig{InterLayer(8)}, Train: TrainOptions{Backend: backend(t), Horizons: speculate.LayersAhead(1, 2), Batch: 32, Tokens: 3200, Rate: .02}})
	require.NoError(t, err)
	r, ok := c.Results.Recall("inter-layer", speculate.Horizon{Layers: 1})
	require.True(t, ok)
	assert.GreaterOrEqual(t, r, .99)
}
