package safetensors

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// torchFiles returns the files in testdata/torch.zip, which make_torch.py made.
func torchFiles(tb testing.TB) fstest.MapFS {
	tb.Helper()
	z, err := zip.OpenReader("testdata/torch.zip")
	require.NoError(tb, err)
	defer z.Close()
	files := fstest.MapFS{}
	for _, entry := range z.File {
		r, err := entry.Open()
		require.NoError(tb, err)
		b, err := io.ReadAll(r)
		require.NoError(tb, err)
		files[entry.Name] = &fstest.MapFile{Data: b}
	}
	return files
}

func openTorch(b []byte) (*Reader, error) {
	return newTorchReader(bytes.NewReader(b), int64(len(b)), "x.bin")
}

// PyTorch's files hold what PyTorch's safetensors file does, whole and in parts.
func TestTorchFiles(t *testing.T) {
	files := torchFiles(t)
	want, err := Open(files, "all.safetensors")
	require.NoError(t, err)
	strided := 0
	for _, name := range []string{"all.bin", "legacy.bin", "protocol4.bin"} {
		t.Run(name, func(t *testing.T) {
			f, err := OpenTorch(files, name)
			require.NoError(t, err)
			require.Equal(t, want.Names(), f.Names())
			assert.Len(t, f.Tensors(), len(f.Names()))
			assert.Nil(t, f.Metadata())
			for _, tensor := range want.Tensors() {
				got, ok := f.Info(tensor.Name)
				require.True(t, ok)
				assert.Equal(t, tensor.DType, got.DType, tensor.Name)
				assert.Equal(t, f.strides[tensor.Name] != nil, got.Strided)
				assert.Equal(t, append([]int{}, tensor.Shape...), got.Shape, tensor.Name)
				require.Equal(t, tensor.Size, got.Size, tensor.Name)
				expected, b := make([]byte, tensor.Size), make([]byte, tensor.Size)
				require.NoError(t, want.Read(tensor.Name, expected))
				require.NoError(t, f.Read(tensor.Name, b))
				require.True(t, bytes.Equal(expected, b), tensor.Name)
				if f.strides[tensor.Name] != nil {
					strided++
				}
				readParts(t, f, tensor.Name, expected)
			}
			assert.GreaterOrEqual(t, f.DataOffset(), int64(3000), "the pickle is before the data")
			assert.Less(t, f.DataOffset(), f.Size()/50)
			for _, tensor := range f.Tensors() {
				assert.True(t, tensor.Size == 0 || tensor.Offset >= f.DataOffset(), tensor.Name)
			}
		})
	}
	assert.Equal(t, 3*10, strided)
}

// readParts reads a tensor from many places, within elements too.
func readParts(t *testing.T, f *Reader, name string, want []byte) {
	t.Helper()
	size := len(want)
	for _, n := range []int{1, 2, 3, 7, 13, 24, 100, 4097, 300_001} {
		for i, offset := range []int{0, 1, 5, 9, 22, size / 3, size / 2, size - n} {
			if offset < 0 || offset+n > size || n > 100 && i%2 == 1 {
				continue
			}
			b := make([]byte, n)
			require.NoError(t, f.ReadAt(name, b, int64(offset)))
			require.True(t, bytes.Equal(want[offset:offset+n], b), "%s: %d bytes at %d", name, n, offset)
		}
	}
	assert.ErrorContains(t, f.ReadAt(name, make([]byte, 2), int64(size-1)), "exceed")
}

func TestTorchManyTensors(t *testing.T) {
	f, err := OpenTorch(torchFiles(t), "many.bin")
	require.NoError(t, err)
	require.Len(t, f.Names(), 1000)
	v, err := f.Int64s("713")
	require.NoError(t, err)
	assert.Equal(t, []int64{713}, v)
}

