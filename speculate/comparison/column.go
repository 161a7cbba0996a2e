package comparison

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// column measures one stack.
func (c *comparing) column(ctx context.Context, col *Column, x *stack, light, full speculate.Data, test map[trace.Key]bool) error {
	own, err := x.data(light).InMemory(ctx, memory(c.o.Memory))
	if err != nil {
		return err
	}
	t, err := newTally(ctx, own, x.data(full))
	if err != nil {
		return err
	}
	col.Documents, col.Tokens, col.Measures = len(t.docs), t.tokens, t.measures()
	add := func(m map[Kind]Measure) {
		for k, v := range m {
			col.Measures[k] = v
		}
	}
	add(t.domains(c.Seed))
	for _, v := range []struct {
		of    source
		kinds [3]Kind
	}{{tokenOf, [3]Kind{TokenBits, TokenChance, TokenShare}}, {previousOf, [3]Kind{PreviousBits, PreviousChance, PreviousShare}}} {
		m, err := information(ctx, own, v.of, v.kinds)
		if err != nil {
			return err
		}
		add(m)
	}
	if bits, chance := col.Measures[TokenBits].Mean.Value, col.Measures[TokenChance].Mean.Value; chance > bits {
		c.Warnings = append(c.Warnings, fmt.Sprintf("%s: too few tokens, %d, to measure what token ids say: chance gives %.2f bits, more than the %.2f that are left", col.Name, col.Tokens, chance, bits))
	}
	if col.model != nil && col.model.Capacity > 0 {
		t.drop(col, float64(col.model.Capacity*col.Experts))
	}
	c.say("predicting " + col.Name)
	if err := c.predict(ctx, col, x, own, full, test); err != nil {
		return err
	}
	if x.encodes() { // all tokens of a text are computed together: each expert is read once
		return nil
	}
	c.say("caches of " + col.Name)
	return c.cache(ctx, col, own)
}

func (c *comparing) predict(ctx context.Context, col *Column, x *stack, own, full speculate.Data, test map[trace.Key]bool) error {
	in := func(want bool) func(*trace.Document) bool {
		return func(d *trace.Document) bool { return test[d.Key()] == want }
	}
	parts := speculate.Parts{Train: own.Filter(in(false)), Test: own.Filter(in(true))}
	var gates *speculate.Gates
	if col.model != nil && col.model.Gates != nil && len(x.header.InputLayers) == x.count {
		gates = x.gates(col.model.Gates)
		parts.Test = x.data(full).Filter(in(true))
	}
	p := &prediction{stack: x, distances: distances, named: col.numbers(c.Budgets.Layer), docs: map[trace.Key]*recallSums{}}
	if err := p.run(ctx, parts, gates); err != nil {
		return err
	}
	col.Recalls = p.recalls()
	return nil
}

// gates returns those of the stack's layers.
func (s *stack) gates(g *speculate.Gates) *speculate.Gates {
	n := g.Experts
	own := &speculate.Gates{Layers: s.count, Experts: n, Hidden: g.Hidden, Weights: g.Weights[s.first*n*g.Hidden:][:s.count*n*g.Hidden]}
	if g.Bias != nil {
		own.Bias = g.Bias[s.first*n:][:s.count*n]
	}
	return own
}

// numbers returns how many experts predictors name: powers of 2, K, and what the shares
// and the budgets of a layer are.
func (c *Column) numbers(budgets []int64) []int {
	named := []int{c.TopK}
	for n := 1; n <= c.Experts; n *= 2 {
		named = append(named, n)
	}
	for _, x := range Shares {
		named = append(named, c.share(x))
	}
	for _, b := range budgets {
		named = append(named, c.fit(b))
	}
	slices.Sort(named)
	return slices.DeleteFunc(slices.Compact(named), func(n int) bool { return n < 1 })
}

// share is a part of the experts of a layer, at least one.
func (c *Column) share(x float64) int { return max(1, int(math.Round(x*float64(c.Experts)))) }

// fit is how many experts of a layer a size holds.
func (c *Column) fit(size int64) int { return int(min(size/c.model.ExpertBytes, int64(c.Experts))) }

// drop measures dropped tokens by the capacity factor of their text, C E by its tokens.
func (t *tally) drop(col *Column, places float64) {
	edges := []float64{0, 1.25, 2, 4, 8, 16, math.Inf(1)}
	col.Factors = &[2]float64{math.Inf(1), 0}
	bin := make([]int, len(t.docs))
	for d, n := range t.lengths {
		f := places / float64(n)
		col.Factors[0], col.Factors[1] = math.Min(col.Factors[0], f), math.Max(col.Factors[1], f)
		for f >= edges[bin[d]+1] {
			bin[d]++
		}
	}
	if !t.drops {
		return
	}
	for b := range edges[1:] {
		x := DropBin{From: edges[b], To: edges[b+1]}
		var dropped, tokens float64
		var each [][2]float64
		for d, sums := range t.docs {
			if bin[d] != b {
				continue
			}
			var own [2]float64
			for l := range t.model.Layers {
				s := at(sums, l, t.model.Experts).scalars
				own[0], own[1] = own[0]+s[sumDropped], own[1]+s[sumTokens]
			}
			dropped, tokens = dropped+own[0], tokens+own[1]
			each = append(each, own)
		}
		if x.Texts = len(each); x.Texts == 0 {
			continue
		}
		var j jackknife
		for _, own := range each {
			j.add([]float64{(dropped - own[0]) / (tokens - own[1])})
		}
		if x.Share = j.value(0, dropped/tokens, 0, 1); math.IsInf(x.To, 1) {
			x.To = 0
		}
		col.Drops = append(col.Drops, x)
	}
}

// cache measures caches of the budgets and, for a figure, of sizes up to all experts.
func (c *comparing) cache(ctx context.Context, col *Column, own speculate.Data) error {
	all := col.Layers * col.Experts
	var sizes []int
	for i := 1; i <= 16; i++ {
		sizes = append(sizes, max(1, i*all/16))
	}
	for _, b := range c.Budgets.Cache {
		if n := col.cacheFit(b); n > 0 {
			sizes = append(sizes, n)
		}
	}
	for _, x := range Shares {
		sizes = append(sizes, col.cacheShare(x))
	}
	var err error
	if col.Caches, err = caches(ctx, own, sizes); err != nil {
		return err
	}
	if col.model != nil {
		for i := range col.Caches {
			col.Caches[i].Bytes = int64(col.Caches[i].Experts) * col.model.ExpertBytes
		}
	}
	return nil
}

// cacheFit is how many experts of all layers a size holds.
func (c *Column) cacheFit(size int64) int {
	return int(min(size/c.model.ExpertBytes, int64(c.Layers*c.Experts)))
}

// cacheShare is a part of the experts of all layers.
func (c *Column) cacheShare(x float64) int {
	return max(1, int(math.Round(x*float64(c.Layers*c.Experts))))
}
