package main

import (
	"context"
	"errors"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/mixtral/offload"
)

// load loads the model.
func (o *options) load(ctx context.Context) (collect.Model, func(), error) {
	isSwitch, err := o.model.IsSwitch()
	switch {
	case err != nil:
		return nil, nil, err
	case isSwitch && o.limits.Given():
		return nil, nil, errors.New("-device-memory and -host-memory are for Mixtral, not for a Switch Transformer")
	case isSwitch:
		model, free, err := o.model.LoadSwitch(ctx)
		return collect.SwitchTransformer(model), free, err
	case o.Dropped:
		return nil, nil, errors.New("-dropped is for a Switch Transformer: no expert of Mixtral drops tokens")
	}
	model, free, err := o.loadMixtral(ctx)
	return collect.Mixtral(model), free, err
}

// loadMixtral loads a Mixtral, with a limit of device memory so that it reads its
// experts while it computes.
func (o *options) loadMixtral(ctx context.Context) (*mixtral.Model, func(), error) {
	if !o.limits.Given() {
		return o.model.Load(ctx)
	}
	c, err := o.model.Config()
	if err != nil {
		return nil, nil, err
	}
	_, model, free, err := o.model.LoadStore(ctx, func(src mixtral.ExpertSource) (offload.Options, error) {
		so, err := o.limits.Options(src)
		if err == nil && o.BatchTokens == 0 && so.DeviceMemory > 0 && o.model.OwnMemory {
			n, bytes := batch(so.DeviceMemory, src, documentBytes(c, o.MaxTokens), min(o.MaxTokens, chunk))
			o.BatchTokens, so.DeviceMemory = n*o.MaxTokens, so.DeviceMemory-bytes
		}
		return so, err
	})
	return model, free, err
}

const (
	// chunk is how many tokens of a document are computed at a time: mixtral.Options.
	chunk = 512
	// mostTokens is a number of tokens of which computing takes longer than reading
	// all experts for them, on the accelerators that we know. With more memory for a
	// batch, less would be left for experts.
	mostTokens = 16384
	// atOnce experts are in use: one is computed, two are read, one is on its way.
	atOnce = 4
)

// batch is the number of documents, each of so many tokens at a time, that fit into
// what weights and the experts in use leave of device memory, at least one, and the
// memory that is taken from that of experts for them.
func batch(memory int64, src mixtral.ExpertSource, documentBytes int64, tokens int) (documents int, bytes int64) {
	left := max(0, memory-src.Resident-atOnce*int64(src.Bytes))
	documents = max(1, int(min(left/documentBytes, mostTokens/int64(tokens))))
	return documents, min(left, int64(documents)*documentBytes)
}

// documentBytes estimates the device memory, beside the weights, for a document of so
// many tokens in a batch.
func documentBytes(c mixtral.Config, tokens int) int64 {
	cached := 0
	if tokens > chunk {
		cached = 4 * c.Layers * c.KVHeads * c.HeadDim * tokens
		tokens = chunk
	}
	rows := 2 * c.TopK // of a token in the experts' batches, which have the size of the largest
	residual := 12 * c.HiddenSize
	attention := 16*(c.Heads+2*c.KVHeads)*c.HeadDim + 10*c.Heads*tokens // products, rotated, and scores
	experts := 4*rows*c.HiddenSize + 6*c.TopK*c.HiddenSize + 14*rows*c.IntermediateSize/c.Experts
	return int64(cached + tokens*(residual+attention+experts))
}
