package mixtral

import (
	"context"
	"math"

	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
)

// Devices with memory of their own, such as GPUs. A program's launch and a copy
// from or to the host cost as much as reading tens of megabytes there, and a step
// of few tokens does little else than read weights. So a step of at most maxFew
// documents with one token each (remote_few.go) runs as one graph, or as one
// program a layer where the host routes. Others run as one program for
// some layers (remote_routed.go), or two a layer where the host routes
// (remote_batch.go).

// maxFew is the maximum number of documents that decode as remote_few.go does.
const maxFew = 4

// runRemote computes one step.
func (r *run) runRemote(ctx context.Context, s *step) error {
	m := r.m
	if r.few(s) {
		if err := s.part.prepare(m, s); err != nil {
			return err
		}
		if m.whole(s.t, r.req.Intervene != nil) {
			return r.fewWhole(ctx, s)
		}
		return r.fewStepped(ctx, s)
	}
	if s.part != nil {
		if err := s.part.flush(m); err != nil {
			return err
		}
		if err := s.part.reserve(m, s.need); err != nil {
			return err
		}
	}
	if s.part == nil {
		s.addDocuments()
	}
	starts := make([]int32, s.b)
	for b := range starts {
		starts[b] = int32(s.first[b])
	}
	var err error
	if s.starts, err = xla.Upload(m.d.Device, starts, s.b); err != nil {
		return err
	}
	if m.stacked() && r.req.Intervene == nil {
		return r.routed(ctx, s)
	}
	return r.batched(ctx, s)
}

// addDocuments adds empty documents up to 2^i or 3*2^i, so that few programs are
// compiled. They are not in lens: no expert computes them.
func (s *step) addDocuments() {
	b := powerOfTwo(s.b)
	if b >= 4 && s.b <= b/4*3 {
		b = b / 4 * 3
	}
	s.first = append(s.first, make([]int, b-s.b)...)
	s.tokens = append(s.tokens, make([]int32, (b-s.b)*s.t)...)
	s.b = b
}

// few reports whether each document has one token in the step.
func (r *run) few(s *step) bool {
	return s.part != nil && s.t == 1 && s.b <= maxFew && len(s.rows) == s.b
}

// recentSize is the number of tokens of a document in a cachePart's recent.
const recentSize = 64

// recent holds the keys and values of the last tokens. XLA programs return new
// buffers instead of writing into their parameters: a token that is decoded would
// copy its document's whole cache. It copies these instead.
type recent struct {
	kv    compute.Buffer // [L,2,B,KV,recentSize,hd]; nil if there are none
	first []int          // position of each document's first, [B]
	n     int            // number of tokens of each
}

// prepare makes room for one more token of each document.
func (p *cachePart) prepare(m *Model, s *step) error {
	if p.recent.n == recentSize {
		if err := p.flush(m); err != nil {
			return err
		}
	}
	if p.recent.kv != nil {
		return nil
	}
	need := 1 // a program requires a cache of some size
	for _, n := range s.first {
		need = max(need, n)
	}
	if err := p.reserve(m, need); err != nil {
		return err
	}
	c := &m.cfg
	kv, err := m.d.Zeros(m.dtype, c.Layers, 2, s.b, m.share.kvHeads, recentSize, c.HeadDim)
	p.recent = recent{kv: kv, first: s.first}
	return err
}

// flush moves the recent keys and values to the others.
func (p *cachePart) flush(m *Model) error {
	if p.recent.n == 0 {
		return nil
	}
	need := 0
	starts := make([]int32, len(p.docs))
	for b, first := range p.recent.first {
		need = max(need, first+recentSize)
		starts[b] = int32(first)
	}
	if err := p.reserve(m, need); err != nil {
		return err
	}
	at, err := xla.Upload(m.d.Device, starts, len(starts))
	if err != nil {
		return err
	}
	defer xla.Free(at)
	args := append([]compute.Buffer{at, p.recent.kv}, append(p.k, p.v...)...)
	out, err := m.run(programKey{"flush", len(p.docs), p.c, 0, 0}, func(in []*Node) []*Node {
		at, recent, kv := in[0], in[1], in[2:]
		for j := range kv {
			kv[j] = appendKV(kv[j], pick(recent, j%m.cfg.Layers, j/m.cfg.Layers), at)
		}
		return kv
	}, args...)
	if err != nil {
		return err
	}
	xla.Free(append(p.k, p.v...)...)
	xla.Free(p.recent.kv)
	p.k, p.v = out[:m.cfg.Layers:m.cfg.Layers], out[m.cfg.Layers:]
	p.recent = recent{}
	return nil
}

// pick returns x[at...] of x, whose first axes at indexes.
func pick(x *Node, at ...int) *Node {
	specs := make([]SliceAxisSpec, len(at))
	for i, a := range at {
		specs[i] = AxisRange(a, a+1)
	}
	return Reshape(Slice(x, specs...), x.Shape().Dimensions[len(at):]...)
}

// bits returns the bits of weights, so that they can be uploaded with integers.
func bits(weights []float32) []int32 {
	out := make([]int32, len(weights))
	for i, w := range weights {
		out[i] = int32(math.Float32bits(w))
	}
	return out
}

// takeInts removes n numbers from the front of ints, and returns them with the
// dimensions dims.
func takeInts(ints **Node, dims ...int) *Node {
	n := shapes.Make(dtypes.Int32, dims...).Size()
	out := Reshape(SliceAxis(*ints, 0, AxisRange(0, n)), dims...)
	*ints = SliceAxis(*ints, 0, AxisRange(n))
	return out
}

// rope returns cos and sin of positions' angles, [N,hd/2]. As transformers does,
// angles are products of float32. positions: [N].
func rope(c *Config, positions *Node) (cos, sin *Node) {
	half := c.HeadDim / 2
	inv := make([]float32, half)
	for i := range inv {
		inv[i] = float32(1 / math.Pow(c.RopeTheta, float64(2*i)/float64(c.HeadDim)))
	}
	angles := Mul(InsertAxes(float(positions), -1), InsertAxes(Const(positions.Graph(), inv), 0))
	return Cos(angles), Sin(angles)
}
