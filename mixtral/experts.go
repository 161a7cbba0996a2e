package mixtral

import (
	"context"
	"slices"

	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
	"golang.org/x/sync/errgroup"
)

// chosen are the rows of one expert.
type chosen struct {
	expert  int
	rows    []int32
	weights []float32
}

// byExpert groups a step's routing by expert, in order of expert, without weights
// of zero.
func byExpert(s *step, rt *Routing, numExperts, k int) []chosen {
	groups, count := make([]chosen, numExperts), make([]int, numExperts)
	for _, e := range rt.Experts {
		count[e]++
	}
	for e, n := range count {
		groups[e].rows, groups[e].weights = make([]int32, 0, n), make([]float32, 0, n)
	}
	for t, row := range s.rows {
		for i := t * k; i < (t+1)*k; i++ {
			if w := rt.Weights[i]; w != 0 {
				g := &groups[rt.Experts[i]]
				g.rows = append(g.rows, int32(row))
				g.weights = append(g.weights, w)
			}
		}
	}
	used := groups[:0]
	for e, g := range groups {
		if len(g.rows) > 0 {
			g.expert = e
			used = append(used, g)
		}
	}
	return used
}

// experts adds the chosen experts' outputs to x.
func (m *Model) experts(ctx context.Context, s *step, i int, x, h compute.Buffer, rt *Routing) error {
	groups := byExpert(s, rt, m.cfg.Experts, m.cfg.TopK)
	if m.elsewhere == nil {
		return m.expertsOnHost(s.lanes, x, h, groups, func(e int) (w13, w2 matrix) { return m.expertWeights(i, e) })
	}
	return m.useExperts(ctx, rt, groups, len(s.rows) == 1, func(groups []chosen, slots []*ExpertSlot) error {
		groups, slots, err := m.hostSlots(groups, slots, x, h)
		if err != nil {
			return err
		}
		return m.expertsOnHost(s.lanes, x, h, groups, func(e int) (w13, w2 matrix) {
			return slots[slices.IndexFunc(groups, func(g chosen) bool { return g.expert == e })].matrices()
		})
	})
}

// expertWeights returns expert e's buffers, or those of all where stacked.
func (m *Model) expertWeights(i, e int) (w13, w2 matrix) {
	if m.stacked() {
		e = 0
	}
	return m.w.layers[i].w13[e], m.w.layers[i].w2[e]
}

// sliceExpert returns expert e of stacked [E,O,I] as [O,I].
func (m *Model) sliceExpert(stacked weight, e *Node) weight {
	w := weight{w: m.sliceFirst(stacked.w, e)}
	if stacked.scale != nil {
		w.scale = m.sliceFirst(stacked.scale, e)
	}
	return w
}

// sliceFirst returns x[e] of x [E,...].
func (m *Model) sliceFirst(x, e *Node) *Node {
	one := slices.Clone(x.Shape().Dimensions)
	if m.d.IsGo { // which has no DynamicSlice
		return Reshape(Gather(x, Reshape(e, 1, 1)), one[1:]...)
	}
	from := []*Node{e}
	for range one[1:] {
		from = append(from, Scalar(x.Graph(), dtypes.Int32, int32(0)))
	}
	one[0] = 1
	return Reshape(DynamicSlice(x, from, one), one[1:]...)
}

// bucketRows rounds a number of rows up to 2^i or 3*2^i, and above 16, if XLA
// computes on the host, to a multiple of 24: XLA CPU takes a third longer for
// 128 rows than for 120 or 144.
func (m *Model) bucketRows(n int) int {
	p := powerOfTwo(n)
	switch {
	case p > 16 && m.cuts():
		return (n + 23) / 24 * 24
	case p >= 4 && n <= p/4*3:
		return p / 4 * 3
	}
	return p
}

// maxRows is the maximum number of rows of an expert's program if cuts reports
// true: XLA CPU spends more on each row of more.
const maxRows = 192

