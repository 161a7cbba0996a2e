//go:build unix

package convert_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/convert"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestFIFO checks that a FIFO, which blocks its opener, is an error where it is
// named, and is omitted and reported where it is in a folder.
func TestFIFO(t *testing.T) {
	array := npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 2)}", 0, 1)
	logits, err := os.ReadFile(fixtures + "transformers.safetensors")
	require.NoError(t, err)
	for _, c := range []struct{ from, fifo, file, text string }{
		{"vllm", "b.npy", "a.npy", array},
		{"vllm", "b.safetensors", "a.npy", array},
		{"vllm", "a.input_ids.npy", "a.npy", array},
		{"allenai", "b.jsonl", "a.jsonl", good},
		{"transformers", "b.safetensors", "a.safetensors", string(logits)},
		{"bigmoe", "b.csv", "", ""},
		{"specmoe", "b.pkl", "", ""},
	} {
		t.Run(c.from+" "+c.fifo, func(t *testing.T) {
			folder := t.TempDir()
			fifo := filepath.Join(folder, c.fifo)
			require.NoError(t, syscall.Mkfifo(fifo, 0o600))
			convertTo := func(path string) (*convert.Report, error) {
				return convert.Read(t.Context(), c.from, path, t.TempDir(), convert.Options{}, trace.WriterOptions{})
			}
			_, err := convertTo(fifo)
			require.ErrorContains(t, err, c.fifo+": not a regular file")
			if c.file == "" {
				return
			}
			_, err = convertTo(folder)
			require.ErrorContains(t, err, c.fifo+": not a regular file")
			require.NoError(t, os.WriteFile(filepath.Join(folder, c.file), []byte(c.text), 0o600))
			report, err := convertTo(folder)
			require.NoError(t, err)
			assert.Positive(t, report.Documents)
			require.Len(t, report.Omitted, 1)
			assert.ErrorContains(t, report.Omitted[0], c.fifo+": not a regular file")
		})
	}
	// A file of ESFT is a layer of all documents: it cannot be omitted.
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "expert_weights_1.txt"), []byte("1\t2\t\t.5\t.5\n"), 0o600))
	require.NoError(t, syscall.Mkfifo(filepath.Join(folder, "expert_weights_2.txt"), 0o600))
	_, err = convert.Read(t.Context(), "esft", folder, t.TempDir(), convert.Options{TopK: 2}, trace.WriterOptions{})
	assert.ErrorContains(t, err, "expert_weights_2.txt: not a regular file")
	_, err = convert.Read(t.Context(), "bigmoe", os.DevNull, t.TempDir(), convert.Options{}, trace.WriterOptions{})
	assert.ErrorContains(t, err, "not a regular file")
}
