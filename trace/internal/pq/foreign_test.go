package pq

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/expertspec/expertspec/trace/internal/floats"
)

// foreignRow is written and read by parquet-go itself.
type foreignRow struct {
	Name  string    `parquet:"name,dict"`
	Count int32     `parquet:"count,delta"`
	Big   int64     `parquet:"big,delta"`
	List  []int32   `parquet:"list,list"`
	Real  []float32 `parquet:"real,list"`
	Wide  []float64 `parquet:"wide,list"`
	Split float32   `parquet:"split,split"`
	Flags []bool    `parquet:"flags,list"`
}

func foreignRows(n int) []foreignRow {
	rows := make([]foreignRow, n)
	for i := range rows {
		rows[i] = foreignRow{Name: fmt.Sprint("name-", i/37), Count: int32(i * i % 977), Big: int64(i) - 500, Split: float32(i) / 8}
		for k := range 5 {
			rows[i].List = append(rows[i].List, int32(i*5+k))
			rows[i].Real = append(rows[i].Real, float32(i)+float32(k)/8)
			rows[i].Wide = append(rows[i].Wide, float64(i)-float64(k)/4)
		}
		rows[i].Flags = []bool{i%3 == 0, i%5 < 2, i%7 == 6}
	}
	return rows
}

// TestReadForeign reads files of parquet-go in each page version and codec.
func TestReadForeign(t *testing.T) {
	rows := foreignRows(1234)
	for name, codec := range map[string]compress.Codec{"none": &parquet.Uncompressed, "snappy": &parquet.Snappy,
		"gzip": &parquet.Gzip, "zstd": &parquet.Zstd, "lz4": &parquet.Lz4Raw} {
		for version := 1; version <= 2; version++ {
			t.Run(fmt.Sprint(name, version), func(t *testing.T) {
				var b bytes.Buffer
				require.NoError(t, parquet.Write(&b, rows, parquet.Compression(codec), parquet.DataPageVersion(version),
					parquet.PageBufferSize(700), parquet.MaxRowsPerRowGroup(500)))
				f, err := Open(bytes.NewReader(b.Bytes()), int64(b.Len()))
				require.NoError(t, err)
				got := readRows(t, f)
				assert.Equal(t, rows, got, "rows differ: %+v", got[0])
				skipRows(t, f, rows)
			})
		}
	}
}

func column(t *testing.T, f *File, name string) Column {
	t.Helper()
	i := slices.IndexFunc(f.Columns(), func(c Column) bool { return c.Path[0] == name })
	require.GreaterOrEqual(t, i, 0, "no column %q", name)
	return f.Columns()[i]
}

func cursor(t *testing.T, f *File, group int, name string, width int) *Cursor {
	t.Helper()
	c, err := f.Cursor(group, column(t, f, name), width)
	require.NoError(t, err)
	return c
}

func readRows(t *testing.T, f *File) []foreignRow {
	t.Helper()
	var rows []foreignRow
	check := func(err error) {
		t.Helper()
		require.NoError(t, err)
	}
	for g := range f.NumRowGroups() {
		n := int(f.NumRows(g))
		part := make([]foreignRow, n)
		names := cursor(t, f, g, "name", 1)
		for i := 0; i < n; {
			s, k, err := names.ReadString(n - i)
			check(err)
			for range k {
				part[i].Name = s
				i++
			}
		}
		counts, big, list := make([]int32, n), make([]int32, n), make([]int32, 5*n)
		flags := make([]bool, 3*n)
		reals, wide, split := make([]float32, 5*n), make([]float32, 5*n), make([]float32, n)
		check(cursor(t, f, g, "count", 1).ReadInts(counts))
		check(cursor(t, f, g, "big", 1).ReadInts(big))
		check(cursor(t, f, g, "list", 5).ReadInts(list))
		check(cursor(t, f, g, "real", 5).ReadFloats(reals))
		check(cursor(t, f, g, "wide", 5).ReadFloats(wide))
		check(cursor(t, f, g, "split", 1).ReadFloats(split))
		check(cursor(t, f, g, "flags", 3).ReadBools(flags))
		for i := range part {
			r := &part[i]
			r.Flags = flags[3*i : 3*i+3]
			r.Count, r.Big, r.Split = counts[i], int64(big[i]), split[i]
			r.List, r.Real = list[5*i:5*i+5], reals[5*i:5*i+5]
			for _, v := range wide[5*i : 5*i+5] {
				r.Wide = append(r.Wide, float64(v))
			}
		}
		rows = append(rows, part...)
	}
	return rows
}

