package trace

import (
	"fmt"
	"math"
	"math/bits"
)

// positionBuckets is the number of buckets of positions: 0, 1, 2-3, 4-7, ...
const positionBuckets = 32

// sums are all that Statistics counts, and what it is stored as.
type sums struct {
	Datasets   map[string]*group `json:"datasets"`
	Transition []int64           `json:"transitions,omitempty"`       // [L-1,E,E]: all choices of a layer to all of the next
	First      []int64           `json:"first_transitions,omitempty"` // [L-1,E,E]: first choice to first choice
	Together   []int64           `json:"coactivation,omitempty"`      // [L,E,E]: experts of one token; nil: pairs are not counted
	Positions  []*bucket         `json:"positions"`                   // positionBuckets
}

// group holds the sums of one data set.
type group struct {
	Documents int64       `json:"documents"`
	Tokens    int64       `json:"tokens"`
	Layers    []layerSums `json:"layers"` // [L]
}

// layerSums holds the sums of one layer of one data set.
type layerSums struct {
	Counts    []int64    `json:"counts"` // [E]
	First     []int64    `json:"first"`  // [E]
	Repeats   repeats    `json:"repeats"`
	Weights   []sum      `json:"weights"` // [K]
	Weighted  int64      `json:"weighted"`
	Dropped   int64      `json:"dropped"`
	Entropy   sum        `json:"entropy"` // of the router, over tokens
	Entropies int64      `json:"entropies"`
	Local     []locality `json:"local"` // by StatisticsOptions.Segments
}

// repeats counts pairs of consecutive tokens, those with the same first expert, and
// those with any expert in common.
type repeats struct {
	Pairs int64 `json:"pairs"`
	First int64 `json:"first"`
	Any   int64 `json:"any"`
}

// bucket holds the sums of a range of positions, over all layers.
type bucket struct {
	Tokens    int64   `json:"tokens"`
	Counts    []int64 `json:"counts"` // [L,E]
	Repeats   repeats `json:"repeats"`
	Entropy   sum     `json:"entropy"`
	Entropies int64   `json:"entropies"`
}

// sum adds numbers that are not negative. Each is rounded down to a multiple of
// 2^-64 and then added exactly, so that the order of additions does not matter.
type sum struct {
	Whole int64  `json:"whole"`
	Part  uint64 `json:"part"` // in 2^-64
}

func (s *sum) add(v float64) {
	whole := math.Floor(v)
	s.merge(sum{int64(whole), uint64((v - whole) * 0x1p64)})
}

func (s *sum) merge(o sum) {
	part, carry := bits.Add64(s.Part, o.Part, 0)
	s.Whole, s.Part = s.Whole+o.Whole+int64(carry), part
}

func (s sum) value() float64 { return float64(s.Whole) + float64(s.Part)*0x1p-64 }

// group returns the sums of a data set.
func (s *Statistics) group(name string) *group {
	g := s.Datasets[name]
	if g == nil {
		g = s.newGroup()
		s.Datasets[name] = g
	}
	return g
}

func (s *Statistics) newGroup() *group {
	m := &s.header.Model
	g := &group{Layers: make([]layerSums, m.Layers)}
	for l := range g.Layers {
		x := &g.Layers[l]
		x.Counts = make([]int64, m.Experts)
		x.First = make([]int64, m.Experts)
		x.Weights = make([]sum, m.TopK)
		x.Local = make([]locality, len(s.opts.Segments))
		for i, n := range s.opts.Segments {
			x.Local[i] = locality{Above: make([]int64, n), Hits: make([]int64, len(s.opts.CacheSizes))}
		}
	}
	return g
}

// bucket returns the sums of the positions of i bits.
func (s *Statistics) bucket(i int) *bucket {
	if s.Positions[i] == nil {
		s.Positions[i] = &bucket{Counts: make([]int64, s.header.Model.Layers*s.header.Model.Experts)}
	}
	return s.Positions[i]
}

func add(dst, src []int64) {
	for i, v := range src {
		dst[i] += v
	}
}

