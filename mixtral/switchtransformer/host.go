package switchtransformer

import (
	"context"
	"runtime"
	"sync"

	"github.com/expertspec/expertspec/mixtral/internal/host"
	"github.com/expertspec/expertspec/mixtral/internal/kernel"
)

// The host executor computes a step of one document on the processor's cores with
// package kernel, in memory of Go, whatever the backend is. Documents of a batch run
// concurrently.
//
// The encoder, and the decoder's steps of more than hostRows tokens, work on panels of
// 16 rows of activations (host_panels.go), the decoder's shorter steps on rows
// (host_rows.go).

// hostRows is the number of tokens from which products of panels take less time.
const hostRows = 12

const width = host.Width

// hostExecutor is the executor of the processor's cores.
type hostExecutor struct {
	cfg    *Config
	w      *hostWeights
	biases [stacks]biases
	work   sync.Pool // of *hostWork
}

func newHost(l *loading) (executor, error) {
	w, err := loadHost(l)
	if err != nil {
		return nil, err
	}
	x := &hostExecutor{cfg: l.cfg, w: w}
	for s := range Stack(stacks) {
		x.biases[s] = biases{cfg: l.cfg, stack: s, table: w.stacks[s].bias}
	}
	x.work.New = func() any { return new(hostWork) }
	return x, nil
}

func (x *hostExecutor) groups(lens []int) [][]int {
	groups := make([][]int, len(lens))
	for i := range lens {
		groups[i] = []int{i}
	}
	return groups
}

func (x *hostExecutor) concurrency() int { return runtime.GOMAXPROCS(0) }

func (x *hostExecutor) close() { x.w = nil }

// hostMemory is the memory of one document.
type hostMemory struct {
	cross keyValues // of the encoder's output
	self  keyValues // of the decoder's tokens
}

func (x *hostExecutor) memory(int) memory { return new(hostMemory) }

func (m *hostMemory) free() { *m = hostMemory{} }

// keyValues are keys and values of some tokens at each of a stack's blocks: k [H,c,hd]
// and v [H,hd,c], followed by what tiles read past their ends.
type keyValues struct {
	n, c int // tokens, and for how many there is room
	k, v [][]float32
}

// hostStep is one step of one document.
type hostStep struct {
	exec    *hostExecutor
	cfg     *Config
	s       *step
	n       int // T
	start   int // position of the first
	encoder bool
	team    host.Team
	work    *hostWork
	bias    *biasTable
}

// hostWork is memory that steps reuse.
type hostWork struct {
	lanes       []hostLane
	x, h        []float32 // residual and its norm
	qkv, att    []float32
	in, act     []float32 // of feed-forwards
	fit, fitAtt []float32 // operands of products, rounded to bfloat16
	rows        []float32 // [T,D]
	self        keyValues // without a cache, of one block
}

// hostLane is the memory of one goroutine.
type hostLane struct {
	panels      kernel.Scratch
	scores, out []float32
}

func (x *hostExecutor) newStep(s *step) *hostStep {
	work := x.work.Get().(*hostWork)
	for len(work.lanes) < s.lanes {
		work.lanes = append(work.lanes, hostLane{})
	}
	return &hostStep{
		exec: x, cfg: x.cfg, s: s, n: len(s.tokens[0]), start: s.first[0], encoder: s.stack == Encoder,
		team: host.Team{Lanes: s.lanes}, work: work,
		bias: x.biases[s.stack].upTo(s.first[0] + len(s.tokens[0])),
	}
}

func (h *hostStep) done() {
	h.team.Stop()
	h.exec.work.Put(h.work)
}

// each calls f for 0 to n-1, concurrently on the step's lanes.
func (h *hostStep) each(n int, f func(l *hostLane, i int)) {
	h.team.Each(n, func(lane, i int) { f(&h.work.lanes[lane], i) })
}

// blocks calls f for ranges of [0,n), enough of them to occupy all lanes.
func (h *hostStep) blocks(n, size int, f func(l *hostLane, lo, hi int)) {
	h.each((n+size-1)/size, func(l *hostLane, i int) { f(l, i*size, min((i+1)*size, n)) })
}

// panelBlock is the rows of a matrix of n that one product of panels computes.
func (h *hostStep) panelBlock(n int) int {
	size := (n/h.team.Lanes + kernel.TileRows) / kernel.TileRows * kernel.TileRows
	return min(size, kernel.BlockRows)
}

