package mixtral

import (
	"github.com/expertspec/expertspec/mixtral/internal/host"
	"github.com/expertspec/expertspec/mixtral/internal/kernel"
)

// hostRowsForm is hostForm on rows of activations, for few tokens: each weight is
// read once and multiplied by all of them.
type hostRowsForm struct {
	*hostStep
	x, h []float32 // [T,D]
}

func newHostRows(h *hostStep) *hostRowsForm {
	d, half := h.m.cfg.HiddenSize, h.m.cfg.HeadDim/2
	f := &hostRowsForm{hostStep: h, x: host.Sized(&h.work.x, h.n*d), h: host.Sized(&h.work.h, h.n*d)}
	for t, id := range h.s.token {
		h.m.host.embed.Row(f.x[t*d:], int(id))
	}
	h.angles(h.n*half, func(t, i int) int { return t*half + i })
	return f
}

// dots is linear for few rows.
func (h *hostStep) dots(y, x []float32, n int, w *kernel.Matrix) {
	x = host.FitRows(w, &h.work.fit, x, n)
	if w.Rows*w.Bytes() <= host.FewBytes || h.team.Lanes == 1 {
		w.Dots(y, w.Rows, x, n, 0, w.Rows)
		return
	}
	h.blocks(w.Rows, func(_ *hostLane, lo, hi int) { w.Dots(y[lo:], w.Rows, x, n, lo, hi) })
}

func (f *hostRowsForm) norm(w []float32) {
	for t := range f.n {
		d := len(w)
		kernel.Norm(f.h[t*d:], f.x[t*d:][:d], w, f.m.cfg.RMSNormEps)
	}
}

func (f *hostRowsForm) attention(w *hostLayer) []float32 {
	c, work := &f.m.cfg, f.work
	f.norm(w.attnNorm)
	qkv := host.Sized(&work.qkv, f.n*w.qkv.Rows)
	f.dots(qkv, f.h, f.n, &w.qkv)
	f.store(qkv, w.qkv.Rows)
	att := host.Sized(&work.att, f.n*c.Heads*c.HeadDim)
	f.attend(att, qkv, w.qkv.Rows)
	f.dots(f.h, att, f.n, &w.o)
	for i, v := range f.h {
		f.x[i] += v
	}
	f.norm(w.ffnNorm)
	logits := host.Sized(&work.logits, f.n*c.Experts)
	f.dots(logits, f.h, f.n, &w.gate)
	return logits
}

// store writes the step's keys, rotated, and values.
func (f *hostRowsForm) store(qkv []float32, rows int) {
	c := &f.m.cfg
	hd, half, rotated := c.HeadDim, c.HeadDim/2, c.Heads+c.KVHeads
	for t := range f.n {
		y := qkv[t*rows:][:rows]
		cos, sin := f.work.cos[t*half:], f.work.sin[t*half:]
		for kv := range c.KVHeads {
			at := (kv*f.c + f.start + t) * hd
			head := c.Heads + kv
			kernel.Rotate(f.k[at:][:half], f.k[at+half:], y[head*half:], y[(rotated+head)*half:], cos, sin)
			copy(f.v[at:][:hd], y[rotated*hd+kv*hd:])
		}
	}
}

// attend writes the attention's output [T,H*hd] of queries in qkv.
func (f *hostRowsForm) attend(att, qkv []float32, rows int) {
	c := &f.m.cfg
	n := f.n * c.KVHeads
	one := func(l *hostLane, i int) {
		f.attendHead(l, att, qkv[i/c.KVHeads*rows:][:rows], i/c.KVHeads, i%c.KVHeads)
	}
	if 8*f.n*(f.start+f.n)*c.HeadDim*c.KVHeads <= host.FewBytes { // bytes of keys and values
		for i := range n {
			one(&f.work.lanes[0], i)
		}
		return
	}
	f.each(n, one)
}

