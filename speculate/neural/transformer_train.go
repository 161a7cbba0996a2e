package neural

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/expertspec/expertspec/speculate"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// TrainTransformer fits one transformer for all o.Horizons on train, keeping
// the state that does best on valid. A step is o.Batch tokens in parts of
// documents of c.Window tokens, at least one; shorter documents are padded, and
// count less. Gates are needed where c.Gate says so; Statistics are not read.
func TrainTransformer(ctx context.Context, c TransformerConfig, train, valid speculate.Data, o TrainOptions) (*Transformer, error) {
	shape := speculate.ShapeOf(train.Header.Model)
	if err := errors.Join(c.Validate(), shape.Validate()); err != nil {
		return nil, err
	}
	if err := errors.Join(o.validate(shape), c.check(shape, o.Horizons)); err != nil {
		return nil, err
	}
	if c.Gate {
		if o.Gates == nil {
			return nil, fmt.Errorf("neural: %s starts as the router, and no gates are given", c.Name)
		}
		if err := o.Gates.Validate(shape); err != nil {
			return nil, err
		}
	}
	if err := suits(c.Name, c.Requires(), train, valid); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	// Whole passages make a step, the same number in each of its parts.
	o.Batch = max(1, o.Batch/o.Accumulate/c.Window) * c.Window * o.Accumulate
	t, err := newPassageJob(ctx, c, train, valid, o)
	if err != nil {
		return nil, err
	}
	defer t.close()
	if err := t.loop.run(ctx); err != nil {
		return nil, err
	}
	w := t.loop.weights()
	if c.Inputs {
		w["mean"], w["inv"] = t.mean, t.inv
	}
	info := t.loop.info
	if s := o.Start; s != nil {
		info.Tokens, info.Epochs, info.Seconds = info.Tokens+s.info.Tokens, info.Epochs+s.info.Epochs, info.Seconds+s.info.Seconds
	}
	return newTransformer(c, t.shape, o.Horizons, t.soft, w, info), nil
}

// passageJob is the job of training a transformer.
type passageJob struct {
	net
	shape  speculate.Shape
	soft   bool
	source *passageSource
	params []*param
	valid  []passage
	mean   []float32 // [L,D] of router inputs
	inv    []float32 // [L,D] 1/standard deviation
	drawn  []passage // the batch at hand
	loop   *loop[*passageArrays]
}

func newPassageJob(ctx context.Context, c TransformerConfig, train, valid speculate.Data, o TrainOptions) (t *passageJob, err error) {
	started := time.Now()
	shape := speculate.ShapeOf(train.Header.Model)
	t = &passageJob{net: net{c: c, z: c.extent(shape, o.Horizons), horizons: o.Horizons}, shape: shape,
		soft:   c.Soft && len(train.Header.LogitLayers) == shape.Layers,
		source: newPassageSource(train, c.Window, o.PoolBytes, o.Seed), drawn: make([]passage, o.Batch/o.Accumulate/c.Window)}
	defer func(t *passageJob) { // a return of nil changes the named result
		if err != nil {
			t.close()
		}
	}(t)
	t.source.resumes = o.Resume != ""
	n, err := steps(ctx, train, o)
	if err != nil {
		return nil, err
	}
	vs := newPassageSource(valid, c.Window, o.PoolBytes/4, o.Seed+1)
	defer vs.close()
	// A check computes whole batches: they are filled.
	for tokens := 0; tokens < o.ValidTokens || len(t.valid)%len(t.drawn) > 0; {
		p, err := vs.draw()
		if err != nil {
			return nil, fmt.Errorf("neural: validation documents: %w", err)
		}
		if vs.Passes > 1 {
			break // there are no more
		}
		t.valid = append(t.valid, p)
		tokens += p.to - p.from
	}
	if err := t.begin(o); err != nil {
		return nil, err
	}
	p := plan{name: c.Name, heads: t.z.g, steps: n, params: t.params, started: started}
	if o.Resume != "" {
		p.identity = t.identity()
	}
	t.loop, err = newLoop(p, t, o)
	return t, err
}

