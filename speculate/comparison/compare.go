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
	if len(r.Columns) == 0 {
		return nil, fmt.Errorf("comparison: %w", errNoTokens)
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
	test := map[trace.Key]bool{}
	if errors.Is(err, speculate.ErrFewDocuments) {
		return test, nil // nothing is scored
	}
	if err != nil {
		return nil, err
	}
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
		err := c.column(ctx, &col, x, light, full, test)
		if errors.Is(err, errNoTokens) && len(stacks) > 1 { // one of two stacks was recorded
			c.Warnings = append(c.Warnings, col.Name+": "+err.Error())
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", x.name, err)
		}
		c.Columns = append(c.Columns, col)
	}
	return nil
}
