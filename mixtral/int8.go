package mixtral

import (
	"runtime"
	"sync"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
)

// matrix is a weight on the device: w [..., O, I] in matrixDims's order and scale
// nil, or w int8 [..., O, I] and scale float32 [..., O].
type matrix struct{ w, scale compute.Buffer }

// buffers returns the parameters from which takeWeight makes a weight.
func (m matrix) buffers() []compute.Buffer {
	if m.scale == nil {
		return []compute.Buffer{m.w}
	}
	return []compute.Buffer{m.w, m.scale}
}

// weight is a matrix in a graph.
type weight struct{ w, scale *Node }

// takeWeight removes a matrix from the front of parameters: int8 is followed by
// its scales.
func takeWeight(in *[]*Node) weight {
	w := weight{w: (*in)[0]}
	*in = (*in)[1:]
	if w.w.DType() == dtypes.Int8 {
		w.scale = (*in)[0]
		*in = (*in)[1:]
	}
	return w
}

// int8Block is the number of rows of W that are read together.
const int8Block = 32

// int8Product computes rows [lo,hi) of W for all rows of x: y [N,O] = x W^T *
// scale. x: [N,I]; w: [O,I]; scale: [O]. Each block of W is read from memory once
// and is never widened but in registers.
func int8Product(y, x []float32, w []int8, scale []float32, lo, hi int) {
	out := len(scale)
	in := len(w) / out
	n := len(x) / in
	var sums [4 * int8Block][4]float32
	for ; lo < hi; lo += int8Block {
		rows := min(int8Block, hi-lo)
		for r := 0; r < n; r += 4 {
			some := min(4, n-r)
			done := int8Sums(&sums, x[r*in:], w[lo*in:], in, some, rows)
			for k := range some {
				xr := x[(r+k)*in:][:in]
				yr := y[(r+k)*out:][lo : lo+rows]
				for j := range yr {
					s := &sums[j*4+k]
					sum := (s[0] + s[1]) + (s[2] + s[3])
					for i := done; i < in; i++ {
						sum += xr[i] * float32(w[(lo+j)*in+i])
					}
					yr[j] = sum * scale[lo+j]
				}
			}
		}
	}
}

// int8SumsPlain is int8Sums without vector instructions.
func int8SumsPlain(sums *[4 * int8Block][4]float32, x []float32, w []int8, in, n, rows int) (done int) {
	done = in &^ 3
	for j := range rows {
		wj := w[j*in:][:done]
		for k := range n {
			var a, b, c, d float32
			for xk := x[k*in:][:done]; len(xk) >= 4; xk = xk[4:] {
				i := done - len(xk)
				v := wj[i : i+4 : i+4]
				a += xk[0] * float32(v[0])
				b += xk[1] * float32(v[1])
				c += xk[2] * float32(v[2])
				d += xk[3] * float32(v[3])
			}
			sums[j*4+k] = [4]float32{a, b, c, d}
		}
	}
	return done
}

// parallel calls f for parts of [0,n), on all processors.
func parallel(n int, f func(lo, hi int)) { parallelOn(runtime.GOMAXPROCS(0), n, f) }

// parallelOn calls f for at most lanes parts of [0,n), concurrently.
func parallelOn(lanes, n int, f func(lo, hi int)) {
	if lanes = min(lanes, n); lanes <= 1 {
		f(0, n)
		return
	}
	var group sync.WaitGroup
	for i := range lanes {
		group.Go(func() { f(i*n/lanes, (i+1)*n/lanes) })
	}
	group.Wait()
}

// int8Linear is linear for the Go backend and a quantized matrix: x [N,I] to [N,O].
func (m *Model) int8Linear(x compute.Buffer, w matrix, n, lanes int) (compute.Buffer, error) {
	xs, err := m.d.floats(x)
	if err != nil {
		return nil, err
	}
	scale, err := m.d.floats(w.scale)
	if err != nil {
		return nil, err
	}
	flat, err := w.w.Data()
	if err != nil {
		return nil, err
	}
	y, ys, err := m.floatBuffer(n, len(scale))
	if err != nil {
		return nil, err
	}
	rows := flat.([]int8)
	if n*len(rows) < 1<<18 { // less than it takes to wake another processor
		lanes = 1
	}
	parallelOn(lanes, len(scale), func(lo, hi int) { int8Product(ys, xs, rows, scale, lo, hi) })
	return y, nil
}

// quantized loads matrices of the checkpoint, one after the other, as int8 [...,
// O, I]. order, if not nil, is the row in which each row is stored.
func (l *loader) quantized(dims []int, names []string, order func(row int) int) (m matrix, err error) {
	rows, columns := shapes.Make(dtypes.Int8, dims[:len(dims)-1]...).Size(), dims[len(dims)-1]
	scales := make([]float32, rows)
	m.w, err = l.load(dtypes.Int8, dims, func(dst []byte) error {
		to := dst
		if order != nil {
			to = make([]byte, len(dst))
		}
		row := 0
		for _, name := range names {
			if err := l.ctx.Err(); err != nil {
				return err
			}
			shape, err := l.ck.Shape(name)
			if err != nil {
				return err
			}
			end := row + shape[0]
			if err := l.ck.readInt8(name, to[row*columns:end*columns], scales[row:end], l.wideSpace); err != nil {
				return err
			}
			row = end
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
		m.scale, err = upload(l.d, scales, dims[:len(dims)-1]...)
	}
	if err != nil {
		free(m.w)
		return matrix{}, err
	}
	return m, nil
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
