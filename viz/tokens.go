package viz

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// TokenText is the text of a document in which each token has the colour and
// the number of its expert at one layer.
type TokenText struct {
	Info
	Journey Journey
	Layer   int // 0-based
	Experts int // E, the number of colours
	// Choice selects the expert shown: 0 the first choice, at most K-1.
	Choice int
	// From and To select tokens From to To-1; both 0: the first 400.
	From, To int
}

func (t TokenText) check() error {
	if err := t.Journey.check(); err != nil {
		return err
	}
	n, l, k := len(t.Journey.Pieces), t.Journey.Layers, t.Journey.TopK
	if t.From < 0 || t.To < t.From || t.To > n {
		return fmt.Errorf("viz: figure %s: tokens %d..%d of %d", t.Name, t.From, t.To, n)
	}
	if n > 0 && (t.Layer < 0 || t.Layer >= l || t.Choice < 0 || t.Choice >= k) {
		return fmt.Errorf("viz: figure %s: layer %d and choice %d of %d layers and top-%d", t.Name, t.Layer, t.Choice, l, k)
	}
	return nil
}

func (t TokenText) span() (from, to int) {
	if t.From == 0 && t.To == 0 {
		return 0, min(len(t.Journey.Pieces), 400)
	}
	return t.From, t.To
}

// Table implements Figure.
func (t TokenText) Table() Table {
	out := Table{Info: t.Info, Columns: []Column{{Name: "token"}, {Name: "text"}, {Name: "expert"}, {Name: "weight"}}}
	from, to := t.span()
	for i := from; i < to; i++ {
		e, w := t.Journey.choice(i, t.Layer, t.Choice)
		out.Rows = append(out.Rows, []any{i, t.Journey.Pieces[i], e, w})
	}
	return out
}

type placed struct {
	x, y, w float64
	token   int
	text    string
}

const tokenLine = 32

// layout breaks the tokens into lines.
func (t TokenText) layout(width float64) (out []placed, lines int) {
	face := textStyle{size: 12, mono: true}
	x, y := 0.0, 0
	from, to := t.span()
	for i := from; i < to; i++ {
		piece := t.Journey.Pieces[i]
		s := strings.ReplaceAll(label(strings.TrimRight(piece, "\n"), 40), " ", "\u00b7")
		if strings.HasSuffix(piece, "\n") {
			s += "¶"
		}
		s = face.fit(s, width-6)
		w := math.Max(face.measure(s), 6) + 4
		if x > 0 && x+w > width {
			x, y = 0, y+1
		}
		out = append(out, placed{x, float64(y) * tokenLine, w, i, s})
		x += w + 1.5
		if strings.HasSuffix(piece, "\n") {
			x, y = 0, y+1
		}
	}
	if x > 0 {
		y++
	}
	return out, y
}

func (t TokenText) size(width float64, s Style) float64 {
	_, n := t.layout(width)
	return math.Max(60, float64(n)*tokenLine+4)
}

func (t TokenText) draw(p *pen, at rect) hover {
	tokens, _ := t.layout(at.w)
	if len(tokens) == 0 {
		p.drawAbsent(at, "Nothing to draw: the document has no tokens.")
		return hover{}
	}
	face := textStyle{size: 12, mono: true, tone: p.style.tone("ink"), v: 0.5}
	small := textStyle{size: 9, tone: p.style.tone("soft"), h: 0.5, v: 1}
	var h hover
	for _, k := range tokens {
		e, w := t.Journey.choice(k.token, t.Layer, t.Choice)
		x, y := at.x+k.x, at.y+k.y
		tip := fmt.Sprintf("token %d, layer %d: no expert", k.token, t.Layer)
		if e >= 0 {
			p.rect(x, y+11, k.w, 17, plain(expertGround(e, t.Experts, p.style.Dark)))
			p.text(x+k.w/2, y+9, strconv.Itoa(e), small)
			tip = fmt.Sprintf("token %d, layer %d: %s", k.token, t.Layer, expertText(e, w))
		} else {
			p.frame(x, y+11, k.w, 17, 1, p.style.tone("grid"))
		}
		p.text(x+2, y+19.5, k.text, face)
		h.Spots = append(h.Spots, spot{X: x, Y: y + 11, W: k.w, H: 17, Text: tip})
	}
	return h
}

func expertText(expert int, weight float64) string {
	if math.IsNaN(weight) {
		return fmt.Sprint("expert ", expert)
	}
	return fmt.Sprintf("expert %d, weight %s", expert, short(weight, 3))
}

// TokenPaths draws the paths of tokens through all layers. Each expert is a
// point whose size is the routing weight; a line joins the first choices.
type TokenPaths struct {
	Info
	Journey Journey
	Experts int   // E
	Tokens  []int // the tokens drawn, at most 8
}

