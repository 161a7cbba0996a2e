package mixtral

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/expertspec/expertspec/mixtral/internal/calls"
	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/expertspec/expertspec/trace"
	"github.com/gomlx/compute"
	"golang.org/x/sync/errgroup"
)

// LogitsMode is the positions of which a forward pass returns next-token logits.
type LogitsMode int

const (
	// NoLogits is no positions: the head does not run.
	NoLogits LogitsMode = iota
	// LastLogits is the last position of each document.
	LastLogits
	// AllLogits is all positions.
	AllLogits
)

// Request is a batch of documents, or their continuation.
type Request struct {
	// Tokens are the token ids of B documents, of any lengths T_b >= 1.
	Tokens [][]int32
	// Cache, if not nil, holds the tokens that precede Tokens, which are added.
	Cache *Cache
	// Logits selects what Output.Logits holds.
	Logits LogitsMode
	// Observe, if not nil, is called for every layer of every step. Its changes of
	// the Routing have no effect.
	Observe Hook
	// Intervene, if not nil, is called before Observe and may change Experts and
	// Weights in place, before the experts run. There must remain K different
	// experts for each token and weights that are finite and not negative; they
	// need not add up to 1. An expert of weight 0 is not computed. The executor
	// Whole cannot intervene; Forward then returns an error.
	Intervene Hook
	// RouterInput sets Routing.Input for the hooks.
	RouterInput bool
}

// Output is the result of a forward pass.
type Output struct {
	// Logits are next-token logits of each document, row-major: [T_b,V] with
	// AllLogits, [1,V] with LastLogits, nil with NoLogits.
	Logits [][]float32
}

// step is one computation: B documents' next T tokens, padded on the right.
type step struct {
	docs   []int   // the documents' indices in the request, [B]
	b, t   int     // B, T after bucketing
	tokens []int32 // [B*T]
	first  []int   // tokens of each document before the step, [B]
	lens   []int   // tokens of each in the step, [B]; 0 after its last
	rows   []int   // the rows of B*T that are not padding
	// For each of rows, as in Routing:
	document []int
	position []int32
	token    []int32
	phase    []trace.Phase
	part     *cachePart
	lanes    int            // parts of the step that run concurrently
	past     bool           // the tokens attend to those in part
	starts   compute.Buffer // first, int32 [B]
	need     int            // capacity of the cache, in tokens
}

func (s *step) rowsTotal() int { return s.b * s.t }

// run is one forward pass.
type run struct {
	m     *Model
	req   *Request
	out   *Output
	mu    sync.Mutex // serializes hooks
	lanes int        // see step
}

// Forward computes a batch. It returns ctx's error if ctx ends. After an error the
// request's Cache is unusable. Documents do not affect each other's results beyond
// rounding.
func (m *Model) Forward(ctx context.Context, req Request) (*Output, error) {
	if err := m.begin(); err != nil {
		return nil, err
	}
	defer m.calls.End()
	out, err := m.forward(ctx, req)
	return out, prefixed(err)
}

// prefixed adds the package's name to an error, except to a context's.
func prefixed(err error) error { return calls.Prefixed("mixtral", err) }

func (m *Model) forward(ctx context.Context, req Request) (*Output, error) {
	if err := m.checkRequest(&req); err != nil {
		return nil, err
	}
	r := &run{m: m, req: &req, out: &Output{}}
	if req.Logits != NoLogits {
		r.out.Logits = make([][]float32, len(req.Tokens))
	}
	parts := r.parts()
	together := m.lanes // documents that run concurrently
	if m.elsewhere != nil {
		together = 1 // so that few experts are needed at a time
	}
	r.lanes = max(1, m.lanes/min(together, len(parts)))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(together)
	var returned atomic.Int32
	for _, p := range parts {
		g.Go(func() error {
			defer func() {
				if req.Cache == nil {
					p.free()
				}
			}()
			err := r.group(gctx, p)
			returned.Add(1)
			return err
		})
	}
	err := g.Wait()
	if err == nil && int(returned.Load()) != len(parts) {
		err = calls.ErrGoexit
	}
	if cause := ctx.Err(); err != nil && cause != nil {
		err = cause
	}
	if req.Cache != nil {
		for i, tokens := range req.Tokens {
			req.Cache.lengths[i] += len(tokens)
		}
		if err != nil {
			req.Cache.Close()
			req.Cache.broken = fmt.Errorf("the cache is invalid since a forward pass failed: %w", err)
		}
	}
	if err != nil {
		return nil, err
	}
	return r.out, nil
}

func (m *Model) checkRequest(req *Request) error {
	if len(req.Tokens) == 0 {
		return errors.New("the request has no documents")
	}
	for i, tokens := range req.Tokens {
		if len(tokens) == 0 {
			return fmt.Errorf("document %d has no tokens", i)
		}
		for t, id := range tokens {
			if id < 0 || int(id) >= m.cfg.VocabSize {
				return fmt.Errorf("document %d, token %d: id %d is not in the vocabulary of %d", i, t, id, m.cfg.VocabSize)
			}
		}
	}
	if req.Intervene != nil && m.executor == Whole {
		return errors.New("executor whole routes on the device: Intervene requires a model with Executor Stepped or Auto")
	}
	if req.Cache != nil {
		return req.Cache.check(m, len(req.Tokens))
	}
	return nil
}

