package switchtransformer

import (
	"context"
	"math"

	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	g "github.com/gomlx/gomlx/core/graph"
)

// routeRows is routeFunc with padding: logits [B*T,E], input [B*T,D], and results for
// each row, where padding has the weight 0.
type routeRows func(layer int, logits, input []float32) (experts []int32, weights []float32, err error)

// maxFew is the number of rows for which a program selects experts; for more, it
// computes all experts.
const maxFew = 8

// pass is one computation of a stack.
type pass struct {
	p           *padded
	lens        compute.Buffer // of the encoder, [B]; nil in the decoder, which has memory
	memory      *graphMemory
	input       bool // route requires the router's input
	routingOnly bool

	bias, starts compute.Buffer // see view; starts is nil in the encoder
	x            compute.Buffer // [N,D]
	h            compute.Buffer // input of a router, [N,D]; nil: its experts are in x
	choice       compute.Buffer // of the experts of h, if the next program computes them
	before       *blockBuffers  // the block of h
}

func (p *pass) free() { xla.Free(p.bias, p.starts, p.x, p.h, p.choice) }

// stack computes a stack's blocks and returns x [N,D] before the final norm. If only
// routing is wanted, it returns nil after the last router.
func (x *graph) stack(ctx context.Context, s Stack, p *pass, route routeRows) (compute.Buffer, error) {
	defer p.free()
	if err := x.start(s, p); err != nil {
		return nil, err
	}
	spans := x.cfg.spans(s)
	for layer, sp := range spans {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if p.routingOnly && !sp.sparse {
			return nil, nil
		}
		logits, err := x.span(s, p, sp)
		if err != nil {
			return nil, err
		}
		if !sp.sparse {
			break
		}
		experts, weights, err := x.route(p, layer, logits, route)
		if err != nil || p.routingOnly && layer == len(spans)-2 {
			return nil, err
		}
		p.before = &x.w.stacks[s].blocks[sp.first+sp.dense]
		if err := x.sparse(p, experts, weights); err != nil {
			return nil, err
		}
	}
	out := p.x
	p.x = nil
	return out, nil
}

// start computes the embeddings of tokens, and what the blocks share.
func (x *graph) start(s Stack, p *pass) (err error) {
	b, t := p.p.b, p.p.t
	ints, keys := append([]int32(nil), p.p.tokens...), t
	if s == Decoder {
		keys = max(t, p.memory.capacity)
		ints = append(ints, p.p.starts...)
		if p.starts, err = xla.Upload(x.Device, p.p.starts, b); err != nil {
			return err
		}
	}
	ints = append(ints, x.buckets(s, keys)...)
	args, err := xla.Upload(x.Device, ints, len(ints))
	if err != nil {
		return err
	}
	defer xla.Free(args)
	out, err := x.run(name("start{%s, %d x %d, keys %d}", s, b, t, keys), func(in []*g.Node) []*g.Node {
		ints := in[0]
		y := embedding(takeInts(&ints, b*t), in[1])
		if s == Encoder {
			return []*g.Node{y, relativeBias(in[2], ints, t)}
		}
		starts := takeInts(&ints, b)
		return []*g.Node{y, causalBias(in[2], ints, starts, t, keys)}
	}, args, x.w.stacks[s].embed, x.w.stacks[s].table)
	if err != nil {
		return err
	}
	p.x, p.bias = out[0], out[1]
	return nil
}

// buckets returns the buckets that relativeBias or causalBias takes.
func (x *graph) buckets(s Stack, keys int) []int32 {
	var buckets []int32
	if s == Encoder {
		for r := 1 - keys; r < keys; r++ {
			buckets = append(buckets, int32(x.cfg.bucket(s, r)))
		}
		return buckets
	}
	for r := range min(keys-1, x.cfg.MaxDistance) + 1 {
		buckets = append(buckets, int32(x.cfg.bucket(s, -r)))
	}
	return buckets
}

// takeInts removes n numbers from the front of ints.
func takeInts(ints **g.Node, n int) *g.Node {
	out := g.SliceAxis(*ints, 0, g.AxisRange(0, n))
	*ints = g.SliceAxis(*ints, 0, g.AxisRange(n))
	return out
}

