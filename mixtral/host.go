package mixtral

import (
	"context"
	"fmt"
	"math"

	"github.com/expertspec/expertspec/mixtral/internal/host"
	"github.com/expertspec/expertspec/mixtral/internal/kernel"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
)

// The host executor computes a step of one document on the processor's cores with
// package kernel, over the weights in the backend's memory, which each product reads
// in place. GoMLX's graphs would copy them for each token: into panels on the Go
// backend, as slices of the chosen experts on XLA CPU.
//
// A step of at most hostRows tokens works on rows of activations, host_rows.go; one
// of more on panels of 16 rows, host_panels.go.

// hostRows is the number of tokens from which products of panels take less time.
const hostRows = 12

// hostWeights are a model's weights as package kernel reads them.
type hostWeights struct {
	embed, head kernel.Matrix
	norm        []float32
	layers      []hostLayer
	inverse     []float32 // frequencies of the rotary embedding, [hd/2]
}

type hostLayer struct {
	attnNorm, ffnNorm []float32
	qkv, o, gate      kernel.Matrix
	w13, w2           []kernel.Matrix // [E]; those of ExpertStore are set while they are used
}

// hostWeights returns views of w, whose experts are not stacked.
func (m *Model) hostWeights(w *weights) (*hostWeights, error) {
	c := &m.cfg
	var failed error
	view := func(b matrix, rows int) kernel.Matrix {
		v, err := hostMatrix(b, rows, m.dtype == dtypes.BFloat16)
		if err != nil && failed == nil {
			failed = err
		}
		return v
	}
	vector := func(b compute.Buffer) []float32 {
		flat, err := m.d.Floats(b)
		if err != nil && failed == nil {
			failed = err
		}
		return flat
	}
	h := &hostWeights{
		embed: view(matrix{w: w.embed}, c.VocabSize), head: view(matrix{w: w.head}, c.VocabSize), norm: vector(w.norm),
		layers: make([]hostLayer, c.Layers), inverse: ropeInverse(c),
	}
	for i := range h.layers {
		from, to := &w.layers[i], &h.layers[i]
		to.attnNorm, to.ffnNorm = vector(from.attnNorm), vector(from.ffnNorm)
		to.qkv, to.o = view(from.qkv, (c.Heads+2*c.KVHeads)*c.HeadDim), view(from.o, c.HiddenSize)
		to.gate = view(matrix{w: from.gate}, c.Experts)
		for e := range from.w13 {
			to.w13 = append(to.w13, view(from.w13[e], 2*c.IntermediateSize))
			to.w2 = append(to.w2, view(from.w2[e], c.HiddenSize))
		}
	}
	return h, failed
}

// hostMatrix returns a view of b. round is for kernel.Int8.
func hostMatrix(b matrix, rows int, round bool) (kernel.Matrix, error) {
	flat, err := b.w.Data()
	if err != nil {
		return kernel.Matrix{}, err
	}
	switch w := flat.(type) {
	case []float32:
		return kernel.F32(w, rows), nil
	case []bfloat16.BFloat16:
		return kernel.BF16(words[uint16](dtypes.UnsafeByteSliceFromAny(w)), rows), nil
	case []int8:
		scale, err := b.scale.Data()
		if err != nil {
			return kernel.Matrix{}, err
		}
		return kernel.Int8(w, scale.([]float32), round), nil
	}
	return kernel.Matrix{}, fmt.Errorf("no products of %T", flat)
}

// hostStep is one step of one document.
type hostStep struct {
	m     *Model
	s     *step
	n     int // T
	start int // position of the first
	work  *hostWork
	team  host.Team
	k, v  []float32 // keys and values of the layer, [KV,C,hd] and 12 rows more
	c     int       // C
}

