package trace

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/expertspec/expertspec/trace/internal/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// cutDocuments makes documents of 1 to 60 tokens, some of which begin late or
// were partly decoded.
func cutDocuments(h *Header, n int) []*Document {
	rng := rand.New(rand.NewPCG(3, 4))
	docs := make([]*Document, n)
	for i := range docs {
		t := 1 + rng.IntN(60)
		d := &Document{Dataset: fmt.Sprint("set-", i/9), ID: fmt.Sprint("document-", i)}
		for j := range t {
			d.Tokens = append(d.Tokens, int32(rng.IntN(100)))
			d.Positions = append(d.Positions, int32(j+i%3/2*7))
			d.Phases = append(d.Phases, Prefill)
			if i%4 == 0 && j > t/2 {
				d.Phases[j] = Decode
			}
			for range h.Model.Layers {
				e := rng.IntN(h.Model.Experts)
				d.Experts = append(d.Experts, int32(e), int32((e+1)%h.Model.Experts))
				d.Weights = append(d.Weights, rng.Float32(), rng.Float32())
			}
			for range len(h.InputLayers) * h.Model.Hidden {
				d.RouterInput = append(d.RouterInput, float32(rng.IntN(1000)))
			}
		}
		docs[i] = d
	}
	return docs
}

// part returns tokens from..to of a document.
func (d *Document) part(h *Header, from, to int) *Document {
	k, w := h.Model.Layers*h.Model.TopK, len(h.InputLayers)*h.Model.Hidden
	return &Document{Dataset: d.Dataset, ID: d.ID, Tokens: d.Tokens[from:to], Positions: d.Positions[from:to], Phases: d.Phases[from:to],
		Experts: d.Experts[from*k : to*k], Weights: d.Weights[from*k : to*k], RouterInput: d.RouterInput[from*w : to*w]}
}

// writeCut writes documents with row groups that end anywhere, as programs do
// that know nothing of documents.
func writeCut(t *testing.T, path string, h *Header, docs []*Document, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	var b bytes.Buffer
	var keys []pq.KeyValue
	for _, kv := range h.keys() {
		keys = append(keys, pq.KeyValue(kv))
	}
	w, err := pq.NewWriter(&b, specs(h, Float16, false), keys, "test")
	require.NoError(t, err)
	left := 1
	for _, d := range docs {
		for from := 0; from < d.Len(); {
			to := min(d.Len(), from+left)
			require.NoError(t, appendDocument(w, h, d.part(h, from, to)))
			if left -= to - from; left == 0 {
				require.NoError(t, w.FlushGroup())
				left = 1 + rng.IntN(150)
			}
			from = to
		}
	}
	require.NoError(t, w.Close())
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o666))
}

// cutTrace writes a trace of three shards, one of which begins with a document
// that is also the last of the shard before.
func cutTrace(t *testing.T) (dir string, docs []*Document) {
	h := &Header{Model: Model{Name: "cut", Layers: 3, Experts: 5, TopK: 2, Hidden: 7, Vocabulary: 100}, InputLayers: []int{0, 2}}
	dir, docs = t.TempDir(), cutDocuments(h, 70)
	for i, list := range [][]*Document{docs[:30], docs[29:50], docs[50:]} {
		writeCut(t, filepath.Join(dir, fmt.Sprintf("s-%d.parquet", i)), h, list, uint64(i))
	}
	return dir, slices.Concat(docs[:30], docs[29:])
}

// readWith reads with n processors, at most limit documents.
func readWith(t *testing.T, dir string, f Filter, bytes int64, n, limit int) (docs []*Document, err error) {
	old := runtime.GOMAXPROCS(n)
	defer runtime.GOMAXPROCS(old)
	r, err := Open(dir)
	if err != nil {
		return nil, err
	}
	r.limit = bytes
	for d, err := range r.Select(f).Documents() {
		if err != nil {
			return docs, err
		}
		if docs = append(docs, d); len(docs) == limit {
			break
		}
	}
	return docs, nil
}

