package mixtral

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/expertspec/expertspec/mixtral/internal/checkpoint"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The checkpoints that transformers wrote or read.
var realCheckpoints = []struct {
	name, dir string
	tensors   int // of the hub's names
}{
	{"mini", "mini/checkpoint", 3 + 16*(7+3*8)},
	{"a", "../testdata/variants/a", 3 + 3*(7+3*4)},
	{"b", "../testdata/variants/b", 3 + 2*(7+3*6)},
}

func TestOpenCheckpoint(t *testing.T) {
	for _, r := range realCheckpoints {
		t.Run(r.name, func(t *testing.T) {
			c := openDir(t, r.dir)
			names := hubNames(c.Config())
			require.Len(t, names, r.tensors)
			for _, name := range names {
				shape, err := c.Shape(name)
				require.NoError(t, err)
				size := 2
				for _, axis := range shape {
					size *= axis
				}
				raw := make([]byte, size)
				assert.NoError(t, c.Read(name, dtypes.BFloat16, raw))
				assert.NotEqual(t, size, bytes.Count(raw, []byte{0}), "%s is all zeros", name)
			}
		})
	}
}

// The weights are those that transformers computes with: shape, ends and a
// weighted sum of each tensor of a and b, and of some of mini's.
func TestCheckpointReadAsTransformers(t *testing.T) {
	text, err := os.ReadFile("testdata/checkpoint_golden.json")
	require.NoError(t, err)
	var golden struct {
		Tensors map[string]map[string]struct {
			Shape       []int
			First, Last []float32
			Weighted    float64
		}
	}
	require.NoError(t, json.Unmarshal(text, &golden))
	for _, r := range realCheckpoints {
		c := openDir(t, r.dir)
		want := golden.Tensors[r.name]
		require.GreaterOrEqual(t, len(want), 40, "%s: %d tensors", r.name, len(want))
		for _, name := range slices.Sorted(maps.Keys(want)) {
			w := want[name]
			shape, err := c.Shape(name)
			require.NoError(t, err)
			require.Equal(t, w.Shape, shape, "%s: %s", r.name, name)
			v := readFloat32s(t, c, name)
			var sum, size float64
			for i, x := range v {
				sum += float64(x) * float64(i%1009+1)
				size += math.Abs(float64(x)) * float64(i%1009+1)
			}
			assert.Equal(t, w.First, v[:2], "%s: %s", r.name, name)
			assert.Equal(t, w.Last, v[len(v)-2:], "%s: %s", r.name, name)
			assert.InDelta(t, w.Weighted, sum, 1e-9*size, "%s: %s", r.name, name)
		}
	}
}

// One model in all layouts gives the same weights under the same names.
func TestCheckpointLayouts(t *testing.T) {
	plain := newFake()
	want, err := OpenCheckpoint(plain.FS())
	require.NoError(t, err)
	for name, change := range map[string]func(f *fake){
		"fused":         func(f *fake) { f.fuse() },
		"sharded":       func(f *fake) { f.shard() },
		"fused sharded": func(f *fake) { f.fuse(); f.shard() },
		"both files": func(f *fake) { // the single file wins, as in transformers
			f.spoil = func(m fstest.MapFS) { m[checkpoint.IndexFile] = &fstest.MapFile{Data: []byte("{}")} }
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			change(f)
			c, err := OpenCheckpoint(f.FS())
			require.NoError(t, err)
			for _, name := range hubNames(c.Config()) {
				assert.Equal(t, readFloat32s(t, want, name), readFloat32s(t, c, name))
			}
		})
	}
}

