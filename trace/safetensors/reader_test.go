package safetensors

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// file makes the bytes of a file with the given header and data.
func file(header string, data []byte) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), data...)
}

func open(b []byte) (*Reader, error) {
	return newReader(bytes.NewReader(b), int64(len(b)), "x.safetensors")
}

// A file that Python's safetensors wrote has all types, a scalar and an empty
// tensor.
func TestPythonFile(t *testing.T) {
	f, err := Open(os.DirFS("testdata"), "python.safetensors")
	require.NoError(t, err)
	defer f.Close()
	got, want := f.Metadata(), map[string]string{"made by": `safetensors.torch, <schön> "quoted" \ &`}
	assert.Equal(t, want, got)
	// t.<type> holds -3, -2, ... in shape [2,3,i+1].
	types := []DType{Bool, U8, I8, U16, I16, U32, I32, U64, I64, F16, BF16, F32, F64, c64, f8E4M3, f8E5M2}
	for i, dtype := range types {
		info, ok := f.Info("t." + strings.ToLower(string(dtype)))
		require.True(t, ok, "%s: %+v, %v", dtype, info, ok)
		assert.Equal(t, dtype, info.DType)
		assert.Equal(t, []int{2, 3, i + 1}, info.Shape)
		assert.Equal(t, 6*(i+1), info.Len())
	}
	for _, name := range []string{"t.f16", "t.bf16", "t.f32", "t.f64"} {
		v, err := f.Float32s(name)
		require.NoError(t, err)
		for i, x := range v {
			assert.Equal(t, float32(i-3), x, "%s: element %d is %v", name, i, x)
		}
	}
	i32, err := f.Int32s("t.i32")
	require.NoError(t, err)
	require.Len(t, i32, 42)
	assert.Equal(t, int32(-3), i32[0])
	assert.Equal(t, int32(38), i32[41])
	i64, err := f.Int64s("t.i64")
	require.NoError(t, err)
	require.Len(t, i64, 54)
	assert.Equal(t, int64(-3), i64[0])
	assert.Equal(t, int64(50), i64[53])
	v, err := f.Float32s("scalar")
	require.NoError(t, err)
	assert.Equal(t, []float32{2.5}, v)
	v, err = f.Float32s("empty")
	require.NoError(t, err)
	require.NotNil(t, v)
	assert.Empty(t, v)
	assert.Equal(t, 21, len(f.Names()))
	assert.True(t, slices.IsSorted(f.Names()))
}

// What Python wrote comes out of Write byte for byte, whatever the order of the
// tensors.
func TestWriteAsPython(t *testing.T) {
	want, err := os.ReadFile("testdata/python.safetensors")
	require.NoError(t, err)
	got := rewrite(t, want)
	if !bytes.Equal(got, want) {
		n := 0
		for n < min(len(got), len(want)) && got[n] == want[n] {
			n++
		}
		t.Errorf("%d bytes differ from Python's %d at byte %d", len(got), len(want), n)
	}
}

// rewrite reads a file and writes it again, tensors in alphabetical order.
func rewrite(t testing.TB, b []byte) []byte {
	t.Helper()
	f, err := open(b)
	require.NoError(t, err)
	var tensors []Tensor
	for _, name := range f.Names() {
		info, _ := f.Info(name)
		data := make([]byte, info.Size)
		require.NoError(t, f.Read(name, data))
		tensors = append(tensors, Bytes(name, info.DType, info.Shape, data))
	}
	var out bytes.Buffer
	require.NoError(t, Write(&out, tensors, f.Metadata()))
	return out.Bytes()
}

