package neural

import (
	"math"

	"github.com/expertspec/expertspec/speculate"
)

// rowWidth returns the number of values kept of a token: its state, [C], and keys
// and values of each block, [2C].
func (p *Transformer) rowWidth() int { return p.cfg.Width * (1 + 2*p.cfg.Blocks) }

// contextScratch is the working memory of the transformer on a group of tokens.
type contextScratch struct {
	seen     []float32 // [n,P] of the tokens before
	x, y     []float32 // [n,C]
	qkv, mid []float32 // [n,3C], [n,4C]
	scores   []float32 // [window, 8]
	cos, sin []float32 // [hd/2]
}

// extend computes the rows of tokens from views of what is known when they begin;
// see [speculate.View.Memory].
func (p *Transformer) extend(begin []speculate.View, first int, rows []float32) {
	c, to := p.cfg.Width, begin[0].Token()+len(begin)
	n, hd := min(group, len(begin)), c/p.cfg.Heads
	s := &contextScratch{seen: make([]float32, n*p.read.in), x: make([]float32, n*c), y: make([]float32, n*c), qkv: make([]float32, n*3*c),
		mid: make([]float32, n*4*c), scores: make([]float32, 8*min(p.cfg.Window, to-first)), cos: make([]float32, hd/2), sin: make([]float32, hd/2)}
	for ; len(begin) > 0; begin = begin[n:] {
		n = min(n, len(begin))
		p.extendGroup(begin[:n], s, first, rows)
	}
}

func (p *Transformer) extendGroup(begin []speculate.View, s *contextScratch, first int, rows []float32) {
	c, width, n, from := p.cfg.Width, p.rowWidth(), len(begin), begin[0].Token()
	for j, v := range begin {
		t := v.Token()
		id, ok := v.ID(t)
		if !ok {
			id = -1
		}
		copy(s.x[j*c:(j+1)*c], p.embed[row(id, p.shape.Vocabulary)*c:])
		p.before(v, t-1, s.seen[j*p.read.in:(j+1)*p.read.in])
	}
	p.read.addRows(s.x, s.seen, n, c, p.read.in)
	for i := range p.blocks {
		b := &p.blocks[i]
		for j := range n {
			rmsInto(s.x[j*c:(j+1)*c], b.norm1, s.y[j*c:(j+1)*c])
		}
		clear(s.qkv)
		b.qkv.addRows(s.qkv, s.y, n, 3*c, c)
		for j := range n {
			p.attend(s, s.qkv[j*3*c:(j+1)*3*c], rows, first, from+j, i, s.y[j*c:(j+1)*c])
		}
		b.out.addRows(s.x, s.y, n, c, c)
		for j := range n {
			rmsInto(s.x[j*c:(j+1)*c], b.norm2, s.y[j*c:(j+1)*c])
		}
		clear(s.mid)
		b.up.addRows(s.mid, s.y, n, 4*c, c)
		relu(s.mid)
		b.down.addRows(s.x, s.mid, n, c, 4*c)
	}
	for j := range n {
		rmsInto(s.x[j*c:(j+1)*c], p.norm, rows[(from+j-first)*width:][:c])
	}
}

// before writes what is read of token t, which is complete; zeros before the first.
func (p *Transformer) before(v speculate.View, t int, out []float32) {
	clear(out)
	for l := range p.shape.Layers {
		if p.cfg.Inputs {
			p.standard(v.Input(t, l), l, out[l*p.shape.Hidden:(l+1)*p.shape.Hidden])
		} else {
			w := len(out) / p.shape.Layers
			p.routed(v, t, l, out[l*w:(l+1)*w])
		}
	}
}

// attend writes token t's keys and values of block i to its row, and the output
// of attention over the tokens of the window to out, [C].
func (p *Transformer) attend(s *contextScratch, qkv, rows []float32, first, t, i int, out []float32) {
	c, width, hd := p.cfg.Width, p.rowWidth(), p.cfg.Width/p.cfg.Heads
	q, k, v := qkv[:c], qkv[c:2*c], qkv[2*c:]
	turns(t, s.cos, s.sin)
	scale := float32(1 / math.Sqrt(float64(hd)))
	for h := range p.cfg.Heads {
		turn(q[h*hd:(h+1)*hd], s.cos, s.sin, scale)
		turn(k[h*hd:(h+1)*hd], s.cos, s.sin, 1)
	}
	at := c * (1 + 2*i)
	row := rows[(t-first)*width+at:]
	copy(row[:c], k)
	copy(row[c:2*c], v)
	from := max(first, t+1-p.cfg.Window)
	keys := rows[(from-first)*width+at:]
	clear(out)
	for h := 0; h < p.cfg.Heads; h += 8 {
		attendHeads(q[h*hd:], keys[h*hd:], keys[c+h*hd:], out[h*hd:], s.scores, t+1-from, width, hd, min(8, p.cfg.Heads-h))
	}
}

// turn rotates x [hd] by its position's angles, and scales it.
func turn(x, cos, sin []float32, scale float32) {
	half := len(x) / 2
	for i := range half {
		lo, hi := x[i], x[i+half]
		x[i] = (lo*cos[i] - hi*sin[i]) * scale
		x[i+half] = (hi*cos[i] + lo*sin[i]) * scale
	}
}

// attendPlain is attendHeads without vector instructions.
func attendPlain(q, keys, values, out, scores []float32, n, stride, hd, heads int) {
	for h := range heads {
		top := float32(math.Inf(-1))
		for r := range n {
			sum := float32(0)
			for i, x := range q[h*hd : (h+1)*hd] {
				sum += x * keys[r*stride+h*hd+i]
			}
			scores[r] = sum
			top = max(top, sum)
		}
		total := float32(0)
		for r := range n {
			scores[r] = float32(math.Exp(float64(scores[r] - top)))
			total += scores[r]
		}
		for r := range n {
			w := scores[r] / total
			for i, x := range values[r*stride+h*hd:][:hd] {
				out[h*hd+i] += w * x
			}
		}
	}
}
