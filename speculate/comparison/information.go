package comparison

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// permutations is how often data sets are permuted among documents.
const permutations = 200

// xlog returns x log2 x, 0 for 0.
func xlog(x float64) float64 {
	if x <= 0 {
		return 0
	}
	return x * math.Log2(x)
}

// pairSums hold, for two variables counted together, n and the sums of x log2 x over
// the counts of the one, the other, and both: the mutual information, in bits, is
// log2 n + (both - one - other)/n.
type pairSums struct{ n, one, other, both float64 }

func (p pairSums) information() float64 {
	return math.Log2(p.n) + (p.both-p.one-p.other)/p.n
}

// otherBits is the entropy of the other variable.
func (p pairSums) otherBits() float64 { return math.Log2(p.n) - p.other/p.n }

// joint counts pairs of a variable of any values and the first choice at each layer.
type joint struct {
	layers, experts int
	rows            map[int32][]uint32 // value -> [L,E]
	sums            []pairSums         // [L]
	ones            []map[int32]float64
	others          [][]float64 // [L][E]
}

func newJoint(layers, experts int) *joint {
	j := &joint{layers: layers, experts: experts, rows: map[int32][]uint32{}}
	for range layers {
		j.ones, j.others = append(j.ones, map[int32]float64{}), append(j.others, make([]float64, experts))
	}
	return j
}

func (j *joint) count(layer int, value, expert int32) {
	row := j.rows[value]
	if row == nil {
		row = make([]uint32, j.layers*j.experts)
		j.rows[value] = row
	}
	row[layer*j.experts+int(expert)]++
}

// end computes the sums when all is counted.
func (j *joint) end() {
	values := make([]int32, 0, len(j.rows))
	for v := range j.rows {
		values = append(values, v)
	}
	slices.Sort(values) // sums of floating point in one order
	j.sums = make([]pairSums, j.layers)
	for l := range j.layers {
		s := &j.sums[l]
		for _, v := range values {
			one := 0.0
			for e, c := range j.rows[v][l*j.experts:][:j.experts] {
				one += float64(c)
				j.others[l][e] += float64(c)
				s.both += xlog(float64(c))
			}
			if one > 0 {
				j.ones[l][v] = one
				s.one += xlog(one)
				s.n += one
			}
		}
		for _, c := range j.others[l] {
			s.other += xlog(c)
		}
	}
}

// chance returns the information that permuted experts have at a layer.
func (j *joint) chance(l int) float64 {
	c := newChance(j.others[l])
	var ones []float64
	for _, n := range j.ones[l] {
		ones = append(ones, n)
	}
	slices.Sort(ones)
	total := 0.0
	for _, n := range ones {
		total += c.of(n)
	}
	return total
}

// observation is a value and the expert that it was seen with.
type observation struct{ value, expert int32 }

// without returns the sums at layer l without a document's observations, which it sorts.
func (j *joint) without(l int, seen []observation) pairSums {
	s := j.sums[l]
	slices.SortFunc(seen, func(a, b observation) int {
		return cmp.Or(cmp.Compare(a.value, b.value), cmp.Compare(a.expert, b.expert))
	})
	experts := make([]float64, j.experts)
	for i := 0; i < len(seen); {
		value, of := seen[i].value, 0
		for i < len(seen) && seen[i].value == value {
			k := i
			for k < len(seen) && seen[k] == seen[i] {
				k++
			}
			all := float64(j.rows[value][l*j.experts+int(seen[i].expert)])
			s.both += xlog(all-float64(k-i)) - xlog(all)
			experts[seen[i].expert] += float64(k - i)
			of += k - i
			i = k
		}
		all := j.ones[l][value]
		s.one += xlog(all-float64(of)) - xlog(all)
		s.n -= float64(of)
	}
	for e, c := range experts {
		if c > 0 {
			s.other += xlog(j.others[l][e]-c) - xlog(j.others[l][e])
		}
	}
	return s
}

// source says which variable of a document goes with the first choices at a layer.
type source func(m *trace.Model, d *trace.Document, t, l int) (value int32, ok bool)

func tokenOf(_ *trace.Model, d *trace.Document, t, _ int) (int32, bool) {
	return d.Tokens[t], d.Tokens[t] != trace.NoToken
}

func previousOf(m *trace.Model, d *trace.Document, t, l int) (int32, bool) {
	if l == 0 {
		return 0, false
	}
	e := d.ExpertsAt(m, t, l-1)[0]
	return e, e >= 0
}

// observations appends those of document d at layer l to seen.
func (of source) observations(m *trace.Model, d *trace.Document, l int, seen []observation) []observation {
	for t := range d.Len() {
		e := d.ExpertsAt(m, t, l)[0]
		if v, ok := of(m, d, t, l); ok && e >= 0 {
			seen = append(seen, observation{v, e})
		}
	}
	return seen
}

