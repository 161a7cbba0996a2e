package trace

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// FuzzShard reads any bytes as a shard. Nothing may panic, hang or take memory
// out of proportion; documents that come back have the shapes of the header.
func FuzzShard(f *testing.F) {
	dir := f.TempDir()
	h := Header{Model: Model{Name: "m", Layers: 2, Experts: 5, TopK: 3, Hidden: 4}, LogitLayers: []int{1}, InputLayers: []int{0}}
	w, err := Create(dir, h, WriterOptions{})
	require.NoError(f, err)
	d := &Document{Dataset: "set", ID: "a", Tokens: []int32{7, 8}, Experts: []int32{1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, NoExpert},
		Weights: []float32{.5, .3, .2, .5, .3, .2, .5, .3, .2, .5, .5, 0}, RouterLogits: make([]float32, 2*5), RouterInput: make([]float32, 2*4)}
	require.NoError(f, w.Write(d))
	d.ID, d.Phases, d.Positions = "b", []Phase{Prefill, Decode}, []int32{4, 6}
	require.NoError(f, w.Write(d))
	require.NoError(f, w.Close())
	b, err := os.ReadFile(filepath.Join(dir, "shard-00000.parquet"))
	require.NoError(f, err)
	f.Add(b)
	h.Model.Stacks, h.Dropped = []Stack{{Name: Encoder, Layers: 1}, {Name: Decoder, Layers: 1}}, true
	d.Phases, d.Experts = []Phase{Encode, Decode}, []int32{1, 2, 3, -1, -1, -1, -1, -1, -1, 0, 1, NoExpert}
	d.Weights, d.Dropped = []float32{.5, .3, .2, 0, 0, 0, 0, 0, 0, .5, .5, 0}, []bool{true, false, false, true}
	two := f.TempDir()
	w, err = Create(two, h, WriterOptions{})
	require.NoError(f, err)
	require.NoError(f, w.Write(d))
	require.NoError(f, w.Close())
	b, err = os.ReadFile(filepath.Join(two, "shard-00000.parquet"))
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := newShard(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		_, _ = s.scan(&Filter{}, 64<<20).documents(func(d *Document, _ place) bool {
			assert.NoError(t, d.shapes(&s.header))
			return true
		})
	})
}
