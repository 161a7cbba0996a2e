package comparison

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// Recall is how many of the chosen experts are among the first that a predictor names,
// at a distance in MoE layers, or in transformer blocks where Blocks is not 0.
type Recall struct {
	Predictor string `json:"predictor"`
	Layers    int    `json:"layers,omitempty"`
	Blocks    int    `json:"blocks,omitempty"`
	Named     int    `json:"named"` // experts of a layer
	// Recall is a mean over choices. Lift is Recall by chance, Named/E; Gain is Recall by
	// that of naming the experts that are chosen most often.
	Recall Value `json:"recall"`
	Lift   Value `json:"lift_over_chance"`
	Gain   Value `json:"lift_over_frequency"`
}

// frequencyName is the predictor that Gain refers to.
const frequencyName = "frequency"

// gateReuse is the name of the predictor that needs gates and router inputs.
const gateReuse = "gate reuse"

// distance is between a prediction and its layer; one of both is 0.
type distance struct{ layers, blocks int }

// recallSums are one document's: hits by predictor, distance and number of experts
// named, [P,distances,named], and choices by predictor and distance.
type recallSums struct{ hits, choices []float64 }

// prediction is an evaluation of a stack's predictors.
type prediction struct {
	stack     *stack
	names     []string // of predictors
	distances []distance
	named     []int
	docs      map[trace.Key]*recallSums
}

// horizons returns the distances in layers that answer for all wanted distances.
func (p *prediction) horizons() []speculate.Horizon {
	blocks := p.stack.blocks()
	wanted := map[int]bool{}
	for _, d := range p.distances {
		if d.layers > 0 && d.layers < len(blocks) {
			wanted[d.layers] = true
		}
		for l := range blocks {
			for h := 1; d.blocks > 0 && h <= l; h++ {
				if blocks[l]-blocks[l-h] == d.blocks {
					wanted[h] = true
				}
			}
		}
	}
	var hs []speculate.Horizon
	for h := 1; h < len(blocks); h++ {
		if wanted[h] {
			hs = append(hs, speculate.Horizon{Layers: h})
		}
	}
	return hs
}

// run fits the predictors on parts.Train and scores them on parts.Test.
func (p *prediction) run(ctx context.Context, parts speculate.Parts, gates *speculate.Gates) error {
	hs := p.horizons()
	if len(hs) == 0 {
		return nil
	}
	h := parts.Test.Header
	ps, err := speculate.Baselines(speculate.ShapeOf(h.Model), gates)
	if err != nil {
		return err
	}
	ps = slices.DeleteFunc(ps, func(q speculate.Predictor) bool {
		return q == speculate.Predictor(speculate.Oracle{}) || q.Requires().Check(h) != nil
	})
	if err := speculate.Fit(ctx, parts.Train, hs, ps...); err != nil {
		return err
	}
	if p.stack.encodes() { // all tokens come together, and none before another
		ps = slices.DeleteFunc(ps, func(q speculate.Predictor) bool { return q.Name() == new(speculate.PreviousToken).Name() })
	}
	place := map[string]int{}
	for _, q := range ps {
		place[q.Name()] = len(p.names)
		p.names = append(p.names, q.Name())
	}
	blocks := p.stack.blocks()
	each := func(a *speculate.Answer) error {
		doc := p.document(trace.Key{Dataset: a.Dataset, Document: a.Document})
		apart := blocks[a.Layer] - blocks[a.Layer-a.Horizon.Layers]
		for i, d := range p.distances {
			if d.layers == a.Horizon.Layers || d.blocks == apart {
				p.count(doc, place[a.Predictor]*len(p.distances)+i, a)
			}
		}
		return nil
	}
	for _, h := range hs { // one after the other: a document's answers are held, each of E numbers
		o := speculate.EvaluateOptions{Horizons: []speculate.Horizon{h}, Resamples: -1, Each: each}
		if _, err := speculate.Evaluate(ctx, parts.Test, o, ps...); err != nil {
			return fmt.Errorf("predictors: %w", err)
		}
	}
	return nil
}

func (p *prediction) document(k trace.Key) *recallSums {
	d := p.docs[k]
	if d == nil {
		n := len(p.names) * len(p.distances)
		d = &recallSums{make([]float64, n*len(p.named)), make([]float64, n)}
		p.docs[k] = d
	}
	return d
}

// count adds an answer to the sums of a predictor at a distance.
func (p *prediction) count(doc *recallSums, at int, a *speculate.Answer) {
	for _, e := range a.Actual {
		if e < 0 {
			continue
		}
		doc.choices[at]++
		rank := slices.Index(a.Predicted, e)
		for i, n := range p.named {
			if rank < n {
				doc.hits[at*len(p.named)+i]++
			}
		}
	}
}

// recalls returns the recall of every predictor at every distance and number.
func (p *prediction) recalls() []Recall {
	if len(p.docs) == 0 {
		return nil
	}
	experts := float64(p.stack.header.Model.Experts)
	n := len(p.names) * len(p.distances)
	total := &recallSums{make([]float64, n*len(p.named)), make([]float64, n)}
	keys := make([]trace.Key, 0, len(p.docs))
	for k, d := range p.docs {
		keys = append(keys, k)
		total.plus(d, 1)
	}
	slices.SortFunc(keys, trace.Key.Compare)
	frequency := slices.Index(p.names, frequencyName)
	values := func(s *recallSums) []float64 { // recall, gain
		v := make([]float64, 0, 2*len(s.hits))
		for i, x := range s.hits {
			of, d := i/len(p.named), i/len(p.named)%len(p.distances)
			base := frequency*len(p.distances) + d
			r := x / s.choices[of]
			v = append(v, r, r/(s.hits[base*len(p.named)+i%len(p.named)]/s.choices[base]))
		}
		return v
	}
	var j jackknife
	for _, k := range keys {
		total.plus(p.docs[k], -1)
		j.add(values(total))
		total.plus(p.docs[k], 1)
	}
	var out []Recall
	v := values(total)
	for i := range total.hits {
		of, d := i/len(p.named)/len(p.distances), p.distances[i/len(p.named)%len(p.distances)]
		r := Recall{Predictor: p.names[of], Layers: d.layers, Blocks: d.blocks, Named: p.named[i%len(p.named)]}
		if math.IsNaN(v[2*i]) {
			continue
		}
		r.Recall, r.Gain = j.value(2*i, v[2*i], 0, 1), j.value(2*i+1, v[2*i+1], 0, math.Inf(1))
		r.Lift = r.Recall.scaled(experts / float64(r.Named))
		out = append(out, r)
	}
	return out
}

func (s *recallSums) plus(o *recallSums, by float64) {
	for i, x := range o.hits {
		s.hits[i] += by * x
	}
	for i, x := range o.choices {
		s.choices[i] += by * x
	}
}
