package trace

import (
	"maps"
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
	r := &Summary{Model: s.header.Model, Source: s.header.Source, Datasets: make([]GroupSummary, 0, len(s.Datasets))}
	all := s.newGroup()
	for _, name := range slices.Sorted(maps.Keys(s.Datasets)) {
		g := s.Datasets[name]
		all.merge(g)
		r.Datasets = append(r.Datasets, s.groupSummary(name, g))
	}
	r.Overall = s.groupSummary("", all)
	r.Documents, r.Tokens = all.Documents, all.Tokens
	n := s.header.Model.Experts
	if s.Together == nil {
		r.Skipped = []string{"transitions", "coactivation"}
	} else {
		for l := range s.header.Model.Layers {
			r.Coactivation = append(r.Coactivation, matrix(s.Together, l, n))
			if _, first := s.header.Model.StackOf(l); l == first {
				continue
			}
			at, to := (l-1)*n*n, l*n*n
			r.Transitions = append(r.Transitions, TransitionSummary{
				From: l - 1, Counts: matrix(s.Transition, l-1, n), FirstCounts: matrix(s.First, l-1, n),
				MutualInformation:      mutualInformation(s.Transition[at:to], n),
				FirstMutualInformation: mutualInformation(s.First[at:to], n),
			})
		}
	}
	for i, b := range s.Positions {
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

func (s *Statistics) groupSummary(name string, g *group) GroupSummary {
	r := GroupSummary{Dataset: name, Documents: g.Documents, Tokens: g.Tokens}
	for l := range g.Layers {
		r.Layers = append(r.Layers, s.layerSummary(l, &g.Layers[l]))
	}
	return r
}

func (s *Statistics) layerSummary(l int, x *layerSums) LayerSummary {
	m := &s.header.Model
	r := LayerSummary{
		Layer:               l,
		Counts:              slices.Clone(x.Counts),
		FirstCounts:         slices.Clone(x.First),
		Share:               make([]float64, m.Experts),
		Usage:               newUsage(x.Counts),
		FirstUsage:          newUsage(x.First),
		RepeatedFirst:       ratio(x.Repeats.First, x.Repeats.Pairs),
		RepeatedAny:         ratio(x.Repeats.Any, x.Repeats.Pairs),
		RandomRepeatedFirst: randomRepeat(m.Experts, 1),
		RandomRepeatedAny:   randomRepeat(m.Experts, s.topK[l]),
		RouterEntropy:       mean(x.Entropy, x.Entropies),
	}
	var total int64
	for _, c := range x.Counts {
		total += c
	}
	for e, c := range x.Counts {
		r.Share[e] = ratio(c, total)
	}
	if s.header.Dropped {
		var tokens int64
		for _, c := range x.First {
			tokens += c
		}
		share := ratio(x.Dropped, tokens)
		r.Dropped = &share
	}
	if x.Weighted > 0 {
		r.MeanWeights = make([]float64, len(x.Weights))
		for k, w := range x.Weights {
			r.MeanWeights[k] = w.value() / float64(x.Weighted)
		}
	}
	for i := range x.Local {
		local := &x.Local[i]
		f1, activated := local.srp(m.Experts)
		y := LocalitySummary{Segment: s.opts.Segments[i], Windows: local.Windows, SRP: f1, Activated: activated}
		for j, c := range s.opts.CacheSizes {
			y.Cache = append(y.Cache, CacheSummary{Experts: c, HitRate: ratio(local.Hits[j], local.Choices)})
		}
		r.Local = append(r.Local, y)
	}
	return r
}

func (b *bucket) result(i, experts int) PositionSummary {
	r := PositionSummary{
		Tokens:        b.Tokens,
		RepeatedFirst: ratio(b.Repeats.First, b.Repeats.Pairs),
		RepeatedAny:   ratio(b.Repeats.Any, b.Repeats.Pairs),
		RouterEntropy: mean(b.Entropy, b.Entropies),
	}
	if i > 0 { // positions of i bits
		r.From = int32(uint32(1) << (i - 1))
		r.To = int32(uint32(1)<<i - 1)
	}
	layers := 0
	for l := range len(b.Counts) / experts {
		counts := b.Counts[l*experts : (l+1)*experts]
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

func mean(s sum, n int64) *float64 {
	if n == 0 {
		return nil
	}
	v := s.value() / float64(n)
	return &v
}
