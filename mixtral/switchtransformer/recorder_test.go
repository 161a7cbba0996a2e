package switchtransformer

import (
	"context"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// recorderHeader is of 2 layers in the encoder, 1 in the decoder, 3 experts and hidden
// size 2, with the router logits of the decoder and the inputs of one encoder layer.
func recorderHeader() trace.Header {
	return trace.Header{
		Model: trace.Model{Layers: 3, Experts: 3, TopK: 1, Hidden: 2, Stacks: []trace.Stack{
			{Name: trace.Encoder, Layers: 2, Blocks: []int{1, 3}}, {Name: trace.Decoder, Layers: 1, Blocks: []int{1}}}},
		LogitLayers: []int{2}, InputLayers: []int{1}, Dropped: true,
	}
}

// rowsOf is the routing of tokens at a layer, of documents from a position on. Values
// are made from token and layer.
func rowsOf(stack Stack, layer, layers int, phase trace.Phase, first int, docs map[int][]int32) *Routing {
	r := &Routing{Stack: stack, Layer: layer, Layers: layers}
	for doc := range 9 {
		for t, id := range docs[doc] {
			v := float32(id) + float32(layer)/8 + float32(stack)/4
			r.Document, r.Position, r.Token = append(r.Document, doc), append(r.Position, int32(first+t)), append(r.Token, id)
			r.Phase = append(r.Phase, phase)
			r.Logits = append(r.Logits, v, v+1, v+2)
			r.Experts, r.Weights = append(r.Experts, (id+int32(layer))%3), append(r.Weights, v/100)
			r.Dropped = append(r.Dropped, (id+int32(layer))%2 == 0)
			r.Input = append(r.Input, v, -v)
		}
	}
	return r
}

// Two texts, their encoders in one step and their decoders in two, are recorded as
// documents whose tokens have experts in the layers of their stack alone, also in the
// memory of documents that were recorded before.
func TestRecorder(t *testing.T) {
	h := recorderHeader()
	rec, err := NewRecorder(h)
	require.NoError(t, err)
	ctx := context.Background()
	pass := func(enc, dec, more map[int][]int32) {
		for layer := range 2 {
			require.NoError(t, rec.Observe(ctx, rowsOf(Encoder, layer, 2, trace.Encode, 0, enc)))
			assert.Equal(t, layer == 1, rec.docs[0].done > 0)
		}
		require.NoError(t, rec.Observe(ctx, rowsOf(Decoder, 0, 1, trace.Decode, 0, dec)))
		require.NoError(t, rec.Observe(ctx, rowsOf(Decoder, 0, 1, trace.Decode, 2, more)))
	}
	for range 2 {
		pass(map[int][]int32{0: {5, 6, 7}, 1: {8}}, map[int][]int32{0: {9, 10}, 1: {11, 12}}, map[int][]int32{1: {13}})
		one, two := rec.Take(0), rec.Take(1)
		assert.Nil(t, rec.Take(0))
		require.NoError(t, one.Validate(&h))
		require.NoError(t, two.Validate(&h))
		assert.Equal(t, []int32{5, 6, 7, 9, 10}, one.Tokens)
		assert.Equal(t, []trace.Phase{"encode", "encode", "encode", "decode", "decode"}, one.Phases)
		assert.Equal(t, []int32{2, 0, -1, 0, 1, -1, 1, 2, -1, -1, -1, 0, -1, -1, 1}, one.Experts)
		assert.Equal(t, []bool{false, true, false, true, false, false, false, true, false, false, false, false, false, false, true}, one.Dropped)
		assert.Equal(t, []float32{.08, .08125, 0, 0, 0, .1125, 0, 0, .1225, 0, 0, .1325}, two.Weights)
		assert.Equal(t, []float32{0, 0, 0, 11.25, 12.25, 13.25, 12.25, 13.25, 14.25, 13.25, 14.25, 15.25}, two.RouterLogits)
		assert.Equal(t, []float32{8.125, -8.125, 0, 0, 0, 0, 0, 0}, two.RouterInput)
		for _, d := range []*trace.Document{one, two} {
			for i := range d.Experts {
				d.Experts[i] = 2 // what reuse must not show
			}
			rec.Reuse(d)
		}
	}
}

// The positions of a decoder that is recorded in pieces continue.
func TestRecorderTake(t *testing.T) {
	rec, err := NewRecorder(recorderHeader())
	require.NoError(t, err)
	ctx := context.Background()
	require.NoError(t, rec.Observe(ctx, rowsOf(Encoder, 0, 2, trace.Encode, 0, map[int][]int32{2: {4, 5}})))
	assert.Nil(t, rec.Take(2), "not complete")
	require.NoError(t, rec.Observe(ctx, rowsOf(Encoder, 1, 2, trace.Encode, 0, map[int][]int32{2: {4, 5}})))
	assert.Nil(t, rec.Take(2).Positions)
	for i := range 3 {
		require.NoError(t, rec.Observe(ctx, rowsOf(Decoder, 0, 1, trace.Decode, i, map[int][]int32{2: {int32(20 + i)}})))
		d := rec.Take(2)
		assert.Equal(t, []int32{int32(2 + i)}, d.Positions)
		assert.Equal(t, []int32{-1, -1, int32(20+i) % 3}, d.Experts)
	}
	// another text at the same place
	require.NoError(t, rec.Observe(ctx, rowsOf(Encoder, 0, 2, trace.Encode, 0, map[int][]int32{2: {4}})))
}

func TestRecorderErrors(t *testing.T) {
	h := recorderHeader()
	ctx := context.Background()
	docs := map[int][]int32{0: {1, 2}}
	for name, c := range map[string]struct {
		routing []*Routing
		err     string
	}{
		"layer skipped":    {[]*Routing{rowsOf(Encoder, 1, 2, "encode", 0, docs)}, "expected position 0 at layer 0 of the encoder"},
		"other layers":     {[]*Routing{rowsOf(Encoder, 0, 3, "encode", 0, docs)}, "the model has 3 layers in its encoder"},
		"not taken":        {[]*Routing{rowsOf(Encoder, 0, 2, "encode", 0, docs), rowsOf(Encoder, 1, 2, "encode", 0, docs), rowsOf(Encoder, 0, 2, "encode", 0, docs)}, "take earlier documents"},
		"decoder too soon": {[]*Routing{rowsOf(Encoder, 0, 2, "encode", 0, docs), rowsOf(Decoder, 0, 1, "decode", 0, docs)}, "expected position 0 at layer 1 of the encoder"},
		"gap":              {[]*Routing{rowsOf(Decoder, 0, 1, "decode", 1, docs)}, "expected position 0"},
	} {
		t.Run(name, func(t *testing.T) {
			rec, err := NewRecorder(h)
			require.NoError(t, err)
			for i, rt := range c.routing {
				err := rec.Observe(ctx, rt)
				if i < len(c.routing)-1 {
					require.NoError(t, err)
					continue
				}
				assert.ErrorContains(t, err, c.err)
			}
		})
	}
	rec, err := NewRecorder(h)
	require.NoError(t, err)
	rt := rowsOf(Encoder, 0, 2, "encode", 0, docs)
	require.NoError(t, rec.Observe(ctx, rt))
	rt = rowsOf(Encoder, 1, 2, "encode", 0, docs)
	rt.Input = nil
	assert.ErrorContains(t, rec.Observe(ctx, rt), "set RouterInput")
	h.Model.TopK, h.Model.Stacks = 2, nil
	_, err = NewRecorder(h)
	assert.ErrorContains(t, err, "Config.TraceModel")
}
