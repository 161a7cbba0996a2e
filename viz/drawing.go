package viz

import (
	"fmt"
	"image/color"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Drawing is a figure that its user draws, with gonum/plot or by hand. A
// *plot.Plot p becomes a figure as
//
//	viz.Drawing{Info: viz.Info{Name: "mine"}, Draw: p.Draw}
//
// With plot.DefaultFont.Variant set to "Sans", plots have the font of our figures.
type Drawing struct {
	Info
	// Draw draws within the rectangle of the canvas, in points, y up. It is
	// called once for each picture: a report has a wide and a narrow one. Black
	// is drawn in the text colour of the theme and white in its background
	// colour; other colours are kept.
	Draw func(draw.Canvas)
	// Height in points; 0 means 300.
	Height float64
	// Numbers are the values that the picture shows, for CSV, JSON and the
	// report's table. Without columns there are none. Its Info is not used.
	Numbers Table
}

// Table implements Figure.
func (d Drawing) Table() Table {
	d.Numbers.Info = d.Info
	return d.Numbers
}

func (d Drawing) check() error {
	if err := checkHeight(d.Name, d.Height); err != nil {
		return err
	}
	return d.Table().check()
}

func checkHeight(figure string, height float64) error {
	if !(height >= 0 && height <= 4000) {
		return fmt.Errorf("viz: figure %s: height is %g points; must be 0 to 4000", figure, height)
	}
	return nil
}

func (d Drawing) size(float64, Style) float64 {
	switch {
	case d.Draw == nil:
		return 60
	case d.Height == 0:
		return 300
	}
	return d.Height
}

func (d Drawing) draw(p *pen, at rect) hover {
	if d.Draw == nil {
		p.drawAbsent(at, "Nothing to draw: no drawing was given.")
		return hover{}
	}
	p.c.Push()
	defer p.c.Pop()
	c := themedCanvas{p.c, p.style}
	vg.Initialize(c)
	d.Draw(draw.Canvas{Canvas: c, Rectangle: vg.Rectangle{Min: p.pt(at.x, at.y+at.h), Max: p.pt(at.x+at.w, at.y)}})
	return hover{}
}

// themedCanvas draws black and white in the colours of the theme.
type themedCanvas struct {
	vg.Canvas
	style Style
}

// SetColor implements vg.Canvas.
func (t themedCanvas) SetColor(c color.Color) {
	if c == nil {
		c = color.Black
	}
	if r, g, b, a := c.RGBA(); a > 0 && r == g && g == b && (r == 0 || r == a) {
		name := "ink"
		if r == a {
			name = "ground"
		}
		c = t.style.tone(name).fade(float64(a) / 0xffff)
	}
	t.Canvas.SetColor(c)
}
