package neural

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/gomlx/compute"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// TrainMLP fits a network for all o.Horizons on train and returns the state that
// does best on valid. Unless o.Limit is set, the result depends on the
// configuration, the options, the documents and the backend alone.
func TrainMLP(ctx context.Context, cfg MLPConfig, train, valid speculate.Data, o TrainOptions) (*MLP, error) {
	o.Batch, o.Rate = cmp.Or(o.Batch, defaultBatchMLP), cmp.Or(o.Rate, defaultRateMLP)
	if err := o.validate(cfg, train, valid); err != nil {
		return nil, err
	}
	if cfg.Statistics && len(o.Statistics) == 0 {
		return nil, fmt.Errorf("neural: %s mixes predictors that count; Statistics is empty", cfg.Name)
	}
	for _, h := range o.Horizons {
		for _, p := range o.Statistics {
			if cfg.Statistics && !p.Supports(h) {
				return nil, fmt.Errorf("neural: %s is not fitted for %v", p.Name(), h)
			}
		}
	}
	t, err := newMLPJob(ctx, cfg, train, valid, o.withDefaults())
	if err != nil {
		return nil, err
	}
	defer t.close()
	if err := t.loop.run(ctx); err != nil {
		return nil, err
	}
	return t.trained(), nil
}

// mlpJob is the job of training an MLP. Its examples are single tokens, drawn
// at random.
type mlpJob struct {
	task
	r       *reader
	sampler sampler
	drawn   []point // the current batch of a device
	valid   []point
	stats   func(*trace.Document) []speculate.Predictor // to read with training documents
	params  []*param
	loop    *loop[*arrays]
}

func newMLPJob(ctx context.Context, cfg MLPConfig, train, valid speculate.Data, o TrainOptions) (t *mlpJob, err error) {
	started := time.Now()
	t = &mlpJob{sampler: newSampler(train, o.PoolBytes, o.Seed), drawn: make([]point, o.share())}
	t.sampler.tokens.digests = o.Resume != ""
	defer func(t *mlpJob) { // a return of nil changes the named result
		if err != nil {
			t.close()
		}
	}(t)
	if t.task, err = newTask(ctx, cfg.Soft, train, o); err != nil {
		return nil, err
	}
	if t.valid, err = validPoints(valid, o); err != nil {
		return nil, err
	}
	t.r = newReader(&t.task, cfg, o)
	t.stats = t.r.fitted
	if cfg.Statistics {
		held, err := newHeldOut(ctx, train, o)
		if err != nil {
			return nil, err
		}
		if held != nil {
			t.stats = held.of
		}
	}
	if err := t.standardise(); err != nil {
		return nil, err
	}
	t.params = newMLPParams(cfg, t.r.z, o.Seed)
	if cfg.Gate {
		t.startAsGate(t.params, o.Gates, t.r.z.f, t.r.mean, t.r.inv, func(g int) int { return g * t.r.z.f })
	}
	p := plan{name: cfg.Name, heads: len(t.heads), steps: t.steps, params: t.params, started: started}
	if o.Resume != "" {
		if p.identity, err = t.identity(); err != nil {
			return nil, err
		}
	}
	t.loop, err = newLoop(p, t, o)
	return t, err
}

// validPoints draws the validation tokens.
func validPoints(valid speculate.Data, o TrainOptions) ([]point, error) {
	s := newSampler(valid, o.PoolBytes/2, o.Seed+1)
	defer s.close()
	ps := make([]point, o.ValidTokens)
	if err := s.draw(ps); err != nil {
		return nil, fmt.Errorf("neural: validation documents: %w", err)
	}
	// Steps of B tokens and checks share one form.
	for _, b := range []int{o.Batch, o.Batch / o.Accumulate, o.share()} {
		ps = ps[:max(1, len(ps)/b)*min(b, len(ps))]
	}
	return ps, nil
}

func (t *mlpJob) close() {
	t.sampler.close()
	if t.loop != nil {
		t.loop.close()
	}
}

// identity is what a resumed training must have in common; see plan. What the
// network reads of validation tokens represents the documents, the
// standardisation and the fitted statistics.
func (t *mlpJob) identity() (map[string]any, error) {
	b := min(len(t.drawn), len(t.valid))
	a := t.r.arrays(b)
	if err := t.r.read(t.valid[:b], a, t.r.fitted); err != nil {
		return nil, err
	}
	var d digest
	for _, x := range [][]float32{a.x, a.odds, a.ent, a.want} {
		d.floats(x)
	}
	d.ints(a.ids)
	id := t.task.identity(t.r.cfg)
	id["validation documents or statistics"] = d
	return id, nil
}

