package neural

import (
	"errors"
	"iter"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// point is one token of a document: an example for every head.
type point struct {
	views *speculate.Views
	doc   *trace.Document
	t     int
}

// pooled is a document and the order in which its remaining tokens are drawn.
type pooled struct {
	point
	left  []int32
	bytes int64
}

// sampler draws tokens at random from a pool of documents of bounded size,
// filled from a stream that starts again when it ends. Each pass over the
// stream draws each token once.
type sampler struct {
	data  speculate.Data
	rng   *rand.Rand
	bound int64
	held  int64
	pool  []pooled
	next  func() (*trace.Document, error, bool)
	stop  func()
	drawn int64 // tokens in this pass
	position
}

func newSampler(d speculate.Data, bound int64, seed uint64) *sampler {
	return &sampler{data: d, bound: bound, rng: rand.New(rand.NewPCG(seed, 0x7f4a7c15))}
}

func (s *sampler) close() {
	if s.stop != nil {
		s.stop()
	}
}

func sizeOf(d *trace.Document) int64 {
	return 4*int64(2*len(d.Tokens)+len(d.Experts)+len(d.Weights)+len(d.RouterLogits)+len(d.RouterInput)) + 256
}

// fill reads documents until the pool is full.
func (s *sampler) fill() error {
	for s.held < s.bound {
		if s.next == nil {
			if len(s.pool) > 0 {
				return nil // the pass ends before the next begins
			}
			if s.Passes > 0 && s.drawn == 0 {
				return errors.New("neural: no training tokens")
			}
			s.next, s.stop = iter.Pull2(s.data.Documents())
			s.Passes++
			s.drawn = 0
		}
		doc, err, ok := s.next()
		if !ok {
			s.stop()
			s.next, s.stop = nil, nil
			continue
		}
		if err != nil {
			return err
		}
		if err := doc.Validate(&s.data.Header); err != nil {
			return err
		}
		v, err := speculate.NewViews(s.data.Header, doc)
		if err != nil {
			return err
		}
		s.Digest.document(doc)
		p := pooled{point: point{views: v, doc: doc}, bytes: sizeOf(doc), left: make([]int32, len(doc.Tokens))}
		for i, t := range s.rng.Perm(len(doc.Tokens)) {
			p.left[i] = int32(t)
		}
		s.pool = append(s.pool, p)
		s.held += p.bytes
		s.drawn += int64(len(doc.Tokens))
	}
	return nil
}

// draw fills ps.
func (s *sampler) draw(ps []point) error {
	for i := range ps {
		if len(s.pool) == 0 || s.held < s.bound && s.next != nil {
			if err := s.fill(); err != nil {
				return err
			}
		}
		j := s.rng.IntN(len(s.pool))
		p := &s.pool[j]
		ps[i] = p.point
		ps[i].t = int(p.left[len(p.left)-1])
		if p.left = p.left[:len(p.left)-1]; len(p.left) == 0 {
			s.held -= p.bytes
			s.pool[j] = s.pool[len(s.pool)-1]
			s.pool[len(s.pool)-1] = pooled{} // or the document would be held on to
			s.pool = s.pool[:len(s.pool)-1]
		}
	}
	return nil
}

// arrays are the host side of a batch.
type arrays struct {
	tokens int       // B
	x      []float32 // [G,B,F]
	ids    []int32   // [U,B,n], U as in reader
	odds   []float32 // [G,B,S,E]
	ent    []float32 // [G,B,S]
	want   []float32 // [G,B,E]
}

// reader turns points into arrays.
type reader struct {
	*points
	cfg   MLPConfig
	z     sizes
	soft  bool
	stats []speculate.Predictor
	mean  []float32 // [G,F]
	inv   []float32 // [G,F] 1/standard deviation
	// ids are U horizons that differ in what they know of the token's id, and
	// knows is the one that each head reads ids at, [G].
	ids   []speculate.Horizon
	knows []int
}

// knowledge tells heads that know the token's id from those that do not.
func knowledge(heads []head) (ids []speculate.Horizon, knows []int) {
	unknown := speculate.Horizon{}
	for _, hd := range heads {
		i := slices.IndexFunc(ids, func(h speculate.Horizon) bool { return (h == unknown) == (hd.h == unknown) })
		if i < 0 {
			i, ids = len(ids), append(ids, hd.h)
		}
		knows = append(knows, i)
	}
	return ids, knows
}

func (r *reader) arrays(tokens int) *arrays {
	z := r.z
	return &arrays{tokens: tokens, x: make([]float32, z.g*tokens*z.f), ids: make([]int32, len(r.ids)*tokens*z.n), odds: make([]float32, z.g*tokens*z.s*z.e),
		ent: make([]float32, z.g*tokens*z.s), want: make([]float32, z.g*tokens*z.e)}
}

// read fills a, the heads shared out over workers.
func (r *reader) read(ps []point, a *arrays) error {
	for u, h := range r.ids {
		for b, p := range ps {
			r.cfg.Features.ids(p.views.At(p.t, 0, h), a.ids[(u*len(ps)+b)*r.z.n:][:r.z.n])
		}
	}
	return parallel(len(r.heads), func(g int) error {
		hd := r.heads[g]
		var probs []float32
		for b, p := range ps {
			v := p.views.At(p.t, hd.l, hd.h)
			row := a.x[(g*len(ps)+b)*r.z.f:][:r.z.f]
			r.cfg.Features.extract(v, row)
			if r.inv != nil {
				mean, inv := r.mean[g*r.z.f:][:r.z.f], r.inv[g*r.z.f:][:r.z.f]
				for i, x := range row {
					row[i] = (x - mean[i]) * inv[i]
				}
			}
			r.target(p, hd.l, a.want[(g*len(ps)+b)*r.z.e:][:r.z.e])
			for k, q := range r.stats {
				if probs == nil {
					probs = make([]float32, r.z.e)
				}
				if err := q.Predict([]speculate.View{v}, probs); err != nil {
					return err
				}
				at := (g*len(ps)+b)*r.z.s + k
				a.ent[at] = statistic(probs, a.odds[at*r.z.e:][:r.z.e])
			}
		}
		return nil
	})
}

// target writes the router's softmax, or 1 for the experts chosen.
func (r *reader) target(p point, l int, out []float32) {
	if r.soft {
		e := r.shape.Experts
		softmax(p.doc.RouterLogits[(p.t*r.shape.Layers+l)*e:][:e], out)
		return
	}
	r.chosen(p, l, out)
}

func softmax(z, out []float32) {
	top := slices.Max(z)
	sum := 0.0
	for i, x := range z {
		q := math.Exp(float64(x - top))
		out[i] = float32(q)
		sum += q
	}
	for i := range out {
		out[i] = float32(float64(out[i]) / sum)
	}
}
