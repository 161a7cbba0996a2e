package mixtral

import (
	"context"
	"math"
	"slices"

	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
)

// fewNodes are what the layers of a step of N documents, one token each, share.
type fewNodes struct {
	tokens   *Node // [N]
	cos, sin *Node // [N,1,hd/2]
	isSlot   *Node // which of recent the step's token is, bool [1,1,recentSize,1]
	sees     *Node // which of the cache and recent the token sees, bool [N,1,1,C+recentSize]
	slot     *Node // index into recent
}

// fewInts are the numbers from which fewParams makes fewNodes.
func fewInts(s *step) []int32 {
	ints := append([]int32(nil), s.tokens...)
	for _, n := range s.first {
		ints = append(ints, int32(n))
	}
	for _, n := range s.part.recent.first {
		ints = append(ints, int32(n))
	}
	return append(ints, int32(s.part.recent.n))
}

func (m *Model) fewParams(ints *Node, n, c int) *fewNodes {
	g := ints.Graph()
	p := &fewNodes{tokens: takeInts(&ints, n)}
	positions := takeInts(&ints, n)
	first := takeInts(&ints, n, 1, 1, 1)
	p.slot = Reshape(ints)
	p.cos, p.sin = rope(&m.cfg, positions)
	p.cos, p.sin = InsertAxes(p.cos, 1), InsertAxes(p.sin, 1)
	p.isSlot = Equal(Iota(g, shapes.Make(dtypes.Int32, 1, 1, recentSize, 1), 2), p.slot)
	dims := shapes.Make(dtypes.Int32, n, 1, 1, c)
	key := Iota(g, dims, 3) // position
	old := LessThan(key, first)
	dims.Dimensions[3] = recentSize
	slot := Iota(g, dims, 3)
	now := LessOrEqual(slot, p.slot)
	if w := m.cfg.SlidingWindow; w > 0 {
		oldest := AddScalar(Reshape(positions, n, 1, 1, 1), int32(-w))
		old = LogicalAnd(old, GreaterThan(key, oldest))
		now = LogicalAnd(now, GreaterThan(Add(slot, first), oldest))
	}
	p.sees = Concatenate([]*Node{old, now}, 3)
	return p
}

// fewLinear is linear for a few rows. For one, XLA fuses Mul and ReduceSum with
// what selects w; for a product it would copy the selection first.
func (m *Model) fewLinear(x *Node, w weight) *Node {
	if x.Shape().Dimensions[0] > 1 {
		return m.d.linear(x, w)
	}
	y := ReduceSum(Mul(float(w.w), x), -1) // [O]
	if w.scale != nil {
		y = Mul(y, w.scale)
	}
	return InsertAxes(y, 0)
}

// fewBlock is block for fewNodes. past: the cache, [N,KV,C,hd]; recent:
// [2,N,KV,recentSize,hd]; now: the step's keys and values, [2,N,KV,hd].
func (m *Model) fewBlock(x *Node, w layerNodes, p *fewNodes, past split, recent *Node) (y, h, logits, now *Node) {
	c := &m.cfg
	h = rmsNorm(x, w.attnNorm, c.RMSNormEps) // [N,D]
	q, now := m.fewRotate(m.fewLinear(h, w.qkv), p)
	y = m.fewAttend(q, now, p, past, recent)   // [N,H*hd]
	y = Add(x, m.d.Sum(m.fewLinear(y, w.o)))   // [N,D]
	h = rmsNorm(y, w.ffnNorm, c.RMSNormEps)    // [N,D]
	logits = m.fewLinear(h, weight{w: w.gate}) // [N,E]
	return y, h, logits, now
}

