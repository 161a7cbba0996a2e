package pq

import (
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

// Writer writes a Parquet file of the given columns. Values are appended column
// by column; FlushGroup ends a row group once all columns have the same rows.
// At most one row group of pages is in memory. Pages are encoded by GOMAXPROCS
// goroutines; the file's bytes do not depend on their number.
type Writer struct {
	w       io.Writer
	offset  int64
	columns []*ColumnWriter
	meta    format.FileMetaData
	slots   chan struct{}  // one for each page that is being encoded; nil: no goroutines
	working sync.WaitGroup // pages of the row group
	err     error
}

// KeyValue is an entry of the file's key-value metadata.
type KeyValue struct{ Key, Value string }

// NewWriter starts a file on w.
func NewWriter(w io.Writer, specs []Spec, keys []KeyValue, createdBy string) (*Writer, error) {
	out := &Writer{w: w}
	if n := runtime.GOMAXPROCS(0); n > 1 {
		out.slots = make(chan struct{}, n)
	}
	out.meta = format.FileMetaData{Version: 2, CreatedBy: createdBy}
	out.meta.Schema = append(out.meta.Schema, format.SchemaElement{
		Name: "schema", NumChildren: thrift.New(int32(len(specs)))})
	for _, s := range specs {
		out.meta.Schema = append(out.meta.Schema, s.elements()...)
		out.meta.ColumnOrders = append(out.meta.ColumnOrders, format.ColumnOrder{Value: &format.TypeDefinedOrder{}})
		out.columns = append(out.columns, newColumnWriter(out, s))
	}
	for _, kv := range keys {
		out.meta.KeyValueMetadata = append(out.meta.KeyValueMetadata, format.KeyValue{Key: kv.Key, Value: kv.Value})
	}
	out.write([]byte(magic))
	return out, out.err
}

// Column returns the writer of the i-th column.
func (w *Writer) Column(i int) *ColumnWriter { return w.columns[i] }

// Offset returns the bytes written so far.
func (w *Writer) Offset() int64 { return w.offset }

// Buffered returns the bytes of the numbers of the row group, not compressed.
func (w *Writer) Buffered() int {
	n := 0
	for _, c := range w.columns {
		n += c.buffered
	}
	return n
}

// start runs work in another goroutine if there are several processors. It waits
// until one is free, so that unfinished pages are few.
func (w *Writer) start(work func()) {
	if w.slots == nil {
		work()
		return
	}
	w.slots <- struct{}{}
	w.working.Go(func() {
		defer func() { <-w.slots }()
		work()
	})
}

func (w *Writer) write(b []byte) {
	if w.err != nil {
		return
	}
	n, err := w.w.Write(b)
	w.offset += int64(n)
	w.err = err
}

// FlushGroup writes the appended rows as a row group. Without rows it does
// nothing.
func (w *Writer) FlushGroup() error {
	for _, c := range w.columns {
		c.endPage()
	}
	w.working.Wait()
	rows := w.columns[0].rows
	for _, c := range w.columns {
		for _, p := range c.pages {
			if p.err != nil {
				return p.err
			}
		}
		if c.rows != rows {
			return fmt.Errorf("column %q has %d rows, column %q %d", c.spec.Name, c.rows, w.columns[0].spec.Name, rows)
		}
	}
	if rows == 0 || w.err != nil {
		return w.err
	}
	g := format.RowGroup{NumRows: rows, FileOffset: w.offset, Ordinal: int16(len(w.meta.RowGroups))}
	for _, c := range w.columns {
		chunk, err := c.flush()
		if err != nil {
			return err
		}
		g.TotalByteSize += chunk.MetaData.TotalUncompressedSize
		g.TotalCompressedSize += chunk.MetaData.TotalCompressedSize
		g.Columns = append(g.Columns, chunk)
	}
	w.meta.RowGroups = append(w.meta.RowGroups, g)
	w.meta.NumRows += rows
	return w.err
}

// Close writes the last row group and the footer. It does not close the
// underlying writer.
func (w *Writer) Close() error {
	if err := w.FlushGroup(); err != nil {
		return err
	}
	footer, err := thrift.Marshal(new(thrift.CompactProtocol), &w.meta)
	if err != nil {
		return err
	}
	footer = binary.LittleEndian.AppendUint32(footer, uint32(len(footer)))
	w.write(append(footer, magic...))
	return w.err
}

func (w *Writer) writePage(p *page) {
	w.write(p.head)
	w.write(p.levels)
	w.write(p.body)
	spareBytes.give(p.body)
}
