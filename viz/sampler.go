package viz

import (
	"slices"

	"github.com/expertspec/expertspec/trace"
)

// Sampler keeps the first documents of each data set of a trace for a report's
// token journeys. Its memory is bounded.
type Sampler struct {
	Model trace.Model
	// DocumentsPerDataset is the maximum number of documents kept of a data
	// set; 0 means 10.
	DocumentsPerDataset int
	// MaxTokens is the number of tokens kept of a document; 0 means 512.
	MaxTokens int
	// Pieces returns the texts of tokens, [T] to [T]. Without it, tokens are
	// shown as their ids.
	Pieces func(tokens []int32) []string

	docs   []Journey
	count  map[string]int
	tokens int
}

// Add keeps a copy of the document's first tokens, or skips the document.
func (s *Sampler) Add(d *trace.Document) error {
	perDataset, maxTokens := s.DocumentsPerDataset, s.MaxTokens
	if perDataset <= 0 {
		perDataset = 10
	}
	if maxTokens <= 0 {
		maxTokens = 512
	}
	n := min(len(d.Tokens), maxTokens)
	// A report holds fewer tokens, but chooses from all data sets.
	if s.count[d.Dataset] >= perDataset || s.tokens+n > 8*journeyTokens(s.Model.Layers, s.Model.TopK) {
		return nil
	}
	if s.count == nil {
		s.count = map[string]int{}
	}
	s.count[d.Dataset]++
	s.tokens += n
	each := s.Model.Layers * s.Model.TopK
	part := trace.Document{Dataset: d.Dataset, ID: d.ID, Tokens: slices.Clone(d.Tokens[:n])}
	if len(d.Experts) >= n*each {
		part.Experts = slices.Clone(d.Experts[:n*each])
	}
	if len(d.Weights) >= n*each {
		part.Weights = slices.Clone(d.Weights[:n*each])
	}
	var pieces []string
	if s.Pieces != nil && n > 0 && part.Tokens[0] != trace.NoToken {
		pieces = s.Pieces(part.Tokens)
	}
	j, err := journeyOf(&part, s.Model, pieces)
	if err != nil {
		return err
	}
	s.docs = append(s.docs, j)
	return nil
}

// Journeys returns the documents kept, in the order of the calls of Add.
func (s *Sampler) Journeys() []Journey { return s.docs }
