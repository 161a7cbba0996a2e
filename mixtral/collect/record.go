package collect

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/trace"
	"golang.org/x/sync/errgroup"
)

// recorder is a hook that puts what it is told into documents.
type recorder struct {
	h *trace.Header
	// logits and input give, for each layer, its place among the recorded ones, or
	// -1; [L].
	logits, input []int
	docs          []*trace.Document // of the batch
	rows          []atomic.Int64    // told so far of each
	spare         *spareDocuments
}

// spareDocuments are documents whose arrays are free, of one goroutine.
type spareDocuments struct{ docs []*trace.Document }

// take returns one of them, or a new one.
func (s *spareDocuments) take() *trace.Document {
	n := len(s.docs)
	if n == 0 {
		return new(trace.Document)
	}
	d := s.docs[n-1]
	s.docs = s.docs[:n-1]
	return d
}

func newRecorder(h *trace.Header, spare *spareDocuments) *recorder {
	places := func(layers []int) []int {
		at := make([]int, h.Model.Layers)
		for i := range at {
			at[i] = -1
		}
		for i, layer := range layers {
			at[layer] = i
		}
		return at
	}
	return &recorder{h: h, logits: places(h.LogitLayers), input: places(h.InputLayers), spare: spare}
}

// begin prepares a batch, in new documents.
func (c *recorder) begin(texts []text) [][]int32 {
	c.docs, c.rows = nil, make([]atomic.Int64, len(texts))
	tokens := make([][]int32, len(texts))
	m := &c.h.Model
	for i, t := range texts {
		d := c.spare.take()
		d.Dataset, d.ID, d.Tokens = t.dataset, t.id, t.tokens
		d.Experts = resize(d.Experts, len(t.tokens)*m.Layers*m.TopK)
		d.Weights = resize(d.Weights, len(t.tokens)*m.Layers*m.TopK)
		d.RouterLogits = resize(d.RouterLogits, len(t.tokens)*len(c.h.LogitLayers)*m.Experts)
		d.RouterInput = resize(d.RouterInput, len(t.tokens)*len(c.h.InputLayers)*m.Hidden)
		c.docs = append(c.docs, d)
		tokens[i] = t.tokens
	}
	return tokens
}

// resize returns a slice of length n, s's memory where that suffices; nil for 0.
func resize[T any](s []T, n int) []T {
	if n == 0 {
		return nil
	}
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// observe is the hook. Rows go to different places, so that all processors copy.
func (c *recorder) observe(_ context.Context, r *mixtral.Routing) error {
	if m := &c.h.Model; r.Layer < 0 || r.Layer >= m.Layers {
		return fmt.Errorf("layer %d of %d", r.Layer, m.Layers)
	}
	const part = 2048
	n := len(r.Document)
	if n <= part || runtime.GOMAXPROCS(0) == 1 {
		return c.copy(r, 0, n)
	}
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for from := 0; from < n; from += part {
		g.Go(func() error { return c.copy(r, from, min(from+part, n)) })
	}
	return g.Wait()
}

// copy copies rows from..to into the documents.
func (c *recorder) copy(r *mixtral.Routing, from, to int) error {
	m := &c.h.Model
	k, e, d := m.TopK, m.Experts, m.Hidden
	logitAt, inputAt := c.logits[r.Layer], c.input[r.Layer]
	nl, ni := len(c.h.LogitLayers), len(c.h.InputLayers)
	told, last := int64(0), 0 // rows of the last document
	for i := from; i < to; i++ {
		at, t := r.Document[i], int(r.Position[i])
		if at < 0 || at >= len(c.docs) || t < 0 || t >= c.docs[at].Len() {
			return fmt.Errorf("layer %d: routing of document %d, token %d, which the batch has not", r.Layer, at, t)
		}
		if at != last {
			c.rows[last].Add(told)
			told, last = 0, at
		}
		told++
		doc := c.docs[at]
		copy(doc.Experts[(t*m.Layers+r.Layer)*k:][:k], r.Experts[i*k:])
		copy(doc.Weights[(t*m.Layers+r.Layer)*k:][:k], r.Weights[i*k:])
		if logitAt >= 0 {
			copy(doc.RouterLogits[(t*nl+logitAt)*e:][:e], r.Logits[i*e:])
		}
		if inputAt >= 0 {
			copy(doc.RouterInput[(t*ni+inputAt)*d:][:d], r.Input[i*d:])
		}
	}
	if told > 0 {
		c.rows[last].Add(told)
	}
	return nil
}

// end checks that each token was told of once at each layer.
func (c *recorder) end() error {
	for i, d := range c.docs {
		if want := int64(d.Len() * c.h.Model.Layers); c.rows[i].Load() != want {
			return fmt.Errorf("document %s: routing of %d tokens and layers, want %d", d.ID, c.rows[i].Load(), want)
		}
	}
	return nil
}
