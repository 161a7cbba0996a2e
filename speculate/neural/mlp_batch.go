package neural

import (
	"math"
	"slices"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// arrays is a batch in host memory.
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
	*task
	cfg   MLPConfig
	z     sizes
	stats []speculate.Predictor
	mean  []float32 // [G,F]; nil before features are standardised
	inv   []float32 // [G,F], 1/standard deviation
	// ids are U heads that differ in the stack or in what they know of the token's id,
	// and knows is the index of the one that each head reads ids at, [G].
	ids   []head
	knows []int
}

func newReader(t *task, cfg MLPConfig, o TrainOptions) *reader {
	r := &reader{task: t, cfg: cfg}
	if cfg.Statistics {
		r.stats = o.Statistics
	}
	r.z = sizesOf(cfg, t.shape, len(t.heads), len(r.stats))
	r.ids, r.knows = knowledge(t.shape, t.heads)
	return r
}

// knowledge groups heads by their stack and by whether they know the token's id.
func knowledge(s speculate.Shape, heads []head) (ids []head, knows []int) {
	for _, hd := range heads {
		i := slices.IndexFunc(ids, func(o head) bool {
			return (o.h == unknown) == (hd.h == unknown) && s.FirstLayer(o.l) == s.FirstLayer(hd.l)
		})
		if i < 0 {
			i, ids = len(ids), append(ids, hd)
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

// read fills a. Statistics are those of stats, or omitted if it is nil.
func (r *reader) read(ps []point, a *arrays, stats func(*trace.Document) []speculate.Predictor) error {
	for u, hd := range r.ids {
		for b, p := range ps {
			p = p.of(r.shape, hd.l)
			r.cfg.Features.ids(p.views.At(p.t, hd.l, hd.h), a.ids[(u*len(ps)+b)*r.z.n:][:r.z.n])
		}
	}
	return parallel(len(r.heads), func(g int) error {
		hd := r.heads[g]
		var probs []float32
		for b, p := range ps {
			p = p.of(r.shape, hd.l)
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
			if len(r.stats) == 0 || stats == nil {
				continue
			}
			for k, q := range stats(p.doc) {
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

// fitted returns the statistics to read with documents other than those of the training.
func (r *reader) fitted(*trace.Document) []speculate.Predictor { return r.stats }

// target writes the router's softmax, or 1 for the experts chosen and else 0.
func (r *reader) target(p point, l int, out []float32) {
	if r.soft {
		e := r.shape.Experts
		softmax(p.doc.RouterLogits[(p.t*r.shape.Layers+l)*e:][:e], out)
		return
	}
	k := r.shape.TopK
	clear(out)
	for _, x := range p.doc.Experts[(p.t*r.shape.Layers+l)*k:][:k] {
		if x >= 0 {
			out[x] = 1
		}
	}
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