// TestReadAhead reads the same with one processor and with many: documents that
// row groups cut, filters, limits.
func TestReadAhead(t *testing.T) {
	dir, docs := cutTrace(t)
	for _, d := range docs {
		d.normalize()
	}
	for _, c := range []struct {
		Filter
		bytes int64
	}{
		{}, {Filter{NoInput: true}, 0}, {Filter{TokensOnly: true}, 0}, {Filter{Datasets: []string{"set-2", "set-5"}}, 0},
		{Filter{Documents: []string{"document-29", "document-3", "document-69"}}, 0},
		{Filter{Documents: []string{"none"}}, 0}, {Filter{}, 9000}, {Filter{}, 100},
	} {
		f := c.Filter
		want, wantErr := readWith(t, dir, f, c.bytes, 1, -1)
		if reflect.DeepEqual(f, Filter{}) && c.bytes == 0 {
			require.NoError(t, wantErr)
			require.Equal(t, docs, want)
		}
		for _, n := range []int{2, 5} {
			got, err := readWith(t, dir, f, c.bytes, n, -1)
			assert.Equal(t, fmt.Sprint(wantErr), fmt.Sprint(err))
			assert.Equal(t, want, got, "%+v, %d processors", f, n)
		}
	}
}

// TestReadAheadTwice reads a document that follows itself in the next row group,
// which is invalid, in the same way with one processor and with many.
func TestReadAheadTwice(t *testing.T) {
	h := &Header{Model: Model{Name: "cut", Layers: 3, Experts: 5, TopK: 2, Hidden: 7, Vocabulary: 100}, InputLayers: []int{0, 2}}
	docs := cutDocuments(h, 9)
	var b bytes.Buffer
	var keys []pq.KeyValue
	for _, kv := range h.keys() {
		keys = append(keys, pq.KeyValue(kv))
	}
	w, err := pq.NewWriter(&b, specs(h, Float16, false), keys, "test")
	require.NoError(t, err)
	require.NoError(t, appendDocument(w, h, docs[0]))
	require.NoError(t, w.FlushGroup())
	require.NoError(t, appendDocument(w, h, docs[0]))
	require.NoError(t, appendDocument(w, h, docs[1]))
	require.NoError(t, w.Close())
	path := filepath.Join(t.TempDir(), "x.parquet")
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o666))
	want, err := readWith(t, path, Filter{}, 0, 1, -1)
	require.NoError(t, err)
	require.ErrorContains(t, want[0].Validate(h), "position 0 after")
	got, err := readWith(t, path, Filter{}, 0, 4, -1)
	require.NoError(t, err)
	assert.Equal(t, want, got)
}

// TestReadAheadCorrupt reads corrupt files: documents before the error, and the
// error with its place, are those of one processor.
func TestReadAheadCorrupt(t *testing.T) {
	dir, _ := cutTrace(t)
	path := filepath.Join(dir, "s-1.parquet")
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(8, 9))
	failed := 0
	for range 60 {
		b := slices.Clone(whole)
		b[rng.IntN(len(b))] ^= byte(1 + rng.IntN(255))
		require.NoError(t, os.WriteFile(path, b, 0o666))
		want, wantErr := readWith(t, dir, Filter{}, 0, 1, -1)
		got, err := readWith(t, dir, Filter{}, 0, 4, -1)
		assert.Equal(t, fmt.Sprint(wantErr), fmt.Sprint(err))
		assert.Equal(t, want, got)
		if wantErr != nil {
			failed++
		}
	}
	assert.GreaterOrEqual(t, failed, 30)
}

// TestReadAheadStop leaves no goroutine behind, whenever the consumer stops.
func TestReadAheadStop(t *testing.T) {
	dir, docs := cutTrace(t)
	before := runtime.NumGoroutine()
	for limit := 1; limit <= len(docs); limit += 7 {
		got, err := readWith(t, dir, Filter{}, 0, 4, limit)
		require.NoError(t, err)
		require.Len(t, got, limit)
	}
	func() {
		defer func() {
			assert.Equal(t, "mine", recover())
		}()
		r, err := Open(dir)
		require.NoError(t, err)
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
		for range r.Documents() {
			panic("mine")
		}
	}()
	// Goroutines that ended are counted for a moment, and the condition has one of its own.
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+1 }, time.Second, 10*time.Millisecond)
}
