package mixtral

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/expertspec/expertspec/mixtral/internal/checkpoint"
	"github.com/expertspec/expertspec/mixtral/mixtraltest"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// torchDir is variants/b in PyTorch's shards, which testdata/torch_checkpoint.py made.
const torchDir = "../testdata/variants/b-torch"

const torchShard1, torchShard2 = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"

// PyTorch's shards hold what the safetensors file does, and have a hash of their
// own that does not change.
func TestCheckpointTorch(t *testing.T) {
	want, c := openDir(t, "../testdata/variants/b"), openDir(t, torchDir)
	require.Equal(t, want.Config(), c.Config())
	for _, name := range hubNames(c.Config()) {
		dtype, err := c.DType(name)
		require.NoError(t, err)
		assert.Equal(t, dtypes.Float16, dtype)
		require.Equal(t, readFloat32s(t, want, name), readFloat32s(t, c, name), name)
	}
	// Both hashes are of this model in these files: they come back, and change with a
	// weight.
	hashes := map[string]string{}
	changed := torchFiles(t)
	weight := changed[torchShard2].Data
	weight[bytes.LastIndex(weight, []byte("/data/10FB"))+64] ^= 1
	for at, fsys := range map[string]fs.FS{"safetensors": os.DirFS("../testdata/variants/b"), "torch": os.DirFS(torchDir),
		"again": torchFiles(t), "changed": changed} {
		c, err := OpenCheckpoint(fsys)
		require.NoError(t, err)
		for _, whole := range []int64{0, 1 << 30} {
			h, err := c.hash(whole)
			require.NoError(t, err)
			hashes[fmt.Sprint(at, " ", whole)] = h
		}
	}
	for _, whole := range []string{" 0", " 1073741824"} {
		assert.Equal(t, hashes["torch"+whole], hashes["again"+whole])
		assert.NotEqual(t, hashes["torch"+whole], hashes["changed"+whole])
		assert.NotEqual(t, hashes["torch"+whole], hashes["safetensors"+whole])
	}
}

// torchFiles returns the files of torchDir.
func torchFiles(t testing.TB) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	entries, err := os.ReadDir(torchDir)
	require.NoError(t, err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(torchDir, e.Name()))
		require.NoError(t, err)
		files[e.Name()] = &fstest.MapFile{Data: b}
	}
	return files
}

// torchSave writes tensors as torch.save did before it made zip files.
func torchSave(tensors map[string]*mixtraltest.Tensor) []byte {
	integer := func(n int) string { return "J" + string(binary.LittleEndian.AppendUint32(nil, uint32(n))) }
	text := func(s string) string { return "X" + integer(len(s))[1:] + s }
	classes := map[safetensors.DType]string{safetensors.F32: "FloatStorage", safetensors.BF16: "BFloat16Storage", safetensors.F16: "HalfStorage",
		safetensors.I32: "IntStorage"}
	pickled, keys, data := "\x80\x02}(", "\x80\x02](", ""
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		t := tensors[name]
		shape, strides, n := "(", "", 1
		for _, axis := range t.Shape {
			shape += integer(axis)
		}
		for _, axis := range slices.Backward(t.Shape) {
			strides = integer(n) + strides
			n *= axis
		}
		pickled += text(name) + "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\n" + classes[t.DType] + "\n" + text(name) + text("cpu") +
			integer(n) + "NtQK\x00" + shape + "t(" + strides + "t\x89}tR"
		keys += text(name)
		data += string(binary.LittleEndian.AppendUint64(nil, uint64(n))) + string(t.Data)
	}
	return []byte("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}" + text("little_endian") + "\x88s." +
		pickled + "u." + keys + "e." + data)
}

// newTorchFake returns a fake in pytorch_model.bin alone.
func newTorchFake() *fake {
	f := newFake()
	f.spoil = func(m fstest.MapFS) {
		m[checkpoint.TorchFile] = &fstest.MapFile{Data: torchSave(f.tensors)}
		delete(m, checkpoint.SingleFile)
	}
	return f
}

