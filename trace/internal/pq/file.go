package pq

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

const (
	magic     = "PAR1"
	maxFooter = 32 << 20
	maxSchema = 4096 // elements
)

// File is an open Parquet file. Only its footer is in memory.
type File struct {
	r       io.ReaderAt
	size    int64
	meta    format.FileMetaData
	columns []Column
}

// Column is a leaf of the schema.
type Column struct {
	Path   []string
	Type   format.Type
	Length int // of FixedLenByteArray, bytes
	// Float16 is set where a fixed-length column of two bytes holds half floats.
	Float16 bool
	MaxRep  int // 0: one value a row; 1: a list
	MaxDef  int // definition level of a value that is not null
	index   int
}

// BoolList reports whether the column holds lists of booleans.
func (c Column) BoolList() bool { return c.MaxRep == 1 && c.Type == format.Boolean }

// Open reads the footer of a file of the given size.
func Open(r io.ReaderAt, size int64) (*File, error) {
	const tail = 8
	if size < int64(len(magic)+tail) {
		return nil, fmt.Errorf("%w: %d bytes are too few for a Parquet file", ErrCorrupt, size)
	}
	var end [tail]byte
	if _, err := r.ReadAt(end[:], size-tail); err != nil {
		return nil, fmt.Errorf("reading the footer: %w", err)
	}
	switch string(end[4:]) {
	case magic:
	case "PARE":
		return nil, fmt.Errorf("%w: file is encrypted", ErrUnsupported)
	default:
		return nil, fmt.Errorf("%w: no %s at the end: truncated, or not a Parquet file", ErrCorrupt, magic)
	}
	length := int64(binary.LittleEndian.Uint32(end[:4]))
	if length > size-int64(len(magic)+tail) || length > maxFooter {
		return nil, fmt.Errorf("%w: footer of %d bytes in a file of %d", ErrCorrupt, length, size)
	}
	footer := make([]byte, length)
	if _, err := r.ReadAt(footer, size-tail-length); err != nil {
		return nil, fmt.Errorf("reading the footer: %w", err)
	}
	n, err := checkThrift(footer)
	if err != nil {
		return nil, fmt.Errorf("footer: %w", err)
	}
	f := &File{r: r, size: size}
	var protocol thrift.CompactProtocol
	if err := thrift.Unmarshal(&protocol, footer[:n], &f.meta); err != nil {
		return nil, fmt.Errorf("%w: footer: %w", ErrCorrupt, err)
	}
	if err := f.leaves(); err != nil {
		return nil, err
	}
	return f, f.checkGroups()
}

// leaves lists the columns of the schema, which is stored depth first.
func (f *File) leaves() error {
	schema := f.meta.Schema
	if len(schema) == 0 || len(schema) > maxSchema {
		return fmt.Errorf("%w: schema of %d elements", ErrCorrupt, len(schema))
	}
	at := 1
	var walk func(children int32, path []string, rep, def int) error
	walk = func(children int32, path []string, rep, def int) error {
		if len(path) > 16 {
			return fmt.Errorf("%w: schema is nested too deeply", ErrUnsupported)
		}
		for range children {
			if at >= len(schema) {
				return fmt.Errorf("%w: schema ends early", ErrCorrupt)
			}
			e := schema[at]
			at++
			path, rep, def := append(slices.Clip(path), e.Name), rep, def
			switch e.RepetitionType.V {
			case format.Required:
			case format.Optional:
				def++
			case format.Repeated:
				rep, def = rep+1, def+1
			default:
				return fmt.Errorf("%w: repetition of column %q", ErrCorrupt, e.Name)
			}
			if e.NumChildren.Valid && e.NumChildren.V > 0 {
				if err := walk(e.NumChildren.V, path, rep, def); err != nil {
					return err
				}
				continue
			}
			_, half := e.LogicalType.Value.(*format.Float16Type)
			f.columns = append(f.columns, Column{Path: path, Type: e.Type.V, Length: int(e.TypeLength.V),
				Float16: half, MaxRep: rep, MaxDef: def, index: len(f.columns)})
		}
		return nil
	}
	if err := walk(schema[0].NumChildren.V, nil, 0, 0); err != nil {
		return err
	}
	if at != len(schema) {
		return fmt.Errorf("%w: schema has %d extra elements", ErrCorrupt, len(schema)-at)
	}
	return nil
}