// corrupt lists files that must be refused, and what the error must name.
var corrupt = []struct {
	name, header string
	data         int // bytes
	want         string
}{
	{"not an object", `[]`, 0, "not a JSON object"},
	{"empty header", ``, 0, "not a JSON object"},
	{"leading space", ` {}`, 0, "not a JSON object"},
	{"trailing newline", "{}\n", 0, "not a JSON object"},
	{"two objects", "{}{}", 0, "bad JSON"},
	{"bad JSON", `{"a":}`, 0, "bad JSON"},
	{"invalid UTF-8", "{\"\xff\":{}}", 0, "not valid UTF-8"},
	{"deep", `{"a":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + `}`, 0, "bad JSON"},
	{"duplicate", `{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2, `duplicate key "a"`},
	{"duplicate by escape", `{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2, `duplicate key "a"`},
	{"duplicate metadata", `{"__metadata__":{},"__metadata__":{}}`, 0, `duplicate key "__metadata__"`},
	{"duplicate field", `{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}`, 1, `tensor "a": duplicate key "dtype"`},
	{"metadata not strings", `{"__metadata__":{"a":1}}`, 0, `__metadata__: value of "a" is not a string`},
	{"metadata not an object", `{"__metadata__":7}`, 0, `__metadata__: not a JSON object`},
	{"tensor not an object", `{"a":3}`, 0, `tensor "a": not a JSON object`},
	{"tensor null", `{"a":null}`, 0, `tensor "a": not a JSON object`},
	{"unknown dtype", `{"a":{"dtype":"F12","shape":[1],"data_offsets":[0,1]}}`, 1, `tensor "a": unknown dtype "F12"`},
	{"null dtype", `{"a":{"dtype":null,"shape":[1],"data_offsets":[0,1]}}`, 1, `tensor "a": unknown dtype null`},
	{"no dtype", `{"a":{"shape":[1],"data_offsets":[0,1]}}`, 1, `tensor "a": dtype is missing`},
	{"no shape", `{"a":{"dtype":"U8","data_offsets":[0,1]}}`, 1, `tensor "a": shape is missing`},
	{"null shape", `{"a":{"dtype":"U8","shape":null,"data_offsets":[0,1]}}`, 1, `tensor "a": shape: null is not an array`},
	{"no offsets", `{"a":{"dtype":"U8","shape":[1]}}`, 1, `tensor "a": data_offsets is not a pair`},
	{"one offset", `{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}`, 1, `tensor "a": data_offsets is not a pair`},
	{"unknown field", `{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"stride":[1]}}`, 1, `tensor "a": stride: unknown field`},
	{"field by case", `{"a":{"DType":"U8","shape":[1],"data_offsets":[0,1]}}`, 1, `tensor "a": DType: unknown field`},
	{"negative axis", `{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}`, 1, `tensor "a": shape: -1 is not an integer`},
	{"fractional axis", `{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}`, 1, `tensor "a": shape: 1.0 is not an integer`},
	{"axis too large", `{"a":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,1]}}`, 1, `tensor "a": shape: 9223372036854775808 is not an integer`},
	{"overflow", `{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`, 0, `tensor "a": shape [4294967296 4294967296] overflows`},
	{"overflow before zero", `{"a":{"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}}`, 0, `tensor "a": shape`},
	{"overflow by type", `{"a":{"dtype":"F32","shape":[2305843009213693952],"data_offsets":[0,0]}}`, 0, `tensor "a": shape [2305843009213693952] overflows`},
	{"offsets backwards", `{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}`, 1, `tensor "a": data_offsets [1,0] go backwards`},
	{"wrong size", `{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,23]}}`, 23, `tensor "a": data_offsets [0,23] hold 23 bytes, but shape [2 3] of F32 needs 24`},
	{"overlap", `{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}}`, 7, `tensor "b": data_offsets [3,7] overlap those of tensor "a", which end at 4`},
	{"same place", `{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 4, `tensor "b": data_offsets [0,4] overlap`},
	{"empty inside", `{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}}`, 4, `tensor "b": data_offsets [2,2] overlap`},
	{"hole", `{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[1],"data_offsets":[6,7]}}`, 7, `tensor "b": data_offsets [6,7] leave a hole of 2 bytes`},
	{"hole first", `{"a":{"dtype":"U8","shape":[4],"data_offsets":[1,5]}}`, 5, `tensor "a": data_offsets [1,5] leave a hole`},
	{"truncated", `{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[9],"data_offsets":[4,13]}}`, 12, `tensor "b": truncated: data_offsets [4,13], but the file has 12`},
	{"bytes behind", `{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 6, `2 bytes after the last tensor's data`},
	{"bytes without tensors", `{}`, 1, `1 bytes after the last tensor's data`},
}