// attendHead computes the attention of token t's queries that share key head kv.
func (f *hostRowsForm) attendHead(l *hostLane, att, y []float32, t, kv int) {
	c := &f.m.cfg
	hd, half, g := c.HeadDim, c.HeadDim/2, c.Heads/c.KVHeads
	end := f.start + t + 1
	first := c.seen(end - 1)
	n := end - first
	q := host.Sized(&l.q, g*hd)
	for j := range g {
		head := kv*g + j
		kernel.Rotate(q[j*hd:][:half], q[j*hd+half:], y[head*half:], y[(c.Heads+c.KVHeads+head)*half:],
			f.work.qcos[t*half:], f.work.qsin[t*half:])
	}
	base := (kv*f.c + first) * hd
	scores := host.Sized(&l.scores, (g+kernel.TileRows)*n)
	keys := kernel.F32(f.k[base:][:n*hd], n)
	keys.Dots(scores, n, q, g, 0, n)
	var inverse [kernel.TileRows]float32
	out := host.Sized(&l.out, 2*kernel.TileRows*kernel.Lanes)
	for from := 0; from < g; from += kernel.TileRows {
		some := min(kernel.TileRows, g-from)
		for j := range some {
			inverse[j] = 1 / kernel.SoftmaxRow(scores[(from+j)*n:][:n])
		}
		for d := 0; d < hd; d += 2 * kernel.Lanes {
			tile := kernel.Tile{
				Y: out, YS: kernel.TileRows * kernel.Lanes, X: f.v[base+d:], XS: kernel.Lanes, XK: hd,
				W: scores[from*n:], WS: n, WK: 1, K: n,
			}
			tile.Run(hd-d > kernel.Lanes)
			for j := range some {
				to := att[(t*c.Heads+kv*g+from+j)*hd+d:][:min(2*kernel.Lanes, hd-d)]
				for i := range to {
					to[i] = out[(i/kernel.Lanes*kernel.TileRows+j)*kernel.Lanes+i%kernel.Lanes] * inverse[j]
				}
			}
		}
	}
}

func (f *hostRowsForm) input() []float32 { return f.h }

func (f *hostRowsForm) row(dst []float32, t int) { copy(dst, f.x[t*len(dst):]) }

func (f *hostRowsForm) experts(w *hostLayer, groups []chosen) {
	c := &f.m.cfg
	d, size := c.HiddenSize, c.IntermediateSize
	rows := 0
	first := make([]int, len(groups))
	for i, g := range groups {
		first[i] = rows
		rows += len(g.rows)
	}
	in, act := host.Sized(&f.work.in, rows*d), host.Sized(&f.work.act, rows*size)
	for i, g := range groups {
		for j, t := range g.rows {
			copy(in[(first[i]+j)*d:][:d], f.h[int(t)*d:])
		}
	}
	if len(groups) == 0 {
		return
	}
	w13, w2 := &w.w13[groups[0].expert], &w.w2[groups[0].expert] // like all
	in = host.FitRows(w13, &f.work.fit, in, rows)
	wide, wide2 := w13.RowWidth(), w2.RowWidth()
	lanes := f.team.Lanes
	if len(groups)*w2.Rows*w2.Bytes() <= host.FewBytes {
		f.team.Lanes = 1
	}
	defer func() { f.team.Lanes = lanes }()
	block := f.blockSize(size)
	blocks := (size + block - 1) / block
	f.each(len(groups)*blocks, func(l *hostLane, task int) {
		i, lo := task/blocks, task%blocks*block
		g, hi := &groups[i], min(lo+block, size)
		n := len(g.rows)
		both := host.Sized(&l.out, 2*n*(hi-lo))
		gate, up := both[:n*(hi-lo)], both[n*(hi-lo):]
		w13 := &w.w13[g.expert]
		w13.Dots(gate, hi-lo, in[first[i]*wide:], n, lo, hi)
		w13.Dots(up, hi-lo, in[first[i]*wide:], n, size+lo, size+hi)
		for j := range n {
			at := j * (hi - lo)
			kernel.SwiGLU(act[(first[i]+j)*size+lo:][:hi-lo], gate[at:], up[at:])
		}
	})
	act = host.FitRows(w2, &f.work.fit, act, rows)
	f.blocks(d, func(l *hostLane, lo, hi int) {
		for i, g := range groups {
			y := host.Sized(&l.out, len(g.rows)*(hi-lo))
			w.w2[g.expert].Dots(y, hi-lo, act[first[i]*wide2:], len(g.rows), lo, hi)
			for j, t := range g.rows {
				to, from := f.x[int(t)*d+lo:int(t)*d+hi], y[j*(hi-lo):][:hi-lo]
				for k, v := range from {
					to[k] += g.weights[j] * v
				}
			}
		}
	})
}
