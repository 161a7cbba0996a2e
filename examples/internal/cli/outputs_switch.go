package cli

import (
	"context"
	"errors"
	"io"

	"github.com/expertspec/expertspec/mixtral/switchtransformer"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/safetensors"
)

// ComputeSwitch is Compute for a Switch Transformer. A line may have decoder_ids besides
// text or ids, which are the encoder's; without them the decoder reads the start token
// alone.
func (o *Outputs) ComputeSwitch(ctx context.Context, program string, files *Model, m *switchtransformer.Model, errs io.Writer) (made []safetensors.Tensor, bad int, err error) {
	return o.lines(ctx, program, files, errs, func(d document) ([]safetensors.Tensor, error) {
		return o.switchTransformer(ctx, files, m, d)
	})
}

// switchTransformer returns the tensors of one document: its decoder tokens are computed
// at once, with a capacity, as transformers does; those of -greedy over a cache.
func (o *Outputs) switchTransformer(ctx context.Context, files *Model, m *switchtransformer.Model, d document) ([]safetensors.Tensor, error) {
	c := m.Config()
	var decoder []int32
	switch {
	case d.DecoderIDs != nil:
		decoder = *d.DecoderIDs
	case c.DecoderStart < 0:
		return nil, errors.New("decoder_ids are required: config.json has no decoder_start_token_id")
	default:
		decoder = []int32{int32(c.DecoderStart)}
	}
	h := trace.Header{Model: c.TraceModel(files.Name()), Dropped: true}
	h.LogitLayers = h.Model.AllLayers()
	recorder, err := switchtransformer.NewRecorder(h)
	if err != nil {
		return nil, err
	}
	req := switchtransformer.Request{Tokens: [][]int32{d.ids}, DecoderTokens: [][]int32{decoder}, Observe: recorder.Observe}
	if o.Logits {
		req.Logits = switchtransformer.AllLogits
	}
	out, err := m.Forward(ctx, req)
	if err != nil {
		return nil, err
	}
	name := func(field string) string { return d.ID + "." + field }
	made := []safetensors.Tensor{
		safetensors.Int32s(name("input_ids"), []int{len(d.ids)}, d.ids),
		safetensors.Int32s(name("decoder_input_ids"), []int{len(decoder)}, decoder),
	}
	if doc := recorder.Take(0); doc != nil {
		encoded := doc.Encoded()
		first := len(c.MoEBlocks(switchtransformer.Encoder))
		made = append(made, stackTensors(d.ID+".encoder_", &h.Model, doc, 0, encoded, 0, first)...)
		made = append(made, stackTensors(d.ID+".decoder_", &h.Model, doc, encoded, doc.Len(), first, h.Model.Layers)...)
	}
	if o.Logits {
		made = append(made, safetensors.Float32s(name("logits"), []int{len(decoder), c.VocabSize}, out.Logits[0]))
	}
	if o.Greedy > 0 {
		greedy, err := m.Generate(ctx, d.ids, switchtransformer.GenerateOptions{MaxTokens: o.Greedy, Stop: []int32{}})
		if err != nil {
			return nil, err
		}
		made = append(made, safetensors.Int32s(name("greedy_ids"), []int{len(greedy)}, greedy))
	}
	return made, nil
}

// stackTensors returns the routing of tokens t0..t1-1 at layers l0..l1-1, one stack.
func stackTensors(prefix string, m *trace.Model, doc *trace.Document, t0, t1, l0, l1 int) []safetensors.Tensor {
	t, l, e := t1-t0, l1-l0, m.Experts
	if t == 0 || l == 0 {
		return nil // no layer of this stack has experts
	}
	dropped := make([]int32, 0, l*t)
	for _, d := range byLayer(doc.Dropped[t0*m.Layers:], t, l0, l1, m.Layers, 1) {
		if d {
			dropped = append(dropped, 1)
		} else {
			dropped = append(dropped, 0)
		}
	}
	return []safetensors.Tensor{
		safetensors.Float32s(prefix+"router_logits", []int{l, t, e}, byLayer(doc.RouterLogits[t0*m.Layers*e:], t, l0, l1, m.Layers, e)),
		safetensors.Int32s(prefix+"experts", []int{l, t}, byLayer(doc.Experts[t0*m.Layers:], t, l0, l1, m.Layers, 1)),
		safetensors.Int32s(prefix+"dropped", []int{l, t}, dropped),
	}
}
