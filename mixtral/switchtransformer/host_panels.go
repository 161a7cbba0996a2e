package switchtransformer

import (
	"github.com/expertspec/expertspec/mixtral/internal/host"
	"github.com/expertspec/expertspec/mixtral/internal/kernel"
)

// hostPanels is hostForm on panels of 16 rows of activations.
type hostPanels struct {
	*hostStep
	p    int
	x, h []float32 // [P,D,16]
}

func newHostPanels(h *hostStep) *hostPanels {
	d := h.cfg.HiddenSize
	p := (h.n + width - 1) / width
	f := &hostPanels{hostStep: h, p: p, x: host.Sized(&h.work.x, p*d*width), h: host.Sized(&h.work.h, p*d*width)}
	clear(f.x[(p-1)*d*width:])
	row := host.Sized(&h.work.rows, d)
	for t, id := range h.s.token {
		h.exec.w.stacks[h.s.stack].embed.Row(row, int(id))
		host.PackRow(f.x, row, t)
	}
	return f
}

func (f *hostPanels) normalize(norm []float32) {
	d := len(norm)
	f.each(f.p, func(_ *hostLane, p int) {
		kernel.NormPanel(host.Panel(f.h, p, d), host.Panel(f.x, p, d), norm, f.cfg.NormEps)
	})
}

// product writes x W^T to y [P,O,16], for panels x [P,I,16].
func (f *hostPanels) product(y, x []float32, w *kernel.Matrix) {
	x = f.team.FitPanels(w, &f.work.fit, x, f.p)
	f.blocks(w.Rows, f.panelBlock(w.Rows), func(l *hostLane, lo, hi int) {
		out, stride := w.Panels(&l.panels, x, f.p, lo, hi)
		for p := range f.p {
			copy(host.Panel(y, p, w.Rows)[lo*width:hi*width], host.Panel(out, p, stride))
		}
	})
}

// addProduct adds att W^T to the residual, for panels att [P,I,16].
func (f *hostPanels) addProduct(att []float32, w *kernel.Matrix) {
	att = f.team.FitPanels(w, &f.work.fitAtt, att, f.p)
	f.blocks(w.Rows, f.panelBlock(w.Rows), func(l *hostLane, lo, hi int) {
		out, stride := w.Panels(&l.panels, att, f.p, lo, hi)
		for p := range f.p {
			host.Add(host.Panel(f.x, p, w.Rows)[lo*width:hi*width], host.Panel(out, p, stride))
		}
	})
}

func (f *hostPanels) self(w *hostAttention, kv *keyValues, i int) {
	f.normalize(w.norm)
	rows, inner := w.in.Rows, f.cfg.Heads*f.cfg.HeadDim
	qkv, att := host.Sized(&f.work.qkv, f.p*rows*width), host.Sized(&f.work.att, f.p*inner*width)
	f.product(qkv, f.h, &w.in)
	f.keep(kv, i, qkv, rows, inner)
	pairs := (f.p + 1) / 2
	f.each(pairs*f.cfg.Heads, func(l *hostLane, task int) {
		p := (pairs - 1 - task/f.cfg.Heads) * 2 // the longest first
		n, begin := f.n, f.start+p*width
		if !f.encoder {
			n = min(begin+2*width, f.start+f.n)
		}
		f.attend(l, att, qkv, rows, p, task%f.cfg.Heads, kv, i, n, f.bias)
	})
	f.addProduct(att, &w.out)
}

func (f *hostPanels) cross(w *hostAttention, kv *keyValues, i int) {
	f.normalize(w.norm)
	inner := w.in.Rows
	q, att := host.Sized(&f.work.qkv, f.p*inner*width), host.Sized(&f.work.att, f.p*inner*width)
	f.product(q, f.h, &w.in)
	f.each((f.p+1)/2*f.cfg.Heads, func(l *hostLane, task int) {
		f.attend(l, att, q, inner, task/f.cfg.Heads*2, task%f.cfg.Heads, kv, i, kv.n, nil)
	})
	f.addProduct(att, &w.out)
}

// keep writes the keys and values of the step, rows [at,at+2*H*hd) of panels y [P,R,16],
// to kv at block i.
func (f *hostPanels) keep(kv *keyValues, i int, y []float32, rows, at int) {
	hd, inner, c := f.cfg.HeadDim, f.cfg.Heads*f.cfg.HeadDim, kv.c
	f.each(f.p, func(_ *hostLane, p int) {
		y := host.Panel(y, p, rows)[at*width:]
		n, first := min(width, f.n-p*width), f.start+p*width
		for head := range f.cfg.Heads {
			keys := y[head*hd*width:]
			for t := range n {
				to := kv.k[i][(head*c+first+t)*hd:][:hd]
				for d := range to {
					to[d] = keys[d*width+t]
				}
			}
		}
		y = y[inner*width:]
		for d := range inner {
			copy(kv.v[i][d*c+first:][:n], y[d*width:])
		}
	})
}