// rowBlock is panelBlock of products of rows, for which longer runs of memory are
// better.
func (h *hostStep) rowBlock(n int) int {
	return (n/(2*h.team.Lanes) + kernel.TileRows) / kernel.TileRows * kernel.TileRows
}

// hostForm computes the parts of a block on one form of activations.
type hostForm interface {
	// self adds self-attention, and appends its keys and values to kv at block i.
	self(w *hostAttention, kv *keyValues, i int)
	// cross adds cross-attention to kv's tokens.
	cross(w *hostAttention, kv *keyValues, i int)
	// normalize computes the input of a feed-forward.
	normalize(norm []float32)
	// dense adds a dense feed-forward.
	dense(wi, wo *kernel.Matrix)
	// router returns router logits [T,E].
	router(w *kernel.Matrix, bias []float32) []float32
	// input returns the feed-forward's input, [T,D].
	input() []float32
	// experts adds the experts' outputs, times weights.
	experts(w *hostBlock, groups []chosen)
	// row writes the hidden state of token t, [D].
	row(dst []float32, t int)
}

func (x *hostExecutor) encode(ctx context.Context, s *step, m memory, route routeFunc) error {
	h := x.newStep(s)
	defer h.done()
	form := newHostPanels(h)
	all := m != nil
	if err := h.stack(ctx, form, nil, nil, all, route); err != nil || !all {
		return err
	}
	form.keepCross(&m.(*hostMemory).cross)
	return nil
}

func (x *hostExecutor) decode(ctx context.Context, s *step, m memory, route routeFunc, rows []int, emit func(i int, logits []float32)) error {
	h := x.newStep(s)
	defer h.done()
	var form hostForm
	if h.n <= hostRows {
		form = newHostRows(h)
	} else {
		form = newHostPanels(h)
	}
	mem := m.(*hostMemory)
	var self *keyValues
	if s.keep {
		self = &mem.self
		self.reserve(x.cfg, h.start+h.n)
	}
	if err := h.stack(ctx, form, self, &mem.cross, s.keep || len(rows) > 0, route); err != nil {
		return err
	}
	if s.keep {
		self.n = h.start + h.n
	}
	h.logits(form, rows, emit)
	return nil
}

// stack computes the blocks of the step's stack. self is the decoder's cache, or nil.
// Unless all, it ends with the last routing.
func (h *hostStep) stack(ctx context.Context, form hostForm, self, cross *keyValues, all bool, route routeFunc) error {
	w := &h.exec.w.stacks[h.s.stack]
	layer, layers := 0, w.layers
	for i := range w.blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !all && layer == layers {
			return nil
		}
		b := &w.blocks[i]
		if self != nil {
			form.self(&b.self, self, i)
		} else {
			form.self(&b.self, h.temporary(), 0)
		}
		if !h.encoder {
			form.cross(&b.cross, cross, i)
		}
		form.normalize(b.norm)
		if b.router.Rows == 0 {
			form.dense(&b.wi[0], &b.wo[0])
			continue
		}
		logits := form.router(&b.router, b.bias)
		var input []float32
		if h.s.input {
			input = form.input()
		}
		experts, weights, err := route(layer, logits, input)
		if err != nil {
			return err
		}
		if layer++; !all && layer == layers {
			return nil
		}
		form.experts(b, byExpert(experts, weights, h.cfg.Experts))
	}
	return nil
}

// temporary returns room for one block's keys and values of the step, which the next
// block reuses.
func (h *hostStep) temporary() *keyValues {
	kv := &h.work.self
	if kv.k == nil {
		kv.k, kv.v = make([][]float32, 1), make([][]float32, 1)
	}
	kv.c = (h.n + width - 1) / width * width
	size := keyValueSize(h.cfg, kv.c)
	kv.k[0], kv.v[0] = host.Sized(&kv.k[0], size), host.Sized(&kv.v[0], size)
	return kv
}

// keyValueSize is the elements of a block's keys or values of c tokens: tiles read rows
// past the last.
func keyValueSize(cfg *Config, c int) int {
	return cfg.Heads*c*cfg.HeadDim + kernel.TileRows*max(c, cfg.HeadDim) + 2*kernel.Lanes
}

