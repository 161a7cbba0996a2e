package switchtransformer

import (
	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	g "github.com/gomlx/gomlx/core/graph"
)

// graphMemory is what the graph executor keeps of a group of documents.
type graphMemory struct {
	b        int              // documents, with padding
	size     int              // tokens of each document's encoder, with padding
	lens     compute.Buffer   // without padding, int32 [B]
	cross    []compute.Buffer // keys and values of the encoder for each decoder block, [B,H,S,hd]
	capacity int              // of kv, in tokens; 0: the decoder computes whole documents
	kv       []compute.Buffer // keys and values of each decoder block, [B,H,C,hd]
}

func (x *graph) memory(n int) memory { return &graphMemory{b: bucketDocuments(n)} }

func (m *graphMemory) free() {
	xla.Free(m.lens)
	xla.Free(m.cross...)
	xla.Free(m.kv...)
	*m = graphMemory{}
}

// remember sets what cross-attention reads of the encoder's x [N,D] before its final
// norm. The memory owns lens from then on.
func (m *graphMemory) remember(x *graph, out compute.Buffer, p *padded, lens compute.Buffer) (err error) {
	xla.Free(m.lens)
	m.size, m.lens = p.t, lens
	args := []compute.Buffer{out, x.w.stacks[Encoder].norm}
	for _, w := range x.w.stacks[Decoder].blocks {
		args = append(args, w.cross.kv)
	}
	m.cross, err = x.run(name("cross{%d x %d}", p.b, p.t), func(in []*g.Node) []*g.Node {
		y := rmsNorm(in[0], in[1], x.cfg.NormEps)
		var kv []*g.Node
		for _, w := range in[2:] {
			kv = append(kv, heads(linear(y, w), 2, p.b, p.t, x.cfg.Heads, x.dtype)...)
		}
		return kv
	}, args...)
	return err
}

// minCapacity is the smallest capacity of a cache: smaller ones would require more
// programs.
const minCapacity = 64

// reserve grows the cache to a capacity of n tokens for each document.
func (m *graphMemory) reserve(x *graph, n int) error {
	if n <= m.capacity {
		return nil
	}
	c, size := m.capacity, max(minCapacity, powerOfTwo(n))
	grown := make([]compute.Buffer, 2*x.cfg.DecoderBlocks)
	for i := range grown {
		var err error
		if c == 0 {
			grown[i], err = x.Zeros(x.dtype, m.b, x.cfg.Heads, size, x.cfg.HeadDim)
		} else {
			grown[i], err = xla.One(x.run(name("grow{%d, %d to %d}", m.b, c, size), func(in []*g.Node) []*g.Node {
				zero := g.ScalarZero(in[0].Graph(), x.dtype)
				return []*g.Node{g.Pad(in[0], zero, compute.PadAxis{}, compute.PadAxis{}, compute.PadAxis{End: size - c})}
			}, m.kv[i]))
		}
		if err != nil {
			xla.Free(grown...)
			return err
		}
	}
	xla.Free(m.kv...)
	m.kv, m.capacity = grown, size
	return nil
}
