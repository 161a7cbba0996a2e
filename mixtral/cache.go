package mixtral

import (
	"errors"
	"fmt"
	"slices"

	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
)

// Cache holds the keys and values of B documents that are continued. It is of one
// model and used by one forward pass at a time.
type Cache struct {
	m       *Model
	lengths []int // tokens filled, [B]
	parts   []*cachePart
	broken  error
}

// cachePart is the cache of the documents that one group computes. Where the
// host's cores compute, that is one document, so that documents run concurrently
// and each stays in a core's cache; otherwise it is all.
type cachePart struct {
	docs []int            // indices into Cache.lengths, [B']
	c    int              // capacity in tokens, a power of two; 0 before the first use
	k, v []compute.Buffer // [L] of [B',KV,C,hd]
	recent
	// Of the host executor, B' = 1, [L] of [KV,C,hd] and what hostCacheSize adds.
	hostK, hostV [][]float32
}

// NewCache returns an empty cache for b documents, which Close frees.
func (m *Model) NewCache(b int) *Cache {
	b = max(b, 0)
	return &Cache{m: m, lengths: make([]int, b), parts: m.split(b)}
}

// split returns the documents of a batch of b in the parts that run together.
func (m *Model) split(b int) []*cachePart {
	all := make([]int, b)
	for i := range all {
		all[i] = i
	}
	if !m.d.Shared {
		return []*cachePart{{docs: all}}
	}
	parts := make([]*cachePart, b)
	for i := range all {
		parts[i] = &cachePart{docs: all[i : i+1]}
	}
	return parts
}

// Lengths returns the number of tokens of each document in the cache, [B].
func (c *Cache) Lengths() []int { return slices.Clone(c.lengths) }

// Close frees the cache's memory.
func (c *Cache) Close() {
	for _, p := range c.parts {
		p.free()
	}
	c.broken = errors.New("the cache is closed")
}

func (p *cachePart) free() {
	xla.Free(p.k...)
	xla.Free(p.v...)
	xla.Free(p.recent.kv)
	p.k, p.v, p.c, p.recent = nil, nil, 0, recent{}
	p.hostK, p.hostV = nil, nil
}

// minCache is the smallest capacity: smaller ones would require more programs.
const minCache = 64

// reserve grows the part to a capacity of n tokens for each document.
func (p *cachePart) reserve(m *Model, n int) error {
	if n <= p.c {
		return nil
	}
	cfg := &m.cfg
	if m.host != nil {
		p.reserveHost(cfg, n)
		return nil
	}
	size := max(minCache, powerOfTwo(n))
	for _, s := range []*[]compute.Buffer{&p.k, &p.v} {
		grown := make([]compute.Buffer, cfg.Layers)
		for l := range grown {
			var old compute.Buffer
			if *s != nil {
				old = (*s)[l]
			}
			b, err := m.grow(old, len(p.docs), p.c, size)
			if err != nil {
				xla.Free(grown...)
				return err
			}
			grown[l] = b
		}
		xla.Free(*s...)
		*s = grown
	}
	p.c = size
	return nil
}

// runs returns the number of runs of consecutive tokens that a document's keys or
// values have in memory, and the bytes of one token in a run.
func (m *Model) runs() (n, bytes int) {
	return m.cfg.KVHeads, m.cfg.HeadDim * m.dtype.Size() // [KV,C,hd]
}

// grow returns a buffer of b documents' keys or values with a capacity of size
// tokens that begins with old, of capacity c, if not nil.
func (m *Model) grow(old compute.Buffer, b, c, size int) (compute.Buffer, error) {
	dims := []int{b, m.share.kvHeads, size, m.cfg.HeadDim}
	if m.d.Shared {
		grown, flat, err := m.d.Backend.NewSharedBuffer(0, shapes.Make(m.dtype, dims...))
		if err != nil {
			return nil, err
		}
		dst := dtypes.UnsafeByteSliceFromAny(flat)
		clear(dst)
		if old != nil {
			was, err := old.Data()
			if err != nil {
				return nil, err
			}
			src := dtypes.UnsafeByteSliceFromAny(was)
			n, bytes := m.runs()
			for i := range b * n {
				copy(dst[i*size*bytes:], src[i*c*bytes:(i+1)*c*bytes])
			}
		}
		return grown, nil
	}
	if old == nil {
		return m.d.Zeros(m.dtype, dims...)
	}
	return xla.One(m.run(programKey{"grow", b, c, size, 0}, func(in []*Node) []*Node {
		zero := ScalarZero(in[0].Graph(), m.dtype)
		return []*Node{Pad(in[0], zero, compute.PadAxis{}, compute.PadAxis{}, compute.PadAxis{End: size - c})}
	}, old))
}

// store appends layer i's keys and values of a step, [B,KV,T,hd], to the cache, in
// place: memory is shared.
func (m *Model) store(s *step, i int, k, v compute.Buffer) error {
	if err := m.storeInPlace(s, s.part.k[i], k); err != nil {
		return err
	}
	return m.storeInPlace(s, s.part.v[i], v)
}

// appendKV writes now [B,KV,T,hd] into cache [B,KV,C,hd] at starts [B].
func appendKV(cache, now, starts *Node) *Node {
	zero := Scalar(cache.Graph(), dtypes.Int32, int32(0))
	for b := range now.Shape().Dimensions[0] {
		at := Reshape(Slice(starts, AxisRange(b, b+1)))
		doc := Scalar(cache.Graph(), dtypes.Int32, int32(b))
		cache = DynamicUpdateSlice(cache, SliceAxis(now, 0, AxisRange(b, b+1)), []*Node{doc, zero, at, zero})
	}
	return cache
}

func (m *Model) storeInPlace(s *step, cache, now compute.Buffer) error {
	to, err := cache.Data()
	if err != nil {
		return err
	}
	from, err := now.Data()
	if err != nil {
		return err
	}
	dst, src := dtypes.UnsafeByteSliceFromAny(to), dtypes.UnsafeByteSliceFromAny(from)
	n, bytes := m.runs()
	for b, tokens := range s.lens {
		for i := b * n; i < (b+1)*n; i++ {
			at := (i*s.part.c + s.first[b]) * bytes
			copy(dst[at:at+tokens*bytes], src[i*s.t*bytes:])
		}
	}
	return nil
}

func (c *Cache) check(m *Model, docs int) error {
	switch {
	case c.m != m:
		return errors.New("the cache belongs to another model")
	case c.broken != nil:
		return c.broken
	case len(c.lengths) != docs:
		return fmt.Errorf("the cache holds %d documents, the request has %d", len(c.lengths), docs)
	}
	return nil
}

// powerOfTwo returns the least power of two that is at least n.
func powerOfTwo(n int) int {
	p := 1
	for p < n {
		p *= 2
	}
	return p
}
