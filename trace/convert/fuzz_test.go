package convert

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// fuzzFormats are the formats by number, and how bytes become a path.
var fuzzFormats = []string{"vllm", "vllm", "allenai", "bigmoe", "esft", "transformers", "specmoe"}

// FuzzRead reads any bytes as each format. Nothing may panic, hang or take
// memory out of proportion, and what is read has the shapes of its header.
func FuzzRead(f *testing.F) {
	const dir = "../../testdata/traces/"
	for i, name := range []string{"vllm/a.npy", "vllm.safetensors", "allenai.jsonl", "", "esft/intent/expert_weights_1.txt", "transformers.safetensors", ""} {
		if name == "" {
			continue
		}
		b, err := os.ReadFile(dir + name)
		require.NoError(f, err)
		f.Add(uint8(i), b[:min(len(b), 4000)])
	}
	f.Add(uint8(3), []byte("# route_trace v1\n# model=m arch=a n_layer=2 n_expert=4 n_expert_used=2\n"+bigmoeHeader+
		"\n0,0,0,0,0,3,0.75,0,10\n0,0,0,0,1,1,0.25,1,0\n0,1,1,1,0,2,0.5,0,10\n"))
	f.Add(uint8(4), []byte("0\t1\t2\t0\t\t.5\t.5\t.5\t.5\n3\t1\t\t.2\t.8\n"))
	f.Add(uint8(6), onePoint(f))
	folder := f.TempDir()
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		kind %= uint8(len(fuzzFormats))
		name := fuzzFormats[kind]
		path := filepath.Join(folder, "x")
		switch kind {
		case 0:
			path += ".npy"
		case 1:
			path += ".safetensors"
		case 4:
			require.NoError(t, os.MkdirAll(path, 0o700))
			half := len(b)
			if i := bytes.IndexByte(b, 0); i >= 0 {
				half = i
			}
			second := filepath.Join(path, "expert_weights_2.txt")
			require.NoError(t, os.WriteFile(second, b[min(half+1, len(b)):], 0o600))
			if half == len(b) {
				os.Remove(second)
			}
			b = b[:half]
		default:
			path += "." + name
		}
		file := path
		if kind == 4 {
			file = filepath.Join(path, "expert_weights_1.txt")
		}
		require.NoError(t, os.WriteFile(file, b, 0o600))
		fuzzRead(t, name, path)
	})
}

func fuzzRead(t *testing.T, name, path string) {
	src, err := formats[name].open(t.Context(), path, Options{})
	if err != nil {
		return
	}
	if src.header.Validate() != nil {
		return // Create refuses it
	}
	for d, err := range src.documents {
		if err != nil {
			continue
		}
		h := &src.header
		m := &h.Model
		n := d.Len() * m.Layers * m.TopK
		require.Len(t, d.Experts, n)
		if !h.NoWeights {
			require.Len(t, d.Weights, n)
		}
		_ = d.Validate(h)
	}
}
