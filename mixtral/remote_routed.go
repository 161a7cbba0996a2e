package mixtral

import (
	"context"
	"fmt"
	"sync"

	"github.com/expertspec/expertspec/mixtral/internal/calls"
	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
)

// capacities chooses how many rows an expert has in programs that route on the
// device, for each layer: spreads times the mean, and a few.
type capacities struct {
	mu     sync.Mutex
	layers []struct{ level, needed, steps int }
}

// spreads are few, since a program is compiled for each. Experts that have more
// rows than the last gives them are computed as where the host routes.
var spreads = []float64{1.125, 1.25, 1.5, 2, 3}

// size returns the rows of an expert for n rows, k experts each of e.
func capacity(level, n, k, e int) int {
	size := int(spreads[level]*float64(n*k)/float64(e)) + 16
	return min((size+7)/8, (n+7)/8) * 8
}

func (c *capacities) level(layer int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.layers[layer].level
}

// report adjusts a layer's level to a step's: what fits n rows' largest count. A
// level that was too large for some steps in a row is lowered.
func (c *capacities) report(layer, largest, n, k, e int) {
	needed := 0
	for needed < len(spreads)-1 && capacity(needed, n, k, e) < largest {
		needed++
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &c.layers[layer]
	l.needed, l.steps = max(l.needed, needed), l.steps+1
	if needed > l.level || l.steps == 64 {
		l.level, l.needed, l.steps = max(needed, l.needed), 0, 0
	}
}

// maxGroup is the number of layers of a program that routes on the device: a
// program's start takes as long as much of a layer of few rows, its compilation as
// long as its layers.
const maxGroup = 4

// routedGroup is layers that were computed, optimistically: with the rows for each
// expert that earlier steps required.
type routedGroup struct {
	first, layers, size int
	in, x               compute.Buffer   // [N,D], before and after
	logits, h           compute.Buffer   // of the routers, [layers,N,E] and [layers,N,D]; h is nil if no hook requires it
	kv                  []compute.Buffer // of the cache, if any; k and v of each layer
	done                chan struct{}    // closed once the host has the following; nil before it starts
	rts                 []*Routing       // up to the first layer that overflowed
	overflow            bool             // some expert had more rows than the program computed
	err                 error
}

func (l *routedGroup) free() {
	if l.done != nil {
		<-l.done
	}
	xla.Free(l.in, l.x, l.logits, l.h)
	xla.Free(l.kv...)
}

// routed computes one step, some layers a program. The device routes, and the host
// reads their router logits and calls the hooks while the device computes the
// next.
func (r *run) routed(ctx context.Context, s *step) error {
	m := r.m
	start, err := m.start(s)
	if err != nil {
		return err
	}
	x, cos, sin := start[0], start[1], start[2]
	var last, next *routedGroup
	defer func() {
		xla.Free(cos, sin)
		for _, l := range []*routedGroup{last, next} {
			if l != nil {
				l.free()
			}
		}
	}()
	valid := make([]int32, s.rowsTotal())
	for _, row := range s.rows {
		valid[row] = 1
	}
	rows, err := xla.Upload(m.d.Device, valid, len(valid))
	if err != nil {
		xla.Free(x)
		return err
	}
	defer xla.Free(rows)
	for i := 0; i < m.cfg.Layers; i += maxGroup {
		if err = ctx.Err(); err != nil {
			xla.Free(x)
			return err
		}
		if next, err = r.routedGroup(s, i, x, cos, sin, rows); err != nil {
			return err
		}
		if last != nil {
			again, err := r.settle(ctx, s, last, cos, sin)
			last = nil
			if err != nil {
				return err
			}
			if again != nil {
				next.free()
				if next, err = r.routedGroup(s, i, again, cos, sin, rows); err != nil {
					return err
				}
			}
		}
		last, next = next, nil
		last.read(ctx, r, s)
		x = last.x
		last.x = nil
	}
	again, err := r.settle(ctx, s, last, cos, sin)
	last = nil
	defer func() { xla.Free(x) }()
	if err != nil {
		return err
	}
	if again != nil {
		xla.Free(x)
		x = again
	}
	return r.logits(s, x)
}

// settle waits until the host has a group's routing, and frees the group. If it
// overflowed, it returns the group's output.
func (r *run) settle(ctx context.Context, s *step, l *routedGroup, cos, sin compute.Buffer) (x compute.Buffer, err error) {
	defer l.free()
	<-l.done
	if l.err != nil {
		return nil, l.err
	}
	if l.overflow {
		x, l.in = l.in, nil
		for i := range l.layers {
			var rt *Routing
			if i < len(l.rts) {
				rt = l.rts[i]
			}
			if x, err = r.batchedLayer(ctx, s, l.first+i, x, cos, sin, rt); err != nil {
				return nil, err
			}
		}
		return x, nil
	}
	if s.part != nil {
		for i := range l.layers {
			xla.Free(s.part.k[l.first+i], s.part.v[l.first+i])
			s.part.k[l.first+i], s.part.v[l.first+i] = l.kv[2*i], l.kv[2*i+1]
		}
		l.kv = nil
	}
	return nil, nil
}

// routedGroup computes layers from the first of x, which the result owns; freed on
// an error.
func (r *run) routedGroup(s *step, first int, x, cos, sin, valid compute.Buffer) (*routedGroup, error) {
	m, c, n := r.m, &r.m.cfg, s.rowsTotal()
	layers, level := min(maxGroup, c.Layers-first), 0
	for i := range layers {
		level = max(level, m.capacities.level(first+i))
	}
	size, slots := capacity(level, n, c.TopK, c.Experts), m.mesh.slots(c)
	shape := newBatchedShape(s, r.req.RouterInput)
	key := programKey{fmt.Sprintf("routed %d x %d", layers, size), shape.b, shape.t, shape.past, 2 * shape.size}
	if shape.asInput {
		key.d++
	}
	args := []compute.Buffer{valid, x, cos, sin, s.starts}
	for i := range layers {
		args = append(args, m.attentionArgs(s, first+i)...)
		w13, w2 := m.expertWeights(first+i, 0)
		args = append(append(args, w13.buffers()...), w2.buffers()...)
	}
	out, err := m.run(key, func(in []*Node) []*Node {
		valid, x, cos, sin, starts := in[0], in[1], in[2], in[3], in[4]
		in = in[5:]
		var logits, inputs, kv []*Node
		for range layers {
			y, h, scores, now := m.attentionNodes(x, cos, sin, starts, &in, shape)
			index, weights := fewTopK(scores, c.TopK)
			rows, back, weights := place(index, weights, valid, slots, size)
			x = m.batchedMoE(y, ConvertDType(h, m.dtype), rows, back, weights, slots, &in)
			logits, inputs, kv = append(logits, scores), append(inputs, h), append(kv, now...)
		}
		outs := []*Node{x, Concatenate(logits, 0)}
		if shape.asInput {
			outs = append(outs, Concatenate(inputs, 0))
		}
		return append(outs, kv...)
	}, args...)
	if err != nil {
		xla.Free(x)
		return nil, err
	}
	l := &routedGroup{first: first, layers: layers, size: size, in: x, x: out[0], logits: out[1]}
	if out = out[2:]; shape.asInput {
		l.h, out = out[0], out[1:]
	}
	l.kv = out
	return l, nil
}

// read starts to read a group's routing, and calls the hooks, up to the first
// layer that overflowed: those after it were computed from a wrong input.
func (l *routedGroup) read(ctx context.Context, r *run, s *step) {
	l.done = make(chan struct{})
	go func() {
		defer close(l.done)
		l.err = calls.ErrGoexit
		l.err = l.route(ctx, r, s)
	}()
}

func (l *routedGroup) route(ctx context.Context, r *run, s *step) error {
	c, n := &r.m.cfg, s.rowsTotal()
	logits, err := r.m.d.Floats(l.logits)
	if err != nil {
		return err
	}
	var inputs []float32
	if l.h != nil {
		if inputs, err = r.m.d.Floats(l.h); err != nil {
			return err
		}
	}
	for i := range l.layers {
		var input []float32
		if inputs != nil {
			input = inputs[i*n*c.HiddenSize:][:n*c.HiddenSize]
		}
		rt := r.routing(s, l.first+i, logits[i*n*c.Experts:][:n*c.Experts], input)
		if err := r.hooks(ctx, rt); err != nil {
			return err
		}
		l.rts = append(l.rts, rt)
		largest := rt.largest(c.Experts)
		r.m.capacities.report(rt.Layer, largest, n, c.TopK, c.Experts)
		if largest > l.size {
			l.overflow = true
			return nil
		}
	}
	return nil
}

// largest returns the largest number of rows of an expert.
func (r *Routing) largest(experts int) int {
	counts := make([]int, experts)
	top := 0
	for _, e := range r.Experts {
		counts[e]++
		top = max(top, counts[e])
	}
	return top
}

// place makes batchedMoE's indices of a routing, index and weights [N,K], for size
// rows of each expert: an expert's rows in order, those beyond size, and those of
// which valid [N] is 0, with weights 0.
func place(index, weights, valid *Node, experts, size int) (rows, back, scaled *Node) {
	g := index.Graph()
	n, k := index.Shape().Dimensions[0], index.Shape().Dimensions[1]
	lane := Iota(g, shapes.Make(dtypes.Int32, n, k, experts), 2)
	uses := LogicalAnd(Equal(BroadcastToDims(InsertAxes(index, -1), n, k, experts), lane),
		BroadcastToDims(Reshape(NotEqual(valid, ZerosLike(valid)), n, 1, 1), n, k, experts)) // [N,K,E]
	before := rowsBefore(ReduceSum(ConvertDType(uses, dtypes.Float32), 1)) // [N,E]
	before = BroadcastToDims(InsertAxes(ConvertDType(before, dtypes.Int32), 1), n, k, experts)
	at := ReduceSum(Where(uses, before, ZerosLike(before)), -1) // [N,K]
	ok := LogicalAnd(LessThan(at, Scalar(g, dtypes.Int32, int32(size))), ReduceLogicalOr(uses, -1))
	number := Iota(g, shapes.Make(dtypes.Int32, n*k), 0)
	slot := Add(MulScalar(index, int32(size)), at)
	// A scatter drops indices after the last.
	outside := Reshape(AddScalar(number, int32(experts*size)), n, k)
	slot = Where(ok, slot, outside)
	rows = ScatterSum(Zeros(g, shapes.Make(dtypes.Int32, experts*size)), Reshape(slot, n*k, 1), DivScalar(number, int32(k)), false, true)
	weights = Where(ok, weights, ZerosLike(weights))
	back = Where(ok, slot, ZerosLike(slot))
	return InsertAxes(rows, -1), Reshape(back, n*k, 1), InsertAxes(weights, -1)
}

// rowsBefore returns the sums of the earlier rows of x [N,E], of zeros and ones, as
// products with triangular matrices, in blocks of rows.
func rowsBefore(x *Node) *Node {
	g := x.Graph()
	n, e := x.Shape().Dimensions[0], x.Shape().Dimensions[1]
	size := min(n&-n, 128)         // a power of two that divides n
	earlier := func(n int) *Node { // [N,N]
		shape := shapes.Make(dtypes.Int32, n, n)
		return ConvertDType(LessThan(Iota(g, shape, 1), Iota(g, shape, 0)), dtypes.Float32)
	}
	blocks := Reshape(x, n/size, size, e)
	within := DotGeneral(blocks, []int{1}, nil, earlier(size), []int{1}, nil) // [N/size,E,size]
	within = TransposeAllAxes(within, 0, 2, 1)
	if n == size {
		return Reshape(within, n, e)
	}
	sums := ReduceSum(blocks, 1)                                              // [N/size,E]
	before := DotGeneral(earlier(n/size), []int{1}, nil, sums, []int{0}, nil) // [N/size,E]
	return Reshape(Add(within, InsertAxes(before, 1)), n, e)
}