// standardise measures the mean and deviation of each head's features on
// tokens drawn from the training documents.
func (t *mlpJob) standardise() error {
	const sample, rounds = 512, 4
	z := t.r.z
	m := newMoments(z.g * z.f)
	ps, a := make([]point, sample), t.r.arrays(sample)
	for range rounds {
		if err := t.sampler.draw(ps); err != nil {
			return err
		}
		if err := t.r.read(ps, a, nil); err != nil {
			return err
		}
		for g := range z.g {
			for b := range sample {
				m.add(g*z.f, a.x[(g*sample+b)*z.f:][:z.f])
			}
		}
	}
	t.r.mean, t.r.inv = m.of(sample * rounds)
	return nil
}

// batch implements job, as do the methods below.
func (t *mlpJob) batch() *arrays { return t.r.arrays(len(t.drawn)) }

func (t *mlpJob) skip() (position, error) {
	err := t.sampler.draw(t.drawn)
	return t.sampler.tokens.position, err
}

func (t *mlpJob) fill(a *arrays) (position, error) {
	at, err := t.skip()
	if err == nil {
		err = t.r.read(t.drawn, a, t.stats)
	}
	return at, err
}

// inputs are in the order that unpack expects.
func (t *mlpJob) inputs(a *arrays, _ compute.DeviceNum) ([]any, error) {
	z := t.r.z
	in := []any{tensors.FromFlatDataAndDimensions(a.x, z.g, a.tokens, z.f), tensors.FromFlatDataAndDimensions(a.want, z.g, a.tokens, z.e)}
	if z.n > 0 {
		in = append(in, tensors.FromFlatDataAndDimensions(a.ids, len(t.r.ids), a.tokens, z.n))
	}
	if z.s > 0 {
		in = append(in, tensors.FromFlatDataAndDimensions(a.odds, z.g, a.tokens, z.s, z.e), tensors.FromFlatDataAndDimensions(a.ent, z.g, a.tokens, z.s))
	}
	return in, nil
}

func (t *mlpJob) unpack(nodes []*graph.Node) batch {
	z := t.r.z
	b := batch{x: nodes[0], want: nodes[1], knows: t.r.knows}
	nodes = nodes[2:]
	if z.n > 0 {
		b.ids, nodes = nodes[0], nodes[1:]
	}
	if z.s > 0 {
		b.odds, b.ent = nodes[0], nodes[1]
	}
	return b
}

func (t *mlpJob) resident(compute.DeviceNum) []any { return nil }

func (t *mlpJob) graph(p map[string]*graph.Node, _, in []*graph.Node) (l, y *graph.Node) {
	b := t.unpack(in)
	y = logits(t.r.cfg, t.r.z, p, b)
	return losses(t.soft, y, b.want), y
}

func (t *mlpJob) check(forward func(*arrays) (losses, out []float32, err error)) (loss, recall float64, err error) {
	b, rounds, terms := min(len(t.drawn), len(t.valid)), 0, 0
	a := t.r.arrays(b)
	for part := range slices.Chunk(t.valid, b) {
		if err := t.r.read(part, a, t.r.fitted); err != nil {
			return 0, 0, err
		}
		losses, y, err := forward(a)
		if err != nil {
			return 0, 0, err
		}
		for _, x := range losses {
			loss += float64(x)
		}
		rounds++
		for i, p := range part {
			r, n := t.recall(func(hd head) passage {
				q := p.of(t.shape, hd.l)
				return passage{doc: q.doc, from: q.t, to: q.t + 1}
			}, y, b, i)
			recall += r
			terms += n
		}
	}
	return loss / float64(rounds*len(t.heads)), recall / float64(max(terms, 1)), nil
}

// trained returns a network of the best state.
func (t *mlpJob) trained() *MLP {
	w, c := t.loop.weights(), t.r.cfg
	fold(t.r.z, c, w, t.r.mean, t.r.inv)
	return newMLP(stored[MLPConfig]{Config: c, Shape: t.shape, Horizons: t.loop.o.Horizons, Soft: t.soft, Info: t.loop.info}, t.r.stats, w)
}

// fold moves the standardisation (x-mean)*inv, [G,F] each, into the weights of
// the paths that read features, so that the network reads them as they are.
func fold(z sizes, c MLPConfig, w map[string][]float32, mean, inv []float32) {
	path := func(weights, bias []float32, width int) {
		for g := range z.g {
			for f := range z.f {
				i := g*z.f + f
				row := weights[i*width : (i+1)*width]
				for k := range row {
					row[k] *= inv[i]
					bias[g*width+k] -= mean[i] * row[k]
				}
			}
		}
	}
	if c.Linear {
		path(w["linear"], w["out.bias"], z.e)
	}
	if c.Depth > 0 {
		path(w["first"], w["first.bias"], z.h)
	}
}
