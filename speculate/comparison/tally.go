package comparison

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// tally are the sums of a stack, in all and of each document, from which any measure
// can be computed without a document.
type tally struct {
	model   trace.Model
	drops   bool
	docs    [][]float64 // [documents][L*width]
	sets    []int       // [documents] the data set of each
	names   []string    // of data sets
	lengths []int       // [documents] tokens
	total   []float64   // [L*width]
	tokens  int
}

var errNoTokens = errors.New("no tokens")

// newTally reads a stack's documents: light of routing alone, full with router logits.
func newTally(ctx context.Context, light, full speculate.Data) (*tally, error) {
	t := &tally{model: light.Header.Model, drops: light.Header.Dropped}
	m := &t.model
	setOf, index := map[string]int{}, map[trace.Key]int{}
	for doc, err := range light.All(ctx) {
		if err != nil {
			return nil, err
		}
		if err := doc.Validate(&light.Header); err != nil {
			return nil, err
		}
		if _, ok := setOf[doc.Dataset]; !ok {
			setOf[doc.Dataset] = len(t.names)
			t.names = append(t.names, doc.Dataset)
		}
		index[doc.Key()] = len(t.docs)
		t.sets = append(t.sets, setOf[doc.Dataset])
		t.lengths = append(t.lengths, doc.Len())
		t.docs = append(t.docs, documentSums(m, doc))
		t.tokens += doc.Len()
	}
	if t.tokens == 0 {
		return nil, errNoTokens
	}
	if len(full.Header.LogitLayers) > 0 {
		for doc, err := range full.All(ctx) {
			if err != nil {
				return nil, err
			}
			i, ok := index[doc.Key()]
			if !ok || doc.Len() != t.lengths[i] || len(doc.RouterLogits) != doc.Len()*len(full.Header.LogitLayers)*m.Experts {
				return nil, fmt.Errorf("document %q of data set %q changed while it was read", doc.ID, doc.Dataset)
			}
			addLogits(m, full.Header.LogitLayers, doc, t.docs[i])
		}
	}
	t.add()
	return t, nil
}

// add adds up the documents, and to each what independent choices would use, which
// depends on the shares in all.
func (t *tally) add() {
	m := &t.model
	t.total = make([]float64, m.Layers*width(m.Experts))
	for _, x := range t.docs {
		for i, v := range x {
			t.total[i] += v
		}
	}
	for l := range m.Layers {
		all := at(t.total, l, m.Experts)
		memo := map[[2]float64]*[scalars]float64{} // many documents have as many tokens
		for _, x := range t.docs {
			s := at(x, l, m.Experts)
			tokens, choices := s.scalars[sumTokens], sum(s.choices)
			key := [2]float64{tokens, choices}
			if memo[key] == nil {
				memo[key] = all.independent(tokens, choices)
			}
			for _, i := range chanceSums {
				if i != sumPrefixExpected || s.scalars[sumPrefixTexts] > 0 {
					s.scalars[i] = memo[key][i]
					all.scalars[i] += memo[key][i]
				}
			}
		}
	}
}

// chanceSums are the scalars that independent writes.
var chanceSums = []int{sumExpected, sumPrefixExpected, sumOverflowChance, sumOverflowChance + 1, sumOverflowChance + 2}

// independent returns what a document would add to chanceSums whose tokens chose
// independently by the shares of s.
func (s layerSums) independent(tokens, choices float64) *[scalars]float64 {
	var x [scalars]float64
	if tokens == 0 {
		return &x
	}
	perToken := choices / tokens
	x[sumExpected] = expectedDistinct(s.choices, tokens, perToken)
	x[sumPrefixExpected] = expectedDistinct(s.choices, prefix, perToken)
	total := sum(s.choices)
	for i, f := range factors {
		room := places(f, choices, len(s.choices))
		for _, c := range s.choices {
			x[sumOverflowChance+i] += expectedExcess(tokens, math.Min(1, perToken*c/total), room)
		}
	}
	return &x
}

// places is how many choices an expert computes at a capacity factor.
func places(factor, choices float64, experts int) float64 {
	return math.Max(1, math.Floor(factor*choices/float64(experts)))
}

// expectedExcess returns the mean of max(0, x - room), with x binomial: of n with
// probability p.
func expectedExcess(n, p, room float64) float64 {
	if p <= 0 || p >= 1 || room >= n {
		return math.Max(0, n*math.Floor(p)-room)
	}
	total, mass := 0.0, 0.0
	for x := 0.0; x <= n; x++ {
		q := math.Exp(logChoose(n, x) + x*math.Log(p) + (n-x)*math.Log1p(-p))
		mass += q
		total += q * math.Max(0, x-room)
		if mass > 1-1e-12 && x > room {
			break
		}
	}
	return total
}