// hostWork is memory that steps reuse.
type hostWork struct {
	lanes          []hostLane
	x, h, qkv, att []float32
	in, act        []float32 // of experts
	fit, fitAtt    []float32 // operands of products, rounded to bfloat16
	cos, sin       []float32 // of positions, [T,hd/2] or panels of it
	qcos, qsin     []float32 // times the scores' scale
	logits, rows   []float32 // [T,E], [T,D]
	k, v           []float32 // without a cache
}

// hostLane is the memory of one goroutine.
type hostLane struct {
	gate, up       kernel.Scratch
	q, scores, out []float32
}

// each calls f for 0 to n-1, concurrently on the step's lanes.
func (h *hostStep) each(n int, f func(l *hostLane, i int)) {
	h.team.Each(n, func(lane, i int) { f(&h.work.lanes[lane], i) })
}

// blocks calls f for ranges of [0,n), enough of them to occupy all lanes.
func (h *hostStep) blocks(n int, f func(l *hostLane, lo, hi int)) {
	size := h.blockSize(n)
	h.each((n+size-1)/size, func(l *hostLane, i int) { f(l, i*size, min((i+1)*size, n)) })
}

// blockSize is the size of blocks: at most kernel.BlockRows for panels, and for rows,
// whose weights come from memory, longer runs of it.
func (h *hostStep) blockSize(n int) int {
	if h.n <= hostRows {
		return (n/(2*h.team.Lanes) + kernel.TileRows) / kernel.TileRows * kernel.TileRows
	}
	size := (n/h.team.Lanes + kernel.TileRows) / kernel.TileRows * kernel.TileRows
	return min(size, kernel.BlockRows)
}

// hostForm computes the halves of a layer on one form of activations.
type hostForm interface {
	// attention computes a layer up to the router's logits [T,E].
	attention(w *hostLayer) (logits []float32)
	// input returns the router's input, [T,D].
	input() []float32
	// experts adds the experts' outputs.
	experts(w *hostLayer, groups []chosen)
	// row writes the hidden state of token t, [D].
	row(dst []float32, t int)
}

