package mixtral

import (
	"github.com/expertspec/expertspec/mixtral/internal/host"
	"github.com/expertspec/expertspec/mixtral/internal/kernel"
)

// hostPanelsForm is hostForm on panels of 16 rows of activations.
type hostPanelsForm struct {
	*hostStep
	p    int
	x, h []float32 // [P,D,16]
}

// width is the rows of a panel.
const width = host.Width

func newHostPanels(h *hostStep) *hostPanelsForm {
	d, half := h.m.cfg.HiddenSize, h.m.cfg.HeadDim/2
	p := (h.n + width - 1) / width
	f := &hostPanelsForm{hostStep: h, p: p, x: host.Sized(&h.work.x, p*d*width), h: host.Sized(&h.work.h, p*d*width)}
	clear(f.x[(p-1)*d*width:])
	row := host.Sized(&h.work.rows, d)
	for t, id := range h.s.token {
		h.m.host.embed.Row(row, int(id))
		host.PackRow(f.x, row, t)
	}
	h.angles(p*half*width, func(t, i int) int { return (t/width*half+i)*width + t%width })
	return f
}

func (f *hostPanelsForm) attention(w *hostLayer) []float32 {
	c, work := &f.m.cfg, f.work
	d, rows, heads := c.HiddenSize, w.qkv.Rows, c.Heads*c.HeadDim
	f.each(f.p, func(_ *hostLane, p int) {
		kernel.NormPanel(host.Panel(f.h, p, d), host.Panel(f.x, p, d), w.attnNorm, c.RMSNormEps)
	})
	qkv, att := host.Sized(&work.qkv, f.p*rows*width), host.Sized(&work.att, f.p*heads*width)
	x := f.team.FitPanels(&w.qkv, &work.fit, f.h, f.p)
	f.blocks(rows, func(l *hostLane, lo, hi int) {
		y, stride := w.qkv.Panels(&l.gate, x, f.p, lo, hi)
		for p := range f.p {
			copy(host.Panel(qkv, p, rows)[lo*width:hi*width], host.Panel(y, p, stride))
		}
	})
	f.each(f.p, func(l *hostLane, p int) { f.store(l, host.Panel(qkv, p, rows), p) })
	f.each(f.p*c.KVHeads, func(l *hostLane, i int) {
		p := f.p - 1 - i/c.KVHeads // the longest first
		f.attend(l, host.Panel(att, p, heads), host.Panel(qkv, p, rows), p, i%c.KVHeads)
	})
	att = f.team.FitPanels(&w.o, &work.fitAtt, att, f.p)
	f.blocks(d, func(l *hostLane, lo, hi int) {
		y, stride := w.o.Panels(&l.gate, att, f.p, lo, hi)
		for p := range f.p {
			host.Add(host.Panel(f.x, p, d)[lo*width:hi*width], host.Panel(y, p, stride))
		}
	})
	logits := host.Sized(&work.logits, f.n*c.Experts)
	f.each(f.p, func(l *hostLane, p int) {
		kernel.NormPanel(host.Panel(f.h, p, d), host.Panel(f.x, p, d), w.ffnNorm, c.RMSNormEps)
		for lo := 0; lo < c.Experts; lo += kernel.BlockRows {
			hi := min(lo+kernel.BlockRows, c.Experts)
			y, _ := w.gate.Panels(&l.gate, host.Panel(f.h, p, d), 1, lo, hi)
			for t := range min(width, f.n-p*width) {
				for e := lo; e < hi; e++ {
					logits[(p*width+t)*c.Experts+e] = y[(e-lo)*width+t]
				}
			}
		}
	})
	return logits
}

// store writes the keys, rotated, and values of panel p, of which y is q, k and v.
func (f *hostPanelsForm) store(l *hostLane, y []float32, p int) {
	c := &f.m.cfg
	hd, half, rotated := c.HeadDim, c.HeadDim/2, c.Heads+c.KVHeads
	cos, sin := host.Panel(f.work.cos, p, half), host.Panel(f.work.sin, p, half)
	key := host.Sized(&l.q, hd*width)
	n := min(width, f.n-p*width)
	for kv := range c.KVHeads {
		head := c.Heads + kv
		kernel.Rotate(key[:half*width], key[half*width:], y[head*half*width:], y[(rotated+head)*half*width:], cos, sin)
		value := y[(rotated+kv)*hd*width:][:hd*width]
		for t := range n {
			at := (kv*f.c + f.start + p*width + t) * hd
			host.UnpackRow(f.k[at:][:hd], key, t)
			host.UnpackRow(f.v[at:][:hd], value, t)
		}
	}
}

