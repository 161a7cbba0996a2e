package trace

import (
	"io"

	"github.com/expertspec/expertspec/trace/internal/pq"
)

// ParquetGuard checks a Parquet file of any schema before parquet-go reads it:
// parquet-go (v0.32.0) allocates what corrupt footers and page headers ask for.
type ParquetGuard struct{ file *pq.File }

// GuardParquet checks the footer of a file of the given size in bytes.
func GuardParquet(r io.ReaderAt, size int64) (*ParquetGuard, error) {
	f, err := pq.Open(r, size)
	if err != nil {
		return nil, err
	}
	return &ParquetGuard{f}, nil
}

// MaxGuardedPage is the size of the largest page, unpacked, that
// [ParquetGuard.Check] accepts, in bytes.
const MaxGuardedPage = 256 << 20

// Check checks the page headers of a leaf column, by its index in the schema, in
// a row group.
func (g *ParquetGuard) Check(group, column int) error {
	return g.file.CheckPages(group, column, MaxGuardedPage)
}
