package mixtral

import (
	"context"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
)

// separateExperts is batchedExperts with a program for each expert, so that a store
// can provide one after the other. A model that holds all experts runs the same
// programs: their results do not depend on where experts are.
func (m *Model) separateExperts(ctx context.Context, s *step, i int, x, h compute.Buffer, rt *Routing) (compute.Buffer, error) {
	b := m.newBatch(s, rt, false)
	outs := make([]compute.Buffer, len(b.experts)) // [C,D]
	defer func() { free(outs...) }()
	one := func(e int, w13, w2 matrix) (err error) {
		at := slices.Index(b.experts, e)
		outs[at], err = m.separateExpert(h, b.rows[at*b.size:(at+1)*b.size], w13, w2)
		return err
	}
	if m.elsewhere == nil {
		for _, e := range b.experts {
			w13, w2 := m.expertWeights(i, e)
			if err := one(e, w13, w2); err != nil {
				return nil, err
			}
		}
		return m.separateSum(x, outs, b)
	}
	groups := byExpert(s, rt, m.cfg.Experts, m.cfg.TopK)
	err := m.useExperts(ctx, rt, groups, false, func(groups []chosen, slots []*ExpertSlot) error {
		for j, g := range groups {
			w13, w2 := slots[j].matrices()
			if err := one(g.expert, w13, w2); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return m.separateSum(x, outs, b)
}

// separateExpert returns an expert's outputs [C,D] of rows of h.
func (m *Model) separateExpert(h compute.Buffer, rows []int32, w13, w2 matrix) (compute.Buffer, error) {
	index, err := upload(m.d, rows, len(rows), 1)
	if err != nil {
		return nil, err
	}
	defer free(index)
	shape, err := h.Shape()
	if err != nil {
		return nil, err
	}
	args := append(append([]compute.Buffer{h, index}, w13.buffers()...), w2.buffers()...)
	return one(m.run(programKey{"separate expert", shape.Dimensions[0], len(rows), shape.DType.Size(), 0}, func(in []*Node) []*Node {
		h := ConvertDType(Gather(in[0], in[1]), m.dtype) // [C,D]
		in = in[2:]
		w13, w2 := takeWeight(&in), takeWeight(&in)
		return []*Node{Reshape(m.batchedExpert(InsertAxes(h, 0), w13.stack(), w2.stack()), -1, m.cfg.HiddenSize)}
	}, args...))
}

// separateSum returns x [N,D] plus the outputs of a batch's experts.
func (m *Model) separateSum(x compute.Buffer, outs []compute.Buffer, b *batch) (compute.Buffer, error) {
	n, k := len(b.back)/m.cfg.TopK, m.cfg.TopK
	ints := append(b.back, bits(b.weights)...)
	index, err := upload(m.d, ints, len(ints))
	if err != nil {
		return nil, err
	}
	defer free(index)
	return one(m.run(programKey{"separate sum", n, b.size, len(outs), 0}, func(in []*Node) []*Node {
		x, ints := in[0], in[1]
		back := takeInts(&ints, n*k, 1)
		weights := Bitcast(Reshape(ints, n, k, 1), dtypes.Float32)
		if len(outs) == 0 {
			return []*Node{Identity(x)}
		}
		return []*Node{m.batchedSum(x, Concatenate(in[2:], 0), back, weights)}
	}, append([]compute.Buffer{x, index}, outs...)...))
}

// stack returns a weight [O,I] as [1,O,I].
func (w weight) stack() weight {
	s := weight{w: InsertAxes(w.w, 0)}
	if w.scale != nil {
		s.scale = InsertAxes(w.scale, 0)
	}
	return s
}