// attend writes to att [P,H*hd,16] the attention of a head of panels p and p+1 of
// queries, y [P,R,16], over n keys and values of kv's block i, with biases unless nil.
func (f *hostPanels) attend(l *hostLane, att, y []float32, rows, p, head int, kv *keyValues, i, n int, bias *biasTable) {
	hd, inner := f.cfg.HeadDim, f.cfg.Heads*f.cfg.HeadDim
	pair := min(2, f.p-p)
	padded := (n + kernel.TileRows - 1) / kernel.TileRows * kernel.TileRows
	wide := (hd + kernel.TileRows - 1) / kernel.TileRows * kernel.TileRows
	scores, out := host.Sized(&l.scores, 2*padded*width), host.Sized(&l.out, 2*wide*width)
	keys, values := kv.k[i][head*kv.c*hd:], kv.v[i][head*hd*kv.c:]
	if bias != nil { // first in the scores, to which products are added
		for j := range pair {
			first := f.start + (p+j)*width
			from := bias.from(head, first-padded+1)
			to := scores[j*padded*width:][:padded*width]
			for s := range padded {
				*(*[width]float32)(to[s*width:]) = [width]float32(from[padded-1-s:])
			}
		}
	}
	q := y[(p*rows+head*hd)*width:]
	for s := 0; s < n; s += kernel.TileRows {
		tile := kernel.Tile{
			Y: scores[s*width:], YS: padded * width, X: q, XS: rows * width, XK: width,
			W: keys[s*hd:], WS: hd, WK: 1, K: hd, Add: bias != nil,
		}
		tile.Run(pair == 2)
	}
	var sums [2][width]float32
	for j := range pair {
		sums[j] = kernel.Softmax(scores[j*padded*width:][:n*width])
	}
	for d := 0; d < hd; d += kernel.TileRows {
		tile := kernel.Tile{
			Y: out[d*width:], YS: wide * width, X: scores, XS: padded * width, XK: width,
			W: values[d*kv.c:], WS: kv.c, WK: 1, K: n,
		}
		tile.Run(pair == 2)
	}
	for j := range pair {
		host.Divide(host.Panel(att, p+j, inner)[head*hd*width:][:hd*width], out[j*wide*width:], &sums[j])
	}
}

// keepCross computes what the decoder's cross-attention needs of the encoder's output.
func (f *hostPanels) keepCross(kv *keyValues) {
	w := f.exec.w
	f.normalize(w.stacks[Encoder].norm)
	blocks := w.stacks[Decoder].blocks
	*kv = keyValues{n: f.n, c: f.n, k: make([][]float32, len(blocks)), v: make([][]float32, len(blocks))}
	size := keyValueSize(f.cfg, kv.c)
	for i := range blocks {
		m := &blocks[i].cross.kv
		y := host.Sized(&f.work.qkv, f.p*m.Rows*width)
		f.product(y, f.h, m)
		kv.k[i], kv.v[i] = make([]float32, size), make([]float32, size)
		f.keep(kv, i, y, m.Rows, 0)
	}
}

func (f *hostPanels) router(w *kernel.Matrix, bias []float32) []float32 {
	d, e := f.cfg.HiddenSize, f.cfg.Experts
	logits := make([]float32, f.n*e)
	f.each(f.p, func(l *hostLane, p int) {
		for lo := 0; lo < e; lo += kernel.BlockRows {
			hi := min(lo+kernel.BlockRows, e)
			y, _ := w.Panels(&l.panels, host.Panel(f.h, p, d), 1, lo, hi)
			for t := range min(width, f.n-p*width) {
				to := logits[(p*width+t)*e+lo:][:hi-lo]
				for i := range to {
					to[i] = y[i*width+t]
				}
				addBias(to, bias, lo)
			}
		}
	})
	return logits
}

// addBias adds bias [E], from lo, which may be nil.
func addBias(logits, bias []float32, lo int) {
	if bias != nil {
		host.Add(logits, bias[lo:])
	}
}

func (f *hostPanels) input() []float32 {
	d := f.cfg.HiddenSize
	rows := make([]float32, f.n*d)
	for t := range f.n {
		host.UnpackRow(rows[t*d:][:d], f.h, t)
	}
	return rows
}

func (f *hostPanels) row(dst []float32, t int) { host.UnpackRow(dst, f.x, t) }