// Each pair of types converts as the format's own converter does over the whole
// tensor at once, across the borders of chunks.
func TestCheckpointReadConverts(t *testing.T) {
	const vocabulary = 3 * checkpoint.ChunkSize / 4 / 12
	for _, stored := range []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
		f := newFake()
		f.config["vocab_size"] = vocabulary + 1
		f.add(embedName, vocabulary+1, 12)
		f.add(headName, vocabulary+1, 12)
		for i := range len(f.tensors[embedName].Data) / 4 {
			f.set(embedName, i, float32(math.Sin(float64(i))))
		}
		f.to(embedName, stored)
		c, err := OpenCheckpoint(f.FS())
		require.NoError(t, err)
		raw := f.tensors[embedName].Data
		for dtype, to := range checkpoint.StoredTypes {
			want := make([]byte, len(raw)/stored.Size()*to.Size())
			require.NoError(t, safetensors.Convert(want, to, raw, stored))
			got := make([]byte, len(want))
			require.NoError(t, c.Read(embedName, dtype, got))
			assert.Equal(t, want, got, "%s read as %s differs", stored, to)
		}
		got, err := c.DType(embedName)
		require.NoError(t, err)
		assert.Equal(t, stored, checkpoint.StoredTypes[got])
	}
}

// countingFS counts the bytes that are read from weight files.
type countingFS struct {
	fs.FS
	read *atomic.Int64
}

type countingFile struct {
	fs.File
	read *atomic.Int64
}

func (c countingFS) Open(name string) (fs.File, error) {
	f, err := c.FS.Open(name)
	if err != nil || !strings.HasSuffix(name, ".safetensors") {
		return f, err
	}
	return countingFile{f, c.read}, nil
}

func (c countingFile) ReadAt(p []byte, offset int64) (int, error) {
	n, err := c.File.(io.ReaderAt).ReadAt(p, offset)
	c.read.Add(int64(n))
	return n, err
}

// Opening reads the headers alone, and reading a tensor that tensor alone,
// without memory of its size beside the destination.
func TestCheckpointLazy(t *testing.T) {
	var read atomic.Int64
	c, err := OpenCheckpoint(countingFS{os.DirFS("mini/checkpoint"), &read})
	require.NoError(t, err)
	defer c.Close()
	assert.Equal(t, int64(8+29376+8+29632), read.Load())
	read.Store(0)
	dst := make([]byte, 4096*96*4)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	require.NoError(t, c.Read(headName, dtypes.Float32, dst))
	runtime.ReadMemStats(&after)
	assert.Equal(t, int64(4096*96*2), read.Load())
	assert.LessOrEqual(t, after.TotalAlloc-before.TotalAlloc, uint64(2*checkpoint.ChunkSize))
}