// span computes x after some blocks, and h and the router logits of the last if that is
// sparse.
func (x *graph) span(s Stack, p *pass, sp span) (logits compute.Buffer, err error) {
	if sp.blocks() == 0 && p.choice == nil {
		return nil, nil
	}
	l := layout{stack: s, b: p.p.b, t: p.p.t, few: p.choice != nil, dense: sp.dense, sparse: sp.sparse}
	var args []compute.Buffer
	if l.few {
		args = append(args, p.h, p.choice, p.before.wi, p.before.wo)
	}
	args = append(args, p.x, p.bias)
	if s == Decoder {
		l.capacity, l.cross = p.memory.capacity, p.memory.size
		args = append(args, p.memory.lens, p.starts)
	} else {
		args = append(args, p.lens)
	}
	for i := range sp.blocks() {
		args = append(args, x.blockArgs(s, sp.first+i, p.memory)...)
	}
	out, err := x.run(name("%v", l), func(in []*g.Node) []*g.Node { return x.blocks(in, l) }, args...)
	xla.Free(p.x, p.h, p.choice)
	p.x, p.h, p.choice = nil, nil, nil
	if err != nil {
		return nil, err
	}
	if p.x, out = out[0], out[1:]; sp.sparse {
		p.h, logits, out = out[0], out[1], out[2:]
	}
	if l.capacity > 0 {
		kv := p.memory.kv[2*sp.first:][:2*sp.blocks()]
		xla.Free(kv...)
		copy(kv, out)
	}
	return logits, nil
}

// blockArgs are a block's parameters of a program, in the order in which blocks takes
// them.
func (x *graph) blockArgs(s Stack, i int, m *graphMemory) []compute.Buffer {
	w := &x.w.stacks[s].blocks[i]
	args := []compute.Buffer{w.self.norm, w.self.in, w.self.out}
	if s == Decoder {
		if m.capacity > 0 {
			args = append(args, m.kv[2*i:2*i+2]...)
		}
		args = append(args, w.cross.norm, w.cross.in, w.cross.out)
		args = append(args, m.cross[2*i:2*i+2]...)
	}
	args = append(args, w.norm)
	if w.router != nil {
		return append(args, w.router...)
	}
	return append(args, w.wi, w.wo)
}

// route returns the rows' experts and weights. It frees logits.
func (x *graph) route(p *pass, layer int, logits compute.Buffer, route routeRows) (experts []int32, weights []float32, err error) {
	defer xla.Free(logits)
	values, err := x.Floats(logits)
	if err != nil {
		return nil, nil, err
	}
	var input []float32
	if p.input {
		if input, err = x.Floats(p.h); err != nil {
			return nil, nil, err
		}
	}
	return route(layer, values, input)
}

// sparse adds the outputs of the experts of rows to x, or has the next program add
// them.
func (x *graph) sparse(p *pass, experts []int32, weights []float32) error {
	n := len(experts)
	if n <= maxFew {
		ints := append(append([]int32(nil), experts...), bits(weights)...)
		var err error
		p.choice, err = xla.Upload(x.Device, ints, len(ints))
		return err
	}
	b := newBatch(experts, weights, x.cfg.Experts)
	if b.size == 0 {
		return nil // nothing to add
	}
	ints := append(append(b.rows, b.back...), bits(weights)...)
	index, err := xla.Upload(x.Device, ints, len(ints))
	if err != nil {
		return err
	}
	defer xla.Free(index)
	out, err := xla.One(x.run(name("experts{%d rows, %d each}", n, b.size), func(in []*g.Node) []*g.Node {
		ints := in[2]
		rows, back := takeInts(&ints, len(b.rows)), takeInts(&ints, n)
		weights := g.Reshape(g.Bitcast(ints, dtypes.Float32), n, 1)
		return []*g.Node{x.experts(in[0], in[1], g.InsertAxes(rows, -1), g.InsertAxes(back, -1), weights, in[3], in[4])}
	}, p.x, p.h, index, p.before.wi, p.before.wo))
	xla.Free(p.x, p.h)
	p.x, p.h = out, nil
	return err
}

// batch is a routing as indices: row i of expert e is the step's row
// rows[e*size+i], and row n computed row back[n] of those.
type batch struct {
	size       int // rows of each expert, with padding; 0: none has any
	rows, back []int32
}

// newBatch makes the batch of rows whose weights are not 0.
func newBatch(experts []int32, weights []float32, numExperts int) batch {
	b := batch{back: make([]int32, len(experts))}
	counts := make([]int, numExperts)
	for n, e := range experts {
		if weights[n] != 0 {
			counts[e]++
			b.size = max(b.size, counts[e])
		}
	}
	b.size = bucketRows(b.size)
	b.rows = make([]int32, numExperts*b.size)
	clear(counts)
	for n, e := range experts {
		if weights[n] != 0 {
			at := int(e)*b.size + counts[e]
			counts[e]++
			b.rows[at], b.back[n] = int32(n), int32(at)
		}
	}
	return b
}

// bucketRows rounds up to 16, 32, 64, 96, 128, 192 and so on. 0 is 0.
func bucketRows(n int) int {
	switch {
	case n == 0:
		return 0
	case n <= 64:
		return max(16, powerOfTwo(n))
	}
	return bucketDocuments(n)
}

// powerOfTwo returns the least power of two that is at least n.
func powerOfTwo(n int) int {
	p := 1
	for p < n {
		p *= 2
	}
	return p
}

// bits returns the bits of weights, so that they can be uploaded with integers.
func bits(weights []float32) []int32 {
	out := make([]int32, len(weights))
	for i, w := range weights {
		out[i] = int32(math.Float32bits(w))
	}
	return out
}