func TestCorrupt(t *testing.T) {
	for _, c := range corrupt {
		t.Run(c.name, func(t *testing.T) {
			_, err := open(file(c.header, make([]byte, c.data)))
			wantError(t, err, "x.safetensors: ", c.want)
			var e *Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, "x.safetensors", e.File)
		})
	}
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	require.Error(t, err, "no error, expected %q", parts)
	for _, part := range parts {
		assert.Contains(t, err.Error(), part)
	}
}

// Every prefix of a good file is refused.
func TestTruncatedAnywhere(t *testing.T) {
	b, err := os.ReadFile("testdata/python.safetensors")
	require.NoError(t, err)
	for n := 0; n < len(b); n += 1 + n/100 {
		_, err := open(b[:n])
		require.Error(t, err, "the first %d of %d bytes are accepted", n, len(b))
	}
}

// lyingFile claims a size that it does not have.
type lyingFile struct{ *bytes.Reader }

func TestLyingLength(t *testing.T) {
	huge := binary.LittleEndian.AppendUint64(nil, 1<<62)
	_, err := open(append(huge, "{}"...))
	wantError(t, err, "header length 4611686018427387904 goes beyond the file of 10 bytes")

	_, err = newReader(lyingFile{bytes.NewReader(append(huge, "{}"...))}, math.MaxInt64, "liar")
	wantError(t, err, "liar: header length", "above the limit of 100000000")

	// A header within the limit, in a file that claims to be long enough: no memory
	// may be taken on its word.
	long := binary.LittleEndian.AppendUint64(nil, maxHeaderLen)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = newReader(lyingFile{bytes.NewReader(append(long, "{}"...))}, 1<<40, "liar")
	runtime.ReadMemStats(&after)
	wantError(t, err, "liar: truncated: 2 of the header's 100000000 bytes")
	assert.LessOrEqual(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))

	// The data that the size promises are not there when they are read.
	b := file(`{"a":{"dtype":"U8","shape":[1000],"data_offsets":[0,1000]}}`, make([]byte, 10))
	f, err := newReader(bytes.NewReader(b), int64(len(b)+990), "liar")
	require.NoError(t, err)
	err = f.Read("a", make([]byte, 1000))
	wantError(t, err, `liar: tensor "a": reading 1000 bytes`)
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

func TestReadErrors(t *testing.T) {
	f, err := open(file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, make([]byte, 8)))
	require.NoError(t, err)
	wantError(t, f.Read("b", nil), `x.safetensors: tensor "b": no such tensor`)
	wantError(t, f.Read("a", make([]byte, 7)), `tensor "a": destination of 7 bytes for 8`)
	wantError(t, f.ReadAt("a", make([]byte, 7), 2), `tensor "a": 7 bytes at offset 2 exceed its 8`)
	wantError(t, f.ReadAt("a", nil, -1), `tensor "a"`)
	wantError(t, f.ReadAt("a", make([]byte, 1), math.MaxInt64), `tensor "a"`)
	_, err = f.Int32s("a")
	wantError(t, err, `tensor "a": is F32, expected I32`)
	_, err = f.Float32s("c")
	wantError(t, err, `tensor "c": no such tensor`)
}

// streamFS hides all but Read, and Seek where seek is set.
type streamFS struct {
	fs.FS
	seek bool
}

type readOnly struct{ fs.File }