func (f TokenPaths) check() error {
	j := f.Journey
	if err := j.check(); err != nil {
		return err
	}
	if len(f.Tokens) > seriesColours {
		return fmt.Errorf("viz: figure %s: got %d paths, expected at most %d", f.Name, len(f.Tokens), seriesColours)
	}
	each := j.Layers * j.TopK
	for _, t := range f.Tokens {
		if t < 0 || t >= len(j.Pieces) {
			return fmt.Errorf("viz: figure %s: token %d of %d", f.Name, t, len(j.Pieces))
		}
		for i, e := range j.Experts[t*each : (t+1)*each] {
			if int(e) >= f.Experts {
				return fmt.Errorf("viz: figure %s: token %d, layer %d: expert %d of %d", f.Name, t, i/j.TopK, e, f.Experts)
			}
		}
	}
	return nil
}

// Table implements Figure.
func (f TokenPaths) Table() Table {
	out := Table{Info: f.Info, Columns: []Column{{Name: "token"}, {Name: "text"}, {Name: "layer"}, {Name: "choice"}, {Name: "expert"}, {Name: "weight"}}}
	for _, t := range f.Tokens {
		for l := range f.Journey.Layers {
			for k := range f.Journey.TopK {
				e, w := f.Journey.choice(t, l, k)
				out.Rows = append(out.Rows, []any{t, f.Journey.Pieces[t], l, k, e, w})
			}
		}
	}
	return out
}

func (f TokenPaths) keys(s Style) []key {
	var keys []key
	for i, t := range f.Tokens {
		keys = append(keys, key{text: fmt.Sprintf("%d: %q", t, label(f.Journey.Pieces[t], 24)), tone: s.series(i), mark: 0, dash: dashes[i]})
	}
	return keys
}

func (f TokenPaths) empty() bool {
	return f.Journey.Layers == 0 || len(f.Tokens) == 0 || f.Experts < 1
}

func (f TokenPaths) size(width float64, s Style) float64 {
	if f.empty() {
		return 60
	}
	return legendHeight(s, f.keys(s), width) + math.Min(640, math.Max(90, 26*float64(f.Experts))) + 56
}

func (f TokenPaths) draw(p *pen, at rect) hover {
	if f.empty() {
		p.drawAbsent(at, "Nothing to draw: no token was chosen, or the model has no layers.")
		return hover{}
	}
	layers := f.Journey.Layers
	keys := f.keys(p.style)
	head := legendHeight(p.style, keys, at.w)
	p.drawLegend(keys, at)
	y := axis{label: "expert", min: -0.5, max: float64(f.Experts) - 0.5}
	bodyH := at.h - head - 6 - bottomMargin("layer")
	y.ticks = integerTicks(0, float64(f.Experts-1), int(math.Max(1, bodyH/14)))
	left := leftMargin(p.style, y.label, y.ticks, 80)
	box := rect{at.x + left, at.y + head + 6, at.w - left - 4, bodyH}
	x := axis{label: "layer", min: -0.5, max: float64(layers) - 0.5, ticks: integerTicks(0, float64(layers-1), int(box.w/20))}
	x.from, x.to, y.from, y.to = box.x, box.x+box.w, box.y, box.y+box.h
	p.drawY(&y, box, at.x, true)
	p.drawX(&x, box, true)
	radius := math.Min(7, math.Min(box.w/float64(layers), box.h/float64(f.Experts))*0.45)
	var h hover
	for i := range f.Tokens {
		h.Spots = append(h.Spots, f.drawPath(p, &x, &y, i, radius)...)
	}
	return h
}

// drawPath draws the path of token Tokens[i].
func (f TokenPaths) drawPath(p *pen, x, y *axis, i int, radius float64) (spots []spot) {
	t, tone := f.Tokens[i], p.style.series(i)
	// Paths are drawn a little apart, so that tokens of the same expert are visible.
	shift := 0.0
	if n := len(f.Tokens); n > 1 {
		shift = (float64(i)/float64(n-1) - 0.5) * radius * 1.2
	}
	var xs, ys []float64
	for l := range f.Journey.Layers {
		if e, _ := f.Journey.choice(t, l, 0); e >= 0 {
			xs, ys = append(xs, x.at(float64(l))+shift), append(ys, y.at(float64(e))+shift)
		}
	}
	p.polyline(xs, ys, 1.6, tone, dashes[i])
	for l := range f.Journey.Layers {
		for k := range f.Journey.TopK {
			e, w := f.Journey.choice(t, l, k)
			if e < 0 {
				continue
			}
			size := w
			if math.IsNaN(size) {
				size = 1 / float64(f.Journey.TopK)
			}
			px, py := x.at(float64(l))+shift, y.at(float64(e))+shift
			r := math.Max(1, radius*math.Sqrt(math.Min(1, math.Max(0, size))))
			if k == 0 {
				p.circle(px, py, r, tone)
			} else {
				p.circle(px, py, r, tone.fade(0.55))
				p.circle(px, py, r*0.5, p.style.tone("ground"))
			}
			spots = append(spots, spot{X: px, Y: py, Text: fmt.Sprintf("token %d %q\nlayer %d, choice %d: %s",
				t, label(f.Journey.Pieces[t], 24), l, k+1, expertText(e, w))})
		}
	}
	return spots
}
