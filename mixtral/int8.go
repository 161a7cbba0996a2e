package mixtral

import (
	"errors"
	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
	"golang.org/x/sync/errgroup"
)

// matrix is a weight on the device: w [..., O, I] and scale nil, or w int8 [..., O, I] and scale float32 [..., O].
// first, of experts divided among devices, is the number of the device's first, int32.
type matrix struct{ w, scale, first compute.Buffer }

// buffers returns the parameters from which takeWeight makes a weight.
func (m matrix) buffers() []compute.Buffer {
	var all []compute.Buffer
	for _, b := range []compute.Buffer{m.w, m.scale, m.first} {
		if b != nil {
			all = append(all, b)
		}
	}
	return all
}

// weight is a matrix in a graph.
type weight struct{ w, scale, first *Node }

// takeWeight removes a matrix from the front of parameters: int8 is followed by
// its scales, and experts divided among devices by an integer.
func takeWeight(in *[]*Node) weight {
	w := weight{w: (*in)[0]}
	*in = (*in)[1:]
	if w.w.DType() == dtypes.Int8 {
		w.scale = (*in)[0]
		*in = (*in)[1:]
	}
	if len(*in) > 0 && (*in)[0].DType() == dtypes.Int32 && (*in)[0].IsScalar() {
		w.first = (*in)[0]
		*in = (*in)[1:]
	}
	return w
}

// quantized loads matrices of the checkpoint, one after the other, as int8 [...,
// O, I], of which each of several devices has a part. order, if not nil, is the row in
// which each row is stored.
func (l *loader) quantized(dims []int, cut meshCut, names []string, order func(row int) int) (m matrix, err error) {
	rows, columns := shapes.Make(dtypes.Int8, dims[:len(dims)-1]...).Size(), dims[len(dims)-1]
	scales := make([]float32, rows)
	m.w, err = l.load(dtypes.Int8, dims, cut, func(dst []byte) error {
		to := dst
		if order != nil {
			to = make([]byte, len(dst))
		}
		if err := l.readInt8s(names, to, scales, columns); err != nil {
			return err
		}
		if order != nil {
			stored := make([]float32, rows)
			for r := range rows {
				copy(dst[order(r)*columns:][:columns], to[r*columns:])
				stored[order(r)] = scales[r]
			}
			scales = stored
		}
		return nil
	})
	if err == nil {
		m.scale, err = l.load(dtypes.Float32, dims[:len(dims)-1], cut.rows(), func(dst []byte) error {
			copy(words[float32](dst), scales)
			return nil
		})
	}
	if err != nil {
		xla.Free(m.w)
		return matrix{}, err
	}
	return m, nil
}

// readInt8s reads matrices into dst, one after the other, and their scales. For a
// device with memory of its own it reads four at a time.
func (l *loader) readInt8s(names []string, dst []byte, scales []float32, columns int) error {
	var g errgroup.Group
	g.SetLimit(1)
	space := l.wideSpace
	if !l.d.Shared {
		g.SetLimit(4)
		space = func(size int) []byte { return make([]byte, size) }
	}
	row := 0
	for _, name := range names {
		shape, err := l.ck.Shape(name)
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		from, end := row, row+shape[0]
		g.Go(func() error {
			if err := l.ctx.Err(); err != nil {
				return err
			}
			return l.ck.readInt8(name, dst[from*columns:end*columns], scales[from:end], space)
		})
		row = end
	}
	return g.Wait()
}

// qkvRow returns where qkv stores row r of q over k over v.
func (c *Config) qkvRow(r int) int {
	hd, half, turned := c.HeadDim, c.HeadDim/2, c.Heads+c.KVHeads
	head, i := r/hd, r%hd
	switch {
	case head >= turned: // v
		return r
	case i < half:
		return head*half + i
	}
	return (turned+head)*half + i - half
}
