package safetensors

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func some() []Tensor {
	return []Tensor{
		Int32s("c.ids", []int{3}, []int32{7, -8, 9}),
		Float32s("b", []int{2, 2}, []float32{1, 2, 3, 4}),
		Bytes("odd", U8, []int{5}, []byte("bytes")),
		Int64s("a", nil, []int64{-1 << 40}),
		Float32s("none", []int{0, 3}, nil),
	}
}

func TestWriteRoundTrip(t *testing.T) {
	var first bytes.Buffer
	meta := map[string]string{"z": "1", "a": "2", "": ""}
	require.NoError(t, Write(&first, some(), meta))
	f, err := open(first.Bytes())
	require.NoError(t, err)
	assert.Equal(t, int64(0), f.DataOffset()%8)
	for _, info := range f.Tensors() {
		assert.Equal(t, int64(0), info.Offset%int64(info.DType.Size()), "%s of %s is at %d", info.Name, info.DType, info.Offset)
	}
	v, err := f.Float32s("b")
	require.NoError(t, err)
	assert.Equal(t, []float32{1, 2, 3, 4}, v)
	ids, err := f.Int32s("c.ids")
	require.NoError(t, err)
	assert.Equal(t, []int32{7, -8, 9}, ids)
	long, err := f.Int64s("a")
	require.NoError(t, err)
	assert.Equal(t, []int64{-1 << 40}, long)
	m := f.Metadata()
	require.Len(t, m, 3)
	assert.Equal(t, "1", m["z"])
	tensors := some()
	slices.Reverse(tensors)
	var second bytes.Buffer
	require.NoError(t, Write(&second, tensors, meta))
	assert.Equal(t, second.Bytes(), first.Bytes())
}

// Data longer than the writer's buffer come through whole.
func TestWriteLong(t *testing.T) {
	data := make([]float32, 3*typedChunk/4+17)
	for i := range data {
		data[i] = float32(i)
	}
	var b bytes.Buffer
	require.NoError(t, Write(&b, []Tensor{Float32s("long", []int{len(data)}, data)}, nil))
	f, err := open(b.Bytes())
	require.NoError(t, err)
	got, err := f.Float32s("long")
	require.NoError(t, err)
	assert.Equal(t, data, got)
}

func TestWriteErrors(t *testing.T) {
	nothing := func(io.Writer) error { return nil }
	failing := errors.New("no more data")
	for _, c := range []struct {
		want    string
		tensors []Tensor
	}{
		{`tensor "a": duplicate name`, []Tensor{Bytes("a", U8, nil, []byte{1}), Bytes("a", I8, nil, []byte{1})}},
		{`tensor "__metadata__": invalid name`, []Tensor{Bytes("__metadata__", U8, nil, []byte{1})}},
		{`invalid name`, []Tensor{Bytes("\xff", U8, nil, []byte{1})}},
		{`tensor "a": unknown dtype "F4"`, []Tensor{Bytes("a", "F4", nil, nil)}},
		{`tensor "a": shape [-1] has a negative axis`, []Tensor{Bytes("a", U8, []int{-1}, nil)}},
		{`tensor "a": shape [4611686018427387904 2] overflows`, []Tensor{Bytes("a", U8, []int{1 << 62, 2}, nil)}},
		{`tensor "a": the file's size overflows`, []Tensor{Bytes("a", U8, []int{1 << 62}, nil), Bytes("b", U8, []int{1 << 62}, nil), Bytes("c", U8, []int{1 << 62}, nil)}},
		{`tensor "a": no data`, []Tensor{{Name: "a", DType: U8}}},
		{`tensor "a": data is 3 bytes short of 4`, []Tensor{Bytes("a", U8, []int{4}, []byte{1})}},
		{`tensor "a": data is 4 bytes short of 4`, []Tensor{{Name: "a", DType: F32, Data: nothing}}},
		{`tensor "a": data is at least 1 bytes too long`, []Tensor{Bytes("a", U8, []int{4}, make([]byte, 5))}},
		{`tensor "a": no more data`, []Tensor{{Name: "a", DType: F32, Data: func(io.Writer) error { return failing }}}},
	} {
		err := Write(io.Discard, c.tensors, nil)
		if c.want == `tensor "a": the file's size overflows` {
			wantError(t, err, "the file's size overflows")
			continue
		}
		wantError(t, err, c.want)
	}
	err := Write(io.Discard, nil, map[string]string{"a": "\xff"})
	wantError(t, err, "__metadata__", "not valid UTF-8")
}

// A file appears whole or not at all, and no temporary file remains.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out.safetensors")
	require.NoError(t, WriteFile(path, some(), nil))
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	bad := append(some(), Bytes("bad", U8, []int{4}, []byte{1}))
	err = WriteFile(path, bad, nil)
	wantError(t, err, path+`: tensor "bad": data`)
	now, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, good, now, "the old file changed")
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, entries, 1)
	missing := filepath.Join(dir, "no", "such", "folder")
	err = WriteFile(missing, some(), nil)
	wantError(t, err, missing+": ")
}

func ExampleWriteFile() {
	dir, err := os.MkdirTemp("", "safetensors")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "routing.safetensors")
	err = WriteFile(path, []Tensor{
		Int32s("doc1.experts", []int{1, 2, 2}, []int32{5, 1, 0, 7}), // [T,L,K]
		Float32s("doc1.weights", []int{1, 2, 2}, []float32{.75, .25, .5, .5}),
	}, map[string]string{"model": "mini"})
	if err != nil {
		fmt.Println(err)
		return
	}
	f, err := Open(os.DirFS(dir), "routing.safetensors")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	experts, err := f.Int32s("doc1.experts")
	fmt.Println(f.Names(), experts, f.Metadata()["model"], err)
	// Output:
	// [doc1.experts doc1.weights] [5 1 0 7] mini <nil>
}