// Several goroutines may read at once.
func TestCheckpointReadConcurrently(t *testing.T) {
	c := openDir(t, "../testdata/variants/b")
	names := hubNames(c.Config())
	want := map[string][]float32{}
	for _, name := range names {
		want[name] = readFloat32s(t, c, name)
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range names {
				name := names[(i*7+g*11)%len(names)]
				raw := make([]byte, 4*len(want[name]))
				assert.NoError(t, c.Read(name, dtypes.Float32, raw))
				for j, x := range want[name] {
					if binary.LittleEndian.Uint32(raw[4*j:]) != math.Float32bits(x) {
						t.Errorf("%s: element %d differs", name, j)
						break
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestCheckpointHash(t *testing.T) {
	hash := func(change func(f *fake)) string {
		f := newFake()
		change(f)
		c, err := OpenCheckpoint(f.FS())
		require.NoError(t, err)
		h, err := c.Hash()
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(h, "sha256:"), h)
		require.Len(t, h, len("sha256:")+64)
		return h
	}
	seen := map[string]bool{hash(func(f *fake) {}): true}
	assert.True(t, seen[hash(func(f *fake) {})], "the same checkpoint has two hashes")
	for name, change := range map[string]func(f *fake){
		"one weight": func(f *fake) { f.set(w2Name, 59, 7.5) },
		"config":     func(f *fake) { f.config["rms_norm_eps"] = 1e-6 },
		"layout":     func(f *fake) { f.shard() },
	} {
		h := hash(change)
		assert.False(t, seen[h], "%s: the hash does not change", name)
		seen[h] = true
	}
}

// A checkpoint too large to be read whole is sampled, and says so.
func TestCheckpointHashSampled(t *testing.T) {
	hash := func(element int) string {
		f := newFake()
		const vocabulary = 4 * checkpoint.HashSample / 4 / 12
		f.config["vocab_size"] = vocabulary
		f.add(embedName, vocabulary, 12)
		f.add(headName, vocabulary, 12)
		f.set(headName, element, 5)
		c, err := OpenCheckpoint(f.FS())
		require.NoError(t, err)
		h, err := c.hash(checkpoint.HashSample)
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(h, "sha256-sampled:"), h)
		return h
	}
	const last = 4*checkpoint.HashSample/4/12*12 - 1
	assert.NotEqual(t, hash(last), hash(0))
	assert.NotEqual(t, hash(last/2), hash(0))
	assert.Equal(t, hash(last*3/10+1), hash(last*3/10))
}

func TestCheckpointClosed(t *testing.T) {
	c, err := OpenCheckpoint(os.DirFS("../testdata/variants/a"))
	require.NoError(t, err)
	require.NoError(t, c.Close())
	err = c.Read("model.norm.weight", dtypes.Float32, make([]byte, 32*4))
	assert.ErrorIs(t, err, fs.ErrClosed)
	assert.Contains(t, err.Error(), `model.safetensors: tensor "model.norm.weight"`)
}

// A missing folder, a file, a folder that is no model, and a model without
// weights are different errors, which name the folder once.
func TestModelFolderErrors(t *testing.T) {
	b, err := OpenBackend("go")
	require.NoError(t, err)
	dir := t.TempDir()
	file, empty, half := filepath.Join(dir, "file"), filepath.Join(dir, "empty"), filepath.Join(dir, "half")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	require.NoError(t, os.Mkdir(empty, 0o755))
	require.NoError(t, os.Mkdir(half, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(half, configFile), []byte(`{"model_type": "mixtral"}`), 0o644))
	missing := filepath.Join(dir, "missing")
	for _, c := range []struct {
		dir, want string
		notExist  bool
	}{
		{missing, "no such file or directory", true},
		{file, "not a directory", false},
		{empty, "config.json: file does not exist: this is not the folder of a model, which contains config.json and model.safetensors", true},
		{half, "model.safetensors: file does not exist, nor do model.safetensors.index.json, pytorch_model.bin and pytorch_model.bin.index.json; weights in other formats are not read", true},
	} {
		_, err := LoadDir(t.Context(), c.dir, Options{Backend: b})
		assert.EqualError(t, err, "model folder "+c.dir+": "+c.want)
		assert.Equal(t, c.notExist, errors.Is(err, fs.ErrNotExist), "%v", err)
		_, err = Load(t.Context(), os.DirFS(c.dir), Options{Backend: b})
		assert.EqualError(t, err, c.want)
	}
	_, err = LoadDir(t.Context(), missing, Options{})
	assert.ErrorContains(t, err, "mixtral: Options.Backend is nil")
}

// openDir opens a checkpoint for a test.
func openDir(t testing.TB, dir string) *Checkpoint {
	t.Helper()
	c, err := OpenCheckpoint(os.DirFS(dir))
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, c.Close())
	})
	return c
}

// hubNames lists all tensors of a model by the hub's names.
func hubNames(c Config) []string {
	names := []string{embedName, normName, headName}
	for layer := range c.Layers {
		for _, name := range layerNames {
			names = append(names, layerPrefix(layer)+name)
		}
		for expert := range c.Experts {
			for _, m := range []string{"w1", "w2", "w3"} {
				names = append(names, expertName(layer, expert, m))
			}
		}
	}
	return names
}

// readFloat32s reads a whole tensor.
func readFloat32s(t testing.TB, c *Checkpoint, name string) []float32 {
	t.Helper()
	shape, err := c.Shape(name)
	require.NoError(t, err)
	n := 1
	for _, axis := range shape {
		n *= axis
	}
	raw := make([]byte, 4*n)
	require.NoError(t, c.Read(name, dtypes.Float32, raw))
	v := make([]float32, n)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return v
}
