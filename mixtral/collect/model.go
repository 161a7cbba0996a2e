package collect

import (
	"context"
	"errors"
	"fmt"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/trace"
)

// Tokenizer is what [Run] requires of a tokenizer. *tokenizer.Tokenizer
// implements it.
type Tokenizer interface {
	// Encode returns the token ids of a text, with special tokens such as that of
	// the beginning of the text if specials is set.
	Encode(text string, specials bool) []int32
}

// Model is what [Run] requires of a model. [Mixtral] and [SwitchTransformer] return
// that of a mixtral.Model and of a switchtransformer.Model.
type Model interface {
	// TraceHeader returns what a trace says about the model: Model, and Checkpoint
	// and DType of Source.
	TraceHeader() trace.Header
	// Record returns the routing of a batch of B documents, given by their token
	// ids, in the same order. h is that of the trace; Run sets Dataset and ID. The
	// tokens of a document may be others than those given, as where a model adds some. The
	// documents in spare are no longer needed and may be reused. Record is called
	// by Options.Concurrency goroutines.
	Record(ctx context.Context, h *trace.Header, tokens [][]int32, spare []*trace.Document) ([]*trace.Document, error)
}

// Mixtral returns a Mixtral model, to be given to [Run].
func Mixtral(m *mixtral.Model) Model { return mixtralModel{m} }

type mixtralModel struct{ *mixtral.Model }

func (m mixtralModel) TraceHeader() trace.Header {
	dtype := m.DType().String()
	if m.Quantize() == mixtral.Int8 {
		dtype += ", int8 weights"
	}
	return trace.Header{
		Model:  m.Config().TraceModel("mixtral"),
		Source: trace.Source{Checkpoint: m.CheckpointHash(), DType: dtype},
	}
}

func (m mixtralModel) Record(ctx context.Context, h *trace.Header, tokens [][]int32, spare []*trace.Document) ([]*trace.Document, error) {
	if h.Dropped {
		return nil, errors.New("no expert of Mixtral drops tokens: Options.Dropped cannot be recorded")
	}
	rec, err := mixtral.NewRecorder(*h)
	if err != nil {
		return nil, err
	}
	for _, d := range spare {
		rec.Reuse(d)
	}
	_, err = m.Forward(ctx, mixtral.Request{
		Tokens: tokens, Logits: mixtral.NoLogits, Observe: rec.Observe, RouterInput: len(h.InputLayers) > 0,
	})
	if err != nil {
		return nil, err
	}
	docs := make([]*trace.Document, len(tokens))
	for i := range docs {
		if docs[i] = rec.Take(i); docs[i] == nil || docs[i].Len() != len(tokens[i]) {
			return nil, fmt.Errorf("the routing of document %d of the batch is incomplete", i)
		}
	}
	return docs, nil
}
