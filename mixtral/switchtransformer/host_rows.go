package switchtransformer

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
	d := h.cfg.HiddenSize
	f := &hostRowsForm{hostStep: h, x: host.Sized(&h.work.x, h.n*d), h: host.Sized(&h.work.h, h.n*d)}
	for t, id := range h.s.token {
		h.exec.w.stacks[h.s.stack].embed.Row(f.x[t*d:][:d], int(id))
	}
	return f
}

func (f *hostRowsForm) normalize(norm []float32) {
	d := len(norm)
	for t := range f.n {
		kernel.Norm(f.h[t*d:][:d], f.x[t*d:][:d], norm, f.cfg.NormEps)
	}
}

// addProduct adds att W^T to the residual.
func (f *hostRowsForm) addProduct(att []float32, w *kernel.Matrix) {
	f.dots(f.h, att, f.n, w)
	host.Add(f.x, f.h)
}

func (f *hostRowsForm) self(w *hostAttention, kv *keyValues, i int) {
	f.normalize(w.norm)
	inner, hd := f.cfg.Heads*f.cfg.HeadDim, f.cfg.HeadDim
	qkv, att := host.Sized(&f.work.qkv, f.n*3*inner), host.Sized(&f.work.att, f.n*inner)
	f.dots(qkv, f.h, f.n, &w.in)
	for t := range f.n {
		y := qkv[t*3*inner:][:3*inner]
		for head := range f.cfg.Heads {
			copy(kv.k[i][(head*kv.c+f.start+t)*hd:][:hd], y[inner+head*hd:])
		}
		for d, v := range y[2*inner:] {
			kv.v[i][d*kv.c+f.start+t] = v
		}
	}
	f.attend(att, qkv, 3*inner, kv, i, f.bias)
	f.addProduct(att, &w.out)
}

func (f *hostRowsForm) cross(w *hostAttention, kv *keyValues, i int) {
	f.normalize(w.norm)
	inner := w.in.Rows
	q, att := host.Sized(&f.work.qkv, f.n*inner), host.Sized(&f.work.att, f.n*inner)
	f.dots(q, f.h, f.n, &w.in)
	f.attend(att, q, inner, kv, i, nil)
	f.addProduct(att, &w.out)
}

// attend writes the attention [T,H*hd] of queries in y [T,R]: over all of kv's tokens,
// or with biases over those that each query sees.
func (f *hostRowsForm) attend(att, y []float32, rows int, kv *keyValues, i int, bias *biasTable) {
	heads, hd := f.cfg.Heads, f.cfg.HeadDim
	seen := kv.n
	if bias != nil {
		seen = f.start + f.n
	}
	one := func(l *hostLane, task int) {
		t, head := task/heads, task%heads
		q, to, n := y[t*rows+head*hd:][:hd], att[(t*heads+head)*hd:][:hd], seen
		if bias != nil {
			n = f.start + t + 1
		}
		f.attendHead(l, to, q, head, kv, i, n, bias)
	}
	if 8*f.n*seen*heads*hd <= host.FewBytes { // bytes of keys and values
		for task := range f.n * heads {
			one(&f.work.lanes[0], task)
		}
		return
	}
	f.each(f.n*heads, one)
}

// attendHead writes to att [hd] the attention of a query over n keys of a head, with
// biases of distances from n-1 to 0 unless nil.
func (f *hostRowsForm) attendHead(l *hostLane, att, q []float32, head int, kv *keyValues, i, n int, bias *biasTable) {
	hd, c := f.cfg.HeadDim, kv.c
	scores := host.Sized(&l.scores, c)
	keys := kernel.F32(kv.k[i][head*c*hd:][:n*hd], n)
	keys.Dots(scores, n, q, 1, 0, n)
	if bias != nil {
		from := bias.from(head, 0)[:n]
		for s, b := range from {
			scores[n-1-s] += b
		}
	}
	inverse := 1 / kernel.SoftmaxRow(scores[:n])
	values := kernel.F32(kv.v[i][head*hd*c:][:hd*c], hd)
	values.DotsOf(att, scores[:n])
	for d := range att {
		att[d] *= inverse
	}
}

func (f *hostRowsForm) router(w *kernel.Matrix, bias []float32) []float32 {
	e := w.Rows
	logits := make([]float32, f.n*e)
	f.dots(logits, f.h, f.n, w)
	for t := range f.n {
		addBias(logits[t*e:][:e], bias, 0)
	}
	return logits
}

func (f *hostRowsForm) input() []float32 { return append([]float32(nil), f.h...) }

func (f *hostRowsForm) row(dst []float32, t int) { copy(dst, f.x[t*len(dst):]) }

func (f *hostRowsForm) dense(wi, wo *kernel.Matrix) {
	act := host.Sized(&f.work.act, f.n*wi.Rows)
	f.dots(act, f.h, f.n, wi)
	kernel.Activate(f.cfg.Activation, act)
	f.addProduct(act, wo)
}

func (f *hostRowsForm) experts(w *hostBlock, groups []chosen) {
	d := f.cfg.HiddenSize
	f.expertRows(w, groups,
		func(row []float32, t int) { copy(row, f.h[t*d:]) },
		func(t, lo int, y []float32, weight float32) {
			to := f.x[t*d+lo:][:len(y)]
			for k, v := range y {
				to[k] += weight * v
			}
		})
}

// expertRows computes experts of few rows each, which gather writes. add adds an
// expert's output from column lo, times weight, to that of token t.
func (h *hostStep) expertRows(w *hostBlock, groups []chosen, gather func(row []float32, t int), add func(t, lo int, y []float32, weight float32)) {
	d, size := h.cfg.HiddenSize, h.cfg.IntermediateSize
	rows := 0
	first := make([]int, len(groups))
	for i, g := range groups {
		first[i] = rows
		rows += len(g.rows)
	}
	if rows == 0 {
		return
	}
	in, act := host.Sized(&h.work.in, rows*d), host.Sized(&h.work.act, rows*size)
	for i, g := range groups {
		for j, t := range g.rows {
			gather(in[(first[i]+j)*d:][:d], int(t))
		}
	}
	wi, wo := &w.wi[0], &w.wo[0] // like all
	in = host.FitRows(wi, &h.work.fit, in, rows)
	wide, wide2 := wi.RowWidth(), wo.RowWidth()
	lanes := h.team.Lanes
	if len(groups)*wo.Rows*wo.Bytes() <= host.FewBytes {
		h.team.Lanes = 1
	}
	defer func() { h.team.Lanes = lanes }()
	block := h.rowBlock(size)
	blocks := (size + block - 1) / block
	h.each(len(groups)*blocks, func(l *hostLane, task int) {
		i, lo := task/blocks, task%blocks*block
		g, hi := &groups[i], min(lo+block, size)
		w.wi[g.expert].Dots(act[first[i]*size+lo:], size, in[first[i]*wide:], len(g.rows), lo, hi)
		for j := range g.rows {
			kernel.Activate(h.cfg.Activation, act[(first[i]+j)*size+lo:][:hi-lo])
		}
	})
	act = host.FitRows(wo, &h.work.fit, act, rows)
	h.blocks(d, h.rowBlock(d), func(l *hostLane, lo, hi int) {
		for i, g := range groups {
			y := host.Sized(&l.out, len(g.rows)*(hi-lo))
			w.wo[g.expert].Dots(y, hi-lo, act[first[i]*wide2:], len(g.rows), lo, hi)
			for j, t := range g.rows {
				add(int(t), lo, y[j*(hi-lo):][:hi-lo], g.weights[j])
			}
		}
	})
}