// attend writes the attention's output of panel p's queries that share key head kv
// to att [H*hd,16]; y is the panel's q, k and v.
func (f *hostPanelsForm) attend(l *hostLane, att, y []float32, p, kv int) {
	c := &f.m.cfg
	hd, half, g := c.HeadDim, c.HeadDim/2, c.Heads/c.KVHeads
	begin := f.start + p*width
	end, first := min(begin+width, f.start+f.n), c.seen(begin)
	n := end - first
	padded := (n + kernel.TileRows - 1) / kernel.TileRows * kernel.TileRows
	wide := (hd + kernel.TileRows - 1) / kernel.TileRows * kernel.TileRows
	q, scores, out := host.Sized(&l.q, 2*hd*width), host.Sized(&l.scores, 2*padded*width), host.Sized(&l.out, 2*wide*width)
	keys, values := f.k[(kv*f.c+first)*hd:], f.v[(kv*f.c+first)*hd:]
	qcos, qsin := host.Panel(f.work.qcos, p, half), host.Panel(f.work.qsin, p, half)
	for head := kv * g; head < (kv+1)*g; head += 2 {
		pair := min(2, (kv+1)*g-head)
		for j := range pair {
			to, from := q[j*hd*width:], (head+j)*half*width
			kernel.Rotate(to[:half*width], to[half*width:], y[from:], y[(c.Heads+c.KVHeads)*half*width+from:], qcos, qsin)
		}
		for s := 0; s < n; s += kernel.TileRows {
			tile := kernel.Tile{
				Y: scores[s*width:], YS: padded * width, X: q, XS: hd * width, XK: width,
				W: keys[s*hd:], WS: hd, WK: 1, K: hd,
			}
			tile.Run(pair == 2)
		}
		var sums [2][width]float32
		for j := range pair {
			some := scores[j*padded*width:][:n*width]
			c.mask(some, first, begin)
			sums[j] = kernel.Softmax(some)
		}
		for d := 0; d < hd; d += kernel.TileRows {
			tile := kernel.Tile{
				Y: out[d*width:], YS: wide * width, X: scores, XS: padded * width, XK: width,
				W: values[d:], WS: 1, WK: hd, K: n,
			}
			tile.Run(pair == 2)
		}
		for j := range pair {
			host.Divide(host.Panel(att, head+j, hd), out[j*wide*width:], &sums[j])
		}
	}
}

// mask replaces scores [S,16] of keys from position first that queries from position
// begin do not see.
func (c *Config) mask(scores []float32, first, begin int) {
	for s := max(begin-first, 0); s < len(scores)/width; s++ { // later tokens
		for t := range min(first+s-begin, width) {
			scores[s*width+t] = masked
		}
	}
	for t := range width {
		for s := first; s < c.seen(begin+t) && s-first < len(scores)/width; s++ {
			scores[(s-first)*width+t] = masked
		}
	}
}

func (f *hostPanelsForm) input() []float32 {
	d := f.m.cfg.HiddenSize
	rows := host.Sized(&f.work.rows, f.n*d)
	for t := range f.n {
		host.UnpackRow(rows[t*d:][:d], f.h, t)
	}
	return rows
}

func (f *hostPanelsForm) row(dst []float32, t int) { host.UnpackRow(dst, f.x, t) }

func (f *hostPanelsForm) experts(w *hostLayer, groups []chosen) {
	if len(groups) == 0 {
		return
	}
	d, size := f.m.cfg.HiddenSize, f.m.cfg.IntermediateSize
	w13, w2 := &w.w13[groups[0].expert], &w.w2[groups[0].expert]
	wide, wide2 := w13.PanelWidth(), w2.PanelWidth() // of operands
	h := f.team.FitPanels(w13, &f.work.fit, f.h, f.p)
	first := make([]int, len(groups)+1) // panels
	for i, g := range groups {
		first[i+1] = first[i] + (len(g.rows)+width-1)/width
	}
	total := first[len(groups)]
	in, act := host.Sized(&f.work.in, total*wide*width), host.Sized(&f.work.act, total*wide2*width)
	f.each(len(groups), func(_ *hostLane, i int) {
		to := in[first[i]*wide*width:]
		for j, t := range groups[i].rows {
			host.CopyRow(to, j, h, int(t), wide)
		}
	})
	block := f.blockSize(size)
	blocks := (size + block - 1) / block
	f.each(len(groups)*blocks, func(l *hostLane, task int) {
		i, lo := task/blocks, task%blocks*block
		hi := min(lo+block, size)
		p, x, w13 := first[i+1]-first[i], in[first[i]*wide*width:], &w.w13[groups[i].expert]
		gate, stride := w13.Panels(&l.gate, x, p, lo, hi)
		up, _ := w13.Panels(&l.up, x, p, size+lo, size+hi)
		for j := range p {
			y := host.Panel(gate, j, stride)[:(hi-lo)*width]
			kernel.SwiGLU(y, y, host.Panel(up, j, stride))
			to := host.Panel(act, first[i]+j, wide2)
			if wide2 == size {
				copy(to[lo*width:], y)
			} else {
				kernel.PairPanel(to[lo/2*width:], y)
			}
		}
	})
	f.blocks(d, func(l *hostLane, lo, hi int) {
		for i := range groups {
			g := &groups[i]
			y, stride := w.w2[g.expert].Panels(&l.gate, act[first[i]*wide2*width:], first[i+1]-first[i], lo, hi)
			for j, t := range g.rows {
				to, from := f.x[int(t)/width*d*width+int(t)%width:], y[j/width*stride*width+j%width:]
				for k := lo; k < hi; k++ {
					to[k*width] += g.weights[j] * from[(k-lo)*width]
				}
			}
		}
	})
}
