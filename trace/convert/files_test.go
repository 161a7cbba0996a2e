package convert_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/convert"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// small is a router with everything that a format may need.
var small = tracetest.Router{
	Header: trace.Header{Model: trace.Model{Name: "m", Layers: 2, Experts: 5, TopK: 2}, LogitLayers: []int{0, 1}},
	Rule:   tracetest.Random(1),
}

// TestNames writes documents whose file names would be equal, also where case
// does not count, too long, hidden, or taken for those of other arrays, and reads
// them back.
func TestNames(t *testing.T) {
	long := strings.Repeat("長", 200)
	keys := []trace.Key{
		{Dataset: "a", Document: "b.c"}, {Dataset: "a.b", Document: "c"},
		{Dataset: "x", Document: "a/b"}, {Dataset: "x", Document: "a:b"}, {Dataset: "x", Document: "a_b"},
		{Dataset: "x", Document: "A_B"}, {Dataset: "X", Document: "a_b"},
		{Dataset: "x", Document: long + "1"}, {Dataset: "x", Document: long + "2"}, {Dataset: long, Document: "1"},
		{Dataset: "", Document: "hidden"}, {Dataset: "", Document: ""}, {Dataset: "x", Document: "../../up"},
		{Dataset: "x", Document: "n"}, {Dataset: "x", Document: "n.input_ids"}, {Dataset: "x", Document: "n.experts"}, {Dataset: "x", Document: "N.Input_IDs"},
	}
	var docs []*trace.Document
	for i, key := range keys {
		docs = append(docs, small.Document(key.Dataset, key.Document, []int32{int32(i), int32(i + 1)}))
	}
	for _, c := range []struct{ to, out string }{{"vllm", "folder"}, {"vllm", "x.safetensors"}, {"transformers", "folder"}} {
		t.Run(c.to+" "+c.out, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), c.out)
			write(t, c.to, docs, small.Header, out)
			if entries, err := os.ReadDir(out); err == nil {
				seen := map[string]bool{}
				for _, e := range entries {
					assert.LessOrEqual(t, len(e.Name()), 255)
					assert.False(t, seen[strings.ToLower(e.Name())], e.Name())
					seen[strings.ToLower(e.Name())] = true
				}
			}
			_, again := read(t, c.to, out, convert.Options{Experts: 5})
			require.Len(t, again, len(docs))
			for _, d := range again {
				i := slices.Index(keys, d.Key())
				require.GreaterOrEqual(t, i, 0, "%q", d.Key())
				assert.Equal(t, docs[i].Tokens, d.Tokens)
				assert.Equal(t, docs[i].Experts, d.Experts)
			}
		})
	}
}

// TestNothingHalfWritten checks that a conversion that fails or is cancelled
// leaves nothing behind, wherever it writes.
func TestNothingHalfWritten(t *testing.T) {
	dir := t.TempDir()
	w, err := trace.Create(dir, small.Header, trace.WriterOptions{})
	require.NoError(t, err)
	for _, d := range small.Documents(20, 3, 2) {
		require.NoError(t, w.Write(d))
		require.NoError(t, w.EndShard())
	}
	require.NoError(t, w.Close())
	broken := t.TempDir()
	require.NoError(t, os.CopyFS(broken, os.DirFS(dir)))
	shards, err := filepath.Glob(filepath.Join(broken, "*.parquet"))
	require.NoError(t, err)
	require.Len(t, shards, 20)
	b, err := os.ReadFile(shards[9])
	require.NoError(t, err)
	for i := range b[4 : len(b)/4] { // its pages
		b[4+i] ^= 0x55
	}
	require.NoError(t, os.WriteFile(shards[9], b, 0o600))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, to := range []string{"vllm", "vllm.safetensors", "allenai", "bigmoe", "esft", "transformers"} {
		for _, exists := range []bool{false, true} {
			t.Run(fmt.Sprint(to, " ", exists), func(t *testing.T) {
				parent := t.TempDir()
				out := filepath.Join(parent, to)
				if exists { // an empty folder
					require.NoError(t, os.Mkdir(out, 0o700))
				}
				format := strings.TrimSuffix(to, ".safetensors")
				_, err := convert.Write(t.Context(), format, broken, out)
				assert.Error(t, err)
				_, err = convert.Write(cancelled, format, dir, out)
				assert.ErrorIs(t, err, context.Canceled)
				if exists {
					require.NoError(t, os.Remove(out), "the folder is not empty")
				}
				entries, err := os.ReadDir(parent)
				require.NoError(t, err)
				assert.Empty(t, entries)
			})
		}
	}
}

// TestExistingOutput writes into an empty folder, and over nothing else.
func TestExistingOutput(t *testing.T) {
	dir := tracetest.Write(t, small.Header, small.Documents(2, 3, 2), trace.WriterOptions{})
	parent := t.TempDir()
	empty := filepath.Join(parent, "empty")
	require.NoError(t, os.Mkdir(empty, 0o700))
	_, err := convert.Write(t.Context(), "vllm", dir, empty)
	require.NoError(t, err)
	entries, err := os.ReadDir(empty)
	require.NoError(t, err)
	assert.Len(t, entries, 5)
	_, err = convert.Write(t.Context(), "vllm", dir, empty)
	assert.ErrorContains(t, err, "not empty")
	file := filepath.Join(parent, "file")
	require.NoError(t, os.WriteFile(file, []byte("mine"), 0o600))
	_, err = convert.Write(t.Context(), "allenai", dir, file)
	assert.ErrorIs(t, err, os.ErrExist)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, "mine", string(b))
	folder := filepath.Join(parent, "folder")
	require.NoError(t, os.Mkdir(folder, 0o700))
	_, err = convert.Write(t.Context(), "allenai", dir, folder) // a file
	assert.ErrorIs(t, err, os.ErrExist)
	_, err = convert.Write(t.Context(), "vllm", dir, filepath.Join(parent, "new", "folder"))
	assert.NoError(t, err)
}

// TestTwice omits, and reports, a document that occurs twice, and numbers those
// of several files apart where the data set is given.
func TestTwice(t *testing.T) {
	array := npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 2)}", 0, 1)
	files := map[string]string{"f/a.npy": array, "f/b.npy": array, "f/documents.json": `{"a": ["set", "1"], "b": ["set", "1"]}`}
	omits(t, "vllm", "f", files, convert.Options{}, 1, `document "1" of data set "set" occurs twice`)
	report, err := try(t, "allenai", "f", map[string]string{"f/a.jsonl": good, "f/b.jsonl": good}, convert.Options{Dataset: "set"})
	require.NoError(t, err)
	assert.Equal(t, 2, report.Documents)
	assert.Empty(t, report.Omitted)
	_, err = try(t, "vllm", "f", map[string]string{"f/a.npy": array, "f/documents.json": `[]`}, convert.Options{})
	assert.ErrorContains(t, err, "documents.json: json:")
}
