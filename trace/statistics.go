package trace

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// StatisticsOptions configures Statistics. The zero value is ready to use.
type StatisticsOptions struct {
	// Segments are the window lengths m of local routing consistency, in tokens;
	// nil: 4, 16 and 64. An empty list omits it.
	Segments []int
	// CacheSizes are the cache sizes C of the segment cache hit rate, in experts
	// of a layer; nil: K and 2K.
	CacheSizes []int
	// MaxPairBytes bounds the memory of transition and co-activation counts,
	// which grow with L*E*E. Counts that need more are omitted and named in
	// Summary.Skipped. 0: 1 GiB.
	MaxPairBytes int64
}

// Validate checks that lengths and sizes are positive.
func (o *StatisticsOptions) Validate() error {
	for _, m := range o.Segments {
		if m < 1 || m > 1<<16 {
			return fmt.Errorf("statistics: segment of %d tokens", m)
		}
	}
	for _, c := range o.CacheSizes {
		if c < 1 {
			return fmt.Errorf("statistics: cache of %d experts", c)
		}
	}
	if o.MaxPairBytes < 0 {
		return fmt.Errorf("statistics: %d bytes for pairs", o.MaxPairBytes)
	}
	return nil
}

// Statistics gathers the statistics of a trace, one document at a time. Its
// memory depends on the model and the number of data sets, not on the tokens.
//
// It holds sums, so that several processes can each read a part of a trace: Merge
// adds those of another part, and encoding/json stores them. The result does not
// depend, in any bit, on the order of documents and parts.
type Statistics struct {
	header Header
	opts   StatisticsOptions // no field is zero
	topK   []int             // of each layer
	sums

	window  window    // of the layer at hand
	weights []float64 // [L,K], sums of the document at hand
	entropy []float64 // [L], likewise
}

// NewStatistics starts the statistics of a trace with header h.
func NewStatistics(h Header, o StatisticsOptions) (*Statistics, error) {
	s, err := newStatistics(h, o)
	if err != nil {
		return nil, err
	}
	if m := &h.Model; s.pairBytes() <= s.opts.MaxPairBytes {
		square := m.Experts * m.Experts
		s.Transition = make([]int64, square*(m.Layers-1))
		s.First = make([]int64, square*(m.Layers-1))
		s.Together = make([]int64, square*m.Layers)
	}
	return s, nil
}

// newStatistics is NewStatistics without counts of pairs.
func newStatistics(h Header, o StatisticsOptions) (*Statistics, error) {
	if err := h.Validate(); err != nil {
		return nil, err
	}
	if err := o.Validate(); err != nil {
		return nil, err
	}
	m := &h.Model
	if o.Segments == nil {
		o.Segments = []int{4, 16, 64}
	}
	if o.CacheSizes == nil {
		o.CacheSizes = []int{m.TopK, min(2*m.TopK, m.Experts)}
	}
	o.Segments, o.CacheSizes = slices.Clone(o.Segments), slices.Clone(o.CacheSizes)
	slices.Sort(o.CacheSizes)
	o.CacheSizes = slices.Compact(o.CacheSizes)
	o.MaxPairBytes = cmp.Or(o.MaxPairBytes, 1<<30)
	return &Statistics{header: h, opts: o, topK: m.LayerTopK(), sums: sums{Datasets: map[string]*group{}, Positions: make([]*bucket, positionBuckets)},
		weights: make([]float64, m.Layers*m.TopK), entropy: make([]float64, m.Layers)}, nil
}

// pairBytes returns the memory of all counts of pairs.
func (s *Statistics) pairBytes() int64 {
	m := &s.header.Model
	return 8 * int64(m.Experts) * int64(m.Experts) * int64(3*m.Layers-2)
}