// cuts reports whether an expert's rows are cut into maxRows: on XLA CPU, if the
// expert's weights are small enough to be read again.
func (m *Model) cuts() bool {
	c := &m.cfg
	return 3*c.HiddenSize*c.IntermediateSize*m.dtype.Size() <= 1<<20
}

// cut divides groups of more than size rows.
func cut(groups []chosen, size int) []chosen {
	var out []chosen
	for _, g := range groups {
		for len(g.rows) > size {
			out = append(out, chosen{g.expert, g.rows[:size:size], g.weights[:size:size]})
			g.rows, g.weights = g.rows[size:], g.weights[size:]
		}
		out = append(out, g)
	}
	return out
}

// floatBuffer returns an uninitialized float32 buffer and its memory.
func (m *Model) floatBuffer(dims ...int) (compute.Buffer, []float32, error) {
	b, flat, err := m.d.Backend.NewSharedBuffer(0, shapes.Make(dtypes.Float32, dims...))
	if err != nil {
		return nil, nil, err
	}
	return b, flat.([]float32), nil
}

// hostSlots adds the outputs of experts in HostSlots to x, and returns the others.
func (m *Model) hostSlots(groups []chosen, slots []*ExpertSlot, x, h compute.Buffer) ([]chosen, []*ExpertSlot, error) {
	xs, err := m.d.Floats(x)
	if err != nil {
		return nil, nil, err
	}
	hs, err := m.d.Floats(h)
	if err != nil {
		return nil, nil, err
	}
	groups, slots = m.computeHostSlots(groups, slots, xs, hs)
	return groups, slots, nil
}

// expertsOnHost adds the experts' outputs to x, if the device's memory is the
// host's: the host gathers and combines rows, experts run concurrently. (XLA's
// scatter on CPU is a loop over rows, slower than the experts.)
func (m *Model) expertsOnHost(lanes int, x, h compute.Buffer, groups []chosen, weights func(e int) (w13, w2 matrix)) error {
	xs, err := m.d.Floats(x)
	if err != nil {
		return err
	}
	hs, err := m.d.Floats(h)
	if err != nil {
		return err
	}
	if m.cuts() {
		groups = cut(groups, maxRows)
	}
	outs := make([]compute.Buffer, len(groups))
	defer func() { xla.Free(outs...) }()
	var g errgroup.Group
	g.SetLimit(lanes)
	for j, group := range groups {
		w13, w2 := weights(group.expert)
		g.Go(func() (err error) {
			outs[j], err = m.expertRows(hs, group, w13, w2)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	dim := m.cfg.HiddenSize
	for j, group := range groups { // in this order: sums do not depend on timing
		y, err := m.d.Floats(outs[j])
		if err != nil {
			return err
		}
		for k, row := range group.rows {
			w, to := group.weights[k], xs[int(row)*dim:][:dim]
			for d, v := range y[k*dim:][:dim] {
				to[d] += w * v
			}
		}
	}
	return nil
}

// expertRows returns one expert's output for its rows of h, [M,D], of which the
// last are padding.
func (m *Model) expertRows(h []float32, g chosen, w13, w2 matrix) (compute.Buffer, error) {
	dim, size := m.cfg.HiddenSize, m.bucketRows(len(g.rows))
	in, rows, err := m.floatBuffer(size, dim)
	if err != nil {
		return nil, err
	}
	defer xla.Free(in)
	for k, row := range g.rows {
		copy(rows[k*dim:(k+1)*dim], h[int(row)*dim:])
	}
	clear(rows[len(g.rows)*dim:])
	args := append(append([]compute.Buffer{in}, w13.buffers()...), w2.buffers()...)
	return xla.One(m.run(programKey{"rows", size, 0, 0, 0}, func(in []*Node) []*Node {
		x, in := in[0], in[1:]
		w13, w2 := takeWeight(&in), takeWeight(&in)
		return []*Node{m.d.swiglu(x, w13, w2)} // [M,D]
	}, args...))
}
