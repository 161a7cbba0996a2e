package switchtransformer

import (
	"errors"
	"fmt"
	"slices"
)

// Cache holds B encoded texts, and the keys and values of their decoders, which are
// continued. It is of one model and used by one forward pass at a time.
type Cache struct {
	m       *Model
	lengths []int   // tokens of the decoder, [B]
	encoded []int   // tokens of the encoder, [B]; nil: none yet
	parts   []*part // nil until texts are encoded
	broken  error
}

// part is a group of documents that is computed together.
type part struct {
	docs   []int // indices in the request, [B']
	memory memory
}

// NewCache returns an empty cache for b texts, which Close frees.
func (m *Model) NewCache(b int) *Cache {
	return &Cache{m: m, lengths: make([]int, max(b, 0))}
}

// Lengths returns the number of the decoder's tokens of each text in the cache, [B].
func (c *Cache) Lengths() []int { return slices.Clone(c.lengths) }

// Close frees the cache's memory.
func (c *Cache) Close() {
	for _, p := range c.parts {
		p.memory.free()
	}
	c.parts = nil
	c.broken = errors.New("the cache is closed")
}

// check reports a request that the cache cannot serve.
func (c *Cache) check(m *Model, req *Request) error {
	docs := max(len(req.Tokens), len(req.DecoderTokens))
	switch {
	case c.m != m:
		return errors.New("the cache belongs to another model")
	case c.broken != nil:
		return c.broken
	case len(c.lengths) != docs:
		return fmt.Errorf("the cache holds %d texts, the request has %d", len(c.lengths), docs)
	case c.encoded != nil && req.Tokens != nil:
		return errors.New("the cache holds encoded texts: a request that continues them has no Tokens")
	case c.encoded == nil && req.Tokens == nil:
		return errors.New("the cache holds no texts yet: the first request has their Tokens")
	}
	return nil
}

// parts returns a request's groups of documents.
func (m *Model) parts(lens []int) []*part {
	var parts []*part
	for _, docs := range m.x.groups(lens) {
		parts = append(parts, &part{docs: docs})
	}
	return parts
}
