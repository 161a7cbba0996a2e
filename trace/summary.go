package trace

import (
	"slices"
)

// Summary holds the statistics of a trace. Entropies and mutual information are
// in bits; shares and rates are fractions of 1.
type Summary struct {
	Model     Model  `json:"model"`
	Source    Source `json:"source"`
	Documents int64  `json:"documents"`
	Tokens    int64  `json:"tokens"`
	// Overall is over all data sets, Datasets by data set, sorted by name.
	Overall  GroupSummary   `json:"overall"`
	Datasets []GroupSummary `json:"datasets"`
	// Transitions lead from each layer to the next of its stack, [L-1] in a model
	// of one stack.
	Transitions []TransitionSummary `json:"transitions,omitempty"`
	// Coactivation counts the tokens that chose both of two experts, [L][E][E],
	// symmetric with a diagonal of 0.
	Coactivation [][][]int64 `json:"coactivation,omitempty"`
	// Positions is over all layers and data sets.
	Positions []PositionSummary `json:"positions"`
	// Skipped names the fields that are omitted because of
	// StatisticsOptions.MaxPairBytes.
	Skipped []string `json:"skipped,omitempty"`
}

// GroupSummary holds the statistics of one data set, or of all.
type GroupSummary struct {
	Dataset   string         `json:"dataset"` // "" for all
	Documents int64          `json:"documents"`
	Tokens    int64          `json:"tokens"`
	Layers    []LayerSummary `json:"layers"` // [L]
}

// LayerSummary holds the statistics of one layer.
type LayerSummary struct {
	Layer int `json:"layer"`
	// Counts and FirstCounts are how often each expert was chosen, [E], by any
	// choice and as the first; Share is Counts as proportions (Figure 7 of the
	// Mixtral paper, arXiv 2401.04088, for a data set).
	Counts      []int64   `json:"counts"`
	FirstCounts []int64   `json:"first_counts"`
	Share       []float64 `json:"share"`
	Usage       Usage     `json:"usage"`       // of Counts
	FirstUsage  Usage     `json:"first_usage"` // of FirstCounts
	// RepeatedFirst is the share of consecutive tokens with the same first
	// choice, RepeatedAny of those with an expert in common (Table 5 of the
	// Mixtral paper: first choice; first or second choice).
	// RandomRepeatedFirst and RandomRepeatedAny are the values of a router that
	// draws uniformly.
	RepeatedFirst       float64 `json:"repeated_first"`
	RepeatedAny         float64 `json:"repeated_any"`
	RandomRepeatedFirst float64 `json:"random_repeated_first"`
	RandomRepeatedAny   float64 `json:"random_repeated_any"`
	// MeanWeights are the mean routing weights by choice, [K]; nil if the trace
	// has none.
	MeanWeights []float64 `json:"mean_weights,omitempty"`
	// RouterEntropy is the mean entropy of softmax(router logits) over tokens,
	// in bits; nil if the layer's logits are not recorded.
	RouterEntropy *float64 `json:"router_entropy_bits,omitempty"`
	// Dropped is the share of the tokens routed at the layer that were dropped;
	// nil if the trace does not record it.
	Dropped *float64          `json:"dropped,omitempty"`
	Local   []LocalitySummary `json:"local,omitempty"`
}

// Usage describes how evenly counts fall on the experts.
type Usage struct {
	Entropy float64 `json:"entropy_bits"` // see Entropy
	// Normalized is Entropy as a fraction of its maximum, log2 of the number of
	// experts.
	Normalized float64 `json:"entropy_normalized"`
	// Gini is the Gini coefficient, from 0 for equal counts to (E-1)/E.
	Gini float64 `json:"gini"`
	// CV is the coefficient of variation, the standard deviation by the mean.
	CV     float64 `json:"cv"`
	Active int     `json:"active"` // experts chosen at least once
}

