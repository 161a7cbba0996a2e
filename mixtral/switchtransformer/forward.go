package switchtransformer

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/internal/calls"
	"github.com/expertspec/expertspec/trace"
	"golang.org/x/sync/errgroup"
)

// LogitsMode is the decoder's positions of which a forward pass returns next-token
// logits: NoLogits, LastLogits or AllLogits.
type LogitsMode = mixtral.LogitsMode

const (
	// NoLogits is no positions: the head does not run.
	NoLogits = mixtral.NoLogits
	// LastLogits is the last position of each document.
	LastLogits = mixtral.LastLogits
	// AllLogits is all positions.
	AllLogits = mixtral.AllLogits
)

// Request is a batch of texts, or the continuation of their decoders.
type Request struct {
	// Tokens are the encoder's token ids of B texts, of any lengths T_b >= 1; nil
	// where Cache holds the texts.
	Tokens [][]int32
	// DecoderTokens are the decoder's token ids for each text, of any lengths >= 1;
	// the first of a text is usually Config.DecoderStart. nil: the encoder alone.
	DecoderTokens [][]int32
	// Uncapped routes the decoder's tokens as decoding one at a time does: without
	// dropping any. The encoder drops tokens in either case.
	Uncapped bool
	// Cache, if not nil, keeps the encoded texts and the decoder's tokens. The first
	// request has Tokens, later ones have DecoderTokens alone, which follow those
	// before. The decoder then drops no tokens, so that the results do not depend on
	// how its tokens are divided into requests.
	Cache *Cache
	// Logits selects what Output.Logits holds.
	Logits LogitsMode
	// Observe, if not nil, is called for every layer of every step. Its changes of
	// the Routing have no effect.
	Observe Hook
	// Intervene, if not nil, is called before Observe and may change Experts and
	// Weights in place, before the experts run. Weights must be finite and not
	// negative. What it chose counts for the experts' capacity, also with a weight of
	// 0, which is not computed.
	Intervene Hook
	// RouterInput sets Routing.Input for the hooks.
	RouterInput bool
}

// Output is the result of a forward pass.
type Output struct {
	// Logits are the decoder's next-token logits of each text, row-major: [T_b,V] with
	// AllLogits, [1,V] with LastLogits, nil with NoLogits or without DecoderTokens.
	Logits [][]float32
}

// run is one forward pass.
type run struct {
	m     *Model
	req   *Request
	out   *Output
	mu    sync.Mutex // serializes hooks
	lanes int        // see step
}

// Forward computes a batch. It returns ctx's error if ctx ends. After an error the
// request's Cache is unusable. Texts do not affect each other's results beyond
// rounding.
func (m *Model) Forward(ctx context.Context, req Request) (*Output, error) {
	if err := m.begin(); err != nil {
		return nil, err
	}
	defer m.calls.End()
	out, err := m.forward(ctx, &req)
	return out, prefixed(err)
}

func (m *Model) forward(ctx context.Context, req *Request) (*Output, error) {
	if err := m.checkRequest(req); err != nil {
		return nil, err
	}
	r := &run{m: m, req: req, out: &Output{}}
	if req.Logits != NoLogits && req.DecoderTokens != nil {
		r.out.Logits = make([][]float32, len(req.DecoderTokens))
	}
	err := calls.ErrGoexit
	defer func() { r.settle(err) }() // also where a hook ends the goroutine
	err = r.all(ctx, r.parts())
	if cause := ctx.Err(); err != nil && cause != nil {
		err = cause
	}
	if err != nil {
		return nil, err
	}
	return r.out, nil
}

// settle counts the tokens that the cache holds, or closes it after an error.
func (r *run) settle(err error) {
	c := r.req.Cache
	if c == nil {
		return
	}
	for i, tokens := range r.req.DecoderTokens {
		c.lengths[i] += len(tokens)
	}
	if err != nil {
		c.Close()
		c.broken = fmt.Errorf("the cache is invalid since a forward pass failed: %w", err)
	}
}

// parts returns the request's groups: those of its cache, or new ones.
func (r *run) parts() []*part {
	c := r.req.Cache
	if c != nil && c.parts != nil {
		return c.parts
	}
	lens := make([]int, len(r.req.Tokens))
	for i, tokens := range r.req.Tokens {
		lens[i] = len(tokens)
	}
	parts := r.m.parts(lens)
	if c != nil {
		c.parts, c.encoded = parts, lens
	}
	for _, p := range parts {
		if c != nil || r.req.DecoderTokens != nil {
			p.memory = r.m.x.memory(len(p.docs))
		}
	}
	return parts
}

