package neural

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/expertspec/expertspec/speculate"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/float16"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// TrainTransformer fits a transformer for all o.Horizons on train, from random
// values or from o.Start, and returns the state that does best on valid. A step is
// of o.Batch tokens in parts of documents of cfg.Window tokens, at least one, the
// first token of each part as that of a document: nothing before it is read;
// shorter documents are padded and count less. o.Statistics is not used.
func TrainTransformer(ctx context.Context, cfg TransformerConfig, train, valid speculate.Data, o TrainOptions) (*Transformer, error) {
	if err := o.validate(cfg, train, valid); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	// A step is of whole passages, the same number in each part of each device.
	o.Batch = max(1, o.share()/cfg.Window) * cfg.Window * o.Accumulate * o.Devices
	t, err := newTransformerJob(ctx, cfg, train, valid, o)
	if err != nil {
		return nil, err
	}
	defer t.close()
	if err := t.loop.run(ctx); err != nil {
		return nil, err
	}
	return t.trained(), nil
}

// transformerJob is the job of training a transformer.
type transformerJob struct {
	task
	net
	source  *passageSource
	params  []*param
	valid   []passage
	mean    []float32 // [L*D] of router inputs
	inv     []float32 // [L*D], 1/standard deviation
	drawn   []passage // the current batch of a device
	backend compute.Backend
	held    *onDevice // nil if batches are transferred
	brief   bool      // train on 16 bits
	mixed   bool      // compute in bfloat16 where inputs have 16 bits
	loop    *loop[*passageArrays]
}

func newTransformerJob(ctx context.Context, c TransformerConfig, train, valid speculate.Data, o TrainOptions) (t *transformerJob, err error) {
	started := time.Now()
	t = &transformerJob{source: newPassageSource(train, c.Window, o.PoolBytes, o.Seed), drawn: make([]passage, o.share()/c.Window)}
	t.source.digests = o.Resume != ""
	defer func(t *transformerJob) { // a return of nil changes the named result
		if err != nil {
			t.close()
		}
	}(t)
	if t.task, err = newTask(ctx, c.Soft, train, o); err != nil {
		return nil, err
	}
	t.net = net{c: c, z: c.extent(t.shape, o.Horizons), horizons: o.Horizons}
	t.backend, t.brief, t.mixed = o.Backend, o.brief, o.brief && !o.Float32
	if err := t.drawValid(valid, o); err != nil {
		return nil, err
	}
	if err := t.begin(o); err != nil {
		return nil, err
	}
	if t.held, err = t.hold(ctx, train, o); err != nil {
		return nil, err
	}
	if t.held != nil {
		if err := t.drawHeld(o); err != nil {
			return nil, err
		}
	}
	p := plan{name: c.Name, heads: t.z.g, steps: t.steps, params: t.params, started: started}
	if o.Resume != "" {
		p.identity = t.identity()
	}
	t.loop, err = newLoop(p, t, o)
	return t, err
}

// drawHeld replaces the source by one of the passages on the backend, after as many
// draws.
func (t *transformerJob) drawHeld(o TrainOptions) error {
	s := newPassageSource(t.source.data, t.c.Window, o.PoolBytes, o.Seed)
	s.all, s.Digest = t.held.passages, t.held.digest
	t.source.close()
	for range t.source.draws {
		if _, err := s.draw(); err != nil {
			return err
		}
	}
	t.source = s
	return nil
}

// drawValid draws the validation passages, whole batches of them.
func (t *transformerJob) drawValid(valid speculate.Data, o TrainOptions) error {
	s := newPassageSource(valid, t.c.Window, o.PoolBytes/4, o.Seed+1)
	defer s.close()
	for tokens := 0; tokens < o.ValidTokens || len(t.valid)%(len(t.drawn)*o.Devices) > 0; {
		p, err := s.draw()
		if err != nil {
			return fmt.Errorf("neural: validation documents: %w", err)
		}
		if s.Passes > 1 {
			break // there are no more
		}
		t.valid = append(t.valid, p)
		tokens += p.to - p.from
	}
	return nil
}

