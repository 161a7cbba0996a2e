package neural

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// source holds items of documents in a pool of bounded size. It is filled from
// a stream of documents that starts again when it ends, once the pool is empty.
type source[T any] struct {
	data    speculate.Data
	rng     *rand.Rand
	bound   int64 // bytes
	held    int64 // bytes
	pool    []T
	digests bool // whether documents are digested
	next    func() (*trace.Document, error, bool)
	stop    func()
	position
}

// position is how far the documents have been read.
type position struct {
	Passes int    `json:"passes"` // begun
	Digest digest `json:"digest"` // of all documents read so far
}

func newSource[T any](d speculate.Data, bound int64, seed, stream uint64) source[T] {
	return source[T]{data: d, bound: bound, rng: rand.New(rand.NewPCG(seed, stream))}
}

func (s *source[T]) close() {
	if s.stop != nil {
		s.stop()
		s.next, s.stop = nil, nil
	}
}

// fill reads documents until the pool is full or a pass ends. add appends the
// items of a document to the pool and returns their size; it reports an invalid
// document.
func (s *source[T]) fill(add func(*trace.Document) (int64, error)) error {
	empty := false // a pass has begun and read nothing
	for len(s.pool) == 0 || s.held < s.bound && s.next != nil {
		if s.next == nil {
			if empty {
				return errors.New("neural: no tokens")
			}
			s.next, s.stop = iter.Pull2(s.data.Documents())
			s.Passes++
			empty = true
		}
		doc, err, ok := s.next()
		if !ok {
			s.close()
			continue
		}
		if err != nil {
			return err
		}
		before := len(s.pool)
		size, err := add(doc)
		if err != nil {
			return err
		}
		s.held += size
		empty = empty && len(s.pool) == before
		if s.digests {
			s.Digest.document(doc)
		}
	}
	return nil
}

// remove takes item i of a size out of the pool.
func (s *source[T]) remove(i int, size int64) {
	var none T
	last := len(s.pool) - 1
	s.pool[i], s.pool[last] = s.pool[last], none // or the document would stay in memory
	s.pool = s.pool[:last]
	s.held -= size
}

func sizeOf(d *trace.Document) int64 {
	return 4*int64(2*len(d.Tokens)+len(d.Experts)+len(d.Weights)+len(d.RouterLogits)+len(d.RouterInput)) + 256
}

// point is one token of a document: an example for every head. In a model with an
// encoder it is one of the decoder, and encoder one of any document's encoder, which is
// the example for the encoder's heads.
type point struct {
	views   *speculate.Views
	doc     *trace.Document
	t       int
	encoder *point // nil: the model has none
}

// of returns the token that is the example for heads at a layer.
func (p point) of(s speculate.Shape, layer int) point {
	if layer < s.Encoder {
		return *p.encoder
	}
	return p
}

// pooled is a document and the order in which its remaining tokens are drawn.
type pooled struct {
	point
	left []int32
}

// sampler draws tokens at random, each token once in a reading of all documents.
// Those of an encoder are drawn beside the others, each from a reading of its own.
type sampler struct{ tokens, encoder *tokenSource }

func newSampler(d speculate.Data, bound int64, seed uint64) sampler {
	s := sampler{tokens: &tokenSource{source: newSource[pooled](d, bound, seed, 0x7f4a7c15)}}
	if speculate.ShapeOf(d.Header.Model).Encoder > 0 {
		s.encoder = &tokenSource{newSource[pooled](d, bound, seed, 0x2545f491), true}
	}
	return s
}

func (s sampler) close() {
	s.tokens.close()
	if s.encoder != nil {
		s.encoder.close()
	}
}

// draw fills ps.
func (s sampler) draw(ps []point) error {
	if err := s.tokens.draw(ps); err != nil || s.encoder == nil {
		return err
	}
	encoded := make([]point, len(ps))
	if err := s.encoder.draw(encoded); err != nil {
		return fmt.Errorf("%w of an encoder", err)
	}
	for i := range ps {
		ps[i].encoder = &encoded[i]
	}
	return nil
}

// tokenSource draws tokens of the encoder, or the others.
type tokenSource struct {
	source[pooled]
	encoder bool
}

func (s *tokenSource) add(doc *trace.Document) (int64, error) {
	v, err := speculate.NewViews(s.data.Header, doc) // validates doc
	if err != nil {
		return 0, err
	}
	from, n := doc.Encoded(), len(doc.Tokens)-doc.Encoded()
	if s.encoder {
		from, n = 0, from
	}
	if n == 0 {
		return 0, nil
	}
	p := pooled{point: point{views: v, doc: doc}, left: make([]int32, n)}
	for i, t := range s.rng.Perm(n) {
		p.left[i] = int32(from + t)
	}
	s.pool = append(s.pool, p)
	return sizeOf(doc), nil
}

// draw fills ps.
func (s *tokenSource) draw(ps []point) error {
	for i := range ps {
		if err := s.fill(s.add); err != nil {
			return err
		}
		j := s.rng.IntN(len(s.pool))
		p := &s.pool[j]
		ps[i] = p.point
		ps[i].t = int(p.left[len(p.left)-1])
		if p.left = p.left[:len(p.left)-1]; len(p.left) == 0 {
			s.remove(j, sizeOf(p.doc))
		}
	}
	return nil
}

// passage is a part of a document: tokens from..to-1.
type passage struct {
	doc      *trace.Document // nil where row is used
	from, to int
	row      int // of the first token, among all tokens on the backend
}

// bytes is the passage's part of its document's memory.
func (p passage) bytes() int64 {
	if p.doc == nil {
		return 0
	}
	return sizeOf(p.doc) * int64(p.to-p.from) / int64(len(p.doc.Tokens))
}

// passageSource draws passages of at most window tokens at random. Each pass
// over the documents draws each passage once.
type passageSource struct {
	source[passage]
	window int
	draws  int
	all    []passage // instead of documents, where they are on the backend
}

func newPassageSource(d speculate.Data, window int, bound int64, seed uint64) *passageSource {
	return &passageSource{source: newSource[passage](d, bound, seed, 0x853c49e6748fea9b), window: window}
}

func validDocument(doc *trace.Document, h trace.Header) error {
	if err := doc.Validate(&h); err != nil {
		return fmt.Errorf("neural: %w", err)
	}
	return nil
}

func (s *passageSource) add(doc *trace.Document) (size int64, err error) {
	if err := validDocument(doc, s.data.Header); err != nil {
		return 0, err
	}
	for from := 0; from < len(doc.Tokens); from += s.window {
		p := passage{doc: doc, from: from, to: min(from+s.window, len(doc.Tokens))}
		s.pool = append(s.pool, p)
		size += p.bytes()
	}
	return size, nil
}

func (s *passageSource) draw() (passage, error) {
	if s.all != nil {
		if len(s.pool) == 0 {
			s.pool = append(s.pool, s.all...)
			s.Passes++
		}
	} else if err := s.fill(s.add); err != nil {
		return passage{}, err
	}
	s.draws++
	i := s.rng.IntN(len(s.pool))
	p := s.pool[i]
	s.remove(i, p.bytes())
	return p, nil
}