// information measures what the token or the layer before say about first choices: the
// kinds are of the bits, of what chance gives, and of the share of H.
func information(ctx context.Context, data speculate.Data, of source, kinds [3]Kind) (map[Kind]Measure, error) {
	m := &data.Header.Model
	all := newJoint(m.Layers, m.Experts)
	var seen []observation
	for doc, err := range data.All(ctx) {
		if err != nil {
			return nil, err
		}
		for l := range m.Layers {
			seen = of.observations(m, doc, l, seen[:0])
			for _, o := range seen {
				all.count(l, o.value, o.expert)
			}
		}
	}
	all.end()
	var j jackknife
	sums := make([]pairSums, m.Layers)
	for doc, err := range data.All(ctx) {
		if err != nil {
			return nil, err
		}
		for l := range m.Layers {
			seen = of.observations(m, doc, l, seen[:0])
			if len(seen) > 0 && all.sums[l].n == 0 {
				return nil, fmt.Errorf("document %q of data set %q changed while it was read", doc.ID, doc.Dataset)
			}
			sums[l] = all.without(l, seen)
		}
		j.add(pairMeasures(sums, nil))
	}
	chances := make([]float64, m.Layers)
	for l := range chances {
		chances[l] = all.chance(l)
	}
	return collect(kinds[:], pairMeasures(all.sums, chances), &j), nil
}

// pairMeasures returns bits, chance and share of H of each layer and their means. nil
// chances are not subtracted: they move intervals little.
func pairMeasures(sums []pairSums, chances []float64) []float64 {
	var v []float64
	for l, s := range sums {
		x, c := s.information(), 0.0
		if chances != nil {
			c = chances[l]
		}
		if s.n <= 0 {
			x = math.NaN()
		}
		share := (x - c) / s.otherBits()
		if s.otherBits() < 1e-12 { // always the same expert: nothing to know
			share = math.NaN()
		}
		if math.IsNaN(x) {
			c = math.NaN()
		}
		v = append(v, x-c, c, share)
	}
	return withMeans(v, 3)
}

// domains measures what the data set says about first choices.
func (t *tally) domains(seed uint64) map[Kind]Measure {
	kinds := []Kind{DomainBits, DomainChance, DomainShare}
	layers, n := t.model.Layers, t.model.Experts
	if len(t.names) < 2 {
		none := missing("one data set")
		out := map[Kind]Measure{}
		for _, k := range kinds {
			out[k] = Measure{Mean: none, Layers: slices.Repeat([]Value{none}, layers)}
		}
		return out
	}
	counts := make([]float64, len(t.names)*layers*n) // [data sets,L,E]
	tableOf := func(sets []int) {
		clear(counts)
		for d, x := range t.docs {
			t.firsts(x, counts[sets[d]*layers*n:][:layers*n], 1)
		}
	}
	sums := make([]pairSums, layers)
	chances := make([]float64, layers)
	rng := rand.New(rand.NewPCG(seed, 2))
	sets := slices.Clone(t.sets)
	for range permutations {
		rng.Shuffle(len(sets), func(i, j int) { sets[i], sets[j] = sets[j], sets[i] })
		tableOf(sets)
		for l := range layers {
			chances[l] += tableSums(counts, len(t.names), layers, n, l).information() / permutations
		}
	}
	tableOf(t.sets)
	var j jackknife
	for d, x := range t.docs {
		row := counts[t.sets[d]*layers*n:][:layers*n]
		t.firsts(x, row, -1)
		for l := range layers {
			sums[l] = tableSums(counts, len(t.names), layers, n, l)
		}
		t.firsts(x, row, 1)
		j.add(pairMeasures(sums, nil))
	}
	for l := range layers {
		sums[l] = tableSums(counts, len(t.names), layers, n, l)
	}
	return collect(kinds, pairMeasures(sums, chances), &j)
}

// firsts adds a document's first choices, times by, to row, [L,E].
func (t *tally) firsts(x, row []float64, by float64) {
	n := t.model.Experts
	for l := range t.model.Layers {
		for e, c := range at(x, l, n).firsts {
			row[l*n+e] += by * c
		}
	}
}

// tableSums returns the sums of layer l of counts [rows,L,E].
func tableSums(counts []float64, rows, layers, experts, l int) pairSums {
	var s pairSums
	columns := make([]float64, experts)
	for r := range rows {
		one := 0.0
		for e, c := range counts[(r*layers+l)*experts:][:experts] {
			one += c
			columns[e] += c
			s.both += xlog(c)
		}
		s.one += xlog(one)
		s.n += one
	}
	for _, c := range columns {
		s.other += xlog(c)
	}
	return s
}