// fewRotate splits y [N,(H+2KV)*hd], in projectQKV's order, into q [N,KV,G,hd],
// scaled, and keys and values, [2,N,KV,hd].
func (m *Model) fewRotate(y *Node, p *fewNodes) (q, now *Node) {
	c := &m.cfg
	n, hd, heads, kv := y.Shape().Dimensions[0], c.HeadDim, m.share.heads, m.share.kvHeads
	rot := (heads + kv) * hd / 2
	lo := Reshape(SliceAxis(y, 1, AxisRange(0, rot)), n, heads+kv, hd/2)
	hi := Reshape(SliceAxis(y, 1, AxisRange(rot, 2*rot)), n, heads+kv, hd/2)
	v := Reshape(SliceAxis(y, 1, AxisRange(2*rot)), n, kv, hd)
	lo, hi = Sub(Mul(lo, p.cos), Mul(hi, p.sin)), Add(Mul(hi, p.cos), Mul(lo, p.sin))
	qk := Concatenate([]*Node{lo, hi}, -1) // [N,H+KV,hd]
	q = MulScalar(SliceAxis(qk, 1, AxisRange(0, heads)), 1/math.Sqrt(float64(hd)))
	now = Stack([]*Node{SliceAxis(qk, 1, AxisRange(heads)), v}, 0)
	return ConvertDType(Reshape(q, n, kv, heads/kv, hd), m.dtype), ConvertDType(now, m.dtype)
}

// fewAttend returns the attention's output [N,H*hd], float32. Its products are
// sums of elements: XLA fuses them with what selects the keys, which are few.
func (m *Model) fewAttend(q, now *Node, p *fewNodes, past split, recent *Node) *Node {
	dims := q.Shape().Dimensions
	n, kv, g, hd := dims[0], dims[1], dims[2], dims[3]
	all := func(i int, past *Node) *Node { // [N,KV,1,C+recentSize,hd]
		this := BroadcastToDims(Reshape(pick(now, i), n, kv, 1, hd), n, kv, recentSize, hd)
		isSlot := BroadcastToDims(p.isSlot, n, kv, recentSize, hd)
		last := Where(isSlot, this, pick(recent, i))
		return float(InsertAxes(Concatenate([]*Node{past, last}, 2), 2))
	}
	scores := ReduceSum(Mul(float(InsertAxes(q, 3)), all(0, past.k)), -1) // [N,KV,G,S]
	sees := BroadcastToDims(p.sees, scores.Shape().Dimensions...)
	scores = Where(sees, scores, AddScalar(ZerosLike(scores), masked))
	probs := Softmax(scores, -1)
	out := ReduceSum(Mul(InsertAxes(probs, -1), all(1, past.v)), 3) // [N,KV,G,hd]
	return Reshape(out, n, kv*g*hd)
}

// fewTopK is topK in a graph: the k largest of logits [N,E], largest first and on
// ties the lower index, [N,K] int32, and the softmax over them, [N,K]. An expert's
// place is the number of those before it.
func fewTopK(logits *Node, k int) (index, weights *Node) {
	n, experts := logits.Shape().Dimensions[0], logits.Shape().Dimensions[1]
	g := logits.Graph()
	lane := Iota(g, shapes.Make(dtypes.Int32, n, experts), 1)
	place := ZerosLike(lane)
	for e := range experts {
		one := BroadcastToDims(SliceAxis(logits, 1, AxisRange(e, e+1)), n, experts)
		before := LogicalOr(GreaterThan(one, logits),
			LogicalAnd(Equal(one, logits), GreaterThan(lane, Scalar(g, dtypes.Int32, int32(e)))))
		place = Add(place, ConvertDType(before, dtypes.Int32))
	}
	shape := shapes.Make(dtypes.Int32, n, k, experts)
	wide := func(x *Node) *Node { return BroadcastToDims(InsertAxes(x, 1), n, k, experts) }
	is := Equal(wide(place), Iota(g, shape, 1)) // [N,K,E]
	index = ReduceSum(Where(is, wide(lane), Zeros(g, shape)), -1)
	shape.DType = logits.DType()
	values := ReduceSum(Where(is, wide(logits), Zeros(g, shape)), -1)
	weights = Exp(Sub(values, SliceAxis(values, 1, AxisRange(0, 1))))
	var sum *Node
	for i := range k {
		sum = fold(Add, sum, SliceAxis(weights, 1, AxisRange(i, i+1)))
	}
	return index, Div(weights, sum)
}

