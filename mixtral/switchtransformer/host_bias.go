package switchtransformer

import "sync/atomic"

// biases are what a stack's self-attention adds to scores, by distance.
type biases struct {
	cfg   *Config
	stack Stack
	table []float32 // [NB,H]
	made  atomic.Pointer[biasTable]
}

// biasTable has a stack's biases of distances up to size: at(head)[query-key].
type biasTable struct {
	size, before, stride int
	values               []float32 // [H,before+size]
}

// beyond is how many keys after a query the decoder's table has: what a pair of panels
// and the rest of a tile reach.
const beyond = 64

// upTo returns a table of distances up to n and, for panels, some more.
func (b *biases) upTo(n int) *biasTable {
	if t := b.made.Load(); t != nil && t.size >= n+beyond {
		return t
	}
	size := minCapacity
	for size < n+beyond {
		size *= 2
	}
	t := &biasTable{size: size, before: beyond}
	if b.stack == Encoder {
		t.before = size
	}
	t.stride = t.before + size
	t.values = make([]float32, b.cfg.Heads*t.stride)
	for i := range t.stride {
		distance := i - t.before // of a query after its key
		if b.stack == Decoder && distance < 0 {
			for head := range b.cfg.Heads {
				t.values[head*t.stride+i] = masked
			}
			continue
		}
		row := b.table[b.cfg.bucket(b.stack, -distance)*b.cfg.Heads:]
		for head := range b.cfg.Heads {
			t.values[head*t.stride+i] = row[head]
		}
	}
	b.made.Store(t)
	return t
}

// from returns the biases of a head that begin with a distance.
func (t *biasTable) from(head, distance int) []float32 {
	return t.values[head*t.stride+t.before+distance:]
}