// newUsage measures the counts, [E].
func newUsage(counts []int64) Usage {
	u := Usage{Entropy: Entropy(counts), Normalized: normalizedEntropy(counts), Gini: gini(counts), CV: cv(counts)}
	for _, c := range counts {
		if c > 0 {
			u.Active++
		}
	}
	return u
}

// LocalitySummary is the local routing consistency over windows of Segment
// tokens (Liang et al., arXiv 2505.16056).
type LocalitySummary struct {
	Segment int   `json:"segment"` // m, tokens
	Windows int64 `json:"windows"`
	// SRP is the segment routing best performance: the best F1 score of a
	// router that activates the same experts for a whole window. Activated is
	// how many it activates there, relative to top-k.
	SRP       float64 `json:"srp"`
	Activated float64 `json:"srp_activated"`
	// Cache are the segment cache best hit rates.
	Cache []CacheSummary `json:"cache"`
}

// CacheSummary is the share of choices that a cache of the window's most chosen
// experts serves.
type CacheSummary struct {
	Experts int     `json:"experts"`
	HitRate float64 `json:"hit_rate"`
}

// TransitionSummary counts the choices of one token at a layer and the next.
type TransitionSummary struct {
	From int `json:"from"` // layer; to From+1
	// Counts are of all pairs of choices, FirstCounts of first choices, [E][E],
	// by expert at From, then expert at From+1.
	Counts      [][]int64 `json:"counts"`
	FirstCounts [][]int64 `json:"first_counts"`
	// MutualInformation is that of Counts, FirstMutualInformation that of
	// FirstCounts, in bits. All K*K pairs of choices of a token have equal weight.
	// For N pairs the estimate is too large by about (E-1)^2/(2 N ln 2) bits.
	MutualInformation      float64 `json:"mutual_information_bits"`
	FirstMutualInformation float64 `json:"first_mutual_information_bits"`
}

// PositionSummary holds the statistics of the positions From..To.
type PositionSummary struct {
	From   int32 `json:"from"`
	To     int32 `json:"to"`
	Tokens int64 `json:"tokens"`
	// Normalized is the mean over layers of Usage.Normalized, which is lower where
	// there are few tokens.
	Normalized    float64  `json:"entropy_normalized"`
	RepeatedFirst float64  `json:"repeated_first"` // of the position before
	RepeatedAny   float64  `json:"repeated_any"`
	RouterEntropy *float64 `json:"router_entropy_bits,omitempty"`
}

// Summary returns the statistics of the documents added so far.
func (s *Statistics) Summary() *Summary {
	r := &Summary{Model: s.header.Model, Source: s.header.Source, Skipped: slices.Clone(s.skipped)}
	all := s.newGroup()
	names := slices.Sorted(slices.Values(s.order))
	r.Datasets = make([]GroupSummary, 0, len(names))
	for _, name := range names {
		g := s.groups[name]
		all.merge(g)
		r.Datasets = append(r.Datasets, s.group(name, g))
	}
	r.Overall = s.group("", all)
	r.Documents, r.Tokens = all.documents, all.tokens
	n := s.header.Model.Experts
	if s.together != nil {
		for l := range s.header.Model.Layers {
			r.Coactivation = append(r.Coactivation, matrix(s.together, l, n))
			if _, first := s.header.Model.StackOf(l); l == first {
				continue
			}
			at, to := (l-1)*n*n, l*n*n
			r.Transitions = append(r.Transitions, TransitionSummary{
				From: l - 1, Counts: matrix(s.transition, l-1, n), FirstCounts: matrix(s.first, l-1, n),
				MutualInformation:      mutualInformation(s.transition[at:to], n),
				FirstMutualInformation: mutualInformation(s.first[at:to], n),
			})
		}
	}
	for i, b := range s.positions {
		if b != nil {
			r.Positions = append(r.Positions, b.result(i, n))
		}
	}
	return r
}

// matrix copies the i-th [n][n] of cells.
func matrix(cells []int64, i, n int) [][]int64 {
	rows := make([][]int64, n)
	for e := range rows {
		rows[e] = slices.Clone(cells[(i*n+e)*n : (i*n+e+1)*n])
	}
	return rows
}