func (g *group) merge(o *group) {
	g.Documents += o.Documents
	g.Tokens += o.Tokens
	for l := range g.Layers {
		a, b := &g.Layers[l], &o.Layers[l]
		add(a.Counts, b.Counts)
		add(a.First, b.First)
		a.Repeats.merge(b.Repeats)
		for k, v := range b.Weights {
			a.Weights[k].merge(v)
		}
		a.Weighted += b.Weighted
		a.Dropped += b.Dropped
		a.Entropy.merge(b.Entropy)
		a.Entropies += b.Entropies
		for i := range b.Local {
			a.Local[i].merge(&b.Local[i])
		}
	}
}

func (r *repeats) merge(o repeats) {
	r.Pairs += o.Pairs
	r.First += o.First
	r.Any += o.Any
}

func (b *bucket) merge(o *bucket) {
	b.Tokens += o.Tokens
	add(b.Counts, o.Counts)
	b.Repeats.merge(o.Repeats)
	b.Entropy.merge(o.Entropy)
	b.Entropies += o.Entropies
}

// check checks sums that were read against the header and the options.
func (s *Statistics) check() error {
	m := &s.header.Model
	square, pairs := int64(m.Experts)*int64(m.Experts), int64(0)
	if s.pairBytes() <= s.opts.MaxPairBytes {
		pairs = 1
	}
	layers := int64(m.Layers)
	for _, err := range []error{
		counts("transitions", s.Transition, pairs*square*(layers-1)),
		counts("first_transitions", s.First, pairs*square*(layers-1)),
		counts("coactivation", s.Together, pairs*square*layers),
	} {
		if err != nil {
			return err
		}
	}
	if len(s.Positions) != positionBuckets {
		return fmt.Errorf("%q has %d values, expected %d", "positions", len(s.Positions), positionBuckets)
	}
	for name, g := range s.Datasets {
		if err := s.checkGroup(g); err != nil {
			return fmt.Errorf("data set %q: %w", name, err)
		}
	}
	for i, b := range s.Positions {
		if b == nil {
			continue
		}
		err := counts("counts", b.Counts, layers*int64(m.Experts))
		if err == nil {
			err = counts("sums", []int64{b.Tokens, b.Repeats.Pairs, b.Repeats.First, b.Repeats.Any, b.Entropy.Whole, b.Entropies}, 6)
		}
		if err != nil {
			return fmt.Errorf("positions of %d bits: %w", i, err)
		}
	}
	return nil
}

func (s *Statistics) checkGroup(g *group) error {
	m := &s.header.Model
	if g == nil || len(g.Layers) != m.Layers {
		return fmt.Errorf("not of %d layers", m.Layers)
	}
	if err := counts("sums", []int64{g.Documents, g.Tokens}, 2); err != nil {
		return err
	}
	for l := range g.Layers {
		x := &g.Layers[l]
		all := []int64{x.Repeats.Pairs, x.Repeats.First, x.Repeats.Any, x.Weighted, x.Dropped, x.Entropy.Whole, x.Entropies}
		for _, w := range x.Weights {
			all = append(all, w.Whole)
		}
		err := counts("counts", x.Counts, int64(m.Experts))
		if err == nil {
			err = counts("first", x.First, int64(m.Experts))
		}
		if err == nil {
			err = counts("sums", all, int64(7+m.TopK))
		}
		if err == nil && len(x.Local) != len(s.opts.Segments) {
			err = fmt.Errorf("%d of %d segments", len(x.Local), len(s.opts.Segments))
		}
		for i := 0; err == nil && i < len(x.Local); i++ {
			y := &x.Local[i]
			if err = counts("above", y.Above, int64(s.opts.Segments[i])); err == nil {
				err = counts("hits", append([]int64{y.Windows, y.Choices}, y.Hits...), int64(2+len(s.opts.CacheSizes)))
			}
		}
		if err != nil {
			return fmt.Errorf("layer %d: %w", l, err)
		}
	}
	return nil
}

// counts checks n counts that were read.
func counts(name string, c []int64, n int64) error {
	if int64(len(c)) != n {
		return fmt.Errorf("%q has %d values, expected %d", name, len(c), n)
	}
	for i, v := range c {
		if v < 0 {
			return fmt.Errorf("%q: value %d is %d", name, i, v)
		}
	}
	return nil
}