func (f *hostPanels) dense(wi, wo *kernel.Matrix) {
	size := wi.Rows
	x := f.team.FitPanels(wi, &f.work.fit, f.h, f.p)
	wide := wo.PanelWidth()
	act := host.Sized(&f.work.act, f.p*wide*width)
	f.blocks(size, f.panelBlock(size), func(l *hostLane, lo, hi int) {
		y, stride := wi.Panels(&l.panels, x, f.p, lo, hi)
		for j := range f.p {
			f.activate(host.Panel(act, j, wide), host.Panel(y, j, stride), lo, hi, size)
		}
	})
	f.blocks(wo.Rows, f.panelBlock(wo.Rows), func(l *hostLane, lo, hi int) {
		out, stride := wo.Panels(&l.panels, act, f.p, lo, hi)
		for p := range f.p {
			host.Add(host.Panel(f.x, p, wo.Rows)[lo*width:hi*width], host.Panel(out, p, stride))
		}
	})
}

// activate writes the activation of y, rows [lo,hi) of size of a panel, to act, whose
// rows are pairs unless there are size of them.
func (f *hostPanels) activate(act, y []float32, lo, hi, size int) {
	y = y[:(hi-lo)*width]
	kernel.Activate(f.cfg.Activation, y)
	if len(act) == size*width {
		copy(act[lo*width:], y)
	} else {
		kernel.PairPanel(act[lo/2*width:], y)
	}
}

// panelRows is the number of an expert's rows from which products of panels take less
// time: a panel of fewer is mostly empty.
const panelRows = 10

func (f *hostPanels) experts(w *hostBlock, groups []chosen) {
	var few, many []chosen
	for _, g := range groups {
		if len(g.rows) < panelRows {
			few = append(few, g)
		} else {
			many = append(many, g)
		}
	}
	d := f.cfg.HiddenSize
	f.expertRows(w, few,
		func(row []float32, t int) { host.UnpackRow(row, f.h, t) },
		func(t, lo int, y []float32, weight float32) {
			to := f.x[t/width*d*width+lo*width+t%width:]
			for k, v := range y {
				to[k*width] += weight * v
			}
		})
	f.expertPanels(w, many)
}

func (f *hostPanels) expertPanels(w *hostBlock, groups []chosen) {
	if len(groups) == 0 {
		return
	}
	d, size := f.cfg.HiddenSize, f.cfg.IntermediateSize
	wide, wide2 := w.wi[0].PanelWidth(), w.wo[0].PanelWidth() // of operands
	h := f.team.FitPanels(&w.wi[0], &f.work.fit, f.h, f.p)
	first := make([]int, len(groups)+1) // panels
	for i, g := range groups {
		first[i+1] = first[i] + (len(g.rows)+width-1)/width
	}
	total := first[len(groups)]
	in, act := host.Sized(&f.work.in, total*wide*width), host.Sized(&f.work.act, total*wide2*width)
	block := f.expertBlock(size, len(groups))
	blocks := (size + block - 1) / block
	f.each(len(groups), func(_ *hostLane, i int) {
		to := in[first[i]*wide*width:]
		for j, t := range groups[i].rows {
			host.CopyRow(to, j, h, int(t), wide)
		}
	})
	f.each(len(groups)*blocks, func(l *hostLane, task int) {
		i, lo := task/blocks, task%blocks*block
		hi := min(lo+block, size)
		p := first[i+1] - first[i]
		y, stride := w.wi[groups[i].expert].Panels(&l.panels, in[first[i]*wide*width:], p, lo, hi)
		for j := range p {
			f.activate(host.Panel(act, first[i]+j, wide2), host.Panel(y, j, stride), lo, hi, size)
		}
	})
	f.blocks(d, f.panelBlock(d), func(l *hostLane, lo, hi int) {
		for i := range groups {
			g := &groups[i]
			y, stride := w.wo[g.expert].Panels(&l.panels, act[first[i]*wide2*width:], first[i+1]-first[i], lo, hi)
			for j, t := range g.rows {
				to, from := f.x[int(t)/width*d*width+int(t)%width:], y[j/width*stride*width+j%width:]
				for k := lo; k < hi; k++ {
					to[k*width] += g.weights[j] * from[(k-lo)*width]
				}
			}
		}
	})
}

// expertBlock is panelBlock of n experts.
func (f *hostPanels) expertBlock(size, n int) int {
	if n >= 2*f.team.Lanes {
		return min((size+kernel.TileRows-1)/kernel.TileRows*kernel.TileRows, kernel.BlockRows)
	}
	return f.panelBlock(size)
}
