package viz

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// stacks names the layers of a model with an encoder; the zero value numbers those of
// one stack.
type stacks struct {
	names []string // [L]; nil: one stack
	split int      // the decoder's first layer
}

func stacksOf(m trace.Model) stacks { return stacksOfShape(speculate.ShapeOf(m)) }

func stacksOfShape(s speculate.Shape) (x stacks) {
	if s.Encoder == 0 {
		return x
	}
	x.split = s.Encoder
	for l := range s.Layers {
		stack := trace.Decoder
		if l < s.Encoder {
			stack = trace.Encoder
		}
		x.names = append(x.names, fmt.Sprintf("%s %d", stack, l-s.FirstLayer(l)))
	}
	return x
}

// number returns what a layer is called where the axis or label says "layer": "3", or
// "decoder 0".
func (x stacks) number(l int) string {
	if l < 0 || l >= len(x.names) {
		return strconv.Itoa(l)
	}
	return x.names[l]
}

// layer returns what a layer is called in a sentence: "layer 3", or "decoder layer 0".
func (x stacks) layer(l int) string {
	switch {
	case l < 0 || l >= len(x.names):
		return fmt.Sprint("layer ", l)
	case l < x.split:
		return fmt.Sprint("encoder layer ", l)
	}
	return fmt.Sprint("decoder layer ", l-x.split)
}

// sentence begins with a capital letter.
func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// ticks are those of an axis of layers from lo to hi; nil: numbers.
func (x stacks) ticks(lo, hi float64) (ts []tick) {
	for l, name := range x.names {
		if v := float64(l); v >= lo && v <= hi {
			ts = append(ts, tick{v, name})
		}
	}
	return ts
}

// parts are the ranges of points of a curve that are joined: not those of the encoder
// with those of the decoder.
func (x stacks) parts(xs []float64) (ranges [][2]int) {
	from := 0
	for i := 1; i < len(xs) && x.split > 0; i++ {
		if s := float64(x.split); xs[i-1] < s && xs[i] >= s {
			ranges, from = append(ranges, [2]int{from, i}), i
		}
	}
	return append(ranges, [2]int{from, len(xs)})
}

// routed is the number of tokens that a layer routed.
func routed(l *trace.LayerSummary) (n int64) {
	for _, c := range l.FirstCounts {
		n += c
	}
	return n
}

// dropped shows by layer the share of tokens that no expert computed. It has no curve
// if the trace does not record that.
func dropped(r *trace.Summary) Lines {
	f := Lines{
		Info: Info{Name: "dropped", Title: "Dropped tokens by layer",
			Caption: "Share of a layer's tokens that no expert computed, because the chosen one was full. They pass the layer unchanged."},
		XAxis: "layer", YAxis: "dropped (%)", IntegerX: true, Height: 240, layers: stacksOf(r.Model),
	}
	for i := range r.Overall.Layers {
		if r.Overall.Layers[i].Dropped == nil {
			return f
		}
	}
	f.Curves = []Curve{byLayer("", r.Overall.Layers, func(l *trace.LayerSummary) float64 { return 100 * *l.Dropped })}
	return f
}
