package speculate

import (
	"context"
	"errors"
	"math"
	"slices"

	"github.com/expertspec/expertspec/speculate/internal/prob"
	"github.com/expertspec/expertspec/trace"
)

// calibrated wraps a predictor so that its confidences are probabilities. A
// rising curve maps margins to log odds, for each horizon and layer, so that the
// order of experts remains. The margin of an expert among the K likeliest is the
// difference of its log odds and those of the next likeliest; the margin of
// another expert is the difference to the K-th. The curve is the isotonic
// regression (Zadrozny and Elkan 2002) of what was chosen on binned margins,
// shrunk towards a logistic curve (Platt 1999) where there are few observations.
// The name is that of the base predictor.
type calibrated struct {
	Predictor
	// Curves hold, for each horizon and layer [L], the log odds at the bins'
	// centers; nil leaves confidences unchanged.
	Curves map[Horizon][]*calibrationCurve
}

// calibrationCurve holds calibrated log odds at curveBins evenly spaced margins
// from -10 to 10, strictly rising.
type calibrationCurve [curveBins]float32

// at interpolates the curve at x, and continues it beyond its ends.
func (c *calibrationCurve) at(x float64) float64 {
	const width = 20.0 / curveBins
	u := (x+10)/width - .5
	i := min(max(int(u), 0), curveBins-2)
	lo, hi := float64(c[i]), float64(c[i+1])
	if f := u - float64(i); f >= 0 && f <= 1 {
		return lo + f*(hi-lo)
	} else if f < 0 {
		return lo + f*width*.1
	} else {
		return hi + (f-1)*width*.1
	}
}

// Base returns the predictor under p, without calibration.
func Base(p Predictor) Predictor {
	for {
		c, ok := p.(*calibrated)
		if !ok {
			return p
		}
		p = c.Predictor
	}
}

// Predict implements [Predictor].
func (c *calibrated) Predict(views []View, out []float32) error {
	if err := c.Predictor.Predict(views, out); err != nil || len(views) == 0 {
		return err
	}
	c.apply(views[0], out)
	return nil
}

func (c *calibrated) apply(v View, out []float32) {
	curves := c.Curves[v.hor]
	if v.l >= len(curves) || curves[v.l] == nil {
		return
	}
	curves[v.l].apply(out, v.seq.shape)
}

// apply calibrates probabilities [n,E].
func (c *calibrationCurve) apply(p []float32, s Shape) {
	margins(p, s)
	for i, x := range p {
		p[i] = prob.Of(c.at(float64(x)))
	}
}

// margins turns probabilities [n,E] into margins, in place. Where all experts
// are chosen they are log odds.
func margins(p []float32, s Shape) {
	for ; len(p) > 0; p = p[s.Experts:] {
		row := p[:s.Experts]
		prob.ToLogOdds(row, row)
		if s.TopK >= s.Experts {
			continue
		}
		in, out := boundary(row, s.TopK)
		for i, x := range row {
			if x >= in {
				row[i] = x - out
			} else {
				row[i] = x - in
			}
		}
	}
}

// boundary returns the k-th and the next largest of x, k < len(x).
func boundary(x []float32, k int) (in, out float32) {
	var few [17]float32
	top := few[:0] // the k+1 largest, largest first
	for _, v := range x {
		if len(top) > k && v <= top[k] {
			continue
		}
		if len(top) <= k {
			top = append(top, v)
		}
		i := len(top) - 1
		for ; i > 0 && top[i-1] < v; i-- {
			top[i] = top[i-1]
		}
		top[i] = v
	}
	return top[k-1], top[k]
}

// SupportsLayer implements [Partial].
func (c *calibrated) SupportsLayer(s Shape, h Horizon, layer int) bool {
	return Supports(c.Predictor, s, h, layer)
}

func (c *calibrated) members(Horizon) []Predictor { return []Predictor{c.Predictor} }

func (c *calibrated) combine(v View, members [][]float32, out []float32) error {
	copy(out, members[0])
	c.apply(v, out)
	return nil
}

// curveBins are the bins of margins in [-10,10]: narrow, since scores that
// were trained towards a softmax are close together.
const curveBins = 400

// histogram counts, for bins of margins, how many and how many were chosen.
type histogram [curveBins][3]float64 // n, hits, sum of margins

func (g *histogram) observe(margin float32, hit bool) {
	x := float64(margin)
	b := &g[min(max(int((x+10)*curveBins/20), 0), curveBins-1)]
	b[0]++
	b[2] += x
	if hit {
		b[1]++
	}
}

// platt fits sigmoid(a*x+b) by Newton's method, with a prior of one count at
// a=1, b=0; a is at least .05 so that the order remains.
func (g *histogram) platt() (float64, float64) {
	a, b := 1.0, 0.0
	for range 40 {
		ga, gb, haa, hab, hbb := a-1, b, 1.0, 0.0, 1.0
		for _, c := range g {
			if c[0] == 0 {
				continue
			}
			x := c[2] / c[0]
			p := prob.Sigmoid(a*x + b)
			d, w := p*c[0]-c[1], p*(1-p)*c[0]
			ga, gb = ga+d*x, gb+d
			haa, hab, hbb = haa+w*x*x, hab+w*x, hbb+w
		}
		det := haa*hbb - hab*hab
		if det <= 0 {
			break
		}
		da, db := (ga*hbb-gb*hab)/det, (gb*haa-ga*hab)/det
		if step := math.Hypot(da, db); step > 2 {
			da, db = da*2/step, db*2/step
		}
		a, b = max(a-da, .05), b-db
		if math.Abs(da)+math.Abs(db) < 1e-7 {
			break
		}
	}
	return a, b
}

