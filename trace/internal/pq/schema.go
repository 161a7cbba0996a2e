package pq

import (
	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

// Kind is what a written column holds.
type Kind int

const (
	String  Kind = iota // dictionary of UTF-8 strings
	Int32               // PLAIN
	Counter             // int32 in DELTA_BINARY_PACKED: near nothing for 0, 1, 2, ...
	Index16             // 16-bit integers from -1 to Values-1, dictionary
	Index32             // the same, 32 bits
	Float32             // PLAIN
	Float16             // PLAIN, logical type FLOAT16; not compressed
	Bool                // PLAIN, one bit each
)

// Spec describes a column to write. All columns are required.
type Spec struct {
	Name   string
	Kind   Kind
	Width  int // values of a row's list; 0: a scalar
	Values int // of Index16 and Index32: values lie in -1..Values-1
	// Split writes Float32 and Float16 in BYTE_STREAM_SPLIT, which compresses
	// better. Not all readers know it.
	Split bool
}

// dataEncoding returns the encoding of the data pages.
func (s Spec) dataEncoding() format.Encoding {
	switch s.Kind {
	case Counter:
		return format.DeltaBinaryPacked
	case String, Index16, Index32:
		return format.RLEDictionary
	}
	if s.Split {
		return format.ByteStreamSplit
	}
	return format.Plain
}

// codec returns the compression of the pages. Half floats have none: of hidden
// states and logits zstd saves 0 to 2 percent, at a tenth of the speed.
func (s Spec) codec() format.CompressionCodec {
	if s.Kind == Float16 && !s.Split {
		return format.Uncompressed
	}
	return format.Zstd
}

func (s Spec) path() []string {
	if s.Width == 0 {
		return []string{s.Name}
	}
	return []string{s.Name, "list", "element"}
}

// leaf returns the schema element that holds the values.
func (s Spec) leaf() format.SchemaElement {
	e := format.SchemaElement{Name: s.Name, RepetitionType: thrift.New(format.Required)}
	if s.Width > 0 {
		e.Name = "element"
	}
	integer := func(bits int8, converted deprecated.ConvertedType) {
		e.Type = thrift.New(format.Int32)
		e.ConvertedType = thrift.New(converted)
		e.LogicalType.Value = &format.IntType{BitWidth: bits, IsSigned: true}
	}
	switch s.Kind {
	case String:
		e.Type = thrift.New(format.ByteArray)
		e.ConvertedType = thrift.New(deprecated.UTF8)
		e.LogicalType.Value = &format.StringType{}
	case Int32, Counter, Index32:
		integer(32, deprecated.Int32)
	case Index16:
		integer(16, deprecated.Int16)
	case Float32:
		e.Type = thrift.New(format.Float)
	case Bool:
		e.Type = thrift.New(format.Boolean)
	case Float16:
		e.Type = thrift.New(format.FixedLenByteArray)
		e.TypeLength = thrift.New[int32](2)
		e.LogicalType.Value = &format.Float16Type{}
	}
	return e
}

// elements returns the column's part of the schema: a leaf, or the standard
// three-level LIST around it.
func (s Spec) elements() []format.SchemaElement {
	leaf := s.leaf()
	if s.Width == 0 {
		return []format.SchemaElement{leaf}
	}
	list := format.SchemaElement{
		Name:           s.Name,
		RepetitionType: thrift.New(format.Required),
		NumChildren:    thrift.New[int32](1),
		ConvertedType:  thrift.New(deprecated.List),
		LogicalType:    format.LogicalType{Value: &format.ListType{}},
	}
	repeated := format.SchemaElement{
		Name:           "list",
		RepetitionType: thrift.New(format.Repeated),
		NumChildren:    thrift.New[int32](1),
	}
	return []format.SchemaElement{list, repeated, leaf}
}
