package tracetest_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
)

func header() trace.Header {
	return trace.Header{
		Model:       trace.Model{Name: "tiny", Layers: 3, Experts: 5, TopK: 2, Hidden: 7, Vocabulary: 11, Stacks: []trace.Stack{{Name: "decoder", Layers: 3}}},
		LogitLayers: []int{0, 2}, InputLayers: []int{1},
	}
}

// TestRules writes documents of each rule and reads them back.
func TestRules(t *testing.T) {
	h := header()
	linear, gates := tracetest.Linear(h.Model, 3)
	assert.Len(t, gates, 3*5*7)
	for name, rule := range map[string]func(*tracetest.Step){
		"random": tracetest.Random(3), "linear": linear,
		"choose": tracetest.Choose(func(s *tracetest.Step) []int32 { return []int32{4, int32(s.Layer)}[:1+s.Position%2] }),
	} {
		t.Run(name, func(t *testing.T) {
			r := tracetest.Router{Header: h, Rule: rule, Prompt: 5}
			docs := r.Documents(9, 4, 1)
			dir := tracetest.Write(t, h, docs, trace.WriterOptions{})
			reader, err := trace.Open(dir)
			require.NoError(t, err)
			read, err := reader.ReadAll()
			require.NoError(t, err)
			assert.Equal(t, docs, read)
			assert.Equal(t, h, reader.Header())
			assert.Equal(t, docs, r.Documents(9, 4, 1))
			assert.NotEqual(t, docs, r.Documents(9, 4, 2))
		})
	}
}

// TestChoose expects the planted experts at their place, in order.
func TestChoose(t *testing.T) {
	h := header()
	f := func(token int32, position, layer int) []int32 {
		e := (int(token) + 2*position + 3*layer) % 5
		return []int32{int32(e), int32(e+2) % 5}
	}
	r := tracetest.Router{Header: h, Rule: tracetest.Choose(func(s *tracetest.Step) []int32 { return f(s.Token, s.Position, s.Layer) })}
	for _, d := range r.Documents(3, 9, 4) {
		for p, token := range d.Tokens {
			for l := range 3 {
				assert.Equal(t, f(token, p, l), d.ExpertsAt(&h.Model, p, l))
				w := d.WeightsAt(&h.Model, p, l)
				assert.InDelta(t, 1, w[0]+w[1], 1e-6)
				assert.Greater(t, w[0], w[1])
			}
		}
	}
}

// TestLinear recomputes the logits of a layer from gates and recorded inputs.
func TestLinear(t *testing.T) {
	h := header()
	h.LogitLayers, h.InputLayers = []int{1}, []int{1}
	rule, gates := tracetest.Linear(h.Model, 3)
	r := tracetest.Router{Header: h, Rule: rule}
	for _, d := range r.Documents(2, 6, 4) {
		for p := range d.Tokens {
			for e := range 5 {
				var z float32
				for i, x := range d.RouterInput[p*7:][:7] {
					z += gates[(5+e)*7+i] * x
				}
				assert.InDelta(t, z, d.RouterLogits[p*5+e], 1e-4)
			}
			first := d.ExpertsAt(&h.Model, p, 1)[0]
			for _, z := range d.RouterLogits[p*5:][:5] {
				assert.LessOrEqual(t, z, d.RouterLogits[p*5+int(first)])
			}
		}
	}
}

// TestStacks expects the rule's choices in the layers of the token's stack, and
// drops in the encoder beyond the capacity.
func TestStacks(t *testing.T) {
	h := header()
	h.Model.Stacks, h.Model.TopK, h.Dropped = []trace.Stack{{Name: trace.Encoder, Layers: 1}, {Name: trace.Decoder, Layers: 2}}, 1, true
	linear, _ := tracetest.Linear(h.Model, 3)
	for prompt, encoded := range map[int]int{0: 5, 2: 2, 9: 9, 12: 9} {
		r := tracetest.Router{Header: h, Rule: linear, Prompt: prompt, Capacity: 1}
		d := r.Document("a", "x", []int32{1, 2, 3, 4, 1, 2, 3, 4, 1})
		assert.Equal(t, encoded, d.Encoded())
		seen, drops := map[int32]int{}, 0
		for p := range d.Tokens {
			for l := range 3 {
				e, w := d.ExpertsAt(&h.Model, p, l)[0], d.WeightsAt(&h.Model, p, l)[0]
				assert.Equal(t, (l == 0) == (p < encoded), e != trace.NoExpert)
				assert.Less(t, w, float32(1), "a full softmax")
				dropped := l == 0 && p < encoded && seen[e] == 1
				assert.Equal(t, dropped, d.DroppedAt(&h.Model, p, l))
				if l == 0 && p < encoded {
					seen[e] = 1
				}
				if dropped {
					drops++
				}
			}
			assert.Equal(t, p < encoded, d.RouterLogits[p*2*5] != 0, "logits of layer 0")
			assert.Equal(t, p >= encoded, d.RouterLogits[(p*2+1)*5] != 0, "logits of layer 2")
			assert.Equal(t, p >= encoded, d.RouterInput[p*7] != 0, "inputs of layer 1")
		}
		if encoded >= 5 {
			assert.Positive(t, drops)
		}
		dir := tracetest.Write(t, h, []*trace.Document{d}, trace.WriterOptions{})
		reader, err := trace.Open(dir)
		require.NoError(t, err)
		read, err := reader.ReadAll()
		require.NoError(t, err)
		assert.Equal(t, []*trace.Document{d}, read)
	}
	// The decoder's first layer starts from the token's embedding.
	h.InputLayers = []int{0, 1}
	d := (&tracetest.Router{Header: h, Rule: linear, Prompt: 1}).Document("a", "x", []int32{6, 6})
	assert.Equal(t, d.RouterInput[:7], d.RouterInput[3*7:])
}

func TestInvalidChoice(t *testing.T) {
	for _, choice := range [][]int32{{5}, {-2}, {1, 1}, {0, 1, 2}} {
		r := tracetest.Router{Header: header(), Rule: tracetest.Choose(func(*tracetest.Step) []int32 { return choice })}
		assert.Panics(t, func() { r.Document("a", "x", []int32{1}) })
	}
	r := tracetest.Router{Rule: tracetest.Random(1)}
	assert.Panics(t, func() { r.Document("a", "x", []int32{1}) })
}
