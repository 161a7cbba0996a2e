package comparison

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// Subject is a model to compare and its trace.
type Subject struct {
	Name  string // "": the trace's
	Data  speculate.Data
	Model *Checkpoint // what the trace does not say; nil: not known
}

// Options configure [Compare]. The zero value is ready to use.
type Options struct {
	// Seed is that of the split by documents and of permutations.
	Seed uint64
	// Memory bounds the bytes of routing that are held, of each model; more is read
	// again from its Data. 0: 1 GiB.
	Memory int64
	// Progress, if not nil, is called with what begins.
	Progress func(what string)
}

// Result is a comparison.
type Result struct {
	Columns []Column `json:"columns"`
	Rows    []Row    `json:"rows"`
	// Documents is the number of those that all models have, and Test are those of them
	// that predictors were scored on; they were fitted on the others.
	Documents int         `json:"documents"`
	Test      []trace.Key `json:"test,omitempty"`
	Seed      uint64      `json:"seed"`
	// Budgets are the sizes that rows at equal bytes are at.
	Budgets Budgets `json:"budgets"`
	// Warnings name what makes the figures hard to compare.
	Warnings []string `json:"warnings,omitempty"`
}

// Budgets are sizes in bytes; none where a model's expert size is not known.
type Budgets struct {
	Layer []int64 `json:"layer,omitempty"` // of the experts named at a layer
	Cache []int64 `json:"cache,omitempty"` // of a cache
}

// Column is one stack of one model.
type Column struct {
	Name    string `json:"name"`
	Model   string `json:"model"`
	Stack   string `json:"stack"`
	Layers  int    `json:"layers"`
	Blocks  []int  `json:"blocks"` // of the layers
	Experts int    `json:"experts"`
	TopK    int    `json:"top_k"`
	// ExpertBytes is the size of an expert; 0: not known.
	ExpertBytes int64 `json:"expert_bytes,omitempty"`
	// Documents and Tokens are those measured.
	Documents int              `json:"documents"`
	Tokens    int              `json:"tokens"`
	Measures  map[Kind]Measure `json:"measures"`
	// Factors are the capacity factors C E/T of the texts, smallest and largest, and
	// Drops the dropped tokens by them; nil without a capacity or without drops.
	Factors *[2]float64  `json:"capacity_factors,omitempty"`
	Drops   []DropBin    `json:"drops,omitempty"`
	Recalls []Recall     `json:"recalls,omitempty"`
	Caches  []CachePoint `json:"caches,omitempty"`

	model *Checkpoint
	at    int // of the model's stacks
}

// DropBin is the share of tokens dropped in texts of a capacity factor of From to To.
type DropBin struct {
	From  float64 `json:"from"`
	To    float64 `json:"to,omitempty"` // 0: no end
	Texts int     `json:"texts"`
	Share Value   `json:"share"`
}

// Shares are the parts of the experts at which recall is compared, and of the
// smaller model's experts at which caches are.
var Shares = []float64{1. / 8, 1. / 4, 1. / 2}

// The distances at which predictors are compared, in layers and in blocks.
var distances = []distance{{layers: 1}, {layers: 2}, {layers: 4}, {blocks: 2}, {blocks: 4}}

// Compare measures the subjects on the documents that all of them have, by data set
// and id; on all documents of each, with a warning, if they have none in common. It reads
// each trace a few times.
func Compare(ctx context.Context, o Options, subjects ...Subject) (*Result, error) {
	if len(subjects) == 0 {
		return nil, errors.New("comparison: nothing to compare")
	}
	r := &Result{Seed: o.Seed}
	c := &comparing{o: o, Result: r}
	for i, s := range subjects {
		s.Name = cmpName(s)
		if slices.ContainsFunc(subjects[:i], func(q Subject) bool { return cmpName(q) == s.Name }) {
			return nil, fmt.Errorf("comparison: two models are named %q", s.Name)
		}
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("comparison: %s: %w", s.Name, err)
		}
		c.say("reading " + s.Name)
		light, err := routing(s.Data).InMemory(ctx, memory(o.Memory))
		if err != nil {
			return nil, fmt.Errorf("comparison: %s: %w", s.Name, err)
		}
		c.sides = append(c.sides, side{s, light})
	}
	if err := c.pair(ctx); err != nil {
		return nil, fmt.Errorf("comparison: %w", err)
	}
	c.budgets()
	for i := range c.sides {
		if err := c.measure(ctx, &c.sides[i]); err != nil {
			return nil, fmt.Errorf("comparison: %s: %w", c.sides[i].Name, err)
		}
	}
	r.Rows = r.rows()
	return r, nil
}

func cmpName(s Subject) string {
	if s.Name == "" {
		return s.Data.Header.Model.Name
	}
	return s.Name
}

func memory(limit int64) int64 {
	if limit == 0 {
		return 1 << 30
	}
	return limit
}

