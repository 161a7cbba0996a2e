package trace

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
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

// positionBuckets is the number of buckets of positions: 0, 1, 2-3, 4-7, ...
const positionBuckets = 32

// Statistics gathers the statistics of a trace, one document at a time. Its
// memory depends on the model and the number of data sets, not on the tokens.
type Statistics struct {
	header Header
	opts   StatisticsOptions
	topK   []int // of each layer

	order  []string // data sets in order of appearance
	groups map[string]*group

	transition []int64 // [L-1,E,E]: all choices of a layer to all of the next
	first      []int64 // [L-1,E,E]: first choice to first choice
	together   []int64 // [L,E,E]: experts of one token
	skipped    []string

	positions [positionBuckets]*bucket
}

// group holds the sums of one data set.
type group struct {
	documents, tokens int64
	layers            []layerSums
}

// layerSums holds the sums of one layer of one data set.
type layerSums struct {
	counts, first                 []int64 // [E]
	pairs, repeatFirst, repeatAny int64   // of consecutive tokens
	weights                       []float64
	weighted                      int64
	dropped                       int64
	entropy                       float64 // of the router, summed over tokens
	entropies                     int64
	local                         []*locality
}

// bucket holds the sums of a range of positions, over all layers.
type bucket struct {
	tokens                        int64
	counts                        []int64 // [L,E]
	pairs, repeatFirst, repeatAny int64
	entropy                       float64
	entropies                     int64
}

// NewStatistics starts the statistics of a trace with header h.
func NewStatistics(h Header, o StatisticsOptions) (*Statistics, error) {
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
	o.CacheSizes = slices.Clone(o.CacheSizes)
	slices.Sort(o.CacheSizes)
	o.CacheSizes = slices.Compact(o.CacheSizes)
	if o.MaxPairBytes == 0 {
		o.MaxPairBytes = 1 << 30
	}
	s := &Statistics{header: h, opts: o, topK: m.LayerTopK(), groups: map[string]*group{}}
	square := int64(m.Experts) * int64(m.Experts)
	if cells := square * int64(3*m.Layers-2); cells > o.MaxPairBytes/8 {
		s.skipped = []string{"transitions", "coactivation"}
		return s, nil
	}
	s.transition = make([]int64, square*int64(m.Layers-1))
	s.first = make([]int64, square*int64(m.Layers-1))
	s.together = make([]int64, square*int64(m.Layers))
	return s, nil
}

func (s *Statistics) newGroup() *group {
	m := &s.header.Model
	g := &group{layers: make([]layerSums, m.Layers)}
	for l := range g.layers {
		sums := &g.layers[l]
		sums.counts = make([]int64, m.Experts)
		sums.first = make([]int64, m.Experts)
		sums.weights = make([]float64, m.TopK)
		for _, n := range s.opts.Segments {
			sums.local = append(sums.local, newLocality(n, m.Experts, s.opts.CacheSizes))
		}
	}
	return g
}

// Add adds a document. A document without the header's shapes, or with experts
// out of range, is an error and not added. Router logits may be nil. Add does
// not retain d.
//
// In a model of an encoder and a decoder, figures of a layer are over the tokens
// that pass it.
func (s *Statistics) Add(d *Document) error {
	if err := s.check(d); err != nil {
		return fmt.Errorf("statistics: document %q of data set %q: %w", d.ID, d.Dataset, err)
	}
	g := s.groups[d.Dataset]
	if g == nil {
		g = s.newGroup()
		s.groups[d.Dataset] = g
		s.order = append(s.order, d.Dataset)
	}
	g.documents++
	g.tokens += int64(d.Len())
	for t := range d.Len() {
		s.token(d, t, g)
	}
	m := &s.header.Model
	encoded := d.Encoded()
	for l := range m.Layers {
		from, to := 0, encoded // the tokens that pass the layer
		if !m.Routes(Encode, l) {
			from, to = encoded, d.Len()
		}
		for _, local := range g.layers[l].local {
			local.add(to-from, func(t int) []int32 { return d.ExpertsAt(m, from+t, l) })
		}
	}
	s.routerEntropy(d, g)
	return nil
}