// AddAll adds documents, such as those of [Reader.Documents], on as many goroutines
// as there are processors, or as many as keep the counts of pairs within
// StatisticsOptions.MaxPairBytes. It stops at an error, after which it is
// unspecified which documents were added.
func (s *Statistics) AddAll(docs iter.Seq2[*Document, error]) error {
	workers := int64(runtime.GOMAXPROCS(0))
	if s.Together != nil {
		workers = min(workers, s.opts.MaxPairBytes/s.pairBytes()-1)
	}
	if workers < 2 {
		for d, err := range docs {
			if err == nil {
				err = s.Add(d)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	work, ctx := errgroup.WithContext(context.Background())
	queue := make(chan *Document)
	var mu sync.Mutex // of s
	for range workers {
		part, err := NewStatistics(s.header, s.opts)
		if err != nil {
			return err
		}
		work.Go(func() error {
			for d := range queue {
				if err := part.Add(d); err != nil {
					return err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			return s.Merge(part)
		})
	}
	err := feed(ctx, docs, queue)
	close(queue)
	return cmp.Or(work.Wait(), err)
}

// feed sends the documents until ctx is done.
func feed(ctx context.Context, docs iter.Seq2[*Document, error], queue chan<- *Document) error {
	for d, err := range docs {
		if err != nil {
			return err
		}
		select {
		case queue <- d:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// Merge adds the documents of o, which remains as it is. Statistics of traces that
// could not be read as one ([Header.Equal]), or with other options, are an error,
// after which s is unchanged. That no document is in both is the caller's to ensure.
func (s *Statistics) Merge(o *Statistics) error {
	if diff := s.header.difference(&o.header); diff != "" {
		return fmt.Errorf("statistics: of different traces: %s", diff)
	}
	if a, b := s.opts, o.opts; !slices.Equal(a.Segments, b.Segments) || !slices.Equal(a.CacheSizes, b.CacheSizes) || a.MaxPairBytes != b.MaxPairBytes {
		return fmt.Errorf("statistics: with different options: %+v and %+v", a, b)
	}
	for name, g := range o.Datasets {
		s.group(name).merge(g)
	}
	add(s.Transition, o.Transition)
	add(s.First, o.First)
	add(s.Together, o.Together)
	for i, b := range o.Positions {
		if b != nil {
			s.bucket(i).merge(b)
		}
	}
	return nil
}

// stored is the JSON of Statistics.
type stored struct {
	Version      int    `json:"version"`
	Model        Model  `json:"model"`
	Source       Source `json:"source"`
	columnsJSON         // of the header
	NoWeights    bool   `json:"no_weights"`
	WithDropped  bool   `json:"dropped"`
	Segments     []int  `json:"segments"`
	CacheSizes   []int  `json:"cache_sizes"`
	MaxPairBytes int64  `json:"max_pair_bytes"`
	sums
}

// MarshalJSON implements [json.Marshaler].
func (s *Statistics) MarshalJSON() ([]byte, error) {
	h, o := &s.header, &s.opts
	return json.Marshal(stored{schemaVersion, h.Model, h.Source, columnsJSON{h.LogitLayers, h.InputLayers}, h.NoWeights, h.Dropped,
		o.Segments, o.CacheSizes, o.MaxPairBytes, s.sums})
}

// UnmarshalJSON implements [json.Unmarshaler]. What MarshalJSON cannot have
// written is an error.
func (s *Statistics) UnmarshalJSON(b []byte) error {
	var x stored
	err := json.Unmarshal(b, &x)
	if err == nil && x.Version != schemaVersion {
		err = fmt.Errorf("version %d; this program reads version %d", x.Version, schemaVersion)
	}
	if err == nil && !slices.IsSorted(x.CacheSizes) {
		err = errors.New(`"cache_sizes" is not sorted`)
	}
	if err == nil && (x.Datasets == nil || x.Segments == nil || x.CacheSizes == nil || x.MaxPairBytes == 0) {
		err = errors.New("incomplete")
	}
	if err != nil {
		return fmt.Errorf("statistics: %w", err)
	}
	read, err := newStatistics(
		Header{Model: x.Model, Source: x.Source, LogitLayers: x.RouterLogits, InputLayers: x.RouterInput, NoWeights: x.NoWeights, Dropped: x.WithDropped},
		StatisticsOptions{Segments: x.Segments, CacheSizes: x.CacheSizes, MaxPairBytes: x.MaxPairBytes})
	if err != nil {
		return err
	}
	read.sums = x.sums
	if err := read.check(); err != nil {
		return fmt.Errorf("statistics: %w", err)
	}
	*s = *read
	return nil
}
