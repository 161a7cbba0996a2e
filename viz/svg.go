package viz

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"image"
	"image/color"
	"image/png"
	"math"
	"strconv"
	"strings"

	stdfnt "golang.org/x/image/font"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
)

// svgCanvas is a vg.Canvas that writes compact SVG. Unlike vg/vgsvg it supports
// named colours (tone), sets the width of text so that the browser's font does
// not matter, and rounds coordinates.
type svgCanvas struct {
	buf    bytes.Buffer
	height float64
	css    bool // named colours as CSS variables
	stack  []svgState
}

type svgState struct {
	m     [6]float64 // a b c d e f, as in SVG's matrix()
	color color.Color
	width vg.Length
	dash  []vg.Length
	offs  vg.Length
}

func newSVG(height float64, css bool) *svgCanvas {
	c := &svgCanvas{height: height, css: css, stack: []svgState{{m: [6]float64{1, 0, 0, 1, 0, 0}}}}
	vg.Initialize(c)
	return c
}

func (c *svgCanvas) top() *svgState { return &c.stack[len(c.stack)-1] }

// SetLineWidth implements vg.Canvas.
func (c *svgCanvas) SetLineWidth(w vg.Length) { c.top().width = w }

// SetLineDash implements vg.Canvas.
func (c *svgCanvas) SetLineDash(d []vg.Length, o vg.Length) { c.top().dash, c.top().offs = d, o }

// SetColor implements vg.Canvas.
func (c *svgCanvas) SetColor(col color.Color) {
	if col == nil {
		col = color.Black
	}
	c.top().color = col
}

// Push implements vg.Canvas.
func (c *svgCanvas) Push() { c.stack = append(c.stack, *c.top()) }

// Pop implements vg.Canvas.
func (c *svgCanvas) Pop() {
	if len(c.stack) > 1 {
		c.stack = c.stack[:len(c.stack)-1]
	}
}

func (c *svgCanvas) mul(a, b, cc, d, e, f float64) {
	m := &c.top().m
	*m = [6]float64{
		m[0]*a + m[2]*b, m[1]*a + m[3]*b,
		m[0]*cc + m[2]*d, m[1]*cc + m[3]*d,
		m[0]*e + m[2]*f + m[4], m[1]*e + m[3]*f + m[5],
	}
}

// Rotate implements vg.Canvas.
func (c *svgCanvas) Rotate(r float64) {
	s, co := math.Sincos(r)
	c.mul(co, s, -s, co, 0, 0)
}

// Translate implements vg.Canvas.
func (c *svgCanvas) Translate(p vg.Point) { c.mul(1, 0, 0, 1, p.X.Points(), p.Y.Points()) }

// Scale implements vg.Canvas.
func (c *svgCanvas) Scale(x, y float64) { c.mul(x, 0, 0, y, 0, 0) }

// at returns the page coordinates of a point, y down.
func (c *svgCanvas) at(p vg.Point) (x, y float64) {
	m := c.top().m
	px, py := p.X.Points(), p.Y.Points()
	return m[0]*px + m[2]*py + m[4], c.height - (m[1]*px + m[3]*py + m[5])
}

// scale returns the linear scale of the current transform.
func (c *svgCanvas) scale() float64 {
	m := c.top().m
	return math.Sqrt(math.Abs(m[0]*m[3] - m[1]*m[2]))
}

// num formats a coordinate: in a report, whose size matters, to a tenth of a
// point, otherwise to a hundredth.
func (c *svgCanvas) num(x float64) string {
	if c.css {
		return decimal(x, 1)
	}
	return decimal(x, 2)
}

func num(x float64) string { return decimal(x, 2) }

func decimal(x float64, digits int) string {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return "0"
	}
	s := strconv.FormatFloat(x, 'f', digits, 64)
	s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	if s == "-0" || s == "" {
		return "0"
	}
	return s
}

// paint writes an attribute for the current colour.
func (c *svgCanvas) paint(attr string) {
	col, alpha := "#000000", 1.0
	switch v := c.top().color.(type) {
	case tone:
		col, alpha = v.hex(), v.alpha
		if c.css && v.name != "" {
			col = "var(--" + v.name + ")"
		}
	case nil:
	default:
		n := color.NRGBAModel.Convert(v).(color.NRGBA)
		col, alpha = hexString(n), float64(n.A)/255
	}
	c.attr(attr, col)
	if alpha < 1 {
		c.attr(attr+"-opacity", num(alpha))
	}
}

func (c *svgCanvas) attr(k, v string) {
	c.buf.WriteString(" " + k + `="` + v + `"`)
}

// Stroke implements vg.Canvas.
func (c *svgCanvas) Stroke(p vg.Path) {
	s := c.top()
	if s.width <= 0 {
		return
	}
	c.buf.WriteString(`<path d="` + c.path(p) + `" fill="none"`)
	c.paint("stroke")
	c.attr("stroke-width", c.num(s.width.Points()*c.scale()))
	if len(s.dash) > 0 {
		var d []string
		for _, l := range s.dash {
			d = append(d, c.num(l.Points()*c.scale()))
		}
		c.attr("stroke-dasharray", strings.Join(d, " "))
	}
	c.buf.WriteString("/>\n")
}