func (s *Statistics) check(d *Document) error {
	h := s.header
	if d.RouterLogits == nil { // not read
		h.LogitLayers = nil
	}
	h.InputLayers = nil
	light := *d
	light.RouterInput = nil
	if err := light.shapes(&h); err != nil {
		return err
	}
	for t := range d.Len() {
		for l, k := range s.topK {
			n, err := distinct(d.ExpertsAt(&h.Model, t, l), h.Model.Experts, k)
			if err == nil && n > 0 && !h.Model.Routes(d.Phase(t), l) {
				err = fmt.Errorf("experts for a token of phase %q", d.Phase(t))
			}
			if err != nil {
				return fmt.Errorf("token %d, layer %d: %w", t, l, err)
			}
		}
	}
	for i, p := range d.Positions {
		if p < 0 {
			return fmt.Errorf("token %d: position %d", i, p)
		}
	}
	return nil
}

// token adds one token at all layers.
func (s *Statistics) token(d *Document, t int, g *group) {
	m := &s.header.Model
	at := bits.Len32(uint32(d.Position(t)))
	b := s.positions[at]
	if b == nil {
		b = &bucket{counts: make([]int64, m.Layers*m.Experts)}
		s.positions[at] = b
	}
	b.tokens++
	follows := t > 0 && d.Position(t) == d.Position(t-1)+1
	var before []int32
	for l := range m.Layers {
		choices := d.ExpertsAt(m, t, l)
		sums := &g.layers[l]
		for k, e := range choices {
			if e == NoExpert {
				continue
			}
			sums.counts[e]++
			b.counts[l*m.Experts+int(e)]++
			if k == 0 {
				sums.first[e]++
			}
		}
		if w := d.WeightsAt(m, t, l); w != nil && choices[0] != NoExpert {
			for k, v := range w {
				sums.weights[k] += float64(v)
			}
			sums.weighted++
		}
		if d.DroppedAt(m, t, l) {
			sums.dropped++
		}
		if follows {
			s.repeat(d.ExpertsAt(m, t-1, l), choices, sums, b)
		}
		s.pairs(l, before, choices)
		before = choices
	}
}

// repeat counts whether a token's experts are those of the token before.
func (s *Statistics) repeat(last, now []int32, sums *layerSums, b *bucket) {
	if last[0] == NoExpert || now[0] == NoExpert {
		return
	}
	sums.pairs++
	b.pairs++
	if last[0] == now[0] {
		sums.repeatFirst++
		b.repeatFirst++
	}
	for _, e := range now {
		if e != NoExpert && slices.Contains(last, e) {
			sums.repeatAny++
			b.repeatAny++
			return
		}
	}
}

// pairs counts the choices of one token with each other and with those of the
// layer before.
func (s *Statistics) pairs(l int, before, now []int32) {
	if s.together == nil {
		return
	}
	n := s.header.Model.Experts
	cells := s.together[l*n*n : (l+1)*n*n]
	for _, e := range now {
		for _, f := range now {
			if e != f && e != NoExpert && f != NoExpert {
				cells[int(e)*n+int(f)]++
			}
		}
	}
	if before == nil {
		return
	}
	cells = s.transition[(l-1)*n*n : l*n*n]
	for _, e := range before {
		for _, f := range now {
			if e != NoExpert && f != NoExpert {
				cells[int(e)*n+int(f)]++
			}
		}
	}
	if e, f := before[0], now[0]; e != NoExpert && f != NoExpert {
		s.first[(l-1)*n*n+int(e)*n+int(f)]++
	}
}

// routerEntropy adds the entropies of softmax(router logits).
func (s *Statistics) routerEntropy(d *Document, g *group) {
	n, layers := s.header.Model.Experts, s.header.LogitLayers
	for i := range len(d.RouterLogits) / n {
		t, l := i/len(layers), layers[i%len(layers)]
		if !s.header.Model.Routes(d.Phase(t), l) {
			continue // its logits are of no router
		}
		h := softmaxEntropy(d.RouterLogits[i*n : (i+1)*n])
		if math.IsNaN(h) {
			continue
		}
		g.layers[l].entropy += h
		g.layers[l].entropies++
		b := s.positions[bits.Len32(uint32(d.Position(t)))]
		b.entropy += h
		b.entropies++
	}
}
