package mixtral

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"github.com/expertspec/expertspec/mixtral/internal/calls"
	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"golang.org/x/sync/errgroup"
)

// layerWeights are one layer's weights on the device.
type layerWeights struct {
	attnNorm compute.Buffer // [D] float32
	qkv      matrix         // [(H+2KV)*hd, D], rows in projectQKV's order
	o        matrix         // [D, H*hd]
	ffnNorm  compute.Buffer // [D] float32
	gate     compute.Buffer // [E,D] float32
	// Of the experts, stacked one [E,2F,D] and one [E,D,F], of which a program
	// slices one; otherwise E of [2F,D] and of [D,F].
	w13, w2 []matrix
}

// dense returns the weights outside of the experts, in the order of layerNodes.
func (w *layerWeights) dense() []compute.Buffer {
	out := append([]compute.Buffer{w.attnNorm}, w.qkv.buffers()...)
	out = append(out, w.o.buffers()...)
	return append(out, w.ffnNorm, w.gate)
}

// weights are a model's weights on the device.
type weights struct {
	embed, norm, head compute.Buffer // [V,D], [D] float32, [V,D]
	layers            []layerWeights
}

// loader reads a checkpoint onto a device. Besides the weights, memory is four
// host copies of the largest buffer, or none if the device shares memory.
type loader struct {
	ctx     context.Context
	d       *device
	ck      *Checkpoint
	cfg     Config
	dtype   dtypes.DType
	mesh    Mesh
	stacked bool
	without bool // no experts: see Options.Experts
	form    form
	scratch []uint64
	part    []uint64 // of a device's part of a buffer
	wide    []uint64 // of wideSpace
	report  func(layersDone, layers int)
}

func words[T int8 | uint16 | uint32 | float32](b []byte) []T {
	var one T
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(one)))
}

// space returns scratch memory of a size, aligned for any type.
func (l *loader) space(size int) []byte { return grow(&l.scratch, size) }

// wideSpace is space that load does not use.
func (l *loader) wideSpace(size int) []byte { return grow(&l.wide, size) }

func grow(scratch *[]uint64, size int) []byte {
	if len(*scratch) < (size+7)/8 {
		*scratch = make([]uint64, (size+7)/8)
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(*scratch))), size)
}

// load returns a buffer whose bytes fill writes, and of which each of several devices
// has the part cut, or all if cut is nil.
func (l *loader) load(dtype dtypes.DType, dims []int, cut meshCut, fill func(dst []byte) error) (compute.Buffer, error) {
	if err := l.ctx.Err(); err != nil {
		return nil, err
	}
	if cut == nil || l.d.Count == 1 {
		return l.d.Load(dtype, dims, l.space, fill)
	}
	part := func(size int) []byte { return grow(&l.part, size) }
	return l.d.LoadParts(dtype, dims, func(i int) xla.Cut { return cut(&l.cfg, i) }, l.space, part, fill)
}

// tensor loads one tensor of the checkpoint.
func (l *loader) tensor(dtype dtypes.DType, name string, dims ...int) (compute.Buffer, error) {
	return l.load(dtype, dims, nil, func(dst []byte) error { return l.ck.Read(name, dtype, dst) })
}

func (l *loader) weights() (w *weights, err error) {
	c := l.cfg
	w = &weights{layers: make([]layerWeights, c.Layers)}
	defer func() {
		if err != nil {
			w.free()
			w = nil
		}
	}()
	if w.embed, err = l.tensor(l.dtype, "model.embed_tokens.weight", c.VocabSize, c.HiddenSize); err != nil {
		return
	}
	if w.norm, err = l.tensor(dtypes.Float32, "model.norm.weight", c.HiddenSize); err != nil {
		return
	}
	if c.TieEmbeddings {
		w.head = w.embed
	} else if w.head, err = l.tensor(l.dtype, "lm_head.weight", c.VocabSize, c.HiddenSize); err != nil {
		return
	}
	err = l.allLayers(w.layers)
	return
}

