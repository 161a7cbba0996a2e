package mixtral

import (
	"context"

	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
)

// separateExperts is batchedExperts with a program for each expert, so that a store
// can provide one after the other, and each computes its own number of rows. A model
// that holds all experts runs the same programs: results do not depend on where
// experts are.
func (m *Model) separateExperts(ctx context.Context, s *step, i int, x, h compute.Buffer, rt *Routing) (compute.Buffer, error) {
	sum, err := xla.One(m.run(programKey{"copy", s.rowsTotal(), 0, 0, 0}, func(in []*Node) []*Node { return []*Node{Identity(in[0])} }, x))
	if err != nil {
		return nil, err
	}
	add := func(g chosen, w13, w2 matrix) error {
		next, err := m.addExpert(sum, h, g, w13, w2)
		if err == nil {
			xla.Free(sum)
			sum = next
		}
		return err
	}
	groups := byExpert(s, rt, m.cfg.Experts, m.cfg.TopK)
	if m.elsewhere == nil {
		for _, g := range groups {
			w13, w2 := m.expertWeights(i, g.expert)
			if err = add(g, w13, w2); err != nil {
				break
			}
		}
	} else {
		err = m.useExperts(ctx, rt, groups, false, func(groups []chosen, slots []*ExpertSlot) error {
			for j, g := range groups {
				w13, w2 := slots[j].matrices()
				if err := add(g, w13, w2); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		xla.Free(sum)
		return nil, err
	}
	return sum, nil
}

// addExpert returns sum [N,D] plus an expert's outputs of its rows of h [N,D].
func (m *Model) addExpert(sum, h compute.Buffer, g chosen, w13, w2 matrix) (compute.Buffer, error) {
	shape, err := h.Shape()
	if err != nil {
		return nil, err
	}
	n, size := shape.Dimensions[0], bucketEighths(len(g.rows))
	rows, back, weights := make([]int32, size), make([]int32, n), make([]float32, n)
	copy(rows, g.rows)
	for i, row := range g.rows {
		back[row], weights[row] = int32(i), g.weights[i]
	}
	ints := append(append(rows, back...), bits(weights)...)
	index, err := xla.Upload(m.d.Device, ints, len(ints))
	if err != nil {
		return nil, err
	}
	defer xla.Free(index)
	args := append(append([]compute.Buffer{sum, h, index}, w13.buffers()...), w2.buffers()...)
	return xla.One(m.run(programKey{"add expert", n, size, shape.DType.Size(), 0}, func(in []*Node) []*Node {
		sum, h, ints := in[0], in[1], in[2]
		in = in[3:]
		rows, back := takeInts(&ints, size, 1), takeInts(&ints, n, 1)
		weights := Bitcast(Reshape(ints, n, 1), dtypes.Float32)
		h = ConvertDType(Gather(h, rows), m.dtype) // [C,D]
		w13, w2 := takeWeight(&in), takeWeight(&in)
		y := m.batchedExpert(InsertAxes(h, 0), w13.stack(), w2.stack())
		y = float(Gather(Reshape(y, size, m.cfg.HiddenSize), back)) // [N,D]
		return []*Node{Add(sum, weighed(y, weights))}
	}, args...))
}

// stack returns a weight [O,I] as [1,O,I].
func (w weight) stack() weight {
	s := weight{w: InsertAxes(w.w, 0)}
	if w.scale != nil {
		s.scale = InsertAxes(w.scale, 0)
	}
	return s
}
