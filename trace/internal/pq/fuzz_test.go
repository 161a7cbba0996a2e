package pq

import (
	"bytes"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/require"
)

// FuzzFile reads all columns of any bytes. Nothing may panic, hang or make
// more values than the bytes account for.
func FuzzFile(f *testing.F) {
	for version := 1; version <= 2; version++ {
		var b bytes.Buffer
		require.NoError(f, parquet.Write(&b, foreignRows(60), parquet.DataPageVersion(version), parquet.Compression(&parquet.Snappy)))
		f.Add(b.Bytes())
	}
	for _, specs := range [][]Spec{
		{{Name: "name"}, {Name: "count", Kind: Counter}},
		{{Name: "list", Kind: Index16, Width: 3, Values: 9}, {Name: "half", Kind: Float16, Width: 2}},
		{{Name: "name"}, {Name: "flags", Kind: Bool, Width: 3}},
	} {
		var b bytes.Buffer
		w, err := NewWriter(&b, specs, []KeyValue{{"key", "value"}}, "test")
		require.NoError(f, err)
		for i := range 50 {
			for j, s := range specs {
				switch s.Kind {
				case String:
					w.Column(j).AppendString("s", 1)
				case Float16:
					err = w.Column(j).AppendFloats(make([]float32, s.Width))
				case Bool:
					w.Column(j).AppendBools([]bool{i%3 == 0, true, false})
				default:
					w.Column(j).AppendInts([]int32{int32(i % 9), 2, -1}[:max(1, s.Width)])
				}
				require.NoError(f, err)
			}
		}
		require.NoError(f, w.Close())
		f.Add(b.Bytes())
	}
	ignoreChecksums = true
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for g := range min(file.NumRowGroups(), 4) {
			for _, c := range file.Columns() {
				fuzzColumn(file, g, c)
			}
		}
	})
}

func fuzzColumn(file *File, g int, c Column) {
	file.Bounds(g, c)
	rows := file.NumRows(g)
	width := 1
	if m := &file.meta.RowGroups[g].Columns[c.index].MetaData; c.MaxRep > 0 && rows > 0 && m.NumValues < 1<<20 {
		width = int(max(1, m.NumValues/rows))
	}
	ints, floats, bools := make([]int32, 100), make([]float32, 100), make([]bool, 100)
	for _, skip := range []int64{0, 30} {
		cursor, err := file.Cursor(g, c, width)
		if err != nil {
			return
		}
		if cursor.Skip(skip) != nil {
			continue
		}
		for range 50 { // a tiny file may rightly hold millions of equal values
			_, _, a := cursor.ReadString(100)
			b, d := cursor.ReadInts(ints), cursor.ReadFloats(floats)
			if a != nil && b != nil && d != nil && cursor.ReadBools(bools) != nil {
				break
			}
		}
		_ = cursor.Done()
	}
}
