package convert

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
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
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b[:min(len(b), 4000)])
	}
	f.Add(uint8(3), []byte("# route_trace v1\n# model=m arch=a n_layer=2 n_expert=4 n_expert_used=2\n"+bigmoeHeader+
		"\n0,0,0,0,0,3,0.75,0,10\n0,0,0,0,1,1,0.25,1,0\n0,1,1,1,0,2,0.5,0,10\n"))
	f.Add(uint8(4), []byte("0\t1\t2\t0\t\t.5\t.5\t.5\t.5\n3\t1\t\t.2\t.8\n"))
	if b, err := os.ReadFile(dir + "specmoe-4.pkl"); err != nil {
		f.Fatal(err)
	} else { // one data point
		end := bytes.Index(b, []byte("squad_0_seq_0"))
		f.Add(uint8(6), append(append([]byte{}, b[:end+13]...), 0x94, 'u', 'b', 'e', '.'))
	}
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
			if err := os.MkdirAll(path, 0o700); err != nil {
				t.Fatal(err)
			}
			half := len(b)
			if i := bytes.IndexByte(b, 0); i >= 0 {
				half = i
			}
			second := filepath.Join(path, "expert_weights_2.txt")
			if err := os.WriteFile(second, b[min(half+1, len(b)):], 0o600); err != nil {
				t.Fatal(err)
			}
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
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		fuzzRead(t, name, path)
	})
}

func fuzzRead(t *testing.T, name, path string) {
	src, err := formats[name].open(path, Options{})
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
		if n := d.Len() * m.Layers * m.TopK; len(d.Experts) != n || !h.NoWeights && len(d.Weights) != n {
			t.Errorf("%d experts, %d weights for %d tokens", len(d.Experts), len(d.Weights), d.Len())
		}
		_ = d.Validate(h)
	}
}

// FuzzPickle runs any bytes as a pickle of data points.
func FuzzPickle(f *testing.F) {
	b, err := os.ReadFile("../../testdata/traces/specmoe-4.pkl")
	if err != nil {
		f.Fatal(err)
	}
	end := bytes.Index(b, []byte("squad_0_seq_0"))
	f.Add(append(append([]byte{}, b[:end+13]...), 0x94, 'u', 'b', 'e', '.'))
	f.Add([]byte("cos\nsystem\n(S'id'\ntR."))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = readSpecMoE(b)
	})
}