// What cannot be read is refused with its name.
func TestTorchRefused(t *testing.T) {
	files := torchFiles(t)
	cases := map[string]string{
		"sparse":       `tensor "bad": is of torch._utils._rebuild_sparse_tensor, which is not supported`,
		"quantized":    `tensor "bad": is of torch._utils._rebuild_qtensor, which is not supported`,
		"complex128":   `tensor "bad": has a storage of a type that is not supported`,
		"conjugated":   `tensor "bad": is marked to be negated or conjugated`,
		"negated":      `tensor "bad": is marked to be negated or conjugated`,
		"expanded":     `tensor "bad": tensor of shape [2 9] has more elements than its storage of 2`,
		"meta":         `tensor "bad": is of torch._utils._rebuild_meta_tensor_no_storage`,
		"axes":         `tensor "bad": tensor of more than 8 axes`,
		"subclass":     `tensor "bad": is of torch._tensor._rebuild_from_type_v2`,
		"number":       `tensor "bad": is float, expected a tensor`,
		"none":         `tensor "bad": is None, expected a tensor`,
		"size":         `tensor "bad": is of torch.Size`,
		"storage":      `tensor "bad": is storage, expected a tensor`,
		"nested":       `tensor "bad": is dict, expected a tensor`,
		"tensor alone": "holds tensor, expected a dictionary of tensors by name",
		"module":       "data.pkl: byte 422: __builtin__.set is not allowed",
		"big-endian":   "byte order is big, expected little",
	}
	found := 0
	for name := range files {
		name, ok := strings.CutPrefix(name, "refused/")
		if !ok {
			continue
		}
		found++
		name = strings.TrimSuffix(name, ".bin")
		_, err := OpenTorch(files, "refused/"+name+".bin")
		require.Contains(t, cases, name)
		wantError(t, err, "refused/"+name+".bin: "+cases[name])
	}
	assert.Equal(t, len(cases), found)
}

// Instructions of pickles.
func binInt(v int) string    { return "J" + string(binary.LittleEndian.AppendUint32(nil, uint32(v))) }
func binStr(s string) string { return "X" + binInt(len(s))[1:] + s }

// pickledTensor is a tensor of a storage with a number of elements, as PyTorch
// pickles it. Shape and strides are the instructions that push them.
func pickledTensor(class, key string, elements, offset int, shape, strides string) string {
	return "ctorch._utils\n_rebuild_tensor_v2\n((" + binStr("storage") + "ctorch\n" + class + "\n" + binStr(key) + binStr("cpu") +
		binInt(elements) + "tQ" + binInt(offset) + shape + strides + "\x89ccollections\nOrderedDict\n)RtR"
}

// vector is a contiguous tensor of n numbers of type float32 in a storage of its own.
func vector(key string, n int) string {
	return pickledTensor("FloatStorage", key, n, 0, binInt(n)+"\x85", "K\x01\x85")
}

// pickledDict is a dictionary of names and tensors.
func pickledDict(namesAndTensors ...string) string {
	s := "\x80\x02}("
	for pair := range slices.Chunk(namesAndTensors, 2) {
		s += binStr(pair[0]) + pair[1]
	}
	return s + "u."
}

// zipEntry is an entry of a zip file.
type zipEntry struct {
	name, data string
	method     uint16
}

// zipFile makes a zip file of entries in the folder "m".
func zipFile(entries ...zipEntry) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		f, err := w.CreateHeader(&zip.FileHeader{Name: "m/" + e.name, Method: e.method})
		if err == nil {
			_, err = f.Write([]byte(e.data))
		}
		if err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// oneVector is a file with the tensor "w", [2].
func oneVector() []byte {
	return zipFile(zipEntry{name: "data.pkl", data: pickledDict("w", vector("0", 2))}, zipEntry{name: "data/0", data: "\x00\x00\x80?\x00\x00\x00@"})
}

func TestTorchByHand(t *testing.T) {
	f, err := openTorch(oneVector())
	require.NoError(t, err)
	v, err := f.Float32s("w")
	require.NoError(t, err)
	assert.Equal(t, []float32{1, 2}, v)
}