// begin sets the initial values and the standardisation of router inputs.
func (t *transformerJob) begin(o TrainOptions) error {
	t.params = newTransformerParams(t.c, t.z, o.Seed)
	s := o.Start
	if s == nil {
		if err := t.standardise(); err != nil {
			return err
		}
		if t.c.Gate {
			t.startAsGate(t.params, o.Gates, t.z.f, t.mean, t.inv, func(g int) int {
				hd := t.heads[g]
				return (hd.l - hd.h.Layers) * t.z.d
			})
		}
		return nil
	}
	cfg := s.cfg
	if t.c.Logits && !cfg.Logits {
		cfg.Logits, cfg.Name = true, t.c.Name
	}
	if cfg != t.c || s.shape != t.shape || !slices.Equal(s.horizons, t.horizons) {
		return fmt.Errorf("neural: %s cannot start from %+v at %v for %+v: expected %+v at %v for %+v",
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

// widened returns the value of a matrix that reads routing weights with rows of
// zeros for router logits.
func (t *transformerJob) widened(p *param) []float32 {
	part := t.z.e * p.dims[len(p.dims)-1] // the rows of a layer's weights
	wide := make([]float32, p.size())
	for i := 0; i < len(p.value); i += part {
		copy(wide[2*i:], p.value[i:i+part])
	}
	return wide
}

func (t *transformerJob) close() {
	t.source.close()
	if t.held != nil {
		t.held.close()
	}
	if t.loop != nil {
		t.loop.close()
	}
}

// identity is what a resumed training must have in common; see plan.
func (t *transformerJob) identity() map[string]any {
	var d digest
	for _, p := range t.valid {
		d.document(p.doc)
	}
	d.floats(t.mean)
	id := t.task.identity(t.c)
	id["validation documents"] = d
	if t.held != nil {
		id["tokens on the backend"] = t.held.tokens
	}
	if t.brief {
		id["products"] = map[bool]string{true: "bfloat16", false: "float32"}[t.mixed]
	}
	return id
}

// standardise measures the mean and deviation of router inputs on passages
// drawn from the training documents.
func (t *transformerJob) standardise() error {
	if !t.c.Inputs {
		return nil
	}
	const sample = 2048 // tokens
	n := t.z.l * t.z.d
	m, tokens := newMoments(n), 0
	for tokens < sample {
		p, err := t.source.draw()
		if err != nil {
			return err
		}
		for x := range slices.Chunk(p.doc.RouterInput[p.from*n:p.to*n], n) {
			m.add(0, x)
		}
		tokens += p.to - p.from
	}
	t.mean, t.inv = m.of(tokens)
	return nil
}

// batch implements job, as do the methods below.
func (t *transformerJob) batch() *passageArrays {
	if t.held != nil {
		return &passageArrays{rows: make([]int32, len(t.drawn)), lengths: make([]int32, len(t.drawn))}
	}
	a := t.wholeBatch()
	a.brief = t.brief
	return a
}

// wholeBatch allocates a batch that is transferred.
func (t *transformerJob) wholeBatch() *passageArrays {
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

func (t *transformerJob) skip() (position, error) {
	for i := range t.drawn {
		p, err := t.source.draw()
		if err != nil {
			return position{}, err
		}
		t.drawn[i] = p
	}
	return t.source.position, nil
}

func (t *transformerJob) fill(a *passageArrays) (position, error) {
	at, err := t.skip()
	if err != nil {
		return at, err
	}
	if t.held == nil {
		return at, t.read(t.drawn, a)
	}
	for i, p := range t.drawn {
		a.rows[i], a.lengths[i] = int32(p.row), int32(p.to-p.from)
	}
	return at, nil
}

func (t *transformerJob) inputs(a *passageArrays, device compute.DeviceNum) ([]any, error) {
	b, w, l := len(t.drawn), t.c.Window, t.z.l
	if a.rows != nil {
		return []any{tensors.FromFlatDataAndDimensions(a.rows, b), tensors.FromFlatDataAndDimensions(a.lengths, b)}, nil
	}
	in := []any{tensors.FromFlatDataAndDimensions(a.ids, b, w), tensors.FromFlatDataAndDimensions(a.count, b, w)}
	for i, x := range []struct {
		values []float32
		width  int
	}{{a.route, t.z.e}, {a.z, t.z.e}, {a.x, t.z.d}} {
		switch {
		case x.values == nil:
		case !a.brief:
			in = append(in, tensors.FromFlatDataAndDimensions(x.values, b, w, l, x.width))
		default:
			if t.backend.HasSharedBuffers() || a.halves[i] == nil { // else it was copied
				a.halves[i] = make([]float16.Float16, len(x.values))
			}
			manyHalves(x.values, a.halves[i])
			half, err := onBackend(t.backend, device, a.halves[i], dtypes.Float16, b, w, l, x.width)
			if err != nil {
				return in, err
			}
			in = append(in, half)
		}
	}
	return in, nil
}

func (t *transformerJob) graph(p map[string]*graph.Node, held, in []*graph.Node) (l, y *graph.Node) {
	var b passages
	if len(held) > 0 {
		b = t.gathered(held, in)
	} else {
		b = passages{ids: in[0], count: in[1], route: in[2]}
		in = in[3:]
		if t.soft {
			b.z, in = in[0], in[1:]
		}
		if t.c.Inputs {
			b.x = in[0]
		}
	}
	n := t.net
	n.p, n.mixed = p, t.mixed && b.route.DType() == dtypes.Float16
	for _, x := range []**graph.Node{&b.route, &b.z, &b.x} {
		if *x != nil {
			*x = graph.ConvertDType(*x, dtypes.Float32)
		}
	}
	y = n.logits(b)
	return n.losses(b, y), y
}

func (t *transformerJob) check(forward func(*passageArrays) (losses, out []float32, err error)) (loss, recall float64, err error) {
	a, tokens, terms := t.wholeBatch(), 0, 0
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
			r, n := t.recall(func(head) passage { return p }, y, len(a.ids), i*t.c.Window)
			recall += r
			terms += n
		}
	}
	return loss / float64(tokens), recall / float64(max(terms, 1)), nil
}

// trained returns a network of the best state.
func (t *transformerJob) trained() *Transformer {
	w := t.loop.weights()
	if t.c.Inputs {
		w["mean"], w["inv"] = t.mean, t.inv
	}
	info := t.loop.info
	if s := t.loop.o.Start; s != nil {
		info.Tokens, info.Epochs, info.Seconds = info.Tokens+s.info.Tokens, info.Epochs+s.info.Epochs, info.Seconds+s.info.Seconds
	}
	return newTransformer(stored[TransformerConfig]{Config: t.c, Shape: t.shape, Horizons: t.horizons, Soft: t.soft, Info: info}, w)
}