func (g *group) merge(o *group) {
	g.documents += o.documents
	g.tokens += o.tokens
	add := func(dst, src []int64) {
		for i, v := range src {
			dst[i] += v
		}
	}
	for l := range g.layers {
		a, b := &g.layers[l], &o.layers[l]
		add(a.counts, b.counts)
		add(a.first, b.first)
		a.pairs += b.pairs
		a.repeatFirst += b.repeatFirst
		a.repeatAny += b.repeatAny
		for k, v := range b.weights {
			a.weights[k] += v
		}
		a.weighted += b.weighted
		a.dropped += b.dropped
		a.entropy += b.entropy
		a.entropies += b.entropies
		for i, local := range b.local {
			a.local[i].merge(local)
		}
	}
}

func (s *Statistics) group(name string, g *group) GroupSummary {
	r := GroupSummary{Dataset: name, Documents: g.documents, Tokens: g.tokens}
	for l := range g.layers {
		r.Layers = append(r.Layers, s.layer(l, &g.layers[l]))
	}
	return r
}

func (s *Statistics) layer(l int, sums *layerSums) LayerSummary {
	m := &s.header.Model
	r := LayerSummary{
		Layer:               l,
		Counts:              slices.Clone(sums.counts),
		FirstCounts:         slices.Clone(sums.first),
		Share:               make([]float64, m.Experts),
		Usage:               newUsage(sums.counts),
		FirstUsage:          newUsage(sums.first),
		RepeatedFirst:       ratio(sums.repeatFirst, sums.pairs),
		RepeatedAny:         ratio(sums.repeatAny, sums.pairs),
		RandomRepeatedFirst: randomRepeat(m.Experts, 1),
		RandomRepeatedAny:   randomRepeat(m.Experts, s.topK[l]),
		RouterEntropy:       mean(sums.entropy, sums.entropies),
	}
	var total int64
	for _, c := range sums.counts {
		total += c
	}
	for e, c := range sums.counts {
		r.Share[e] = ratio(c, total)
	}
	if s.header.Dropped {
		var tokens int64
		for _, c := range sums.first {
			tokens += c
		}
		share := ratio(sums.dropped, tokens)
		r.Dropped = &share
	}
	if sums.weighted > 0 {
		r.MeanWeights = make([]float64, len(sums.weights))
		for k, w := range sums.weights {
			r.MeanWeights[k] = w / float64(sums.weighted)
		}
	}
	for _, local := range sums.local {
		f1, activated := local.srp()
		x := LocalitySummary{Segment: local.m, Windows: local.windows, SRP: f1, Activated: activated}
		for i, c := range local.caches {
			x.Cache = append(x.Cache, CacheSummary{Experts: c, HitRate: ratio(local.hits[i], local.choices)})
		}
		r.Local = append(r.Local, x)
	}
	return r
}

func (b *bucket) result(i, experts int) PositionSummary {
	r := PositionSummary{
		Tokens:        b.tokens,
		RepeatedFirst: ratio(b.repeatFirst, b.pairs),
		RepeatedAny:   ratio(b.repeatAny, b.pairs),
		RouterEntropy: mean(b.entropy, b.entropies),
	}
	if i > 0 { // positions of i bits
		r.From = int32(uint32(1) << (i - 1))
		r.To = int32(uint32(1)<<i - 1)
	}
	layers := 0
	for l := range len(b.counts) / experts {
		counts := b.counts[l*experts : (l+1)*experts]
		if slices.Max(counts) > 0 {
			r.Normalized += normalizedEntropy(counts)
			layers++
		}
	}
	if layers > 0 {
		r.Normalized /= float64(layers)
	}
	return r
}

func ratio(a, b int64) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

func mean(sum float64, n int64) *float64 {
	if n == 0 {
		return nil
	}
	v := sum / float64(n)
	return &v
}