// runHost computes one step of one document.
func (r *run) runHost(ctx context.Context, s *step) error {
	m := r.m
	work := m.work.Get().(*hostWork)
	defer m.work.Put(work)
	for len(work.lanes) < s.lanes {
		work.lanes = append(work.lanes, hostLane{})
	}
	h := &hostStep{m: m, s: s, n: s.t, start: s.first[0], work: work, team: host.Team{Lanes: s.lanes}}
	defer h.team.Stop()
	var form hostForm
	if h.n <= hostRows {
		form = newHostRows(h)
	} else {
		form = newHostPanels(h)
	}
	for i := range m.host.layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		h.cache(i)
		w := &m.host.layers[i]
		logits := form.attention(w)
		var input []float32
		if r.req.RouterInput {
			input = form.input()
		}
		rt := r.routing(s, i, logits, input)
		if err := r.hooks(ctx, rt); err != nil {
			return err
		}
		groups := byExpert(s, rt, m.cfg.Experts, m.cfg.TopK)
		if m.elsewhere == nil {
			form.experts(w, groups)
			continue
		}
		err := m.useExperts(ctx, rt, groups, s.t == 1, func(groups []chosen, slots []*ExpertSlot) error {
			form.experts(w.in(groups, slots, m.cfg.Experts), groups)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return r.hostLogits(h, form)
}

// cache sets k, v and c to layer i's part of the cache, or to memory that the next
// layer reuses.
func (h *hostStep) cache(i int) {
	cfg := &h.m.cfg
	if p := h.s.part; p != nil {
		h.k, h.v, h.c = p.hostK[i], p.hostV[i], p.c
		return
	}
	h.c = h.n
	size := hostCacheSize(cfg, h.c)
	h.k, h.v = host.Sized(&h.work.k, size), host.Sized(&h.work.v, size)
}

// hostCacheSize is the elements of a layer's keys or values of c tokens: tiles read
// rows past the last.
func hostCacheSize(c *Config, tokens int) int {
	return (c.KVHeads*tokens+kernel.TileRows)*c.HeadDim + 2*kernel.Lanes
}

// reserveHost is reserve for the host executor.
func (p *cachePart) reserveHost(cfg *Config, n int) {
	if n <= p.c {
		return
	}
	size := max(minCache, powerOfTwo(n))
	if p.hostK == nil {
		p.hostK, p.hostV = make([][]float32, cfg.Layers), make([][]float32, cfg.Layers)
	}
	row := cfg.HeadDim
	for _, all := range [][][]float32{p.hostK, p.hostV} {
		for l, old := range all {
			all[l] = make([]float32, hostCacheSize(cfg, size))
			for kv := range cfg.KVHeads {
				if old != nil {
					copy(all[l][kv*size*row:], old[kv*p.c*row:(kv+1)*p.c*row])
				}
			}
		}
	}
	p.c = size
}

// seen returns the first position that a token at a position attends to.
func (c *Config) seen(position int) int {
	if c.SlidingWindow == 0 {
		return 0
	}
	return max(0, position-c.SlidingWindow+1)
}

// angles fills cos and sin [T,hd/2] of the step's positions, and those of queries.
// at returns where the value of token t and index i is.
func (h *hostStep) angles(size int, at func(t, i int) int) {
	c, w := &h.m.cfg, h.work
	cos, sin, qcos, qsin := host.Sized(&w.cos, size), host.Sized(&w.sin, size), host.Sized(&w.qcos, size), host.Sized(&w.qsin, size)
	scale := 1 / math.Sqrt(float64(c.HeadDim))
	for i, inv := range h.m.host.inverse {
		for t := range h.n {
			sn, cs := math.Sincos(float64(float32(h.start+t) * inv))
			j := at(t, i)
			cos[j], sin[j], qcos[j], qsin[j] = float32(cs), float32(sn), float32(cs*scale), float32(sn*scale)
		}
	}
}

// hostLogits computes the next-token logits that the request asks of this step.
func (r *run) hostLogits(h *hostStep, form hostForm) error {
	rows, docs := r.headRows(h.s)
	if len(rows) == 0 {
		return nil
	}
	m, d, v := r.m, r.m.cfg.HiddenSize, r.m.cfg.VocabSize
	x := host.Sized(&h.work.rows, len(rows)*d)
	for i, t := range rows {
		row := x[i*d:][:d]
		form.row(row, int(t))
		kernel.Norm(row, row, m.host.norm, m.cfg.RMSNormEps)
	}
	y := make([]float32, len(rows)*v)
	h.linear(y, x, len(rows), &m.host.head)
	r.takeLogits(y, docs)
	return nil
}

// linear computes y [n,O] = x [n,I] W^T.
func (h *hostStep) linear(y, x []float32, n int, w *kernel.Matrix) {
	if n <= hostRows {
		h.dots(y, x, n, w)
		return
	}
	p := (n + width - 1) / width
	packed := host.Sized(&h.work.in, p*w.Columns*width)
	for t := range n {
		host.PackRow(packed, x[t*w.Columns:][:w.Columns], t)
	}
	packed = h.team.FitPanels(w, &h.work.fit, packed, p)
	h.blocks(w.Rows, func(l *hostLane, lo, hi int) {
		out, stride := w.Panels(&l.gate, packed, p, lo, hi)
		for t := range n {
			from, to := out[t/width*stride*width+t%width:], y[t*w.Rows+lo:][:hi-lo]
			for o := range to {
				to[o] = from[o*width]
			}
		}
	})
}

// ropeInverse returns the inverse frequencies of the rotary embedding, [hd/2].
func ropeInverse(c *Config) []float32 {
	inv := make([]float32, c.HeadDim/2)
	for i := range inv {
		inv[i] = float32(1 / math.Pow(c.RopeTheta, float64(2*i)/float64(c.HeadDim)))
	}
	return inv
}