// Fill implements vg.Canvas.
func (c *svgCanvas) Fill(p vg.Path) {
	c.buf.WriteString(`<path d="` + c.path(p) + `"`)
	c.paint("fill")
	c.buf.WriteString("/>\n")
}

func (c *svgCanvas) path(p vg.Path) string {
	var b strings.Builder
	pt := func(cmd string, q vg.Point) {
		x, y := c.at(q)
		b.WriteString(cmd + c.num(x) + " " + c.num(y))
	}
	var cur vg.Point
	for _, k := range p {
		switch k.Type {
		case vg.MoveComp:
			pt("M", k.Pos)
			cur = k.Pos
		case vg.LineComp:
			x0, y0 := c.at(cur)
			x, y := c.at(k.Pos)
			switch {
			case c.num(y) == c.num(y0):
				b.WriteString("H" + c.num(x))
			case c.num(x) == c.num(x0):
				b.WriteString("V" + c.num(y))
			default:
				pt("L", k.Pos)
			}
			cur = k.Pos
		case vg.ArcComp:
			cur = c.arc(&b, k, cur)
		case vg.CurveComp:
			if len(k.Control) == 1 {
				pt("Q", k.Control[0])
			} else {
				pt("C", k.Control[0])
				pt(" ", k.Control[1])
			}
			pt(" ", k.Pos)
			cur = k.Pos
		case vg.CloseComp:
			b.WriteString("Z")
		}
	}
	return b.String()
}

// arc writes an arc as pieces of less than half a turn and returns its end.
func (c *svgCanvas) arc(b *strings.Builder, k vg.PathComp, cur vg.Point) vg.Point {
	r := k.Radius.Points()
	on := func(a float64) vg.Point {
		s, co := math.Sincos(a)
		return vg.Point{X: k.Pos.X + vg.Length(r*co), Y: k.Pos.Y + vg.Length(r*s)}
	}
	start := on(k.Start)
	if math.Hypot(float64(start.X-cur.X), float64(start.Y-cur.Y)) > 1e-6 {
		x, y := c.at(start)
		b.WriteString("L" + c.num(x) + " " + c.num(y))
	}
	n := int(math.Ceil(math.Abs(k.Angle)/(0.9*math.Pi))) + 1
	sweep := "0" // y is flipped: a positive angle runs against SVG's
	if k.Angle < 0 {
		sweep = "1"
	}
	rs := c.num(r * c.scale())
	end := start
	for i := 1; i <= n; i++ {
		end = on(k.Start + k.Angle*float64(i)/float64(n))
		x, y := c.at(end)
		b.WriteString("A" + rs + " " + rs + " 0 0 " + sweep + " " + c.num(x) + " " + c.num(y))
	}
	return end
}

// FillString implements vg.Canvas.
func (c *svgCanvas) FillString(f font.Face, p vg.Point, s string) {
	if f.Font.Size <= 0 || strings.TrimSpace(s) == "" {
		return
	}
	x, y := c.at(p)
	m := c.top().m
	c.buf.WriteString(`<text x="` + c.num(x) + `" y="` + c.num(y) + `"`)
	c.attr("font-size", c.num(f.Font.Size.Points()*c.scale()))
	if f.Font.Weight > 0 {
		c.attr("font-weight", "700")
	}
	switch f.Font.Variant {
	case "Mono":
		c.attr("font-family", "Liberation Mono, Consolas, Menlo, monospace")
	case "Serif":
		c.attr("font-family", "Liberation Serif, Times New Roman, Times, serif")
	}
	if f.Font.Style == stdfnt.StyleItalic {
		c.attr("font-style", "italic")
	}
	c.paint("fill")
	if len([]rune(s)) > 4 { // a short text is about as long in any font
		c.attr("textLength", c.num(f.Width(s).Points()*c.scale()))
		c.attr("lengthAdjust", "spacingAndGlyphs")
	}
	if angle := math.Atan2(m[1], m[0]); math.Abs(angle) > 1e-9 {
		c.attr("transform", "rotate("+c.num(-angle*180/math.Pi)+" "+c.num(x)+" "+c.num(y)+")")
	}
	c.buf.WriteString(">")
	_ = xml.EscapeText(&c.buf, []byte(s)) // a bytes.Buffer does not fail
	c.buf.WriteString("</text>\n")
}

// DrawImage implements vg.Canvas. Pixels are drawn as sharp squares.
func (c *svgCanvas) DrawImage(r vg.Rectangle, img image.Image) {
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		return // an empty image: nothing to draw
	}
	x, y := c.at(vg.Point{X: r.Min.X, Y: r.Max.Y})
	c.buf.WriteString(`<image x="` + c.num(x) + `" y="` + c.num(y) + `"`)
	c.attr("width", c.num(r.Size().X.Points()*c.scale()))
	c.attr("height", c.num(r.Size().Y.Points()*c.scale()))
	c.attr("preserveAspectRatio", "none")
	c.attr("style", "image-rendering:pixelated")
	c.attr("href", "data:image/png;base64,"+base64.StdEncoding.EncodeToString(b.Bytes()))
	c.buf.WriteString("/>\n")
}

const svgFonts = `Liberation Sans, Arial, Helvetica, sans-serif`
