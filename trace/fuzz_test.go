package trace

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// FuzzShard reads any bytes as a shard. Nothing may panic, hang or take memory
// out of proportion; documents that come back have the shapes of the header.
func FuzzShard(f *testing.F) {
	dir := f.TempDir()
	h := Header{Model: Model{Name: "m", Layers: 2, Experts: 5, TopK: 3, Hidden: 4}, LogitLayers: []int{1}, InputLayers: []int{0}}
	w, err := Create(dir, h, WriterOptions{})
	if err != nil {
		f.Fatal(err)
	}
	d := &Document{Dataset: "set", ID: "a", Tokens: []int32{7, 8}, Experts: []int32{1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, NoExpert},
		Weights: []float32{.5, .3, .2, .5, .3, .2, .5, .3, .2, .5, .5, 0}, RouterLogits: make([]float32, 2*5), RouterInput: make([]float32, 2*4)}
	if err := w.Write(d); err != nil {
		f.Fatal(err)
	}
	d.ID, d.Phases, d.Positions = "b", []Phase{Prefill, Decode}, []int32{4, 6}
	if err := w.Write(d); err != nil {
		f.Fatal(err)
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "shard-00000.parquet"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := newShard(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		_, _ = s.scan(&Filter{}, 64<<20).documents(func(d *Document, _ place) bool {
			if err := d.shapes(&s.header); err != nil {
				t.Error(err)
			}
			return true
		})
	})
}
