package neural

import (
	"fmt"

	"github.com/expertspec/expertspec/speculate"
)

// fold takes the standardisation (x-mean)*inv, [G,F] each, into the weights of
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

// assemble lays weights out for execution. Their sizes have been checked.
func assemble(c MLPConfig, s speculate.Shape, hs []speculate.Horizon, soft bool, stats []speculate.Predictor, w map[string][]float32, info Info) *MLP {
	hd := heads(s.Layers, hs)
	z := sizesOf(c, s, len(hd), len(stats))
	p := &MLP{cfg: c, shape: s, horizons: hs, index: map[head]int{}, units: make([]unit, len(hd)), embed: w["embed"], weights: w, stats: stats, soft: soft, info: info}
	part := func(name string, g, rows, width int) []float32 { return w[name][g*rows*width:][:rows*width] }
	padded := func(b []float32) []float32 { // so that a row's copy clears the padding
		return append(b[:len(b):len(b)], make([]float32, padTo(len(b), lane)-len(b))...)
	}
	for g, d := range hd {
		p.index[d] = g
		u := &p.units[g]
		u.out = padded(part("out.bias", g, 1, z.e))
		if c.Linear {
			u.lin = newMatrix(z.f, z.e, part("linear", g, z.f, z.e))
		}
		if c.Depth == 0 {
			continue
		}
		first := part("first", g, z.f, z.h)
		if z.n > 0 {
			first = append(first[:len(first):len(first)], part("first.embed", g, z.n*z.w, z.h)...)
		}
		u.first = newMatrix(z.f+z.n*z.w, z.h, first)
		u.bias1 = padded(part("first.bias", g, 1, z.h))
		for i := range c.Depth - 1 {
			u.hidden = append(u.hidden, newMatrix(z.h, z.h, part(fmt.Sprintf("hidden.%d", i), g, z.h, z.h)))
			u.biases = append(u.biases, padded(part(fmt.Sprintf("hidden.%d.bias", i), g, 1, z.h)))
		}
		u.last = newMatrix(z.h, z.e, part("last", g, z.h, z.e))
		if z.s > 0 {
			u.gate = newMatrix(z.h+z.s, z.s, part("gate", g, z.h+z.s, z.s))
			u.gateB = padded(part("gate.bias", g, 1, z.s))
		}
	}
	return p
}