// skipRows reads one row here and there.
func skipRows(t *testing.T, f *File, rows []foreignRow) {
	t.Helper()
	list, count, flags := cursor(t, f, 1, "list", 5), cursor(t, f, 1, "count", 1), cursor(t, f, 1, "flags", 3)
	for _, step := range []int{3, 200, 1, 290} {
		at := step - 1
		require.NoError(t, list.Skip(int64(at)*5))
		require.NoError(t, count.Skip(int64(at)))
		require.NoError(t, flags.Skip(int64(at)*3))
		var bools [3]bool
		var got [5]int32
		var one [1]int32
		require.NoError(t, list.ReadInts(got[:]))
		require.NoError(t, count.ReadInts(one[:]))
		require.NoError(t, flags.ReadBools(bools[:]))
		rows = rows[at:]
		want := rows[500]
		require.Equal(t, want.List, got[:])
		require.Equal(t, want.Count, one[0])
		require.Equal(t, want.Flags, bools[:])
		rows = rows[1:]
	}
	assert.Error(t, list.Done(), "values are left")
}

// TestReadRefuses expects errors for data that are not lists of equal lengths.
func TestReadRefuses(t *testing.T) {
	type ragged struct {
		List []int32 `parquet:"list,list"`
		Null *int32  `parquet:"null,optional"`
	}
	one := int32(1)
	for name, rows := range map[string][]ragged{
		"ragged": {{[]int32{1, 2}, &one}, {[]int32{3}, &one}, {[]int32{4, 5, 6}, &one}},
		"empty":  {{[]int32{1, 2}, &one}, {nil, &one}, {[]int32{3, 4}, &one}},
		"null":   {{[]int32{1, 2}, &one}, {[]int32{1, 2}, nil}, {[]int32{1, 2}, &one}},
	} {
		var b bytes.Buffer
		require.NoError(t, parquet.Write(&b, rows))
		f, err := Open(bytes.NewReader(b.Bytes()), int64(b.Len()))
		require.NoError(t, err)
		err = func() error {
			for name, width := range map[string]int{"list": 2, "null": 1} {
				c, err := f.Cursor(0, column(t, f, name), width)
				if err != nil {
					return err
				}
				if err := c.ReadInts(make([]int32, 3*width)); err != nil {
					return err
				}
			}
			return nil
		}()
		assert.Error(t, err, "%s is read", name)
	}
}

// TestWriteForeign has parquet-go read what Writer wrote.
func TestWriteForeign(t *testing.T) {
	type row struct {
		Name  string    `parquet:"name"`
		Count int32     `parquet:"count"`
		Token int32     `parquet:"token"`
		List  []int16   `parquet:"list,list"`
		Real  []float32 `parquet:"real,list"`
		Half  [][2]byte `parquet:"half,list"`
		Flags []bool    `parquet:"flags,list"`
	}
	var b bytes.Buffer
	w, err := NewWriter(&b, []Spec{{Name: "name"}, {Name: "count", Kind: Counter}, {Name: "token", Kind: Int32},
		{Name: "list", Kind: Index16, Width: 3, Values: 9}, {Name: "real", Kind: Float32, Width: 2}, {Name: "half", Kind: Float16, Width: 11},
		{Name: "flags", Kind: Bool, Width: 3},
	}, []KeyValue{{"key", "value"}}, "test")
	require.NoError(t, err)
	var want []row
	for i := range 20000 {
		r := row{fmt.Sprint(i / 777), int32(i % 513), int32(-i), []int16{int16(i % 9), int16(i % 5), -1}, []float32{float32(i), 2}, nil, []bool{i%3 == 0, i%5 < 2, i%7 == 6}}
		half := make([]float32, 11)
		for j := range half {
			half[j] = float32(i%100) + float32(j)/16
			r.Half = append(r.Half, [2]byte(binary.LittleEndian.AppendUint16(nil, floats.ToHalf(half[j]))))
		}
		if i < 9000 {
			r.List[2] = 7
		}
		want = append(want, r)
		w.Column(0).AppendString(r.Name, 1)
		w.Column(1).AppendInts([]int32{r.Count})
		w.Column(2).AppendInts([]int32{r.Token})
		w.Column(3).AppendInts([]int32{int32(r.List[0]), int32(r.List[1]), int32(r.List[2])})
		require.NoError(t, errors.Join(w.Column(4).AppendFloats(r.Real), w.Column(5).AppendFloats(half)))
		w.Column(6).AppendBools(r.Flags)
		if i%9001 == 9000 {
			require.NoError(t, w.FlushGroup())
		}
	}
	require.NoError(t, w.Close())
	f, err := parquet.OpenFile(bytes.NewReader(b.Bytes()), int64(b.Len()))
	require.NoError(t, err)
	v, _ := f.Lookup("key")
	assert.Equal(t, "value", v)
	assert.Len(t, f.RowGroups(), 3)
	s := f.Schema().String()
	assert.Contains(t, s, "required group list (LIST)")
	assert.Contains(t, s, "required int32 element (INT(16,true))")
	r := parquet.NewGenericReader[row](f)
	defer r.Close()
	got := make([]row, len(want))
	n, err := r.Read(got)
	require.Equal(t, len(want), n)
	require.False(t, err != nil && err != io.EOF)
	assert.Equal(t, want, got)
}