// fewMoE returns x plus the sparse mixture's output, [N,D]. index, weights: [N,K].
// w13 and w2 are one weight each, of which the device selects each row's experts,
// or the weights of each row's K experts.
func (m *Model) fewMoE(x, h, index, weights *Node, w13, w2 []weight) *Node {
	n, k := x.Shape().Dimensions[0], m.cfg.TopK
	index, weights = w13[0].own(index, weights)
	var rows []*Node
	for row := range n {
		hr := SliceAxis(h, 0, AxisRange(row, row+1))
		var sum *Node
		for i := range k {
			at := []SliceAxisSpec{AxisRange(row, row+1), AxisRange(i, i+1)}
			one13, one2 := w13[0], w2[0]
			if m.stacked() {
				e := Reshape(Slice(index, at...))
				one13, one2 = m.sliceExpert(one13, e), m.sliceExpert(one2, e)
			} else {
				one13, one2 = w13[row*k+i], w2[row*k+i]
			}
			sum = fold(Add, sum, weighed(m.fewExpert(hr, one13, one2), Slice(weights, at...)))
		}
		rows = append(rows, sum)
	}
	return Add(x, m.d.Sum(Concatenate(rows, 0)))
}

// fewExpert returns one expert's output. h: [1,D].
func (m *Model) fewExpert(h *Node, w13, w2 weight) *Node {
	y := m.fewLinear(h, w13) // [1,2F]
	f := y.Shape().Dimensions[1] / 2
	return m.fewLinear(Mul(m.d.silu(SliceAxis(y, 1, AxisRange(0, f))), SliceAxis(y, 1, AxisRange(f))), w2)
}

// weighed returns y*w, and 0 where w is 0, whatever y. w has y's axes.
func weighed(y, w *Node) *Node {
	used := BroadcastToDims(NotEqual(w, ZerosLike(w)), y.Shape().Dimensions...)
	return Where(used, Mul(y, w), ZerosLike(y))
}

// fewHead returns the logits [N,V] of x [N,D].
func (m *Model) fewHead(x, norm, head *Node) *Node {
	return m.fewLinear(rmsNorm(x, norm, m.cfg.RMSNormEps), weight{w: head})
}

// fewWhole computes the step as one graph.
func (r *run) fewWhole(ctx context.Context, s *step) error {
	m, p, n := r.m, s.part, s.b
	observe := r.req.Observe != nil
	asInput, head := observe && r.req.RouterInput, r.req.Logits != NoLogits
	ints, err := xla.Upload(m.d.Device, fewInts(s), 3*n+1)
	if err != nil {
		return err
	}
	defer xla.Free(ints)
	args := []compute.Buffer{ints, m.w.embed, p.recent.kv}
	for i := range m.w.layers {
		w := &m.w.layers[i]
		args = append(append(args, w.dense()...), w.w13[0].buffers()...)
		args = append(append(args, w.w2[0].buffers()...), p.k[i], p.v[i])
	}
	args = append(args, m.w.norm, m.w.head)
	key := programKey{"few", n, p.c, 0, 0}
	for i, on := range []bool{head, observe, asInput} {
		if on {
			key.d |= 1 << i
		}
	}
	out, err := m.run(key, func(in []*Node) []*Node { return m.fewGraph(in, n, p.c, head, observe, asInput) }, args...)
	if err != nil {
		return err
	}
	xla.Free(p.recent.kv)
	p.recent.kv = out[0]
	p.recent.n++
	if len(out) == 1 {
		return nil
	}
	defer xla.Free(out[1])
	floats, err := m.d.Floats(out[1])
	if err != nil {
		return err
	}
	if head {
		r.setLogits(s, floats)
		floats = floats[n*m.cfg.VocabSize:]
	}
	if observe {
		return r.observe(ctx, s, floats, asInput)
	}
	return nil
}