// A single file is read when no file of safetensors exists, and before an index.
func TestCheckpointTorchOrder(t *testing.T) {
	f := newTorchFake()
	want, err := OpenCheckpoint(newFake().FS())
	require.NoError(t, err)
	single := f.FS()
	single[checkpoint.TorchIndex] = &fstest.MapFile{Data: []byte("{}")}
	c, err := OpenCheckpoint(single)
	require.NoError(t, err)
	for _, name := range hubNames(c.Config()) {
		require.Equal(t, readFloat32s(t, want, name), readFloat32s(t, c, name), name)
	}
	for _, name := range []string{checkpoint.SingleFile, checkpoint.IndexFile} {
		files := f.FS()
		files[name] = &fstest.MapFile{Data: []byte("{}")}
		_, err = OpenCheckpoint(files)
		assert.ErrorContains(t, err, name+": ")
	}
}

// Errors about PyTorch's files name file and tensor.
func TestDamagedTorchCheckpoints(t *testing.T) {
	const w2 = "model.layers.1.block_sparse_moe.experts.2.w2.weight"
	for want, change := range map[string]func(f *fake){
		`pytorch_model.bin: tensor "` + w2 + `": is missing`:       func(f *fake) { delete(f.tensors, w2) },
		`pytorch_model.bin: tensor "` + w2 + `": has shape [12 6]`: func(f *fake) { f.add(w2, 12, 6) },
		`pytorch_model.bin: tensor "` + w2 + `": is I32, expected`: func(f *fake) { f.tensors[w2].DType = safetensors.I32 },
		`pytorch_model.bin: tensor "x": is surplus`:                func(f *fake) { f.add("x", 2) },
		`pytorch_model.bin: truncated: storage model.norm.weight has 12 elements`: func(f *fake) {
			spoil := f.spoil
			f.spoil = func(m fstest.MapFS) {
				spoil(m)
				m[checkpoint.TorchFile].Data = m[checkpoint.TorchFile].Data[:len(m[checkpoint.TorchFile].Data)-1]
			}
		},
	} {
		f := newTorchFake()
		change(f)
		_, err := OpenCheckpoint(f.FS())
		assert.ErrorContains(t, err, want)
		var e *safetensors.Error
		assert.ErrorAs(t, err, &e)
	}
	f := newTorchFake()
	f.set(w2, 7, float32(math.NaN()))
	c, err := OpenCheckpoint(f.FS())
	require.NoError(t, err)
	assert.EqualError(t, c.Read(w2, dtypes.Float32, make([]byte, 4*60)), `pytorch_model.bin: tensor "`+w2+`": element 7 is NaN or infinite`)

	const norm = "model.norm.weight"
	index := func(change func(weights map[string]string)) func(m fstest.MapFS) {
		return func(m fstest.MapFS) {
			var index map[string]any
			require.NoError(t, json.Unmarshal(m[checkpoint.TorchIndex].Data, &index))
			weights := map[string]string{}
			for name, file := range index["weight_map"].(map[string]any) {
				weights[name] = file.(string)
			}
			change(weights)
			text, err := json.Marshal(map[string]any{"weight_map": weights})
			require.NoError(t, err)
			m[checkpoint.TorchIndex].Data = text
		}
	}
	for want, change := range map[string]func(m fstest.MapFS){
		": shard " + torchShard2 + " is missing":                                    func(m fstest.MapFS) { delete(m, torchShard2) },
		torchShard2 + ": zip file: ":                                                func(m fstest.MapFS) { m[torchShard2].Data = m[torchShard2].Data[:5000] },
		`pytorch_model.bin.index.json: bad JSON`:                                    func(m fstest.MapFS) { m[checkpoint.TorchIndex].Data = []byte("{") },
		`pytorch_model.bin.index.json: weight_map: is missing`:                      func(m fstest.MapFS) { m[checkpoint.TorchIndex].Data = []byte("{}") },
		torchShard1 + `: tensor "` + norm + `": is not in pytorch_model.bin.index`:  index(func(w map[string]string) { delete(w, norm) }),
		torchShard1 + `: tensor "` + norm + `": is here, but pytorch_model.bin.ind`: index(func(w map[string]string) { w[norm] = torchShard2 }),
		torchShard2 + `: tensor "y": is missing, but pytorch_model.bin.index.json`:  index(func(w map[string]string) { w["y"] = torchShard2 }),
		`pytorch_model.bin.index.json: tensor "y": its file is not a string`:        index(func(w map[string]string) { w["y"] = "" }),
		"file does not exist, nor do model.safetensors.index.json, pytorch_model.b": func(m fstest.MapFS) { delete(m, checkpoint.TorchIndex) },
	} {
		files := torchFiles(t)
		change(files)
		_, err := OpenCheckpoint(files)
		assert.ErrorContains(t, err, want)
	}
}
