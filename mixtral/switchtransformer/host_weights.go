package switchtransformer

import (
	"math"
	"unsafe"

	"github.com/expertspec/expertspec/mixtral/internal/kernel"
	"github.com/gomlx/compute/dtypes"
)

// hostWeights are a model's weights as package kernel reads them.
type hostWeights struct {
	stacks    [stacks]hostStack
	head      kernel.Matrix // [V,D]
	headScale float32       // what the head of a tied model multiplies
}

type hostStack struct {
	embed  kernel.Matrix // [V,D]
	bias   []float32     // of relative positions, [NB,H]
	norm   []float32     // [D]
	blocks []hostBlock
	layers int // blocks that have experts
}

type hostBlock struct {
	self, cross hostAttention
	norm        []float32       // of the feed-forward, [D]
	router      kernel.Matrix   // [E,D] float32; no rows: a dense block
	bias        []float32       // of the router, [E]; may be nil
	wi, wo      []kernel.Matrix // [F,D] and [D,F] of each expert, or one
}

// hostAttention are an attention's weights: norm [D], in [3*H*hd,D] of queries, keys
// and values, out [D,H*hd]. Of cross-attention, in is [H*hd,D] and kv [2*H*hd,D].
type hostAttention struct {
	norm        []float32
	in, out, kv kernel.Matrix
}

// hostLoader reads a checkpoint into memory of Go.
type hostLoader struct {
	*loading
	err error // the first
}

func loadHost(l *loading) (*hostWeights, error) {
	h := &hostLoader{loading: l}
	w, c := new(hostWeights), l.cfg
	w.headScale = float32(1 / math.Sqrt(float64(c.HiddenSize)))
	embeds := []string{embedName(Encoder), embedName(Decoder)}
	same := h.source(embeds[1], embeds[0])
	w.stacks[Encoder].embed = h.matrix(embeds[0])
	if w.stacks[Decoder].embed = w.stacks[Encoder].embed; same == embeds[1] {
		w.stacks[Decoder].embed = h.matrix(embeds[1])
	}
	switch same := h.source(headName, embeds...); same {
	case headName:
		w.head = h.matrix(headName)
	case embeds[0]:
		w.head = w.stacks[Encoder].embed
	default:
		w.head = w.stacks[Decoder].embed
	}
	for s := range Stack(stacks) {
		st := &w.stacks[s]
		st.norm = h.floats(finalNormName(s))
		st.bias = h.floats(layerPrefix(s, 0, 0) + "SelfAttention.relative_attention_bias.weight")
		st.blocks = make([]hostBlock, c.Blocks(s))
		st.layers = len(c.MoEBlocks(s))
		for i := range st.blocks {
			h.block(s, i, &st.blocks[i])
			if h.err == nil {
				h.err = l.progress()
			}
			if h.err != nil {
				return nil, h.err
			}
		}
	}
	return w, h.err
}

func (h *hostLoader) block(s Stack, i int, b *hostBlock) {
	c := h.cfg
	self := layerPrefix(s, i, 0)
	b.self.norm = h.floats(self + "layer_norm.weight")
	self += "SelfAttention."
	b.self.in = h.matrix(self+"q.weight", self+"k.weight", self+"v.weight")
	b.self.out = h.matrix(self + "o.weight")
	if s == Decoder {
		cross := layerPrefix(s, i, 1)
		b.cross.norm = h.floats(cross + "layer_norm.weight")
		cross += "EncDecAttention."
		b.cross.in, b.cross.out = h.matrix(cross+"q.weight"), h.matrix(cross+"o.weight")
		b.cross.kv = h.matrix(cross+"k.weight", cross+"v.weight")
	}
	prefix := feedForward(s, i)
	b.norm = h.floats(prefix + "layer_norm.weight")
	prefix += "mlp."
	if !c.sparse(s, i) {
		b.wi = []kernel.Matrix{h.matrix(prefix + "wi.weight")}
		b.wo = []kernel.Matrix{h.matrix(prefix + "wo.weight")}
		return
	}
	b.router = kernel.F32(h.floats(prefix+"router.classifier.weight"), c.Experts)
	if c.RouterBias {
		b.bias = h.floats(prefix + "router.classifier.bias")
	}
	for e := range c.Experts {
		if h.err != nil {
			return
		}
		prefix := expertPrefix(s, i, e)
		b.wi, b.wo = append(b.wi, h.matrix(prefix+"wi.weight")), append(b.wo, h.matrix(prefix+"wo.weight"))
	}
}

// source is Checkpoint.source.
func (h *hostLoader) source(name string, others ...string) string {
	same, err := h.ck.source(name, others...)
	if h.err == nil {
		h.err = err
	}
	return same
}

// matrix reads matrices of equal width, one above the other.
func (h *hostLoader) matrix(names ...string) kernel.Matrix {
	rows, columns := 0, 0
	for _, name := range names {
		shape, err := h.ck.Shape(name)
		if err != nil {
			h.err = err
		}
		if h.err == nil {
			h.err = h.ctx.Err()
		}
		if h.err != nil {
			return kernel.Matrix{}
		}
		rows, columns = rows+shape[0], shape[1]
	}
	if h.dtype == dtypes.BFloat16 {
		w := make([]uint16, rows*columns)
		h.read(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(w))), 2*len(w)), h.dtype, names)
		return kernel.BF16(w, rows)
	}
	w := make([]float32, rows*columns)
	h.read(floatBytes(w), h.dtype, names)
	return kernel.F32(w, rows)
}

// floats reads a tensor as float32.
func (h *hostLoader) floats(name string) []float32 {
	shape, err := h.ck.Shape(name)
	if h.err == nil {
		h.err = err
	}
	if h.err != nil {
		return nil
	}
	n := 1
	for _, axis := range shape {
		n *= axis
	}
	w := make([]float32, n)
	h.read(floatBytes(w), dtypes.Float32, []string{name})
	return w
}

func floatBytes(w []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(w))), 4*len(w))
}

// read reads tensors one after the other.
func (h *hostLoader) read(dst []byte, dtype dtypes.DType, names []string) {
	for _, name := range names {
		shape, err := h.ck.Shape(name)
		if h.err == nil {
			h.err = err
		}
		if h.err != nil {
			return
		}
		size := dtype.Size()
		for _, axis := range shape {
			size *= axis
		}
		h.err = h.ck.Read(name, dtype, dst[:size])
		dst = dst[size:]
	}
}