// fewGraph is the model for fewWhole: it returns recent, and in one buffer, so that
// the host copies once, logits [N,V], router logits [L,N,E] and router inputs
// [L,N,D], of which the step requires some.
func (m *Model) fewGraph(in []*Node, n, c int, head, observe, asInput bool) []*Node {
	take := func() *Node { x := in[0]; in = in[1:]; return x }
	p := m.fewParams(take(), n, c)
	x := embedding(p.tokens, take()) // [N,D]
	recent := take()
	var allLogits, inputs, kv []*Node
	for i := range m.cfg.Layers {
		w := takeNodes(&in)
		w13, w2 := takeWeight(&in), takeWeight(&in)
		past := split{k: take(), v: take()}
		y, h, logits, now := m.fewBlock(x, w, p, past, pick(recent, i))
		index, weights := fewTopK(logits, m.cfg.TopK)
		x = m.fewMoE(y, h, index, weights, []weight{w13}, []weight{w2})
		inputs, allLogits, kv = append(inputs, h), append(allLogits, logits), append(kv, now)
	}
	outs := []*Node{m.remember(recent, Stack(kv, 0), p.slot)}
	var floats []*Node
	if norm, w := take(), take(); head {
		floats = append(floats, m.fewHead(x, norm, w))
	}
	if observe {
		floats = append(floats, allLogits...)
	}
	if asInput {
		floats = append(floats, inputs...)
	}
	if len(floats) > 0 {
		for i, x := range floats {
			floats[i] = Reshape(x, -1)
		}
		outs = append(outs, Concatenate(floats, 0))
	}
	return outs
}

// remember writes the keys and values of all layers, [L,2,N,KV,hd], into recent.
func (m *Model) remember(recent, now, slot *Node) *Node {
	zero := Scalar(slot.Graph(), dtypes.Int32, int32(0))
	return DynamicUpdateSlice(recent, InsertAxes(now, 4), []*Node{zero, zero, zero, zero, slot, zero})
}

// setLogits sets the output's logits of all documents: [N,V].
func (r *run) setLogits(s *step, logits []float32) {
	v := r.m.cfg.VocabSize
	for i, doc := range s.docs {
		r.out.Logits[doc] = append(r.out.Logits[doc], logits[i*v:(i+1)*v]...)
	}
}

// observe calls the hooks of all layers, after the step. floats: [L,N,E], and if
// asInput, [L,N,D].
func (r *run) observe(ctx context.Context, s *step, floats []float32, asInput bool) error {
	c, n := &r.m.cfg, s.rowsTotal()
	inputs := floats[c.Layers*n*c.Experts:]
	for i := range c.Layers {
		var input []float32
		if asInput {
			input = inputs[i*n*c.HiddenSize:][:n*c.HiddenSize]
		}
		if err := r.hooks(ctx, r.routing(s, i, floats[i*n*c.Experts:][:n*c.Experts], input)); err != nil {
			return err
		}
	}
	return nil
}

// fewStepped computes the step with the experts of a layer and the attention of
// the next as one program. The device chooses the experts too: the host uploads
// its choice only where a hook changed it.
func (r *run) fewStepped(ctx context.Context, s *step) error {
	m, layers := r.m, r.m.cfg.Layers
	ints, err := xla.Upload(m.d.Device, fewInts(s), 3*s.b+1)
	if err != nil {
		return err
	}
	defer xla.Free(ints)
	now := make([]compute.Buffer, layers)
	state := &fewState{}
	defer func() { state.free(); xla.Free(now...) }()
	for i := range layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		out, err := r.fewNext(ctx, s, i, ints, state)
		if err != nil {
			return err
		}
		state.free()
		now[i] = out[0]
		*state = fewState{floats: out[1], choice: out[2]}
		floats, err := m.d.Floats(state.floats)
		if err != nil {
			return err
		}
		var input []float32
		state.h = floats[s.b*m.cfg.HiddenSize:][:s.b*m.cfg.HiddenSize]
		if r.req.RouterInput {
			input = state.h
		}
		rt := r.routing(s, i, floats[2*s.b*m.cfg.HiddenSize:], input)
		if err = r.hooks(ctx, rt); err == nil {
			err = state.choose(m, rt)
		}
		if err != nil {
			return err
		}
	}
	if r.req.Logits != NoLogits {
		out, err := xla.One(r.fewNext(ctx, s, layers, ints, state))
		if err != nil {
			return err
		}
		logits, err := m.d.Floats(out)
		xla.Free(out)
		if err != nil {
			return err
		}
		r.setLogits(s, logits)
	}
	p := s.part
	kv, err := xla.One(m.run(programKey{"remember", s.b, 0, 0, 0}, func(in []*Node) []*Node {
		ints := in[0]
		takeInts(&ints, 3*s.b)
		return []*Node{m.remember(in[1], Stack(in[2:], 0), Reshape(ints))}
	}, append([]compute.Buffer{ints, p.recent.kv}, now...)...))
	if err != nil {
		return err
	}
	xla.Free(p.recent.kv)
	p.recent.kv = kv
	p.recent.n++
	return nil
}