// all computes groups, some concurrently.
func (r *run) all(ctx context.Context, parts []*part) error {
	together := min(r.m.x.concurrency(), len(parts))
	r.lanes = max(1, runtime.GOMAXPROCS(0)/together)
	if len(parts) == 1 { // without a goroutine, as in decoding
		defer r.done(parts[0])
		return r.group(ctx, parts[0])
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(together)
	var returned atomic.Int32
	for _, p := range parts {
		g.Go(func() error {
			defer r.done(p)
			err := r.group(gctx, p)
			returned.Add(1)
			return err
		})
	}
	err := g.Wait()
	if err == nil && int(returned.Load()) != len(parts) {
		err = calls.ErrGoexit
	}
	return err
}

// done frees a group's memory unless a cache keeps it.
func (r *run) done(p *part) {
	if r.req.Cache == nil && p.memory != nil {
		p.memory.free()
	}
}

// group computes one group of documents.
func (r *run) group(ctx context.Context, p *part) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if r.req.Tokens != nil {
		s := r.step(p, Encoder)
		if err := r.m.x.encode(ctx, s, p.memory, r.router(ctx, s)); err != nil {
			return err
		}
	}
	if r.req.DecoderTokens == nil {
		return nil
	}
	s := r.step(p, Decoder)
	rows, docs := r.headRows(s)
	return r.m.x.decode(ctx, s, p.memory, r.router(ctx, s), rows, func(i int, logits []float32) {
		r.out.Logits[docs[i]] = append(r.out.Logits[docs[i]], logits...)
	})
}

// router returns the routing of a step.
func (r *run) router(ctx context.Context, s *step) routeFunc {
	return func(layer int, logits, input []float32) ([]int32, []float32, error) {
		return r.route(ctx, s, layer, logits, input)
	}
}

// step lays out a group's tokens of a stack.
func (r *run) step(p *part, stack Stack) *step {
	req := r.req
	s := &step{stack: stack, docs: p.docs, keep: req.Cache != nil, input: req.RouterInput, lanes: r.lanes, capacity: r.m.cfg.Capacity}
	all, phase := req.Tokens, trace.Encode
	if stack == Decoder {
		all, phase = req.DecoderTokens, trace.Prefill
		if req.Cache != nil || req.Uncapped {
			s.capacity, phase = -1, trace.Decode
		}
	}
	n := 0
	for _, doc := range p.docs {
		n += len(all[doc])
	}
	s.document, s.position, s.token, s.phase = make([]int, 0, n), make([]int32, 0, n), make([]int32, 0, n), make([]trace.Phase, 0, n)
	for _, doc := range p.docs {
		first := 0
		if stack == Decoder && req.Cache != nil {
			first = req.Cache.lengths[doc]
		}
		s.first, s.tokens = append(s.first, first), append(s.tokens, all[doc])
		for t, id := range all[doc] {
			s.document = append(s.document, doc)
			s.position = append(s.position, int32(first+t))
			s.token = append(s.token, id)
			s.phase = append(s.phase, phase)
		}
	}
	return s
}

// headRows returns the rows of a step of which logits are wanted, and their documents,
// whose logits it makes room for.
func (r *run) headRows(s *step) (rows, docs []int) {
	if r.req.Logits == NoLogits {
		return nil, nil
	}
	last := 0
	for b, tokens := range s.tokens {
		n := 1
		if r.req.Logits == AllLogits {
			n = len(tokens)
		}
		last += len(tokens)
		for row := last - n; row < last; row++ {
			rows, docs = append(rows, row), append(docs, s.docs[b])
		}
		r.out.Logits[s.docs[b]] = make([]float32, 0, n*r.m.cfg.VocabSize)
	}
	return rows, docs
}

func (m *Model) checkRequest(req *Request) error {
	if len(req.Tokens) == 0 && (req.Cache == nil || len(req.DecoderTokens) == 0) {
		return errors.New("the request has no texts")
	}
	if req.Cache != nil {
		if err := req.Cache.check(m, req); err != nil {
			return err
		}
	}
	if req.Tokens != nil && req.DecoderTokens != nil && len(req.Tokens) != len(req.DecoderTokens) {
		return fmt.Errorf("the request has %d texts for the encoder and %d for the decoder", len(req.Tokens), len(req.DecoderTokens))
	}
	for s, all := range [stacks][][]int32{req.Tokens, req.DecoderTokens} {
		for i, tokens := range all {
			if err := m.checkTokens(tokens); err != nil {
				return fmt.Errorf("document %d, %s: %w", i, Stack(s), err)
			}
		}
	}
	return nil
}

// checkTokens returns an error unless there are tokens, of the vocabulary.
func (m *Model) checkTokens(tokens []int32) error {
	if len(tokens) == 0 {
		return errors.New("no tokens")
	}
	outside := func(id int32) bool { return id < 0 || int(id) >= m.cfg.VocabSize }
	if t := slices.IndexFunc(tokens, outside); t >= 0 {
		return fmt.Errorf("token %d: id %d is not in the vocabulary of %d", t, tokens[t], m.cfg.VocabSize)
	}
	return nil
}