// curve fits a Curve: pooled adjacent violators over bins that each have
// pseudo observations from the logistic curve.
func (g *histogram) curve() *calibrationCurve {
	// Confidences of at most .998 and a slope everywhere preserve the order of
	// nearly certain experts in float32.
	const pseudo, slope, most = 2400. / curveBins, .02, 6.2
	a, b := g.platt()
	type block struct{ n, hits, bins float64 }
	var bs []block
	for i, c := range g {
		x := (float64(i)+.5)*20/curveBins - 10
		bs = append(bs, block{c[0] + pseudo, c[1] + pseudo*prob.Sigmoid(a*x+b), 1})
		for k := len(bs) - 1; k > 0 && bs[k-1].hits*bs[k].n >= bs[k].hits*bs[k-1].n; k-- {
			bs[k-1] = block{bs[k-1].n + bs[k].n, bs[k-1].hits + bs[k].hits, bs[k-1].bins + bs[k].bins}
			bs = bs[:k]
		}
	}
	var c calibrationCurve
	i := 0
	for _, k := range bs {
		for range int(k.bins) {
			x := (float64(i)+.5)*20/curveBins - 10
			c[i] = float32(min(max(logit(k.hits/k.n), -most), most) + slope*x)
			i++
		}
	}
	return &c
}

// calibrationTokens is how many tokens of a document are used to calibrate and
// to fit ensembles: neighboring tokens are alike, and there are many documents.
const calibrationTokens = 64

// some returns at most k of the numbers 0..n-1, evenly spaced.
func some(n, k int) []int {
	k = min(n, k)
	ts := make([]int, k)
	for i := range ts {
		ts[i] = i * n / k
	}
	return ts
}

// some returns at most calibrationTokens of the tokens that pass a layer, evenly
// spaced.
func (s *sequence) some(layer int) []int {
	from, to := s.shape.span(s.n, s.enc, layer)
	ts := some(to-from, calibrationTokens)
	for i := range ts {
		ts[i] += from
	}
	return ts
}

// Calibrate returns ps with confidences that are probabilities: each is wrapped
// with curves, fitted on up to 64 tokens of each document of valid at those of
// o.Horizons that it supports. The order of experts remains. The oracle is returned
// as it is. Calibrate reads valid once; it uses no other options than Horizons and
// Workers.
func Calibrate(ctx context.Context, valid Data, o EvaluateOptions, ps ...Predictor) ([]Predictor, error) {
	bases := make([]Predictor, len(ps))
	for i, p := range ps {
		bases[i] = Base(p)
	}
	e := &evaluation{o: o, shape: ShapeOf(valid.Header.Model), ps: bases}
	if err := e.check(valid.Header); err != nil {
		return nil, err
	}
	s := e.shape
	sum := make([]histogram, len(bases)*len(o.Horizons)*s.Layers)
	at := func(p, h, l int) int { return (p*len(o.Horizons)+h)*s.Layers + l }
	docs := 0
	work := func(doc *trace.Document, seq *sequence) ([]histogram, error) {
		part := make([]histogram, len(sum))
		a := &answers{seq: seq}
		for i, h := range o.Horizons {
			for _, l := range s.Targets(h) {
				tokens := seq.some(l)
				a.ask(h, l, tokens)
				for j, p := range bases {
					if _, ok := p.(peeker); ok || !Supports(p, s, h, l) {
						continue
					}
					scores, err := a.of(p)
					if err != nil {
						return nil, err
					}
					x := slices.Clone(scores)
					margins(x, s)
					g := &part[at(j, i, l)]
					for k, x := range x {
						t := tokens[k/s.Experts]
						c := (t*s.Layers + l) * s.TopK
						g.observe(x, place(doc.Experts[c:c+s.TopK], int32(k%s.Experts)) < s.TopK)
					}
				}
			}
		}
		return part, nil
	}
	err := scan(ctx, valid, e.workers(), work, func(_ *trace.Document, part []histogram) error {
		docs++
		for i := range sum {
			for b := range sum[i] {
				for k := range 3 {
					sum[i][b][k] += part[i][b][k]
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if docs == 0 {
		return nil, errors.New("speculate: no documents to calibrate on")
	}
	out := make([]Predictor, len(bases))
	for j, p := range bases {
		if _, ok := p.(peeker); ok {
			out[j] = p
			continue
		}
		c := &calibrated{Predictor: p, Curves: map[Horizon][]*calibrationCurve{}}
		for i, h := range o.Horizons {
			if !p.Supports(h) {
				continue
			}
			curves := make([]*calibrationCurve, s.Layers)
			for _, l := range s.Targets(h) {
				curves[l] = sum[at(j, i, l)].curve()
			}
			c.Curves[h] = curves
		}
		out[j] = c
	}
	return out, nil
}

// logit is the inverse of the logistic function, for p bounded to [1e-6, 1-1e-6].
func logit(p float64) float64 {
	p = min(max(p, 1e-6), 1-1e-6)
	return math.Log(p / (1 - p))
}
