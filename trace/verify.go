package trace

import "github.com/expertspec/expertspec/trace/internal/pq"

// VerifyShard checks the pages of all columns of a shard against their checksums
// and the shard's footer. It reads the whole file but decodes only dictionaries,
// and so takes little more time than reading the bytes. Use [Validate] to check
// the documents too. The error names file, row group and column.
func VerifyShard(path string) error {
	s, err := openShard(openFile, path)
	if err != nil {
		return err
	}
	defer s.close()
	return s.verify()
}

func (s *shard) verify() error {
	for g := range s.pq.NumRowGroups() {
		for _, c := range s.pq.Columns() {
			if err := s.verifyColumn(g, c); err != nil {
				return &Error{File: s.path, RowGroup: g, Row: -1, Column: c.Path[0], Err: err}
			}
		}
	}
	return nil
}

func (s *shard) verifyColumn(group int, c pq.Column) (err error) {
	defer func() { recovered(recover(), &err) }()
	return s.pq.Verify(group, c)
}
