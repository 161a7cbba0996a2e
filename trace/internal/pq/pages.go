package pq

import "fmt"

// CheckPages walks the page headers of a leaf column in a row group and reports
// the first that is corrupt or of a page of more than limit bytes unpacked.
func (f *File) CheckPages(group, column int, limit int64) error {
	if group >= len(f.meta.RowGroups) || column >= len(f.meta.RowGroups[group].Columns) {
		return fmt.Errorf("%w: no column %d in row group %d", ErrCorrupt, column, group)
	}
	start, length := chunkRange(&f.meta.RowGroups[group].Columns[column].MetaData)
	c := &Cursor{f: f, at: start, end: start + length, MaxPage: limit}
	if start < 0 || length < 0 || c.end > f.size {
		return fmt.Errorf("%w: column of %d bytes at byte %d in a file of %d", ErrCorrupt, length, start, f.size)
	}
	for c.at < c.end {
		at := c.at
		h, err := c.header()
		if err != nil {
			return fmt.Errorf("page at byte %d: %w", at, err)
		}
		c.at += int64(h.CompressedPageSize)
	}
	return nil
}
