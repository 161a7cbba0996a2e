package viz

import (
	"math"
	"strings"
	"unicode"

	stdfnt "golang.org/x/image/font"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/font/liberation"
	"gonum.org/v1/plot/vg"
)

// fonts caches the Liberation faces, which gonum/plot embeds: pictures do not
// depend on the machine.
var fonts = font.NewCache(liberation.Collection())

// pen draws on a vg.Canvas in screen coordinates: points from the top left
// corner, y down.
type pen struct {
	c      vg.Canvas
	style  Style
	width  float64
	height float64
	image  bool // the canvas draws images with sharp pixels
	report bool // the picture is part of a report, whose size matters
}

func (p *pen) pt(x, y float64) vg.Point {
	return vg.Point{X: vg.Length(x), Y: vg.Length(p.height - y)}
}

type textStyle struct {
	size   float64
	bold   bool
	mono   bool
	tone   tone
	h, v   float64 // anchor: 0 left/top, .5 middle, 1 right/bottom
	rotate float64 // turns, counterclockwise
}

func (t textStyle) face() font.Face {
	f := font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Length(t.size)}
	if t.mono {
		f.Variant = "Mono"
	}
	if t.bold {
		f.Weight = stdfnt.WeightBold
	}
	return fonts.Lookup(f, f.Size)
}

func (t textStyle) measure(s string) float64 {
	f := t.face()
	return f.Width(s).Points()
}

// text draws one line. The height of a line is that of capitals, which centres
// numbers and names on what they label.
func (p *pen) text(x, y float64, s string, t textStyle) {
	if s == "" {
		return
	}
	f := t.face()
	cap := 0.70 * t.size
	w := f.Width(s).Points()
	p.c.Push()
	p.c.SetColor(t.tone)
	p.c.Translate(p.pt(x, y))
	if t.rotate != 0 {
		p.c.Rotate(2 * math.Pi * t.rotate)
	}
	p.c.FillString(f, vg.Point{X: vg.Length(-t.h * w), Y: vg.Length(-(1 - t.v) * cap)}, s)
	p.c.Pop()
}

func (p *pen) line(x0, y0, x1, y1, width float64, t tone, dash ...float64) {
	p.polyline([]float64{x0, x1}, []float64{y0, y1}, width, t, dash)
}

func (p *pen) polyline(x, y []float64, width float64, t tone, dash []float64) {
	if len(x) < 2 {
		return
	}
	p.c.SetColor(t)
	p.c.SetLineWidth(vg.Length(width))
	var d []vg.Length
	for _, l := range dash {
		d = append(d, vg.Length(l))
	}
	p.c.SetLineDash(d, 0)
	p.c.Stroke(p.trace(x, y))
	p.c.SetLineDash(nil, 0)
}

func (p *pen) trace(x, y []float64) vg.Path {
	path := make(vg.Path, 0, len(x)+1)
	for i := range x {
		if i == 0 {
			path.Move(p.pt(x[i], y[i]))
		} else {
			path.Line(p.pt(x[i], y[i]))
		}
	}
	return path
}

func (p *pen) polygon(x, y []float64, t tone) {
	if len(x) < 3 {
		return
	}
	path := p.trace(x, y)
	path.Close()
	p.c.SetColor(t)
	p.c.Fill(path)
}

func (p *pen) rect(x, y, w, h float64, t tone) {
	p.polygon([]float64{x, x + w, x + w, x}, []float64{y, y, y + h, y + h}, t)
}

func (p *pen) frame(x, y, w, h, width float64, t tone) {
	p.polyline([]float64{x, x + w, x + w, x, x}, []float64{y, y, y + h, y + h, y}, width, t, nil)
}

func (p *pen) circle(x, y, r float64, t tone) {
	path := make(vg.Path, 0, 3)
	path.Move(p.pt(x+r, y))
	path.Arc(p.pt(x, y), vg.Length(r), 0, 2*math.Pi)
	path.Close()
	p.c.SetColor(t)
	p.c.Fill(path)
}

// mark draws marker i at a point.
func (p *pen) mark(i int, x, y, r float64, t tone) {
	poly := func(n int, turn, r float64) {
		var xs, ys []float64
		for k := range n {
			s, c := math.Sincos(2 * math.Pi * (float64(k)/float64(n) + turn))
			xs, ys = append(xs, x+r*s), append(ys, y-r*c)
		}
		p.polygon(xs, ys, t)
	}
	switch i % 6 {
	case 0:
		p.circle(x, y, r, t)
	case 1:
		poly(4, 0.125, r*1.25)
	case 2:
		poly(3, 0, r*1.4)
	case 3:
		poly(4, 0, r*1.35)
	case 4:
		poly(3, 0.5, r*1.4)
	case 5:
		p.circle(x, y, r*1.1, t)
		p.circle(x, y, r*0.55, p.style.tone("ground"))
	}
}

// label makes s printable: one line, no control characters, at most n runes.
func label(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	r := []rune(s)
	if len(r) > n && n > 1 {
		return string(r[:n-1]) + "…"
	}
	return s
}

// fit shortens s to at most width points.
func (t textStyle) fit(s string, width float64) string {
	s = label(s, 200)
	if t.measure(s) <= width {
		return s
	}
	r := []rune(s)
	for n := len(r) - 1; n > 0; n-- {
		if c := string(r[:n]) + "…"; t.measure(c) <= width {
			return c
		}
	}
	return ""
}

// wrap breaks s between words into lines of at most width points.
func (t textStyle) wrap(s string, width float64) []string {
	var lines []string
	cur := ""
	for _, w := range strings.Fields(s) {
		next := w
		if cur != "" {
			next = cur + " " + w
		}
		if cur != "" && t.measure(next) > width {
			lines = append(lines, cur)
			next = w
		}
		cur = t.fit(next, width)
	}
	if cur != "" {
		lines = append(lines, cur)
	}
	return lines
}