// expectedDistinct returns how many different experts independent tokens would use,
// where an expert is among the choices of a token, of which there are perToken, in
// proportion to its count: sum 1 - (1 - perToken f_e)^tokens.
func expectedDistinct(counts []float64, tokens, perToken float64) float64 {
	total, x := sum(counts), 0.0
	if tokens == 0 {
		return 0
	}
	for _, c := range counts {
		x += 1 - math.Pow(1-math.Min(1, perToken*c/total), tokens)
	}
	return x
}

// documentSums returns the sums of one document, without those of logits.
func documentSums(m *trace.Model, d *trace.Document) []float64 {
	x := make([]float64, m.Layers*width(m.Experts))
	for l := range m.Layers {
		s := at(x, l, m.Experts)
		before := trace.NoExpert
		for t := range d.Len() {
			chosen := d.ExpertsAt(m, t, l)
			for k, e := range chosen {
				if e < 0 {
					break
				}
				s.choices[e]++
				if k == 0 {
					s.firsts[e]++
					s.scalars[sumTokens]++
				}
			}
			if d.DroppedAt(m, t, l) {
				s.scalars[sumDropped]++
			}
			if before >= 0 && chosen[0] >= 0 {
				s.scalars[sumPairs]++
				if before == chosen[0] {
					s.scalars[sumRepeats]++
				}
			}
			before = chosen[0]
			if s.scalars[sumTokens] == prefix && chosen[0] >= 0 { // once: the count moves on with the next
				s.scalars[sumPrefixTexts], s.scalars[sumPrefixDistinct] = 1, s.distinct()
			}
		}
		s.finish()
	}
	return x
}

// distinct is how many experts were chosen.
func (s layerSums) distinct() (n float64) {
	for _, c := range s.choices {
		if c > 0 {
			n++
		}
	}
	return n
}

// finish adds what a document's counts say about its working set and its overflow.
func (s layerSums) finish() {
	choices := sum(s.choices)
	if choices == 0 {
		return
	}
	s.scalars[sumTexts], s.scalars[sumDistinct] = 1, s.distinct()
	for _, c := range s.choices {
		for i, f := range factors {
			s.scalars[sumOverflow+i] += math.Max(0, c-places(f, choices, len(s.choices)))
		}
	}
}

// addLogits adds the probabilities of a document's tokens to its sums.
func addLogits(m *trace.Model, layers []int, d *trace.Document, x []float64) {
	p := make([]float64, m.Experts)
	for i, l := range layers {
		s := at(x, l, m.Experts)
		for t := range d.Len() {
			if d.ExpertsAt(m, t, l)[0] < 0 {
				continue
			}
			top := softmax(d.RouterLogits[(t*len(layers)+i)*m.Experts:][:m.Experts], p)
			for e, v := range p {
				s.probs[e] += v
			}
			s.scalars[sumLogits]++
			s.scalars[sumTop] += top
		}
	}
}

// softmax writes the probabilities of logits to p and returns the largest.
func softmax(logits []float32, p []float64) (top float64) {
	largest := math.Inf(-1)
	for _, z := range logits {
		largest = math.Max(largest, float64(z))
	}
	total := 0.0
	for e, z := range logits {
		p[e] = math.Exp(float64(z) - largest)
		total += p[e]
	}
	for e := range p {
		p[e] /= total
	}
	return 1 / total
}

// measures returns the measures of sumKinds with intervals.
func (t *tally) measures() map[Kind]Measure {
	scratch := make([]float64, t.model.Experts)
	of := func(x []float64) []float64 {
		var v []float64
		for l := range t.model.Layers {
			v = at(x, l, t.model.Experts).measures(v, t.drops, scratch)
		}
		return withMeans(v, len(sumKinds))
	}
	var j jackknife
	left := make([]float64, len(t.total))
	for _, x := range t.docs {
		for i, v := range x {
			left[i] = t.total[i] - v
		}
		j.add(of(left))
	}
	return collect(sumKinds, of(t.total), &j)
}

// withMeans appends to measures v, [L,kinds], their means over the layers that have them.
func withMeans(v []float64, kinds int) []float64 {
	n := len(v) / kinds
	for k := range kinds {
		total, layers := 0.0, 0.0
		for l := range n {
			if x := v[l*kinds+k]; !math.IsNaN(x) {
				total += x
				layers++
			}
		}
		v = append(v, total/layers)
	}
	return v
}

// collect makes measures of values [L+1,kinds], the means last, with intervals of j.
func collect(kinds []Kind, v []float64, j *jackknife) map[Kind]Measure {
	layers := len(v)/len(kinds) - 1
	out := map[Kind]Measure{}
	for i, k := range kinds {
		low, high := k.bounds()
		var values []Value
		for l := range layers + 1 {
			x := j.value(l*len(kinds)+i, v[l*len(kinds)+i], low, high)
			if !x.OK() {
				x.Missing = k.absent()
			}
			values = append(values, x)
		}
		out[k] = Measure{Mean: values[layers], Layers: values[:layers:layers]}
	}
	return out
}