// check refuses a checkpoint that is not the trace's.
func (s *Subject) check() error {
	h, m := s.Data.Header, s.Model
	if err := h.Validate(); err != nil {
		return err
	}
	if m == nil {
		return nil
	}
	if stacks := stacksOf(h); len(m.Active) != len(stacks) {
		return fmt.Errorf("a checkpoint of %d stacks for a trace of %d", len(m.Active), len(stacks))
	}
	if m.ExpertBytes < 1 || m.ExpertParameters < 1 || m.Capacity < 0 {
		return fmt.Errorf("an expert of %d parameters in %d bytes, capacity %d", m.ExpertParameters, m.ExpertBytes, m.Capacity)
	}
	if m.Gates != nil {
		return m.Gates.Validate(speculate.ShapeOf(h.Model))
	}
	return nil
}

// side is a subject with its routing, in memory if it fits.
type side struct {
	Subject
	light speculate.Data
}

type comparing struct {
	o Options
	*Result
	sides  []side
	common map[trace.Key]bool // nil: no document is in all traces
	test   map[trace.Key]bool // of common
}

func (c *comparing) say(what string) {
	if c.o.Progress != nil {
		c.o.Progress(what)
	}
}

// pair finds the documents that all subjects have, and divides them.
func (c *comparing) pair(ctx context.Context) error {
	seen := map[trace.Key]int{}
	var counts []int
	for _, s := range c.sides {
		n := 0
		for doc, err := range s.light.All(ctx) {
			if err != nil {
				return err
			}
			seen[doc.Key()]++
			n++
		}
		counts = append(counts, n)
	}
	c.common = map[trace.Key]bool{}
	for k, n := range seen {
		if n == len(c.sides) {
			c.common[k] = true
		}
	}
	c.Documents = len(c.common)
	for i, s := range c.sides {
		if n := counts[i] - len(c.common); n > 0 && len(c.common) > 0 {
			c.Warnings = append(c.Warnings, fmt.Sprintf("%d documents of %s are not in all traces and were omitted", n, s.Name))
		}
	}
	if len(c.common) == 0 {
		c.common = nil
		c.Warnings = append(c.Warnings, "the traces have no document in common: the models routed different texts")
		return nil
	}
	test, err := testOf(ctx, c.sides[0].light.Filter(c.keep), c.Seed)
	c.test, c.Test = test, slices.SortedFunc(maps.Keys(test), trace.Key.Compare)
	return err
}

func (c *comparing) keep(d *trace.Document) bool { return c.common == nil || c.common[d.Key()] }

// testOf chooses the documents that predictors are scored on.
func testOf(ctx context.Context, d speculate.Data, seed uint64) (map[trace.Key]bool, error) {
	parts, err := speculate.Split(ctx, d, speculate.Fractions{Valid: .1, Test: .4}, seed)
	if err != nil {
		return nil, err
	}
	test := map[trace.Key]bool{}
	for doc, err := range parts.Test.All(ctx) {
		if err != nil {
			return nil, err
		}
		test[doc.Key()] = true
	}
	return test, nil
}

// budgets chooses sizes: of 1, 2 and 4 of the largest experts, and of parts of the
// smallest model's.
func (c *comparing) budgets() {
	largest, smallest := int64(0), int64(math.MaxInt64)
	for _, s := range c.sides {
		if s.Model == nil {
			return
		}
		m := s.Data.Header.Model
		largest = max(largest, s.Model.ExpertBytes)
		smallest = min(smallest, s.Model.ExpertBytes*int64(m.Layers*m.Experts))
	}
	c.Budgets.Layer = []int64{largest, 2 * largest, 4 * largest}
	for _, x := range Shares {
		c.Budgets.Cache = append(c.Budgets.Cache, int64(x*float64(smallest)))
	}
}

// measure adds the columns of one model.
func (c *comparing) measure(ctx context.Context, s *side) error {
	light, full := s.light.Filter(c.keep), s.Data.Filter(c.keep)
	test := c.test
	if test == nil {
		var err error
		if test, err = testOf(ctx, light, c.Seed); err != nil {
			return err
		}
	}
	stacks := stacksOf(s.Data.Header)
	for i := range stacks {
		x := &stacks[i]
		col := Column{Name: s.Name, Model: s.Name, Stack: x.name, Layers: x.count, Blocks: x.blocks(), Experts: x.whole.Experts, TopK: x.topK, model: s.Model, at: i}
		if s.Model != nil {
			col.ExpertBytes = s.Model.ExpertBytes
		}
		if len(stacks) > 1 {
			col.Name += ", " + x.name
		}
		c.say("measuring " + col.Name)
		if err := c.column(ctx, &col, x, light, full, test); err != nil {
			return fmt.Errorf("%s: %w", x.name, err)
		}
		c.Columns = append(c.Columns, col)
	}
	return nil
}

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
