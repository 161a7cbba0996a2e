package trace

import (
	"fmt"
	"runtime"
	"slices"

	"github.com/expertspec/expertspec/trace/internal/pq"
)

// recovered turns a runtime error in decoding, such as an index out of range,
// into an error. p is the result of recover; any other panic continues.
func recovered(p any, err *error) {
	if p == nil {
		return
	}
	if e, ok := p.(runtime.Error); ok {
		*err = fmt.Errorf("%w: decoder failed: %w", pq.ErrCorrupt, e)
		return
	}
	panic(p)
}

// scan reads one shard row group by row group. A document may continue in the
// next row group of the same file.
type scan struct {
	*shard
	filter *Filter
	limit  int64 // bytes of a document
	doc    *Document
	start  place // of doc
	group  int
	row    int64

	maxPage int64           // the largest page to unpack; 0: any
	stop    <-chan struct{} // ends the scan when closed

	dataset, document               *pq.Cursor
	position, phase, token, experts *pq.Cursor
	weights, dropped, logits, input *pq.Cursor // nil: not read
	column                          string     // the last one read, for errors
}

// place is where a document starts.
type place struct {
	group int
	row   int64
}

// scan starts reading the shard. The limit bounds the memory of one document's
// arrays in bytes; 0 means 512 MiB and 64 times the size of the shard, which
// only a hostile or very repetitive file exceeds.
func (s *shard) scan(f *Filter, limit int64) *scan {
	if limit == 0 {
		limit = 512<<20 + 64*s.pq.Size()
	}
	return &scan{shard: s, filter: f, limit: limit}
}

// documents calls visit with the selected documents until it returns false.
func (c *scan) documents(visit func(*Document, place) bool) (more bool, err error) {
	for c.group = range c.pq.NumRowGroups() {
		if !c.wanted() {
			more = c.finish(visit)
		} else if more, err = c.one(c.group, visit); err != nil {
			return false, err
		}
		if !more {
			return false, nil
		}
	}
	return c.finish(visit), nil
}

// one reads one row group and calls visit with its documents until it returns
// false, except the last, which may continue in the next row group.
func (c *scan) one(group int, visit func(*Document, place) bool) (more bool, err error) {
	c.group, c.row, c.column = group, 0, ""
	stopped, visiting := false, false
	defer func() {
		if !visiting { // not a panic of the caller
			recovered(recover(), &err)
		}
		if err != nil {
			more, err = false, &Error{File: c.path, RowGroup: c.group, Row: c.row, Column: c.column, Err: err}
		}
	}()
	err = c.readGroup(func(d *Document, at place) bool {
		visiting = true
		stopped = !visit(d, at)
		visiting = false
		return !stopped
	})
	return !stopped, err
}

// finish visits the document that was collected so far, if any.
func (c *scan) finish(visit func(*Document, place) bool) bool {
	d := c.doc
	c.doc = nil
	if d == nil {
		return true
	}
	d.normalize()
	return visit(d, c.start)
}

// normalize drops positions and phases that are the defaults.
func (d *Document) normalize() {
	plain := true
	for t, p := range d.Positions {
		if int(p) != t {
			plain = false
			break
		}
	}
	if plain {
		d.Positions = nil
	}
	if !slices.ContainsFunc(d.Phases, func(p Phase) bool { return p != Prefill }) {
		d.Phases = nil
	}
}

// wanted reports whether the row group may have a selected document by its
// statistics.
func (c *scan) wanted() bool {
	return c.inBounds(colDataset, c.filter.Datasets) && c.inBounds(colDocument, c.filter.Documents)
}

func (c *scan) inBounds(column string, names []string) bool {
	if names == nil {
		return true
	}
	low, high, ok := c.pq.Bounds(c.group, c.columns[column])
	if !ok {
		return true
	}
	return slices.ContainsFunc(names, func(n string) bool { return low <= n && n <= high })
}

// selected reports whether a document is to be read.
func (c *scan) selected(dataset, id string) bool {
	in := func(names []string, s string) bool { return names == nil || slices.Contains(names, s) }
	return in(c.filter.Datasets, dataset) && in(c.filter.Documents, id)
}