// reserve makes room for n tokens at all blocks of the decoder.
func (kv *keyValues) reserve(cfg *Config, n int) {
	if n <= kv.c {
		return
	}
	old, c := *kv, max(minCapacity, 2*kv.c, (n+width-1)/width*width)
	*kv = keyValues{n: old.n, c: c, k: make([][]float32, cfg.DecoderBlocks), v: make([][]float32, cfg.DecoderBlocks)}
	hd := cfg.HeadDim
	for i := range kv.k {
		kv.k[i], kv.v[i] = make([]float32, keyValueSize(cfg, c)), make([]float32, keyValueSize(cfg, c))
		if old.n == 0 {
			continue
		}
		for head := range cfg.Heads {
			copy(kv.k[i][head*c*hd:], old.k[i][head*old.c*hd:][:old.n*hd])
			for d := head * hd; d < (head+1)*hd; d++ {
				copy(kv.v[i][d*c:], old.v[i][d*old.c:][:old.n])
			}
		}
	}
}

// chosen are the rows of one expert.
type chosen struct {
	expert  int
	rows    []int32
	weights []float32
}

// byExpert groups rows by expert, in order of expert, without weights of zero.
func byExpert(experts []int32, weights []float32, numExperts int) []chosen {
	if len(experts) == 1 {
		if weights[0] == 0 {
			return nil
		}
		return []chosen{{int(experts[0]), []int32{0}, weights}}
	}
	count := make([]int, numExperts+1)
	for t, e := range experts {
		if weights[t] != 0 {
			count[e+1]++
		}
	}
	var groups []chosen
	at := make([]int, numExperts)
	for e := range numExperts {
		if n := count[e+1]; n > 0 {
			groups = append(groups, chosen{expert: e})
			at[e] = len(groups) - 1
		}
	}
	rows, ws := make([]int32, len(experts)), make([]float32, len(experts))
	for i := range groups {
		g, n := &groups[i], count[groups[i].expert+1]
		g.rows, g.weights, rows, ws = rows[:0:n], ws[:0:n], rows[n:], ws[n:]
	}
	for t, e := range experts {
		if w := weights[t]; w != 0 {
			g := &groups[at[e]]
			g.rows, g.weights = append(g.rows, int32(t)), append(g.weights, w)
		}
	}
	return groups
}

// headRows is the number of rows whose logits are computed at a time.
const headRows = 128

// logits computes next-token logits of rows.
func (h *hostStep) logits(form hostForm, rows []int, emit func(i int, logits []float32)) {
	d, v := h.cfg.HiddenSize, h.cfg.VocabSize
	norm, w := h.exec.w.stacks[Decoder].norm, &h.exec.w.head
	y := make([]float32, min(len(rows), headRows)*v)
	for from := 0; from < len(rows); from += headRows {
		some := rows[from:min(from+headRows, len(rows))]
		x := host.Sized(&h.work.rows, len(some)*d)
		for i, t := range some {
			row := x[i*d:][:d]
			form.row(row, t)
			kernel.Norm(row, row, norm, h.cfg.NormEps)
			if h.cfg.TieEmbeddings {
				scale(row, h.exec.w.headScale)
			}
		}
		h.linear(y, x, len(some), w)
		for i := range some {
			emit(from+i, y[i*v:(i+1)*v])
		}
	}
}

func scale(x []float32, by float32) {
	for i := range x {
		x[i] *= by
	}
}

// linear computes y [n,O] = x [n,I] W^T.
func (h *hostStep) linear(y, x []float32, n int, w *kernel.Matrix) {
	if n <= hostRows {
		h.dots(y, x, n, w)
		return
	}
	p := (n + width - 1) / width
	packed := host.Sized(&h.work.in, p*w.Columns*width)
	clear(packed[(p-1)*w.Columns*width:])
	for t := range n {
		host.PackRow(packed, x[t*w.Columns:][:w.Columns], t)
	}
	packed = h.team.FitPanels(w, &h.work.fit, packed, p)
	h.blocks(w.Rows, h.panelBlock(w.Rows), func(l *hostLane, lo, hi int) {
		out, stride := w.Panels(&l.panels, packed, p, lo, hi)
		for t := range n {
			from, to := out[t/width*stride*width+t%width:], y[t*w.Rows+lo:][:hi-lo]
			for o := range to {
				to[o] = from[o*width]
			}
		}
	})
}

// dots is linear for few rows.
func (h *hostStep) dots(y, x []float32, n int, w *kernel.Matrix) {
	x = host.FitRows(w, &h.work.fit, x, n)
	if w.Rows*w.Bytes() <= host.FewBytes || h.team.Lanes == 1 {
		w.Dots(y, w.Rows, x, n, 0, w.Rows)
		return
	}
	h.blocks(w.Rows, h.rowBlock(w.Rows), func(_ *hostLane, lo, hi int) { w.Dots(y[lo:], w.Rows, x, n, lo, hi) })
}