// TestTorchCorrupt checks files that torch.save cannot have written.
func TestTorchCorrupt(t *testing.T) {
	entry := func(name, data string) zipEntry { return zipEntry{name: name, data: data} }
	one := func(tensor string, rest ...zipEntry) []byte {
		return zipFile(append([]zipEntry{entry("data.pkl", pickledDict("w", tensor))}, rest...)...)
	}
	eight := entry("data/0", "01234567")
	view := func(offset int, shape, strides string) []byte {
		return one(pickledTensor("FloatStorage", "0", 2, offset, shape, strides), eight)
	}
	overlapping := zipFile(entry("data.pkl", pickledDict("v", vector("1", 2), "w", vector("0", 2))), eight, entry("data/1", "01234567"))
	// The last entry's record in the directory refers to the data of the one before.
	records := bytes.Split(overlapping[bytes.Index(overlapping, []byte("PK\x01\x02")):], []byte("PK\x01\x02"))
	require.Len(t, records, 4)
	copy(records[3][38:42], records[2][38:42])
	long := zipFile(entry("data.pkl", pickledDict("w", vector("0", 2))+strings.Repeat("x", maxPickle)), eight)
	for want, b := range map[string][]byte{
		"is neither a zip file nor a pickle":                     []byte("PSK"),
		"x.bin: zip file: zip: not a valid zip file":             []byte("PK\x03\x04 and so on"),
		"zip file without data.pkl":                              zipFile(eight),
		"data.pkl in more than one folder":                       zipFile(entry("data.pkl", "N."), entry("data.pkl", "N.")),
		"entry data/0 twice":                                     one(vector("0", 2), eight, eight),
		"data.pkl: is compressed":                                zipFile(zipEntry{"data.pkl", pickledDict("w", vector("0", 2)), zip.Deflate}, eight),
		`tensor "w": storage 0: is compressed`:                   one(vector("0", 2), zipEntry{"data/0", "01234567", zip.Deflate}),
		`tensor "w": storage 1: does not exist in the zip file`:  one(vector("1", 2), eight),
		`tensor "w": storage 0: has 8 bytes, expected 3 element`: one(vector("0", 3), eight),
		`storage 0: has 7 bytes`:                                 one(vector("0", 1), entry("data/0", "0123456")),
		`storage 0: has 8 bytes, expected 1073741824 elements`:   one(vector("0", 1<<30), eight),
		`more elements than its storage of 2`:                    view(0, "K\x03\x85", "K\x00\x85"),
		`at 1 is outside its storage of 2 elements`:              view(1, "K\x02\x85", "K\x01\x85"),
		`and strides [-1] at 1 is outside`:                       view(1, "K\x02\x85", binInt(-1)+"\x85"),
		`shape [-2] and strides [1] at 0 is outside`:             view(0, binInt(-2)+"\x85", "K\x01\x85"),
		`at -1 is outside`:                                       view(-1, "K\x01\x85", "K\x01\x85"),
		`strides [2] at 0 is outside`:                            view(0, "K\x02\x85", "K\x02\x85"),
		`strides [9223372036854775807] at 0 is outside`:          view(0, "K\x02\x85", "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85"),
		`tensor of unknown arguments`:                            view(0, "K\x02\x85", "K\x02K\x01\x86"),
		"entries data/0 and data/1 of the zip file overlap":      overlapping,
		"data.pkl: has 33554":                                    long,
		"byteorder: has 17 bytes, above the limit of 16":         one(vector("0", 2), eight, entry("byteorder", strings.Repeat("x", 17))),
		"os.system is not allowed":                               zipFile(entry("data.pkl", "\x80\x02cos\nsystem\n"+binStr("id")+"\x85R.")),
		"builtins.eval is not allowed":                           zipFile(entry("data.pkl", "\x80\x02cbuiltins\neval\n"+binStr("1")+"\x85R.")),
		"pickle ends early":                                      zipFile(entry("data.pkl", pickledDict("w", vector("0", 2))[:120])),
		"holds int, expected a dictionary":                       zipFile(entry("data.pkl", "\x80\x02K\x01.")),
		"state of list is not allowed":                           zipFile(entry("data.pkl", "\x80\x02]}b.")),
		"not the id of a storage":                                zipFile(entry("data.pkl", "\x80\x02K\x01Q.")),
		"OrderedDict with arguments":                             zipFile(entry("data.pkl", "\x80\x02ccollections\nOrderedDict\nN\x85R.")),
		"tensor of list, expected a storage":                     zipFile(entry("data.pkl", "\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(]K\x00))tR.")),
		`storage 0 has two types or sizes`: one(vector("0", 2)+binStr("x")+
			pickledTensor("HalfStorage", "0", 4, 0, "K\x04\x85", "K\x01\x85"), eight),
	} {
		_, err := openTorch(b)
		wantError(t, err, "x.bin", want)
	}
}

// A file cut anywhere is an error at once, or when the tensor is read.
func TestTorchTruncatedAnywhere(t *testing.T) {
	legacy := legacyFile(2, "\x00\x00\x80?\x00\x00\x00@")
	for name, b := range map[string][]byte{"zip": oneVector(), "legacy": legacy} {
		_, err := openTorch(b)
		require.NoError(t, err, name)
		for n := range b {
			_, err := openTorch(b[:n])
			wantError(t, err, "x.bin")
		}
	}
}

// legacyFile is a file of the format before zip with a tensor "w" of n numbers.
func legacyFile(n int, data string) []byte {
	return []byte("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}" + binStr("little_endian") + "\x88s." +
		pickledDict("w", vector("k", n)) + "\x80\x02]" + binStr("k") + "a." + string(binary.LittleEndian.AppendUint64(nil, uint64(n))) + data)
}