// fewState is what a stage passes to the next, in few buffers: each costs 5 us.
type fewState struct {
	floats compute.Buffer // x and h, [N,D], router logits [N,E]
	choice compute.Buffer // see fewChoice
	added  compute.Buffer // outputs of experts that the host computed, [N,D]; nil: none
	h      []float32      // on the host
	rt     *Routing
}

func (f *fewState) free() { xla.Free(f.floats, f.choice, f.added) }

// fewChoice is experts [N,K], the number of the layer that follows, and the bits of
// weights, [N,K].
func fewChoice(layer int, experts []int32, weights []float32) []int32 {
	return append(append(slices.Clone(experts), int32(layer+1)), bits(weights)...)
}

// choose makes the state's choice of experts that of rt.
func (f *fewState) choose(m *Model, rt *Routing) error {
	f.rt = rt
	experts, weights := make([]int32, len(rt.Experts)), make([]float32, len(rt.Weights))
	topK(rt.Logits, m.cfg.Experts, m.cfg.TopK, experts, weights)
	if slices.Equal(experts, rt.Experts) && slices.Equal(weights, rt.Weights) {
		return nil
	}
	return f.weigh(m, rt.Weights)
}

// weigh makes the experts' weights others.
func (f *fewState) weigh(m *Model, weights []float32) (err error) {
	xla.Free(f.choice)
	choice := fewChoice(f.rt.Layer, f.rt.Experts, weights)
	f.choice, err = xla.Upload(m.d.Device, choice, len(choice))
	return err
}

// fewNext is fewStage with the experts that the state chose.
func (r *run) fewNext(ctx context.Context, s *step, i int, ints compute.Buffer, state *fewState) (out []compute.Buffer, err error) {
	m := r.m
	switch {
	case i == 0 || m.stacked():
		return m.fewStage(s, i, ints, state, nil)
	case m.elsewhere == nil:
		var pairs []compute.Buffer
		for _, e := range state.rt.Experts {
			w13, w2 := m.expertWeights(i-1, int(e))
			pairs = append(append(pairs, w13.buffers()...), w2.buffers()...)
		}
		return m.fewStage(s, i, ints, state, pairs)
	}
	groups := byExpert(s, state.rt, m.cfg.Experts, m.cfg.TopK)
	if len(groups) == 0 {
		return m.fewStage(s, i, ints, state, nil)
	}
	err = m.useExperts(ctx, state.rt, groups, true, func(groups []chosen, slots []*ExpertSlot) (err error) {
		on := len(groups)
		if groups, slots, err = state.onHost(m, groups, slots); err != nil {
			return err
		}
		if len(groups) < on {
			weights := slices.Clone(state.rt.Weights)
			for j, e := range state.rt.Experts {
				if !slices.ContainsFunc(groups, func(g chosen) bool { return g.expert == int(e) }) {
					weights[j] = 0
				}
			}
			if err := state.weigh(m, weights); err != nil {
				return err
			}
		}
		out, err = m.fewStage(s, i, ints, state, state.pairs(groups, slots))
		return err
	})
	return out, err
}

// onHost computes the experts in HostSlots and returns the others.
func (f *fewState) onHost(m *Model, groups []chosen, slots []*ExpertSlot) ([]chosen, []*ExpertSlot, error) {
	added := make([]float32, len(f.h))
	rest, on := m.computeHostSlots(groups, slots, added, f.h)
	if len(rest) == len(groups) {
		return rest, on, nil
	}
	var err error
	f.added, err = xla.Upload(m.d.Device, added, len(f.h)/m.cfg.HiddenSize, m.cfg.HiddenSize)
	return rest, on, err
}