// open starts cursors on the columns of the current row group.
func (c *scan) open() error {
	h := &c.header
	m := &h.Model
	all := !c.filter.TokensOnly
	open := func(dst **pq.Cursor, name string, width int, read bool) error {
		*dst = nil
		if !read {
			return nil
		}
		c.column = name
		cursor, err := c.pq.Cursor(c.group, c.columns[name], width)
		if err == nil {
			cursor.MaxPage = c.maxPage
		}
		*dst = cursor
		return err
	}
	for _, x := range []struct {
		dst   **pq.Cursor
		name  string
		width int
		read  bool
	}{
		{&c.dataset, colDataset, 1, true},
		{&c.document, colDocument, 1, true},
		{&c.position, colPosition, 1, all},
		{&c.phase, colPhase, 1, all},
		{&c.token, colToken, 1, true},
		{&c.experts, colExperts, m.Layers * m.TopK, all},
		{&c.weights, colWeights, m.Layers * m.TopK, all && !h.NoWeights},
		{&c.dropped, colDropped, m.Layers, all && h.Dropped},
		{&c.logits, colLogits, len(h.LogitLayers) * m.Experts, all && len(h.LogitLayers) > 0 && !c.filter.NoLogits},
		{&c.input, colInput, len(h.InputLayers) * m.Hidden, all && len(h.InputLayers) > 0 && !c.filter.NoInput},
	} {
		if err := open(x.dst, x.name, x.width, x.read); err != nil {
			return err
		}
	}
	return nil
}

// readGroup reads the documents of the current row group. The last one is kept,
// because it may continue in the next row group.
func (c *scan) readGroup(visit func(*Document, place) bool) error {
	if err := c.open(); err != nil {
		return err
	}
	rows := c.pq.NumRows(c.group)
	var names runs
	var skipped int64 // rows to skip in the other columns
	for c.row < rows {
		select {
		case <-c.stop:
			return errStopped
		default:
		}
		dataset, id, n, err := names.next(c, rows-c.row)
		if err != nil {
			return err
		}
		if c.doc != nil && (c.doc.Dataset != dataset || c.doc.ID != id) {
			if !c.finish(visit) {
				return nil
			}
		}
		if !c.selected(dataset, id) {
			skipped += int64(n)
			c.row += int64(n)
			continue
		}
		if err := c.skip(skipped); err != nil {
			return err
		}
		skipped = 0
		if c.doc == nil {
			c.doc = &Document{Dataset: dataset, ID: id}
			c.start = place{c.group, c.row}
		}
		if err := c.read(n); err != nil {
			return err
		}
		c.row += int64(n)
	}
	if skipped == rows {
		return nil // the other columns are not read
	}
	if err := c.skip(skipped); err != nil {
		return err
	}
	return c.done()
}

// runs reads the data set and document columns in step.
type runs struct {
	dataset, id       string
	datasetN, idCount int
}

// next returns the names of the next n rows, which are the same.
func (r *runs) next(c *scan, left int64) (dataset, id string, n int, err error) {
	limit := int(min(left, 1<<20))
	if r.datasetN == 0 {
		c.column = colDataset
		if r.dataset, r.datasetN, err = c.dataset.ReadString(limit); err != nil {
			return "", "", 0, err
		}
	}
	if r.idCount == 0 {
		c.column = colDocument
		if r.id, r.idCount, err = c.document.ReadString(limit); err != nil {
			return "", "", 0, err
		}
	}
	n = min(r.datasetN, r.idCount, limit)
	r.datasetN -= n
	r.idCount -= n
	return r.dataset, r.id, n, nil
}

// each calls f with the cursors that follow the two names.
func (c *scan) each(f func(*pq.Cursor, int64) error) error {
	m := &c.header.Model
	for _, x := range []struct {
		cursor *pq.Cursor
		name   string
		width  int
	}{
		{c.position, colPosition, 1}, {c.phase, colPhase, 1}, {c.token, colToken, 1},
		{c.experts, colExperts, m.Layers * m.TopK}, {c.weights, colWeights, m.Layers * m.TopK}, {c.dropped, colDropped, m.Layers},
		{c.logits, colLogits, len(c.header.LogitLayers) * m.Experts},
		{c.input, colInput, len(c.header.InputLayers) * m.Hidden},
	} {
		if x.cursor == nil {
			continue
		}
		c.column = x.name
		if err := f(x.cursor, int64(x.width)); err != nil {
			return err
		}
	}
	c.column = ""
	return nil
}

// skip skips rows of documents that are not selected.
func (c *scan) skip(rows int64) error {
	if rows == 0 {
		return nil
	}
	return c.each(func(p *pq.Cursor, width int64) error { return p.Skip(rows * width) })
}

// done checks that all columns end with the row group.
func (c *scan) done() error {
	return c.each(func(p *pq.Cursor, _ int64) error { return p.Done() })
}

// read appends n rows to the current document in parts, so that memory grows only
// with the values that exist.
func (c *scan) read(n int) error {
	const part = 1024
	for n > 0 {
		k := min(n, part)
		if err := c.readPart(k, n); err != nil {
			return err
		}
		n -= k
	}
	return nil
}