func TestTorchLegacyCorrupt(t *testing.T) {
	fine := string(legacyFile(2, "01234567"))
	for want, b := range map[string]string{
		"big-endian":                            strings.Replace(fine, "\x88s.", "\x89s.", 1),
		"not written by torch.save":             "\x80\x02N.",
		"not of torch.save's protocol 1001":     strings.Replace(fine, "M\xe9\x03", "M\xe8\x03", 1),
		"storage z is of no tensor":             strings.Replace(fine, binStr("k")+"a.", binStr("z")+"a.", 1),
		"or exists twice":                       strings.Replace(fine, binStr("k")+"a.", binStr("k")+"a"+binStr("k")+"a.", 1),
		"storage k has 5 elements of 4 bytes":   string(legacyFile(5, "01234567")),
		`tensor "w": storage k: does not exist`: strings.Replace(fine, binStr("k")+"a.", ".", 1),
		"expected 2 elements":                   fine[:len(fine)-16] + "\x01" + fine[len(fine)-15:],
		"keys of storages are int":              strings.Replace(fine, "]"+binStr("k")+"a.", "K\x01.", 1),
		"storage 0's key is int":                strings.Replace(fine, binStr("k")+"a.", "K\x01a.", 1),
		"in a part of another storage":          strings.Replace(fine, binInt(2)+"tQ", binInt(2)+"K\x01tQ", 1),
	} {
		require.NotEqual(t, fine, b)
		_, err := openTorch([]byte(b))
		wantError(t, err, "x.bin", want)
	}
}

// boundedTorch opens a file and reads its tensors in parts, and checks that it
// takes time and memory in proportion to its size.
func boundedTorch(tb testing.TB, b []byte) error {
	tb.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	f, err := openTorch(b)
	if err == nil {
		buffer := make([]byte, 4096)
		for _, t := range f.Tensors()[:min(100, len(f.Tensors()))] {
			require.LessOrEqual(tb, t.Size, int64(len(b)))
			n := min(t.Size, int64(len(buffer)))
			require.NoError(tb, f.ReadAt(t.Name, buffer[:n], t.Size-n))
		}
	} else {
		assert.LessOrEqual(tb, len(err.Error()), 1000)
	}
	elapsed := time.Since(start)
	runtime.ReadMemStats(&after)
	assert.LessOrEqual(tb, after.TotalAlloc-before.TotalAlloc, uint64(8<<20+160*len(b)), "bytes allocated")
	assert.LessOrEqual(tb, elapsed, 10*time.Second)
	return err
}

// Pickles that would take memory or time out of proportion end with an error.
func TestTorchBounded(t *testing.T) {
	const size = 1 << 19
	inZip := func(text string) []byte { return zipFile(zipEntry{name: "data.pkl", data: text}) }
	legacy := string(legacyFile(2, "01234567"))
	huge := strings.Repeat("\x00", 1<<16)
	for name, b := range map[string][]byte{
		"values":  inZip("\x80\x02" + strings.Repeat("]", 2*size)),
		"copies":  inZip("\x80\x02](" + strings.Repeat("N", size) + "tq\x01" + strings.Repeat("(h\x01h\x01h\x01t\x85", size/10)),
		"tensors": inZip("\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x01N" + strings.Repeat("h\x01NNNN(NNNNtR", 10) + strings.Repeat(vector("0", 2)+"q\x00", 2) + "."),
		"legacy":  []byte(strings.Replace(legacy, "\x80\x02}(", "\x80\x02"+strings.Repeat("]", 2*size)+"}(", 1)),
		"zip of many entries that overlap": bytes.Replace(zipFile(zipEntry{name: "data.pkl", data: "N." + huge}), []byte("PK\x05\x06\x00\x00\x00\x00\x01\x00\x01\x00"),
			[]byte("PK\x05\x06\x00\x00\x00\x00\xfe\xff\xfe\xff"), 1),
	} {
		assert.Error(t, boundedTorch(t, b), name)
	}
}

// FuzzTorch opens any bytes, and any bytes as the pickle of a zip file.
func FuzzTorch(f *testing.F) {
	files := torchFiles(f)
	for name, file := range files {
		if len(file.Data) < 10_000 {
			f.Add(file.Data)
		}
		if z, err := zip.NewReader(bytes.NewReader(file.Data), int64(len(file.Data))); err == nil && len(file.Data) < 10_000 {
			for _, e := range z.File {
				if strings.HasSuffix(e.Name, "data.pkl") {
					r, err := e.Open()
					require.NoError(f, err, name)
					b, err := io.ReadAll(r)
					require.NoError(f, err, name)
					f.Add(b)
				}
			}
		}
	}
	f.Add(oneVector())
	f.Add(legacyFile(2, "01234567"))
	f.Add([]byte(pickledDict("w", pickledTensor("FloatStorage", "0", 6, 1, "K\x02K\x02\x86", "K\x01K\x02\x86"))))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = boundedTorch(t, b)
		_ = boundedTorch(t, zipFile(zipEntry{name: "data.pkl", data: string(b)}, zipEntry{name: "data/0", data: "0123456789abcdefghijklmn"},
			zipEntry{name: "data/1", data: "01234567"}))
	})
}
