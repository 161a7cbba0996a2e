package safetensors

// DType is the numeric type of a tensor, as the header spells it.
type DType string

// Data types. F8_E4M3, F8_E5M2, F8_E8M0 and C64 are read and written too. A
// header with a type narrower than a byte (F4, F6_E2M3, F6_E3M2) is an error.
const (
	Bool   DType = "BOOL"
	U8     DType = "U8"
	I8     DType = "I8"
	f8E4M3 DType = "F8_E4M3"
	f8E5M2 DType = "F8_E5M2"
	f8E8M0 DType = "F8_E8M0"
	U16    DType = "U16"
	I16    DType = "I16"
	F16    DType = "F16"
	BF16   DType = "BF16"
	U32    DType = "U32"
	I32    DType = "I32"
	F32    DType = "F32"
	U64    DType = "U64"
	I64    DType = "I64"
	F64    DType = "F64"
	c64    DType = "C64"
)

// Size returns the number of bytes of one element, 0 for an unknown type.
func (d DType) Size() int {
	switch d {
	case Bool, U8, I8, f8E4M3, f8E5M2, f8E8M0:
		return 1
	case U16, I16, F16, BF16:
		return 2
	case U32, I32, F32:
		return 4
	case U64, I64, F64, c64:
		return 8
	}
	return 0
}

// layoutOrder is the order of the types in a file that the format's own
// implementation writes, so that each tensor is aligned to its type.
var layoutOrder = []DType{
	U64, I64, F64, c64, F32, U32, I32, BF16, F16, U16, I16, f8E8M0, f8E4M3, f8E5M2, I8, U8, Bool,
}