// begin sets the initial values, and with them how router inputs are
// standardised.
func (t *passageJob) begin(o TrainOptions) error {
	t.params = newTransformerParams(t.c, t.z, o.Seed)
	s := o.Start
	if s == nil {
		if err := t.standardise(); err != nil {
			return err
		}
		if t.c.Gate {
			t.startAsGate(o.Gates)
		}
		return nil
	}
	cfg := s.cfg
	if t.c.Logits && !cfg.Logits {
		cfg.Logits, cfg.Name = true, t.c.Name
	}
	if cfg != t.c || s.shape != t.shape || !slices.Equal(s.horizons, t.horizons) {
		return fmt.Errorf("neural: %s cannot go on from %+v at %v, trained for %+v: it is %+v at %v for %+v",
			t.c.Name, s.cfg, s.horizons, s.shape, t.c, t.horizons, t.shape)
	}
	for _, p := range t.params {
		p.value = s.weights[p.name]
		if len(p.value) < p.size() {
			p.value = t.widened(p)
		}
	}
	t.mean, t.inv = s.weights["mean"], s.weights["inv"]
	return nil
}

// widened is the value of a matrix that reads routing weights, for one that
// reads router logits too, with zeros for those.
func (t *passageJob) widened(p *param) []float32 {
	part := t.z.e * p.dims[len(p.dims)-1] // the rows of a layer's weights
	wide := make([]float32, p.size())
	for i := 0; i < len(p.value); i += part {
		copy(wide[2*i:], p.value[i:i+part])
	}
	return wide
}

func (t *passageJob) close() {
	t.source.close()
	if t.loop != nil {
		t.loop.close()
	}
}

// identity is what a resumed training must have in common; see plan.
func (t *passageJob) identity() map[string]any {
	var d digest
	for _, p := range t.valid {
		d.document(p.doc)
	}
	d.floats(t.mean)
	var start digest
	for _, p := range t.params {
		start.floats(p.value)
	}
	hs := []string{}
	for _, hd := range heads(t.z.l, t.horizons) {
		hs = append(hs, fmt.Sprintf("%v at %d", hd.h, hd.l))
	}
	return map[string]any{"configuration": t.c, "shape": t.shape, "horizons": hs, "soft targets": t.soft, "validation documents": d, "initial values": start}
}

// standardise measures the mean and deviation of router inputs on passages
// drawn from the training documents.
func (t *passageJob) standardise() error {
	if !t.c.Inputs {
		return nil
	}
	const sample = 2048 // tokens
	n := t.z.l * t.z.d
	sum, sq, tokens := make([]float64, n), make([]float64, n), 0
	for tokens < sample {
		p, err := t.source.draw()
		if err != nil {
			return err
		}
		for i, x := range p.doc.RouterInput[p.from*n : p.to*n] {
			sum[i%n] += float64(x)
			sq[i%n] += float64(x) * float64(x)
		}
		tokens += p.to - p.from
	}
	t.mean, t.inv = make([]float32, n), make([]float32, n)
	for i := range n {
		m := sum[i] / float64(tokens)
		t.mean[i] = float32(m)
		t.inv[i] = float32(1 / max(math.Sqrt(max(sq[i]/float64(tokens)-m*m, 0)), .05))
	}
	return nil
}

// startAsGate sets the linear path to the target layer's router on the latest
// router input, in the terms of standardised inputs.
func (t *passageJob) startAsGate(gates *speculate.Gates) {
	get := func(name string) []float32 {
		return t.params[slices.IndexFunc(t.params, func(p *param) bool { return p.name == name })].value
	}
	lin, bias := get("linear"), get("out.bias")
	for g, hd := range heads(t.z.l, t.horizons) {
		if hd.h.Layers == 0 {
			continue // no router input of the token is known
		}
		at := (hd.l - hd.h.Layers) * t.z.d
		for e := range t.z.e {
			for d, x := range gates.Weights[(hd.l*t.z.e+e)*t.z.d:][:t.z.d] {
				lin[(g*t.z.f+d)*t.z.e+e] = x / t.inv[at+d]
				bias[g*t.z.e+e] += x * t.mean[at+d]
			}
			if gates.Bias != nil {
				bias[g*t.z.e+e] += gates.Bias[hd.l*t.z.e+e]
			}
		}
	}
}