type readSeek struct {
	readOnly
	io.Seeker
}

func (s streamFS) Open(name string) (fs.File, error) {
	f, err := s.FS.Open(name)
	if err != nil {
		return nil, err
	}
	if s.seek {
		return readSeek{readOnly{f}, f.(io.Seeker)}, nil
	}
	return readOnly{f}, nil
}

// Whatever a file system offers, the same bytes come out, in any order and from
// several goroutines.
func TestOpenFileSystems(t *testing.T) {
	const name = "python.safetensors"
	dir := os.DirFS("testdata")
	b, err := fs.ReadFile(dir, name)
	require.NoError(t, err)
	var zipped bytes.Buffer
	z := zip.NewWriter(&zipped)
	w, err := z.Create(name)
	require.NoError(t, err)
	_, err = w.Write(b)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	archive, err := zip.NewReader(bytes.NewReader(zipped.Bytes()), int64(zipped.Len()))
	require.NoError(t, err)
	want, err := open(b)
	require.NoError(t, err)
	for label, fsys := range map[string]fs.FS{
		"directory": dir, "memory": fstest.MapFS{name: {Data: b}}, "zip": archive,
		"stream": streamFS{dir, false}, "seek": streamFS{dir, true},
	} {
		t.Run(label, func(t *testing.T) {
			f, err := Open(fsys, name)
			require.NoError(t, err)
			var wg sync.WaitGroup
			for g := range 3 {
				wg.Go(func() {
					names := f.Names()
					for i := range names {
						name := names[(i*5+g)%len(names)]
						info, _ := want.Info(name)
						got, good := make([]byte, info.Size), make([]byte, info.Size)
						assert.NoError(t, errors.Join(f.Read(name, got), want.Read(name, good)))
						assert.Equal(t, good, got, "%s differs", name)
					}
				})
			}
			wg.Wait()
			assert.NoError(t, f.Close())
		})
	}
}

func TestOpenErrors(t *testing.T) {
	fsys := fstest.MapFS{"dir/a.safetensors": {Data: []byte("short")}}
	_, err := Open(fsys, "b.safetensors")
	wantError(t, err, "b.safetensors: ")
	assert.ErrorIs(t, err, fs.ErrNotExist)
	_, err = Open(fsys, "dir/a.safetensors")
	wantError(t, err, "dir/a.safetensors: truncated: 5 bytes")
	_, err = Open(fsys, "dir")
	wantError(t, err, "dir: is a directory")
}

func FuzzReader(f *testing.F) {
	for _, c := range corrupt {
		if len(c.header) < 1000 {
			f.Add(file(c.header, make([]byte, c.data)))
		}
	}
	f.Add(file(`{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}   `, make([]byte, 8)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := open(b)
		if err != nil {
			var e *Error
			require.ErrorAs(t, err, &e)
			require.NotEmpty(t, e.File)
			return
		}
		covered := r.DataOffset()
		for _, info := range r.Tensors() {
			require.Equal(t, covered, info.Offset)
			require.Equal(t, int64(info.Len()*info.DType.Size()), info.Size)
			covered += info.Size
		}
		require.Equal(t, int64(len(b)), covered)
		for _, name := range r.Names() {
			if name == "" {
				return // may be read, but is not written
			}
		}
		again := rewrite(t, b)
		require.Equal(t, again, rewrite(t, again))
	})
}

func ExampleReader() {
	header := `{"router":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}`
	data := []byte{0x80, 0x3f, 0x00, 0x40, 0x40, 0x40, 0x80, 0xc0}
	b := file(header, data)
	f, err := newReader(bytes.NewReader(b), int64(len(b)), "example.safetensors")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, t := range f.Tensors() {
		v, err := f.Float32s(t.Name)
		fmt.Println(t.Name, t.DType, t.Shape, v, err)
	}
	// Output:
	// router BF16 [2 2] [1 2 3 -4] <nil>
}