// parts returns the groups of documents that run together: the cache's, or
// groups of similar length, so that little of a step is padding.
func (r *run) parts() []*cachePart {
	if r.req.Cache != nil {
		return r.req.Cache.parts
	}
	if r.m.d.Shared {
		return r.m.split(len(r.req.Tokens))
	}
	var parts []*cachePart
	bySize := make(map[int]*cachePart)
	for i, tokens := range r.req.Tokens {
		size := powerOfTwo(len(tokens))
		if bySize[size] == nil {
			bySize[size] = new(cachePart)
			parts = append(parts, bySize[size])
		}
		bySize[size].docs = append(bySize[size].docs, i)
	}
	return parts
}

// group computes the documents of one part, chunk by chunk.
func (r *run) group(ctx context.Context, p *cachePart) error {
	longest := 0
	for _, d := range p.docs {
		longest = max(longest, len(r.req.Tokens[d]))
	}
	for from := 0; from < longest; from += r.m.chunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		s, err := r.step(p, from, longest)
		if err != nil {
			return err
		}
		switch {
		case r.m.host != nil:
			err = r.runHost(ctx, s)
		case !r.m.d.Shared:
			err = r.runRemote(ctx, s)
		case r.m.whole(s.t, r.req.Intervene != nil):
			err = r.runWhole(ctx, s)
		default:
			err = r.runStepped(ctx, s)
		}
		xla.Free(s.starts)
		if err != nil {
			return err
		}
	}
	return nil
}

// cached returns how many tokens of a document precede the request's.
func (r *run) cached(doc int) int {
	if r.req.Cache == nil {
		return 0
	}
	return r.req.Cache.lengths[doc]
}

// step lays out the chunk of p's documents that begins at from.
func (r *run) step(p *cachePart, from, longest int) (*step, error) {
	m := r.m
	s := &step{docs: p.docs, b: len(p.docs), part: p, lanes: r.lanes}
	for _, d := range p.docs {
		n := min(max(len(r.req.Tokens[d])-from, 0), m.chunk)
		first := r.cached(d) + min(from, len(r.req.Tokens[d]))
		s.lens, s.first = append(s.lens, n), append(s.first, first)
		s.t = max(s.t, n)
		s.past = s.past || first > 0
	}
	s.t = m.bucket(s.t)
	s.tokens = make([]int32, s.b*s.t)
	starts := make([]int32, s.b)
	need := 0
	for b, n := range s.lens {
		doc, cached := p.docs[b], r.cached(p.docs[b])
		from, phase := s.first[b]-cached, trace.Prefill
		if cached > 0 && len(r.req.Tokens[doc]) == 1 {
			phase = trace.Decode
		}
		copy(s.tokens[b*s.t:], r.req.Tokens[doc][from:from+n])
		for t := range n {
			s.rows = append(s.rows, b*s.t+t)
			s.document = append(s.document, doc)
			s.position = append(s.position, int32(s.first[b]+t))
			s.token = append(s.token, s.tokens[b*s.t+t])
			s.phase = append(s.phase, phase)
		}
		starts[b] = int32(s.first[b])
		need = max(need, s.first[b]+s.t) // DynamicUpdateSlice writes padding too
	}
	if last := from+m.chunk >= longest; r.req.Cache == nil && last && !s.past {
		s.part = nil // no later step attends to this one
	} else if s.need = need; m.d.Shared {
		if err := p.reserve(m, need); err != nil {
			return nil, err
		}
	}
	if !m.d.Shared {
		return s, nil // see runRemote
	}
	if m.host != nil {
		return s, nil
	}
	var err error
	s.starts, err = xla.Upload(m.d.Device, starts, s.b)
	return s, err
}

// bucket rounds a number of rows up to a size that programs are compiled for.
func (m *Model) bucket(n int) int {
	if m.host != nil { // compiles nothing
		return n
	}
	return powerOfTwo(n)
}

// routing makes the Routing of a layer from the padded logits [B*T,E] and,
// where requested, the padded router input [B*T,D].
func (r *run) routing(s *step, layer int, logits, input []float32) *Routing {
	cfg := &r.m.cfg
	return &Routing{
		Layer: layer, Layers: cfg.Layers,
		Document: s.document, Position: s.position, Token: s.token, Phase: s.phase,
		Logits: gather(logits, s.rows, cfg.Experts), Input: gather(input, s.rows, cfg.HiddenSize),
	}
}

// gather returns rows of width d; nil for nil.
func gather(from []float32, rows []int, d int) []float32 {
	if from == nil {
		return nil
	}
	out := make([]float32, len(rows)*d)
	for i, row := range rows {
		copy(out[i*d:(i+1)*d], from[row*d:])
	}
	return out
}
