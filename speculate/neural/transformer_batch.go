package neural

import (
	"github.com/expertspec/expertspec/trace"
	"github.com/gomlx/compute/dtypes/float16"
)

// passageArrays is a batch of B passages of T tokens in host memory.
type passageArrays struct {
	rows    []int32 // [B] of the first tokens, where documents are on the backend; the others are nil then
	lengths []int32 // [B] likewise
	brief   bool    // transferred in 16 bits
	halves  [3][]float16.Float16
	ids     []int32   // [B,T]
	count   []float32 // [B,T]
	route   []float32 // [B,T,L,E]
	z       []float32 // [B,T,L,E], where targets are soft
	x       []float32 // [B,T,L,D], where router inputs are read
}

// read fills a. Rows after a passage's end, and passages after the last of ps,
// are 0.
func (t *transformerJob) read(ps []passage, a *passageArrays) error {
	w := t.c.Window
	return parallel(len(t.drawn), func(i int) error {
		p := passage{}
		if i < len(ps) {
			p = ps[i]
		}
		n := p.to - p.from
		le, ld := t.z.l*t.z.e, t.z.l*t.z.d
		ids, count, route := a.ids[i*w:(i+1)*w], a.count[i*w:(i+1)*w], a.route[i*w*le:(i+1)*w*le]
		clear(ids[n:])
		clear(count[n:])
		clear(route)
		for j := range n {
			count[j] = 1
			ids[j] = int32(row(p.doc.Tokens[p.from+j], t.z.v))
		}
		if n > 0 {
			t.routes(p, route)
			if a.brief {
				raise(route)
			}
		}
		if t.soft {
			z := a.z[i*w*le : (i+1)*w*le]
			clear(z[n*le:])
			if n > 0 {
				copy(z, p.doc.RouterLogits[p.from*le:p.to*le])
			}
		}
		if t.c.Inputs {
			x := a.x[i*w*ld : (i+1)*w*ld]
			clear(x[n*ld:])
			for j := range n {
				t.standard(p.doc.RouterInput[(p.from+j)*ld:(p.from+j+1)*ld], x[j*ld:(j+1)*ld])
			}
		}
		return nil
	})
}

// routes writes the routing weights of a passage's tokens by expert to out,
// [n,L,E], which must be 0.
func (t *transformerJob) routes(p passage, out []float32) {
	k, e := t.shape.TopK, t.z.e
	for r := range (p.to - p.from) * t.z.l {
		at := (p.from*t.z.l + r) * k
		var ws []float32
		if p.doc.Weights != nil {
			ws = p.doc.Weights[at : at+k]
		}
		shares(p.doc.Experts[at:at+k], ws, out[r*e:(r+1)*e])
	}
}

// standard writes standardised router inputs of all layers of a token, [L*D].
func (t *transformerJob) standard(x, out []float32) {
	mean, inv := t.mean[:len(x)], t.inv[:len(x)]
	for i, v := range x {
		out[i] = (v - mean[i]) * inv[i]
	}
}

// row returns an id's row of the embedding table. Row V is for unknown ids.
func row(id int32, vocabulary int) int {
	if id < 0 || int(id) >= vocabulary {
		return vocabulary
	}
	return int(id)
}

// shares writes routing weights by expert to out, [E], which must be 0; equal ones
// if none are recorded. That of a chosen expert is above 0 even if it was rounded
// to 0.
func shares(experts []int32, weights, out []float32) {
	for i, e := range experts {
		if e == trace.NoExpert {
			continue
		}
		if weights != nil {
			out[e] = max(weights[i], 1e-6)
		} else {
			out[e] = 1 / float32(len(experts))
		}
	}
}
