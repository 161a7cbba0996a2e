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

// maxGuardedPage is the maximum size in bytes of an unpacked page.
const maxGuardedPage = 256 << 20

// Check checks the page headers of a leaf column, by its index in the schema, in
// a row group. A page of more than 256 MiB unpacked is an error.
func (g *ParquetGuard) Check(group, column int) error {
	return g.file.CheckPages(group, column, maxGuardedPage)
}
