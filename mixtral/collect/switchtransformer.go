package collect

import (
	"context"
	"fmt"

	"github.com/expertspec/expertspec/mixtral/switchtransformer"
	"github.com/expertspec/expertspec/trace"
)

// SwitchTransformer returns a Switch Transformer model, to be given to [Run]. Of a
// document's T tokens without the end-of-text token that a tokenizer may have put last,
// the encoder reads the first half, rounded up, and an end-of-text token, and the
// decoder a start token and the others, as when it continues a text. The decoder routes
// its tokens as in decoding one at a time, without dropping any.
func SwitchTransformer(m *switchtransformer.Model) Model { return switchModel{m} }

type switchModel struct{ *switchtransformer.Model }

func (m switchModel) TraceHeader() trace.Header {
	c := m.Config()
	return trace.Header{
		Model:  c.TraceModel("switch"),
		Source: trace.Source{Checkpoint: m.CheckpointHash(), DType: m.DType().String()},
	}
}

// divide divides a document's tokens between encoder and decoder.
func (m switchModel) divide(tokens []int32) (encoder, decoder []int32) {
	c := m.Config()
	end := c.EOS
	if n := len(tokens) - 1; n >= 0 && len(end) > 0 && tokens[n] == int32(end[0]) {
		tokens = tokens[:n]
	}
	half := (len(tokens) + 1) / 2
	encoder = append(encoder, tokens[:half]...)
	if len(end) > 0 {
		encoder = append(encoder, int32(end[0]))
	}
	if c.DecoderStart >= 0 {
		decoder = append(decoder, int32(c.DecoderStart))
	}
	return encoder, append(decoder, tokens[half:]...)
}

func (m switchModel) Record(ctx context.Context, h *trace.Header, tokens [][]int32, spare []*trace.Document) ([]*trace.Document, error) {
	rec, err := switchtransformer.NewRecorder(*h)
	if err != nil {
		return nil, err
	}
	for _, d := range spare {
		rec.Reuse(d)
	}
	req := switchtransformer.Request{Uncapped: true, Observe: rec.Observe, RouterInput: len(h.InputLayers) > 0}
	for _, ids := range tokens {
		encoder, decoder := m.divide(ids)
		req.Tokens, req.DecoderTokens = append(req.Tokens, encoder), append(req.DecoderTokens, decoder)
	}
	if _, err = m.Forward(ctx, req); err != nil {
		return nil, err
	}
	docs := make([]*trace.Document, len(tokens))
	for i := range docs {
		if docs[i] = rec.Take(i); docs[i] == nil {
			return nil, fmt.Errorf("the routing of document %d of the batch is incomplete", i)
		}
	}
	return docs, nil
}
