package neural

import (
	"errors"
	"iter"
	"math/rand/v2"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// passage is a part of a document: tokens from..to-1.
type passage struct {
	doc      *trace.Document
	from, to int
}

// passageSource draws passages at random from a pool of bounded size, filled
// from a stream of documents that starts again when it ends. Each pass over the
// stream draws each passage once.
type passageSource struct {
	data   speculate.Data
	window int
	rng    *rand.Rand
	bound  int64
	pool   []passage
	held   int64 // bytes of the pool
	next   func() (*trace.Document, error, bool)
	stop   func()
	// resumes says that the documents' digest is wanted.
	resumes bool
	position
}

func newPassageSource(d speculate.Data, window int, bound int64, seed uint64) *passageSource {
	return &passageSource{data: d, window: window, bound: bound, rng: rand.New(rand.NewPCG(seed, 0x853c49e6748fea9b))}
}

func (s *passageSource) close() {
	if s.stop != nil {
		s.stop()
	}
}

// fill reads documents until the pool is full or the pass ends.
func (s *passageSource) fill() error {
	for s.held < s.bound && s.next != nil {
		doc, err, ok := s.next()
		if !ok {
			s.stop()
			s.next, s.stop = nil, nil
			break
		}
		if err != nil {
			return err
		}
		if err := doc.Validate(&s.data.Header); err != nil {
			return err
		}
		if s.resumes {
			s.Digest.document(doc)
		}
		s.add(doc)
	}
	return nil
}

func (s *passageSource) add(doc *trace.Document) {
	for from := 0; from < len(doc.Tokens); from += s.window {
		p := passage{doc, from, min(from+s.window, len(doc.Tokens))}
		s.pool = append(s.pool, p)
		s.held += p.bytes()
	}
}

// bytes is the passage's part of its document's memory.
func (p passage) bytes() int64 {
	return sizeOf(p.doc) * int64(p.to-p.from) / int64(len(p.doc.Tokens))
}

func (s *passageSource) draw() (passage, error) {
	if err := s.fill(); err != nil {
		return passage{}, err
	}
	if len(s.pool) == 0 { // the pass is over
		s.Passes++
		s.next, s.stop = iter.Pull2(s.data.Documents())
		if err := s.fill(); err != nil {
			return passage{}, err
		}
		if len(s.pool) == 0 {
			return passage{}, errors.New("neural: no training tokens")
		}
	}
	i, last := s.rng.IntN(len(s.pool)), len(s.pool)-1
	p := s.pool[i]
	s.held -= p.bytes()
	s.pool[i] = s.pool[last]
	s.pool[last] = passage{} // or the document would be held on to
	s.pool = s.pool[:last]
	return p, nil
}

// passageArrays are the host side of a batch of B passages of T tokens.
type passageArrays struct {
	ids   []int32   // [B,T]
	count []float32 // [B,T]
	route []float32 // [B,T,L,E]
	z     []float32 // [B,T,L,E], where targets are soft
	x     []float32 // [B,T,L,D], where router inputs are read
}

// read fills a; rows behind a passage's end, and passages behind the last of
// ps, are 0.
func (t *passageJob) read(ps []passage, a *passageArrays) error {
	w := t.c.Window
	return parallel(len(t.drawn), func(i int) error {
		p := passage{}
		if i < len(ps) {
			p = ps[i]
		}
		n := p.to - p.from
		ids, count, route := a.ids[i*w:(i+1)*w], a.count[i*w:(i+1)*w], a.route[i*w*t.z.l*t.z.e:(i+1)*w*t.z.l*t.z.e]
		clear(ids[n:])
		clear(count[n:])
		clear(route)
		for j := range n {
			count[j] = 1
			ids[j] = int32(row(p.doc.Tokens[p.from+j], t.z.v))
		}
		le, ld := t.z.l*t.z.e, t.z.l*t.z.d
		if n > 0 {
			lk := t.z.l * t.shape.TopK
			for r := range n * t.z.l {
				at := p.from*lk + r*t.shape.TopK
				var ws []float32
				if p.doc.Weights != nil {
					ws = p.doc.Weights[at : at+t.shape.TopK]
				}
				shares(p.doc.Experts[at:at+t.shape.TopK], ws, route[r*t.z.e:(r+1)*t.z.e])
			}
		}
		if t.soft {
			z := a.z[i*w*le : (i+1)*w*le]
			clear(z[n*le:])
			if n > 0 {
				copy(z, p.doc.RouterLogits[p.from*le:p.to*le])
			}
		}
		if t.c.Inputs {
			x := a.x[i*w*ld : (i+1)*w*ld]
			clear(x[n*ld:])
			for j := range n {
				t.standard(p.doc.RouterInput[(p.from+j)*ld:(p.from+j+1)*ld], x[j*ld:(j+1)*ld])
			}
		}
		return nil
	})
}

// standard writes standardised router inputs of all layers of a token, [L*D].
func (t *passageJob) standard(x, out []float32) {
	mean, inv := t.mean[:len(x)], t.inv[:len(x)]
	for i, v := range x {
		out[i] = (v - mean[i]) * inv[i]
	}
}

// row is an id's row of the embedding table; row V is for ids that are unknown.
func row(id int32, vocabulary int) int {
	if id < 0 || int(id) >= vocabulary {
		return vocabulary
	}
	return int(id)
}

// shares writes the routing weights of chosen experts to their places in out
// [E], all 0 before; equal ones where none are recorded. A chosen expert's is
// above 0 even where its weight was rounded away.
func shares(experts []int32, weights, out []float32) {
	for i, e := range experts {
		if e == trace.NoExpert {
			continue
		}
		if weights != nil {
			out[e] = max(weights[i], 1e-6)
		} else {
			out[e] = 1 / float32(len(experts))
		}
	}
}
