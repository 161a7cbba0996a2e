package switchtransformer

import (
	"unsafe"

	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
)

// attentionBuffers are an attention's weights on a device: norm [D] float32; in, of
// q, k and v [3*H*hd,D], or of q [H*hd,D] in cross-attention; out [D,H*hd]; and in
// cross-attention kv [2*H*hd,D].
type attentionBuffers struct{ norm, in, out, kv compute.Buffer }

// blockBuffers are a block's weights on a device.
type blockBuffers struct {
	self, cross attentionBuffers // cross in the decoder
	norm        compute.Buffer   // of the feed-forward, [D] float32
	wi, wo      compute.Buffer   // [F,D] and [D,F], in a sparse block [E,F,D] and [E,D,F]
	router      []compute.Buffer // of a sparse block: [E,D] float32, and a bias [E], if there is one
}

// stackBuffers are a stack's weights on a device.
type stackBuffers struct {
	embed  compute.Buffer // [V,D]
	blocks []blockBuffers
	table  compute.Buffer // of relative positions, [NB,H] float32
	norm   compute.Buffer // [D] float32
}

// buffers are a model's weights on a device.
type buffers struct {
	stacks [stacks]stackBuffers
	head   compute.Buffer            // [V,D]
	named  map[string]compute.Buffer // embeddings and head, which may be the same
}

// graphLoader reads a checkpoint onto a device. Besides the weights, memory is a host
// copy of the largest buffer, or none if the device shares memory.
type graphLoader struct {
	*loading
	d       *xla.Device
	scratch []uint64
	err     error // the first
}

// space returns scratch memory of a size, aligned for any type.
func (l *graphLoader) space(size int) []byte {
	if len(l.scratch) < (size+7)/8 {
		l.scratch = make([]uint64, (size+7)/8)
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(l.scratch))), size)
}

// tensors loads tensors of equal size as one buffer, in order; nil after an error.
func (l *graphLoader) tensors(dtype dtypes.DType, dims []int, names ...string) compute.Buffer {
	if l.err == nil {
		l.err = l.ctx.Err()
	}
	if l.err != nil {
		return nil
	}
	b, err := l.d.Load(dtype, dims, l.space, func(dst []byte) error {
		size := len(dst) / len(names)
		for i, name := range names {
			if err := l.ck.Read(name, dtype, dst[i*size:(i+1)*size]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		l.err = err
		return nil
	}
	return b
}

func (l *graphLoader) float(name string, dims ...int) compute.Buffer {
	return l.tensors(dtypes.Float32, dims, name)
}

// load returns the weights, or an error after which nothing remains on the device.
func (l *graphLoader) load() (*buffers, error) {
	w := &buffers{named: make(map[string]compute.Buffer)}
	for s := range Stack(stacks) {
		to := &w.stacks[s]
		to.embed = l.matrix(w, embedName(s), sharedName)
		to.table = l.float(layerPrefix(s, 0, 0)+"SelfAttention.relative_attention_bias.weight", l.cfg.Buckets, l.cfg.Heads)
		to.norm = l.float(finalNormName(s), l.cfg.HiddenSize)
		for i := range l.cfg.Blocks(s) {
			to.blocks = append(to.blocks, l.block(s, i))
			if l.err == nil {
				l.err = l.progress()
			}
		}
	}
	w.head = l.matrix(w, headName, sharedName, embedName(Decoder))
	if l.err != nil {
		w.free()
		return nil, l.err
	}
	return w, nil
}

// matrix loads a matrix [V,D], once if it equals one of others.
func (l *graphLoader) matrix(w *buffers, name string, others ...string) compute.Buffer {
	if l.err != nil {
		return nil
	}
	name, l.err = l.ck.source(name, others...)
	if w.named[name] == nil {
		w.named[name] = l.tensors(l.dtype, []int{l.cfg.VocabSize, l.cfg.HiddenSize}, name)
	}
	return w.named[name]
}

func (l *graphLoader) block(s Stack, i int) (w blockBuffers) {
	c := l.cfg
	w.self = l.attention(layerPrefix(s, i, 0), "SelfAttention.", false)
	if s == Decoder {
		w.cross = l.attention(layerPrefix(s, i, 1), "EncDecAttention.", true)
	}
	ff := feedForward(s, i)
	w.norm = l.float(ff+"layer_norm.weight", c.HiddenSize)
	if !c.sparse(s, i) {
		w.wi = l.tensors(l.dtype, []int{c.IntermediateSize, c.HiddenSize}, ff+"mlp.wi.weight")
		w.wo = l.tensors(l.dtype, []int{c.HiddenSize, c.IntermediateSize}, ff+"mlp.wo.weight")
		return w
	}
	w.router = append(w.router, l.float(ff+"mlp.router.classifier.weight", c.Experts, c.HiddenSize))
	if c.RouterBias {
		w.router = append(w.router, l.float(ff+"mlp.router.classifier.bias", c.Experts))
	}
	var wi, wo []string
	for e := range c.Experts {
		prefix := expertPrefix(s, i, e)
		wi, wo = append(wi, prefix+"wi.weight"), append(wo, prefix+"wo.weight")
	}
	w.wi = l.tensors(l.dtype, []int{c.Experts, c.IntermediateSize, c.HiddenSize}, wi...)
	w.wo = l.tensors(l.dtype, []int{c.Experts, c.HiddenSize, c.IntermediateSize}, wo...)
	return w
}

func (l *graphLoader) attention(prefix, matrices string, cross bool) attentionBuffers {
	d, inner := l.cfg.HiddenSize, l.cfg.Heads*l.cfg.HeadDim
	w := attentionBuffers{norm: l.float(prefix+"layer_norm.weight", d)}
	prefix += matrices
	q, k, v := prefix+"q.weight", prefix+"k.weight", prefix+"v.weight"
	if cross {
		w.in = l.tensors(l.dtype, []int{inner, d}, q)
		w.kv = l.tensors(l.dtype, []int{2 * inner, d}, k, v)
	} else {
		w.in = l.tensors(l.dtype, []int{3 * inner, d}, q, k, v)
	}
	w.out = l.tensors(l.dtype, []int{d, inner}, prefix+"o.weight")
	return w
}

func (w *attentionBuffers) free() { xla.Free(w.norm, w.in, w.out, w.kv) }

func (w *buffers) free() {
	for _, b := range w.named {
		xla.Free(b)
	}
	for _, s := range w.stacks {
		xla.Free(s.table, s.norm)
		for _, b := range s.blocks {
			b.self.free()
			b.cross.free()
			xla.Free(b.norm, b.wi, b.wo)
			xla.Free(b.router...)
		}
	}
}
