package trace

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
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
	// Missing are the numbers, ascending, of the shards that a directory lacks of
	// Source.Shards. They are not among Problems: what exists may be valid. nil where
	// no file has a number in its name, as after another program rewrote the trace.
	Missing []int
}

// Validate reads the whole trace at path, a directory of shards or one shard,
// and checks what Open does not: each document by Document.Validate; that no
// document occurs twice or in several places; that headers agree; that the
// statistics of row groups include their data sets and documents. Problems of
// the data, such as a shard that cannot be read to its end, are in the report.
// The error is about the path itself. Memory grows by less than 100 bytes a document,
// beside the names of the shards being read, one for each of GOMAXPROCS goroutines.
func Validate(path string, opts ValidateOptions) (*ValidationReport, error) {
	paths, err := shards(path)
	if err != nil {
		return nil, err
	}
	r := validate(openFile, paths, opts)
	if len(paths) == 1 && paths[0] == path {
		r.Missing = nil // one shard was asked for
	}
	return r, nil
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
	v := &validator{open: open, opts: opts, paths: paths, seen: map[[16]byte]seenAt{}}
	work := func(i int) *checkedShard { return v.check(paths[i]) }
	inOrder(len(paths), runtime.GOMAXPROCS(0), work, func(i int, c *checkedShard) bool {
		v.add(i, c)
		return true
	})
	v.report.Missing = missing(paths, v.report.Header.Source.Shards)
	return &v.report
}

// validator joins what was found in shards, in their order.
type validator struct {
	open   opener
	opts   ValidateOptions
	paths  []string
	report ValidationReport
	header *Header // of the first shard that can be opened
	first  int
	seen   map[[16]byte]seenAt // by Key.sum
}

// seenAt is where a document was first seen.
type seenAt struct {
	shard, group int32
	row          int64
}

// checkedShard is what was found in one shard.
type checkedShard struct {
	path   string
	header *Header // nil: cannot be opened
	docs   []checkedDocument
	tokens int64
	err    error // after docs
}

type checkedDocument struct {
	key      Key
	at       place
	problems []*Error
}

// check reads a shard. It may be called by several goroutines.
func (v *validator) check(path string) *checkedShard {
	c := &checkedShard{path: path}
	s, err := openShard(v.open, path)
	if err != nil {
		c.err = err
		return c
	}
	defer s.close()
	c.header = &s.header
	_, c.err = s.scan(&Filter{}, 0).documents(func(d *Document, at place) bool {
		c.tokens += int64(d.Len())
		c.docs = append(c.docs, checkedDocument{d.Key(), at, v.document(s, d, at)})
		return true
	})
	return c
}

// document checks a document by itself.
func (v *validator) document(s *shard, d *Document, at place) (problems []*Error) {
	if err := d.validate(&s.header, v.opts.SumToOne); err != nil {
		problems = append(problems, &Error{File: s.path, RowGroup: at.group, Row: at.row, Err: err})
	}
	for _, x := range []struct{ column, name string }{{colDataset, d.Dataset}, {colDocument, d.ID}} {
		low, high, ok := s.pq.Bounds(at.group, s.columns[x.column])
		if ok && (x.name < low || x.name > high) {
			problems = append(problems, &Error{File: s.path, RowGroup: at.group, Row: at.row, Column: x.column,
				Err: fmt.Errorf("%q is outside the row group's statistics %q..%q", x.name, low, high)})
		}
	}
	return problems
}

// add adds shard i to the report.
func (v *validator) add(i int, c *checkedShard) {
	v.report.Shards++
	v.report.Documents += len(c.docs)
	v.report.Tokens += c.tokens
	switch {
	case c.header == nil:
	case v.header == nil:
		v.header, v.first = c.header, i
		v.report.Header = *c.header
	default:
		if err := joins(v.header, c.header); err != nil {
			v.trouble(c.path, fmt.Errorf("%w (in %s)", err, v.paths[v.first]))
		}
	}
	for _, d := range c.docs {
		sum := d.key.sum()
		if first, ok := v.seen[sum]; ok {
			v.problem(&Error{File: c.path, RowGroup: d.at.group, Row: d.at.row,
				Err: fmt.Errorf("document %q of data set %q is also at %s, row group %d, row %d",
					d.key.Document, d.key.Dataset, v.paths[first.shard], first.group, first.row)})
		} else {
			v.seen[sum] = seenAt{int32(i), int32(d.at.group), d.at.row}
		}
		for _, p := range d.problems {
			v.problem(p)
		}
	}
	if c.err != nil {
		v.trouble(c.path, c.err)
	}
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
