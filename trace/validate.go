package trace

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// ValidateOptions configures Validate.
type ValidateOptions struct {
	// SumToOne requires that the routing weights of a token at a layer add up to
	// 1 within 0.001, as they do after a softmax over the selected experts. Other
	// models, such as Switch Transformer, normalize over all experts, or not at all.
	SumToOne bool
	// MaxProblems is the maximum number of ValidationReport.Problems; 0: 100.
	// All problems are counted.
	MaxProblems int
}

// ValidationReport is the result of Validate.
type ValidationReport struct {
	Header    Header
	Shards    int
	Documents int
	Tokens    int64
	Count     int      // of all problems
	Problems  []*Error // the first, in the order of the shards
}

// Validate reads the whole trace at path, a directory of shards or one shard,
// and checks what Open does not: each document by Document.Validate; that no
// document occurs twice or in several places; that headers agree; that the
// statistics of row groups include their data sets and documents. Problems of
// the data, such as a shard that cannot be read to its end, are in the report.
// The error is about the path itself. Memory grows by some bytes a document.
func Validate(path string, opts ValidateOptions) (*ValidationReport, error) {
	paths, err := shards(path)
	if err != nil {
		return nil, err
	}
	return validate(openFile, paths, opts), nil
}

// ValidateFS is Validate for a trace in the root directory of fsys.
func ValidateFS(fsys fs.FS, opts ValidateOptions) (*ValidationReport, error) {
	paths, err := shardsFS(fsys)
	if err != nil {
		return nil, err
	}
	return validate(openerFS(fsys), paths, opts), nil
}

func validate(open opener, paths []string, opts ValidateOptions) *ValidationReport {
	v := &validator{open: open, opts: opts, seen: map[Key]string{}}
	for _, p := range paths {
		v.shard(p)
	}
	return &v.report
}

type validator struct {
	open   opener
	opts   ValidateOptions
	report ValidationReport
	header *Header
	seen   map[Key]string // where a document was first seen
}

func (v *validator) problem(e *Error) {
	v.report.Count++
	limit := v.opts.MaxProblems
	if limit == 0 {
		limit = 100
	}
	if len(v.report.Problems) < limit {
		v.report.Problems = append(v.report.Problems, e)
	}
}

// trouble adds an error as a problem of a file.
func (v *validator) trouble(path string, err error) {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{File: path, RowGroup: -1, Row: -1, Err: err}
	}
	v.problem(e)
}

func (v *validator) shard(path string) {
	v.report.Shards++
	s, err := openShard(v.open, path)
	if err != nil {
		v.trouble(path, err)
		return
	}
	defer s.close()
	if v.header == nil {
		v.header = &s.header
		v.report.Header = s.header
	} else if err := joins(v.header, &s.header); err != nil {
		v.trouble(path, err)
	}
	_, err = s.scan(&Filter{}, 0).documents(func(d *Document, at place) bool {
		v.document(s, d, at)
		return true
	})
	if err != nil {
		v.trouble(path, err)
	}
}

func (v *validator) document(s *shard, d *Document, at place) {
	v.report.Documents++
	v.report.Tokens += int64(d.Len())
	place := fmt.Sprintf("%s, row group %d, row %d", s.path, at.group, at.row)
	if first, ok := v.seen[d.Key()]; ok {
		v.problem(&Error{File: s.path, RowGroup: at.group, Row: at.row,
			Err: fmt.Errorf("document %q of data set %q is also at %s", d.ID, d.Dataset, first)})
	} else {
		v.seen[d.Key()] = place
	}
	if err := d.validate(&s.header, v.opts.SumToOne); err != nil {
		v.problem(&Error{File: s.path, RowGroup: at.group, Row: at.row, Err: err})
	}
	for _, x := range []struct{ column, name string }{{colDataset, d.Dataset}, {colDocument, d.ID}} {
		low, high, ok := s.pq.Bounds(at.group, s.columns[x.column])
		if ok && (x.name < low || x.name > high) {
			v.problem(&Error{File: s.path, RowGroup: at.group, Row: at.row, Column: x.column,
				Err: fmt.Errorf("%q is outside the row group's statistics %q..%q", x.name, low, high)})
		}
	}
}

// Err returns an error that joins the problems, or nil for a valid trace.
func (r *ValidationReport) Err() error {
	errs := make([]error, len(r.Problems))
	for i, p := range r.Problems {
		errs[i] = p
	}
	if rest := r.Count - len(r.Problems); rest > 0 {
		errs = append(errs, fmt.Errorf("and %d more problems", rest))
	}
	return errors.Join(slices.Clip(errs)...)
}