// batch implements job, as do the methods below.
func (t *passageJob) batch() *passageArrays {
	n := len(t.drawn) * t.c.Window
	a := &passageArrays{ids: make([]int32, n), count: make([]float32, n), route: make([]float32, n*t.z.l*t.z.e)}
	if t.soft {
		a.z = make([]float32, n*t.z.l*t.z.e)
	}
	if t.c.Inputs {
		a.x = make([]float32, n*t.z.l*t.z.d)
	}
	return a
}

func (t *passageJob) skip() (position, error) {
	for i := range t.drawn {
		p, err := t.source.draw()
		if err != nil {
			return position{}, err
		}
		t.drawn[i] = p
	}
	return t.source.position, nil
}

func (t *passageJob) fill(a *passageArrays) (position, error) {
	at, err := t.skip()
	if err == nil {
		err = t.read(t.drawn, a)
	}
	return at, err
}

func (t *passageJob) inputs(a *passageArrays) []any {
	b, w, l := len(t.drawn), t.c.Window, t.z.l
	in := []any{tensors.FromFlatDataAndDimensions(a.ids, b, w), tensors.FromFlatDataAndDimensions(a.count, b, w),
		tensors.FromFlatDataAndDimensions(a.route, b, w, l, t.z.e)}
	if t.soft {
		in = append(in, tensors.FromFlatDataAndDimensions(a.z, b, w, l, t.z.e))
	}
	if t.c.Inputs {
		in = append(in, tensors.FromFlatDataAndDimensions(a.x, b, w, l, t.z.d))
	}
	return in
}

func (t *passageJob) graph(p map[string]*graph.Node, in []*graph.Node) (l, y *graph.Node) {
	b := passages{ids: in[0], count: in[1], route: in[2]}
	in = in[3:]
	if t.soft {
		b.z, in = in[0], in[1:]
	}
	if t.c.Inputs {
		b.x = in[0]
	}
	n := t.net
	n.p = p
	y = n.logits(b)
	return n.losses(b, y), y
}

func (t *passageJob) check(forward func(*passageArrays) (losses, out []float32, err error)) (loss, recall float64, err error) {
	a, tokens, pairs := t.batch(), 0, 0
	for part := range slices.Chunk(t.valid, len(t.drawn)) {
		if err := t.read(part, a); err != nil {
			return 0, 0, err
		}
		losses, y, err := forward(a)
		if err != nil {
			return 0, 0, err
		}
		for _, x := range losses {
			loss += float64(x) * float64(len(a.ids)) / float64(t.z.g)
		}
		for i, p := range part {
			tokens += p.to - p.from
			r, n := t.recall(p, y, i*t.c.Window)
			recall += r
			pairs += n
		}
	}
	return loss / float64(tokens), recall / float64(max(pairs, 1)), nil
}

// recall sums recall@K of a passage's tokens, whose logits begin at row first
// of each head's in y [G,n,E], and counts what it sums.
func (t *passageJob) recall(p passage, y []float32, first int) (sum float64, pairs int) {
	n, k := len(t.drawn)*t.c.Window, t.shape.TopK
	for g, hd := range heads(t.z.l, t.horizons) {
		for i := range p.to - p.from {
			actual := p.doc.Experts[((p.from+i)*t.z.l+hd.l)*k:][:k]
			if r, ok := recallAt(y[(g*n+first+i)*t.z.e:][:t.z.e], actual); ok {
				sum += r
				pairs++
			}
		}
	}
	return sum, pairs
}
