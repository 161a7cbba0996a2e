package trace

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/semaphore"
)

const (
	// aheadBytes bounds the documents that are decoded ahead, for each processor.
	// A row group that needs more than the whole budget is not decoded ahead.
	aheadBytes = 64 << 20
	// aheadPage is the maximum size of a page that is unpacked ahead. Those of
	// Writer are smaller; files with larger ones are read a page at a time.
	aheadPage = 4 << 20
)

// ahead decodes row groups concurrently with the consumer, which receives them in
// order. It only adds speed: a row group that is unusual or corrupt is not decoded
// ahead, and the consumer reads it as with one processor.
type ahead struct {
	r      *Reader
	ctx    context.Context // done when the consumer stops
	queue  chan *part
	slots  chan struct{} // one for each row group that may be decoded at once
	budget int64
	room   *semaphore.Weighted // budget, in bytes
	work   sync.WaitGroup
}

// part is a row group on its way to the consumer, the end of a shard or an error.
type part struct {
	err   error // the last part
	shard *shard
	end   bool // of the shard, which the consumer then closes
	skip  bool // the row group has no selected documents
	group int

	bytes int64         // of the budget; 0: not decoded ahead
	done  chan struct{} // closed when ok and docs are set
	ok    bool          // decoded
	docs  []found
}

// found is a document, or the part of it that the row group holds.
type found struct {
	*Document
	at place
}

// readAhead is Documents with one goroutine for each processor to decode row
// groups. All have ended when it returns.
func (r *Reader) readAhead(processors int, yield func(*Document, error) bool) {
	ctx, cancel := context.WithCancel(context.Background())
	a := &ahead{r: r, ctx: ctx, queue: make(chan *part, 2*processors), slots: make(chan struct{}, processors+1),
		budget: int64(processors) * aheadBytes}
	a.room = semaphore.NewWeighted(a.budget)
	// Begin with few, for a consumer that reads only the first documents.
	slots := 2
	for range slots {
		a.slots <- struct{}{}
	}
	a.work.Go(a.produce)
	defer func() {
		cancel()
		for p := range a.queue {
			if p.end {
				p.shard.close()
			}
		}
		a.work.Wait()
	}()
	visit := func(d *Document, _ place) bool { return yield(d, nil) }
	var c *scan
	for p := range a.queue {
		if p.err != nil {
			yield(nil, p.err)
			return
		}
		if c == nil {
			c = p.shard.scan(&r.filter, r.limit)
		}
		more, err := a.take(c, p, visit)
		if err != nil {
			yield(nil, err)
			return
		}
		if !more {
			return
		}
		if p.end {
			p.shard.close()
			c = nil
		}
		if p.bytes > 0 {
			a.room.Release(p.bytes)
			a.slots <- struct{}{}
			if slots < cap(a.slots) {
				slots++
				a.slots <- struct{}{}
			}
		}
	}
}

// take visits the documents of a part, except the last, which is kept in c.
func (a *ahead) take(c *scan, p *part, visit func(*Document, place) bool) (more bool, err error) {
	if p.end || p.skip {
		return c.finish(visit), nil
	}
	if p.bytes > 0 {
		<-p.done
	}
	if !p.ok {
		return c.one(p.group, visit)
	}
	// The first document may continue the one that was kept.
	first := len(p.docs) > 0 && p.docs[0].at.row == 0
	if first && c.doc != nil && c.doc.Key() == p.docs[0].Key() {
		if int64(c.doc.Len()+p.docs[0].Len())*c.rowBytes() > c.limit {
			return c.one(p.group, visit) // the error
		}
		c.doc.join(p.docs[0].Document)
		p.docs = p.docs[1:]
	} else if c.pq.NumRows(p.group) > 0 && !c.finish(visit) {
		return false, nil
	}
	for i, x := range p.docs {
		if !c.finish(visit) {
			return false, nil
		}
		c.doc, c.start = x.Document, x.at
		p.docs[i] = found{}
	}
	return true, nil
}

// produce queues the parts of all shards.
func (a *ahead) produce() {
	defer close(a.queue)
	for _, path := range a.r.paths {
		s, err := a.r.shard(path)
		if err != nil {
			a.send(&part{err: err})
			return
		}
		if !a.groups(s) || !a.send(&part{shard: s, end: true}) {
			s.close()
			return
		}
	}
}

// send queues a part and reports whether the consumer may accept more.
func (a *ahead) send(p *part) bool {
	select {
	case a.queue <- p:
		return true
	case <-a.ctx.Done():
		return false
	}
}

// groups starts the decoding of the row groups of a shard.
func (a *ahead) groups(s *shard) bool {
	c := s.scan(&a.r.filter, a.r.limit)
	for c.group = range s.pq.NumRowGroups() {
		p := &part{shard: s, group: c.group, skip: !c.wanted()}
		if rows := s.pq.NumRows(c.group); !p.skip && rows > 0 && rows <= a.budget/c.rowBytes() {
			p.bytes = rows * c.rowBytes()
			p.done = make(chan struct{})
			select {
			case <-a.slots:
			case <-a.ctx.Done():
				return false
			}
			if a.room.Acquire(a.ctx, p.bytes) != nil {
				return false
			}
			a.work.Go(func() { a.decode(p) })
		}
		if !a.send(p) {
			return false
		}
	}
	return true
}

var errStopped = errors.New("reading was stopped")

// decode reads a row group. Any error or panic is ignored here, and occurs again
// where the consumer reads the row group.
func (a *ahead) decode(p *part) {
	defer close(p.done)
	defer func() {
		if recover() != nil || !p.ok {
			p.ok, p.docs = false, nil
		}
	}()
	c := p.shard.scan(&a.r.filter, a.r.limit)
	c.group, c.maxPage, c.stop = p.group, aheadPage, a.ctx.Done()
	if c.readGroup(func(d *Document, at place) bool {
		p.docs = append(p.docs, found{d, at})
		return true
	}) != nil {
		return
	}
	if c.doc != nil {
		p.docs = append(p.docs, found{c.doc, c.start})
	}
	p.ok = true
}

// join appends more rows of the same document, o, whose positions and phases may
// be nil where they are the defaults.
func (d *Document) join(o *Document) {
	if d.Positions != nil { // nil where Filter.TokensOnly is set
		for t := range o.Tokens {
			d.Positions = append(d.Positions, o.Position(t))
		}
	}
	if d.Phases != nil || o.Phases != nil {
		for t := len(d.Phases); t < d.Len(); t++ {
			d.Phases = append(d.Phases, Prefill)
		}
		for t := range o.Tokens {
			d.Phases = append(d.Phases, o.Phase(t))
		}
	}
	d.Tokens = append(d.Tokens, o.Tokens...)
	d.Experts = append(d.Experts, o.Experts...)
	d.Weights = append(d.Weights, o.Weights...)
	d.Dropped = append(d.Dropped, o.Dropped...)
	d.RouterLogits = append(d.RouterLogits, o.RouterLogits...)
	d.RouterInput = append(d.RouterInput, o.RouterInput...)
}
