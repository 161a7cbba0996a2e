package convert_test

import (
	"strconv"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/convert"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Pieces of documents, joined, are the documents: logits with token ids, and routing
// with positions, phases and tokens that skip a layer.
func TestCut(t *testing.T) {
	for _, c := range []struct {
		from, path string
		o          convert.Options
		lengths    []int
		ids        []string
	}{
		{"transformers", "transformers.safetensors", convert.Options{TopK: sizeK}, []int{3, 3, 1, 3, 1}, []string{"0/0", "0/3", "0/6", "1/0", "1/3"}},
		{"bigmoe", "bigmoeonedge/gptoss-cut.route.csv", convert.Options{}, []int{3, 3}, []string{"turn-0/0", "turn-0/84"}},
	} {
		_, whole := read(t, c.from, fixtures+c.path, c.o)
		c.o.Cut = 3
		report, pieces := read(t, c.from, fixtures+c.path, c.o)
		require.Equal(t, len(c.ids), report.Documents)
		joined := map[string]*trace.Document{}
		for i, p := range pieces {
			assert.Equal(t, c.ids[i], p.ID)
			assert.Equal(t, c.lengths[i], p.Len())
			id := p.ID[:len(p.ID)-len(strconv.Itoa(int(p.Position(0))))-1]
			d := joined[id]
			if d == nil {
				d = &trace.Document{ID: id, Dataset: p.Dataset}
				joined[id] = d
			}
			for k := range p.Len() {
				d.Positions, d.Phases = append(d.Positions, p.Position(k)), append(d.Phases, p.Phase(k))
			}
			d.Tokens, d.Experts, d.Weights = append(d.Tokens, p.Tokens...), append(d.Experts, p.Experts...), append(d.Weights, p.Weights...)
			d.RouterLogits = append(d.RouterLogits, p.RouterLogits...)
		}
		require.Len(t, joined, len(whole))
		for _, w := range whole {
			d := joined[w.ID]
			for k := range w.Len() {
				require.Equal(t, w.Position(k), d.Position(k))
				require.Equal(t, w.Phase(k), d.Phase(k))
			}
			w.Positions, w.Phases, d.Positions, d.Phases = nil, nil, nil, nil
			require.True(t, assert.ObjectsAreEqual(w, d), w.ID)
		}
	}
	_, err := convert.Read(t.Context(), "bigmoe", fixtures+"bigmoeonedge/gptoss-cut.route.csv", t.TempDir(), convert.Options{Cut: -1}, trace.WriterOptions{})
	assert.ErrorContains(t, err, "cut")
}
