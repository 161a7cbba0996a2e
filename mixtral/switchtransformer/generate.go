package switchtransformer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/expertspec/expertspec/mixtral/internal/calls"
	"github.com/expertspec/expertspec/mixtral/internal/generate"
)

// GenerateOptions specify how a text is answered. MaxTokens is required; the other
// zero values decode greedily up to the end of the text.
type GenerateOptions struct {
	// MaxTokens is the maximum number of tokens to generate, >= 1.
	MaxTokens int
	// Temperature divides the logits; 0 is greedy: always the token with the
	// largest logit (on ties the lowest id).
	Temperature float64
	// TopP restricts sampling to the most probable tokens whose probabilities add
	// up to it (nucleus sampling, arXiv 1904.09751); 0 and 1: no restriction.
	TopP float64
	// Seed determines sampling.
	Seed uint64
	// Prefix are the decoder's first tokens, which follow its start token; usually
	// none.
	Prefix []int32
	// Stop are token ids that end the answer and are not part of it; nil is the
	// checkpoint's end-of-text ids, an empty slice none.
	Stop []int32
	// Token, if not nil, is called with each token as it is chosen. Its error ends
	// generation, which returns it.
	Token func(id int32) error
	// Observe, Intervene and RouterInput are as in Request, for both stacks.
	Observe, Intervene Hook
	RouterInput        bool
}

// Validate returns an error if the options are invalid.
func (o *GenerateOptions) Validate() error {
	switch {
	case o.MaxTokens < 1:
		return fmt.Errorf("GenerateOptions.MaxTokens is %d; must be at least 1", o.MaxTokens)
	case !(o.Temperature >= 0) || math.IsInf(o.Temperature, 0):
		return fmt.Errorf("GenerateOptions.Temperature is %v; must be finite and not negative", o.Temperature)
	case !(o.TopP >= 0 && o.TopP <= 1):
		return fmt.Errorf("GenerateOptions.TopP is %v; must be from 0 to 1", o.TopP)
	}
	return nil
}

// Generate encodes a text, given by its token ids [T] (which usually end with the
// end-of-text id), and returns the ids that the decoder chooses after its start token,
// one at a time over a cache. With an error it returns the ids chosen before it.
func (m *Model) Generate(ctx context.Context, text []int32, o GenerateOptions) ([]int32, error) {
	if err := m.begin(); err != nil {
		return nil, err
	}
	defer m.calls.End()
	if err := o.Validate(); err != nil {
		return nil, prefixed(err)
	}
	if m.cfg.DecoderStart < 0 {
		return nil, errors.New("switchtransformer: config.json has no decoder_start_token_id")
	}
	stop := o.Stop
	if stop == nil {
		for _, id := range m.cfg.EOS {
			stop = append(stop, int32(id))
		}
	}
	s := generate.NewSampler(o.Temperature, o.TopP, o.Seed)
	cache := m.NewCache(1)
	defer cache.Close()
	req := Request{Tokens: [][]int32{text}, DecoderTokens: [][]int32{append([]int32{int32(m.cfg.DecoderStart)}, o.Prefix...)},
		Cache: cache, Logits: LastLogits, Observe: o.Observe, Intervene: o.Intervene, RouterInput: o.RouterInput}
	var made []int32
	for {
		out, err := m.forward(ctx, &req)
		if err != nil {
			return made, prefixed(err)
		}
		id := s.Choose(out.Logits[0])
		if slices.Contains(stop, id) {
			return made, nil
		}
		made = append(made, id)
		if o.Token != nil {
			if err := calls.Protect("Token", func() error { return o.Token(id) }); err != nil {
				return made, err
			}
		}
		if len(made) == o.MaxTokens {
			return made, nil
		}
		req.Tokens, req.DecoderTokens = nil, [][]int32{{id}}
	}
}
