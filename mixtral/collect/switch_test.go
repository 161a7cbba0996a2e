package collect_test

import (
	"context"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/mixtral/switchtransformer"
	"github.com/expertspec/expertspec/mixtral/switchtransformer/mini"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A document of a Switch Transformer's trace holds the encoder's routing of the first
// half of the text, and the decoder's of the other half as when it decodes one token at
// a time.
func TestSwitchTransformer(t *testing.T) {
	b, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	defer b.Finalize()
	m, err := switchtransformer.Load(t.Context(), mini.FS(), switchtransformer.Options{Backend: b})
	require.NoError(t, err)
	defer m.Close()
	tok, err := tokenizer.Load(mini.FS(), "tokenizer.json")
	require.NoError(t, err)
	long := documents(2, 1)[0].Text
	texts := map[string]string{"one": "a", "long": strings.Repeat(long, 4), "repeated": strings.Repeat("no ", 120)}
	var docs []collect.Document
	for id, text := range texts {
		docs = append(docs, collect.Document{ID: id, Dataset: "x", Text: text})
	}
	dir := t.TempDir()
	const most = 161
	o := collect.Options{MaxTokens: most, Dropped: true, Logits: true, LogitLayers: []int{1, 6}, RouterInput: true, InputLayers: []int{7}}
	rep, err := collect.Run(t.Context(), collect.SwitchTransformer(m), tok, []collect.Source{collect.Slice("x", docs)}, dir, o)
	require.NoError(t, err)
	require.Equal(t, 0, rep.ProblemCount, rep.Problems)
	_, err = trace.Validate(dir, trace.ValidateOptions{})
	require.NoError(t, err)
	read := documentsOf(t, dir)
	require.Len(t, read, 3)
	drops := 0
	for _, d := range read {
		ids := tok.Encode(texts[d.ID], true)
		content := ids[:min(len(ids)-1, most)]
		half := (len(content) + 1) / 2
		encoder := append(append([]int32{}, content[:half]...), 2)
		decoder := append([]int32{0}, content[half:]...)
		require.Equal(t, append(append([]int32{}, encoder...), decoder...), d.Tokens, d.ID)
		require.Equal(t, len(encoder), d.Encoded(), d.ID)
		for _, dropped := range d.Dropped {
			if dropped {
				drops++
			}
		}
		checkSwitchRouting(t, m, d, encoder, decoder)
	}
	assert.Positive(t, drops, "no token was dropped")
}

// checkSwitchRouting compares a document with the routing of its text alone, decoded
// one token at a time.
func checkSwitchRouting(t *testing.T, m *switchtransformer.Model, d *trace.Document, encoder, decoder []int32) {
	const layers, first, e, dim, delta = 8, 4, 32, 96, 1e-4
	seen := 0
	observe := func(_ context.Context, r *switchtransformer.Routing) error {
		for i, pos := range r.Position {
			row, layer := int(pos), r.Layer
			if r.Stack == switchtransformer.Decoder {
				row, layer = row+len(encoder), layer+first
			}
			at := row*layers + layer
			assert.Equal(t, r.Experts[i], d.Experts[at], "%s: row %d, layer %d", d.ID, row, layer)
			assert.InDelta(t, r.Weights[i], d.Weights[at], delta)
			assert.Equal(t, r.Dropped[i], d.Dropped[at])
			assert.Equal(t, r.Phase[i], d.Phase(row))
			switch layer {
			case 1, 6:
				assert.InDeltaSlice(t, r.Logits[i*e:(i+1)*e], d.RouterLogits[(row*2+layer/6)*e:][:e], delta)
			case 7:
				assert.InDeltaSlice(t, r.Input[i*dim:(i+1)*dim], d.RouterInput[row*dim:][:dim], delta)
			}
			seen++
		}
		return nil
	}
	cache := m.NewCache(1)
	defer cache.Close()
	req := switchtransformer.Request{Tokens: [][]int32{encoder}, Cache: cache, Observe: observe, RouterInput: true}
	_, err := m.Forward(t.Context(), req)
	require.NoError(t, err)
	for _, id := range decoder {
		req.Tokens, req.DecoderTokens = nil, [][]int32{{id}}
		_, err = m.Forward(t.Context(), req)
		require.NoError(t, err)
	}
	assert.Equal(t, first*(len(encoder)+len(decoder)), seen)
}