// pairs returns the weights of each row's K experts, where a weight of 0 has those of
// any; none for no groups.
func (f *fewState) pairs(groups []chosen, slots []*ExpertSlot) (pairs []compute.Buffer) {
	if len(groups) == 0 {
		return nil
	}
	for _, e := range f.rt.Experts {
		at := slices.IndexFunc(groups, func(g chosen) bool { return g.expert == int(e) })
		w13, w2 := slots[max(0, at)].matrices()
		pairs = append(append(pairs, w13.buffers()...), w2.buffers()...)
	}
	return pairs
}

// fewStage runs the experts of layer i-1, or the embedding, and the attention of
// layer i, or the head. It returns the step's keys and values and the fields of
// fewState, or the logits. pairs are the weights of each row's K experts, unless they
// are stacked; if there are none, the device computes none.
func (m *Model) fewStage(s *step, i int, ints compute.Buffer, state *fewState, pairs []compute.Buffer) ([]compute.Buffer, error) {
	n, p, k := s.b, s.part, m.cfg.TopK
	first, last := i == 0, i == m.cfg.Layers
	args := []compute.Buffer{ints}
	key := programKey{"stage", n, p.c, 0, 0}
	matrices := 0
	switch {
	case first:
		key.c = 1
		args = append(args, m.w.embed)
	case m.stacked():
		w13, w2 := m.expertWeights(i-1, 0)
		args = append(append(args, w13.buffers()...), w2.buffers()...)
		matrices = 1
	case len(pairs) > 0:
		args = append(args, pairs...)
		matrices = n * k
	}
	if !first {
		args = append(args, state.floats, state.choice)
		key.d = matrices
		if state.added != nil {
			args = append(args, state.added)
			key.d = -1 - matrices
		}
	}
	if last {
		key.c = 2
		args = append(args, m.w.norm, m.w.head)
	} else {
		args = append(append(args, p.recent.kv, p.k[i], p.v[i]), m.w.layers[i].dense()...)
	}
	added := state.added != nil
	return m.run(key, func(in []*Node) []*Node {
		take := func() *Node { x := in[0]; in = in[1:]; return x }
		nodes := m.fewParams(take(), n, p.c)
		var x *Node
		layer := Scalar(nodes.slot.Graph(), dtypes.Int32, int32(0))
		if first {
			x = embedding(nodes.tokens, take())
		} else {
			var w13, w2 []weight
			for range matrices {
				w13, w2 = append(w13, takeWeight(&in)), append(w2, takeWeight(&in))
			}
			x, layer = m.fewExperts(take(), take(), n, w13, w2)
			if added {
				x = Add(x, take())
			}
		}
		if last {
			return []*Node{m.fewHead(x, take(), take())}
		}
		recent := m.sliceFirst(take(), layer)
		past := split{k: take(), v: take()}
		y, h, logits, now := m.fewBlock(x, takeNodes(&in), nodes, past, recent)
		index, weights := fewTopK(logits, k)
		floats := Concatenate([]*Node{Reshape(y, -1), Reshape(h, -1), Reshape(logits, -1)}, 0)
		next := Reshape(AddScalar(layer, int32(1)), 1)
		choice := Concatenate([]*Node{Reshape(index, -1), next, Reshape(Bitcast(weights, dtypes.Int32), -1)}, 0)
		return []*Node{now, floats, choice}
	}, args...)
}

// fewExperts returns x [N,D] after the experts, of the nodes of a fewState, and the
// number of the stage.
func (m *Model) fewExperts(floats, choice *Node, n int, w13, w2 []weight) (x, layer *Node) {
	k, d := m.cfg.TopK, m.cfg.HiddenSize
	row := func(i int) *Node {
		return Reshape(SliceAxis(floats, 0, AxisRange(i*n*d, (i+1)*n*d)), n, -1)
	}
	experts := takeInts(&choice, n, k)
	layer = Reshape(takeInts(&choice, 1))
	if len(w13) == 0 {
		return row(0), layer
	}
	weights := Bitcast(Reshape(choice, n, k), dtypes.Float32)
	return m.fewMoE(row(0), row(1), experts, weights, w13, w2), layer
}