// allLayers loads the layers. A device with memory of its own receives some while
// others are read.
func (l *loader) allLayers(layers []layerWeights) error {
	g, ctx := errgroup.WithContext(l.ctx)
	workers := 1
	if !l.d.Shared {
		workers = 4
	}
	var mu sync.Mutex
	next, done := 0, 0
	for range workers {
		one := *l
		one.ctx, one.scratch, one.part, one.wide = ctx, nil, nil, nil
		g.Go(func() error {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= len(layers) {
					return nil
				}
				if err := xla.Catch(func() error { return one.layer(i, &layers[i]) }); err != nil {
					return err
				}
				mu.Lock()
				done++
				var err error
				if l.report != nil {
					err = calls.Protect("Progress", func() error { l.report(done, len(layers)); return nil })
				}
				mu.Unlock()
				if err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

func (l *loader) layer(i int, w *layerWeights) (err error) {
	c, prefix := l.cfg, fmt.Sprintf("model.layers.%d.", i)
	if w.attnNorm, err = l.tensor(dtypes.Float32, prefix+"input_layernorm.weight", c.HiddenSize); err != nil {
		return err
	}
	if err = l.attention(prefix+"self_attn.", w); err != nil {
		return err
	}
	if w.ffnNorm, err = l.tensor(dtypes.Float32, prefix+"post_attention_layernorm.weight", c.HiddenSize); err != nil {
		return err
	}
	prefix += "block_sparse_moe."
	if w.gate, err = l.tensor(dtypes.Float32, prefix+"gate.weight", c.Experts, c.HiddenSize); err != nil {
		return err
	}
	if l.without {
		return nil
	}
	if l.form.experts {
		err = l.expertsQuantized(i, w)
	} else {
		err = l.experts(prefix+"experts.", w)
	}
	if err == nil && l.mesh.Experts > 1 {
		w.w13[0].first, err = l.mesh.firsts(&l.cfg, l.d)
	}
	return err
}

func (l *loader) attention(prefix string, w *layerWeights) (err error) {
	c := l.cfg
	rows, heads := (c.Heads+2*c.KVHeads)*c.HeadDim, c.Heads*c.HeadDim
	if l.form.attention {
		names := []string{prefix + "q_proj.weight", prefix + "k_proj.weight", prefix + "v_proj.weight"}
		if w.qkv, err = l.quantized([]int{rows, c.HiddenSize}, l.mesh.qkv, names, c.qkvRow); err != nil {
			return err
		}
		w.o, err = l.quantized([]int{c.HiddenSize, heads}, l.mesh.o, []string{prefix + "o_proj.weight"}, nil)
		return err
	}
	if w.qkv.w, err = l.qkv(prefix); err != nil {
		return err
	}
	w.o.w, err = l.load(l.dtype, []int{c.HiddenSize, heads}, l.mesh.o, func(dst []byte) error {
		return l.ck.Read(prefix+"o_proj.weight", l.dtype, dst)
	})
	return err
}

// expertsQuantized loads a layer's experts as int8.
func (l *loader) expertsQuantized(layer int, w *layerWeights) error {
	c := l.cfg
	var names13, names2 []string
	for e := range c.Experts {
		names13 = append(names13, expertName(layer, e, "w1"), expertName(layer, e, "w3"))
		names2 = append(names2, expertName(layer, e, "w2"))
	}
	n, stack := 1, []int(nil)
	if l.stacked {
		n, stack = c.Experts, []int{c.Experts}
	}
	for e := 0; e < c.Experts; e += n {
		w13, err := l.quantized(append(stack, 2*c.IntermediateSize, c.HiddenSize), l.mesh.w13, names13[2*e:2*(e+n)], nil)
		if err != nil {
			return err
		}
		w.w13 = append(w.w13, w13)
		w2, err := l.quantized(append(stack, c.HiddenSize, c.IntermediateSize), l.mesh.w2, names2[e:e+n], nil)
		if err != nil {
			return err
		}
		w.w2 = append(w.w2, w2)
	}
	return nil
}

// qkv reads q, k and v into one matrix, in the order that projectQKV requires.
func (l *loader) qkv(prefix string) (compute.Buffer, error) {
	c := l.cfg
	half := c.HeadDim / 2
	rows := (c.Heads + 2*c.KVHeads) * c.HeadDim
	return l.load(l.dtype, []int{rows, c.HiddenSize}, l.mesh.qkv, func(dst []byte) error {
		row := len(dst) / rows
		tmp := make([]byte, c.Heads*c.HeadDim*row)
		head := 0
		for _, p := range []struct {
			name  string
			heads int
		}{{"q_proj.weight", c.Heads}, {"k_proj.weight", c.KVHeads}} {
			src := tmp[:p.heads*c.HeadDim*row]
			if err := l.ck.Read(prefix+p.name, l.dtype, src); err != nil {
				return err
			}
			for h := range p.heads {
				lo := head * half * row
				hi := ((c.Heads+c.KVHeads)*half + head*half) * row
				from := h * c.HeadDim * row
				copy(dst[lo:lo+half*row], src[from:])
				copy(dst[hi:hi+half*row], src[from+half*row:])
				head++
			}
		}
		return l.ck.Read(prefix+"v_proj.weight", l.dtype, dst[(c.Heads+c.KVHeads)*c.HeadDim*row:])
	})
}

func (l *loader) experts(prefix string, w *layerWeights) error {
	c := l.cfg
	f, dim := c.IntermediateSize, c.HiddenSize
	one13, one2 := 2*f*dim*l.dtype.Size(), dim*f*l.dtype.Size()
	read13 := func(e int, dst []byte) error {
		name := fmt.Sprintf("%s%d.", prefix, e)
		if err := l.ck.Read(name+"w1.weight", l.dtype, dst[:one13/2]); err != nil {
			return err
		}
		return l.ck.Read(name+"w3.weight", l.dtype, dst[one13/2:])
	}
	read2 := func(e int, dst []byte) error {
		return l.ck.Read(fmt.Sprintf("%s%d.w2.weight", prefix, e), l.dtype, dst)
	}
	if l.stacked {
		return l.stack(w, c, one13, one2, read13, read2)
	}
	w.w13, w.w2 = make([]matrix, c.Experts), make([]matrix, c.Experts)
	for e := range c.Experts {
		var err error
		if w.w13[e].w, err = l.load(l.dtype, []int{2 * f, dim}, nil, func(dst []byte) error { return read13(e, dst) }); err != nil {
			return err
		}
		if w.w2[e].w, err = l.load(l.dtype, []int{dim, f}, nil, func(dst []byte) error { return read2(e, dst) }); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) stack(w *layerWeights, c Config, one13, one2 int, read13, read2 func(int, []byte) error) error {
	all := func(size int, read func(int, []byte) error) func(dst []byte) error {
		return func(dst []byte) error {
			var g errgroup.Group
			g.SetLimit(runtime.GOMAXPROCS(0))
			for e := range c.Experts {
				g.Go(func() error { return read(e, dst[e*size:(e+1)*size]) })
			}
			return g.Wait()
		}
	}
	w13, err := l.load(l.dtype, []int{c.Experts, 2 * c.IntermediateSize, c.HiddenSize}, l.mesh.w13, all(one13, read13))
	if err != nil {
		return err
	}
	w.w13 = []matrix{{w: w13}}
	w2, err := l.load(l.dtype, []int{c.Experts, c.HiddenSize, c.IntermediateSize}, l.mesh.w2, all(one2, read2))
	if err != nil {
		return err
	}
	w.w2 = []matrix{{w: w2}}
	return nil
}

func (w *weights) free() {
	xla.Free(w.embed, w.norm)
	if w.head != w.embed {
		xla.Free(w.head)
	}
	for _, l := range w.layers {
		xla.Free(l.dense()...)
		for _, m := range append(l.w13, l.w2...) {
			xla.Free(m.w, m.scale, m.first)
		}
	}
}