// checkGroups checks that every column chunk is one of the schema's and lies
// inside the file.
func (f *File) checkGroups() error {
	var rows int64
	for i := range f.meta.RowGroups {
		g := &f.meta.RowGroups[i]
		if len(g.Columns) != len(f.columns) {
			return fmt.Errorf("%w: row group %d has %d columns, the schema %d", ErrCorrupt, i, len(g.Columns), len(f.columns))
		}
		if g.NumRows < 0 || g.NumRows > math.MaxInt64-rows {
			return fmt.Errorf("%w: row group %d has %d rows", ErrCorrupt, i, g.NumRows)
		}
		rows += g.NumRows
		for j := range g.Columns {
			c := &g.Columns[j]
			if c.FilePath != "" {
				return fmt.Errorf("%w: column %q lies in another file", ErrUnsupported, f.columns[j].Path)
			}
			// A name that the footer states twice is that of the chunk and the schema.
			if path := c.MetaData.PathInSchema; len(path) > 0 && !slices.Equal(path, f.columns[j].Path) {
				return fmt.Errorf("%w: row group %d: chunk of column %q, the schema says %q", ErrCorrupt, i, path, f.columns[j].Path)
			}
			start, length := chunkRange(&c.MetaData)
			if start < 0 || length < 0 || start > f.size || length > f.size-start {
				return fmt.Errorf("%w: row group %d, column %q: bytes %d+%d of a file of %d",
					ErrCorrupt, i, f.columns[j].Path, start, length, f.size)
			}
			if c.MetaData.NumValues < 0 || f.columns[j].MaxRep == 0 && c.MetaData.NumValues != g.NumRows {
				return fmt.Errorf("%w: row group %d, column %q: %d values in %d rows",
					ErrCorrupt, i, f.columns[j].Path, c.MetaData.NumValues, g.NumRows)
			}
		}
	}
	if rows != f.meta.NumRows {
		return fmt.Errorf("%w: %d rows in the row groups, %d in the footer", ErrCorrupt, rows, f.meta.NumRows)
	}
	return nil
}

// chunkRange returns where the pages of a column chunk lie.
func chunkRange(m *format.ColumnMetaData) (start, length int64) {
	start = m.DataPageOffset
	if d := m.DictionaryPageOffset; d > 0 && d < start {
		start = d
	}
	return start, m.TotalCompressedSize
}

// Columns returns the leaves of the schema.
func (f *File) Columns() []Column { return f.columns }

// Size returns the length of the file in bytes.
func (f *File) Size() int64 { return f.size }

// NumRowGroups returns the number of row groups.
func (f *File) NumRowGroups() int { return len(f.meta.RowGroups) }

// NumRows returns the number of rows of a row group, as the footer states it.
func (f *File) NumRows(group int) int64 { return f.meta.RowGroups[group].NumRows }

// Lookup returns the value of a key of the key-value metadata.
func (f *File) Lookup(key string) (string, bool) {
	for _, kv := range f.meta.KeyValueMetadata {
		if kv.Key == key {
			return kv.Value, true
		}
	}
	return "", false
}

// Bounds returns the smallest and largest value of a string column in a row
// group, from its statistics; ok is false if there are none. Writers may shorten
// bounds: lo may be smaller and hi larger than any value.
func (f *File) Bounds(group int, c Column) (lo, hi string, ok bool) {
	s := &f.meta.RowGroups[group].Columns[c.index].MetaData.Statistics
	if s.MinValue == nil || s.MaxValue == nil {
		return "", "", false
	}
	return string(s.MinValue), string(s.MaxValue), true
}
