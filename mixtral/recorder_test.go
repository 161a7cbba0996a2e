package mixtral_test

import (
	"context"
	"slices"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/trace"
	"github.com/gomlx/compute"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// partHeader records the router logits and router inputs of one layer each.
func partHeader(m *mixtral.Model) trace.Header {
	return trace.Header{Model: m.Config().TraceModel("b"), LogitLayers: []int{1}, InputLayers: []int{0}}
}

// documentOf is the document of routing that was gathered layer by layer.
func documentOf(c mixtral.Config, tokens []int32, rec *recorder) *trace.Document {
	d := &trace.Document{Tokens: tokens, RouterLogits: rec.logits[1], RouterInput: rec.input[0]}
	for t := range tokens {
		for l := range c.Layers {
			d.Experts = append(d.Experts, rec.experts[l][t*c.TopK:][:c.TopK]...)
			d.Weights = append(d.Weights, rec.weights[l][t*c.TopK:][:c.TopK]...)
		}
	}
	return d
}

// join concatenates segments of a document.
func join(segments ...*trace.Document) *trace.Document {
	d := &trace.Document{}
	for _, s := range segments {
		d.Tokens = append(d.Tokens, s.Tokens...)
		d.Experts = append(d.Experts, s.Experts...)
		d.Weights = append(d.Weights, s.Weights...)
		d.RouterLogits = append(d.RouterLogits, s.RouterLogits...)
		d.RouterInput = append(d.RouterInput, s.RouterInput...)
	}
	return d
}

// A batch of documents of several lengths, computed in chunks, is recorded as
// each document alone.
func TestRecorderBatch(t *testing.T) {
	ids := references(t, "variants/b")["case3"].ids
	batch := [][]int32{ids[:9], ids[20:25], ids[30:31], ids[:40]}
	backends(t, func(name string, b compute.Backend) {
		for _, ex := range []mixtral.Executor{mixtral.Stepped, mixtral.Whole} {
			m := load(t, checkpoints()["variants/b"], mixtral.Options{Backend: b, Executor: ex, Chunk: 4})
			h := partHeader(m)
			rec, err := mixtral.NewRecorder(h)
			require.NoError(t, err)
			for range 2 { // the second time in the memory of the first
				forward(t, m, mixtral.Request{Tokens: batch, Observe: rec.Observe, RouterInput: true})
				for i, tokens := range batch {
					alone := newRecorder()
					forward(t, m, mixtral.Request{Tokens: [][]int32{tokens}, Observe: alone.hook, RouterInput: true})
					want, got := documentOf(m.Config(), tokens, alone), rec.Take(i)
					require.NotNil(t, got)
					assert.Equal(t, want.Tokens, got.Tokens)
					assert.Equal(t, want.Experts, got.Experts)
					assert.InDeltaSlice(t, want.Weights, got.Weights, sameResults)
					assert.InDeltaSlice(t, want.RouterLogits, got.RouterLogits, sameResults)
					assert.InDeltaSlice(t, want.RouterInput, got.RouterInput, sameResults)
					assert.Nil(t, got.Positions)
					assert.Nil(t, got.Phases)
					assert.NoError(t, got.Validate(&h), "%s/%s", name, ex)
					assert.Nil(t, rec.Take(i), "taken")
					rec.Reuse(got)
				}
				assert.Nil(t, rec.Take(len(batch)))
				assert.Nil(t, rec.Take(-1))
			}
		}
	})
}

// The segments that Generate's Token callback takes are those of the document
// at once.
func TestRecorderGenerate(t *testing.T) {
	executors(t, func(t *testing.T, m *mixtral.Model, _ mixtral.Executor) {
		h := partHeader(m)
		rec, err := mixtral.NewRecorder(h)
		require.NoError(t, err)
		prompt := references(t, "variants/b")["case2"].ids[:5]
		var segments []*trace.Document
		ids, err := m.Generate(t.Context(), prompt, mixtral.GenerateOptions{
			MaxTokens: 4, Stop: []int32{}, RouterInput: true,
			Observe: func(ctx context.Context, r *mixtral.Routing) error {
				err := rec.Observe(ctx, r)
				if r.Layer < r.Layers-1 {
					assert.Nil(t, rec.Take(0), "the step is not complete")
				}
				return err
			},
			Token: func(int32) error { segments = append(segments, rec.Take(0)); return nil },
		})
		require.NoError(t, err)
		require.Len(t, segments, 4)
		for i, s := range segments {
			if i == 0 {
				assert.Nil(t, s.Positions)
				assert.Nil(t, s.Phases)
				continue
			}
			assert.Equal(t, []int32{int32(len(prompt) + i - 1)}, s.Positions)
			assert.Equal(t, []trace.Phase{trace.Decode}, s.Phases)
		}
		whole := newRecorder()
		tokens := slices.Concat(prompt, ids[:3])
		forward(t, m, mixtral.Request{Tokens: [][]int32{tokens}, Observe: whole.hook, RouterInput: true})
		want, got := documentOf(m.Config(), tokens, whole), join(segments...)
		assert.Equal(t, want.Tokens, got.Tokens)
		assert.Equal(t, want.Experts, got.Experts)
		assert.InDeltaSlice(t, want.Weights, got.Weights, sameResults)
		assert.InDeltaSlice(t, want.RouterLogits, got.RouterLogits, sameResults)
		assert.InDeltaSlice(t, want.RouterInput, got.RouterInput, sameResults)
	})
}

// A document that is taken at its end has the phases of both.
func TestRecorderPhases(t *testing.T) {
	executors(t, func(t *testing.T, m *mixtral.Model, _ mixtral.Executor) {
		rec, err := mixtral.NewRecorder(trace.Header{Model: m.Config().TraceModel("b")})
		require.NoError(t, err)
		_, err = m.Generate(t.Context(), []int32{5, 6, 7}, mixtral.GenerateOptions{MaxTokens: 3, Stop: []int32{}, Observe: rec.Observe})
		require.NoError(t, err)
		d := rec.Take(0)
		assert.Equal(t, []trace.Phase{trace.Prefill, trace.Prefill, trace.Prefill, trace.Decode, trace.Decode}, d.Phases)
		assert.Nil(t, d.Positions)
		assert.Nil(t, d.RouterLogits)
		assert.Nil(t, d.RouterInput)
	})
}

func TestRecorderErrors(t *testing.T) {
	b, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	m := load(t, checkpoints()["variants/b"], mixtral.Options{Backend: b})
	h := partHeader(m)
	h.LogitLayers = []int{7}
	_, err = mixtral.NewRecorder(h)
	assert.ErrorContains(t, err, "mixtral: layers of the router logits")

	other := trace.Header{Model: m.Config().TraceModel("b")}
	other.Model.Experts++
	rec, err := mixtral.NewRecorder(other)
	require.NoError(t, err)
	req := mixtral.Request{Tokens: [][]int32{{5, 6}}, Observe: rec.Observe}
	assert.ErrorContains(t, try(m, req), "has 2 layers, 6 experts and top-k 3; the header says 2, 7 and 3")

	rec, err = mixtral.NewRecorder(partHeader(m))
	require.NoError(t, err)
	req.Observe = rec.Observe
	assert.ErrorContains(t, try(m, req), "set RouterInput in the request")
	req.RouterInput = true
	require.NoError(t, try(m, req))
	assert.ErrorContains(t, try(m, req), "document 0: got 2 tokens from position 0 at layer 0, expected position 2 at layer 0")
	assert.Equal(t, 2, rec.Take(0).Len())
	assert.NoError(t, try(m, req), "after Take")
}
