package viz

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/vgimg"
)

// Info names a figure or a table. Figures embed it.
type Info struct {
	// Name is the base name of the figure's files and its address in a report:
	// lower-case letters, digits and single hyphens.
	Name string
	// Title is written above the figure. In a report, Caption is written below it.
	Title, Caption string
}

// Describe returns i. It makes a type that embeds Info describe itself.
func (i Info) Describe() Info { return i }

var nameRule = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

func (i Info) check() error {
	if !nameRule.MatchString(i.Name) || len(i.Name) > 80 {
		return fmt.Errorf("viz: figure name %q is invalid; must be at most 80 of a-z, 0-9 and single hyphens", i.Name)
	}
	return nil
}

// Figure is a picture and the numbers that it shows: [HeatMap], [Lines],
// [Sankey], [TokenText], [TokenPaths], [Drawing] or [Panels] of them.
type Figure interface {
	// Describe returns the figure's name, title and caption.
	Describe() Info
	// Table returns the numbers that the figure shows, in long form.
	Table() Table

	// check returns an error for data that cannot be drawn. Without data a
	// figure draws a sentence that says so.
	check() error
	// size returns the height for a width, both in points.
	size(width float64, s Style) float64
	draw(p *pen, at rect) hover
}

// rect is a rectangle of the page, in points, y down.
type rect struct{ x, y, w, h float64 }

// hover is where the numbers are in a drawn figure, for pointer and keyboard.
type hover struct {
	Cells []cells `json:"cells,omitempty"`
	Spots []spot  `json:"spots,omitempty"`
}

// cells is a grid of R rows, from the top, and C columns.
type cells struct {
	Box    [4]float64 `json:"box"` // x, y, w, h
	Title  string     `json:"title,omitempty"`
	Rows   []string   `json:"rows"`
	Cols   []string   `json:"cols"`
	Row    string     `json:"row"`
	Col    string     `json:"col"`
	Unit   string     `json:"unit"`
	Values []jsonNum  `json:"values"` // [R,C]
}

// spot is one value at a place; W and H are 0 for a point.
type spot struct {
	X, Y, W, H float64
	Text       string
}

func (h *hover) add(o hover) {
	h.Cells = append(h.Cells, o.Cells...)
	h.Spots = append(h.Spots, o.Spots...)
}

// Style sets how a figure is rendered. The zero value suits a paper: black on
// white, 760 points wide, PNG at two pixels per point.
type Style struct {
	// Dark draws on a dark background.
	Dark bool
	// Width of the figure in points, 240 to 4000; 0 means 760. The size of
	// text, 11 to 14 points, does not depend on it.
	Width float64
	// Density is the number of pixels per point in a PNG, 0.5 to 8; 0 means 2.
	Density float64
	// NoTitle omits the title, for a figure that has a caption instead.
	NoTitle bool
}

func (s Style) check() error {
	if s.Width != 0 && !(s.Width >= 240 && s.Width <= 4000) {
		return fmt.Errorf("viz: style: width is %g points; must be 240 to 4000", s.Width)
	}
	if s.Density != 0 && !(s.Density >= 0.5 && s.Density <= 8) {
		return fmt.Errorf("viz: style: density is %g; must be 0.5 to 8", s.Density)
	}
	return nil
}

func (s Style) filled() Style {
	if s.Width == 0 {
		s.Width = 760
	}
	if s.Density == 0 {
		s.Density = 2
	}
	return s
}

// WriteSVG writes the figure as a standalone SVG document.
func WriteSVG(w io.Writer, f Figure, s Style) error {
	doc, _, err := renderSVG(f, s, false)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"+doc); err != nil {
		return fmt.Errorf("viz: figure %s: %w", f.Describe().Name, err)
	}
	return nil
}

// WritePNG writes the figure as a PNG image.
func WritePNG(w io.Writer, f Figure, s Style) error {
	if err := checkFigure(f, s); err != nil {
		return err
	}
	s = s.filled()
	h := pageHeight(f, s)
	c := vgimg.NewWith(vgimg.UseWH(vg.Length(s.Width), vg.Length(h)),
		vgimg.UseDPI(int(math.Round(72*s.Density))), vgimg.UseBackgroundColor(s.tone("ground").c))
	p := &pen{c: c, style: s, width: s.Width, height: h}
	drawPage(p, f)
	if _, err := (vgimg.PngCanvas{Canvas: c}).WriteTo(w); err != nil {
		return fmt.Errorf("viz: figure %s: %w", f.Describe().Name, err)
	}
	return nil
}

// Save writes the figure as NAME.png and NAME.svg and its numbers, if it has
// any, as NAME.csv into the existing folder dir, and returns their paths. NAME
// is the figure's name.
func Save(dir string, f Figure, s Style) ([]string, error) {
	if err := checkFigure(f, s); err != nil {
		return nil, err
	}
	table := f.Table()
	var paths []string
	for _, out := range []struct {
		ext   string
		write func(io.Writer) error
	}{
		{".png", func(w io.Writer) error { return WritePNG(w, f, s) }},
		{".svg", func(w io.Writer) error { return WriteSVG(w, f, s) }},
		{".csv", func(w io.Writer) error { return table.WriteCSV(w) }},
	} {
		if out.ext == ".csv" && len(table.Columns) == 0 {
			continue
		}
		path := filepath.Join(dir, f.Describe().Name+out.ext)
		if err := writeFile(path, out.write); err != nil {
			return paths, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// writeFile writes a file completely or not at all.
func writeFile(path string, write func(io.Writer) error) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".viz-*")
	if err != nil {
		return fmt.Errorf("viz: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	if err = write(tmp); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err = tmp.Chmod(0o644); err != nil {
		return errors.Join(fmt.Errorf("viz: %w", err), tmp.Close())
	}
	if err = tmp.Close(); err != nil {
		return fmt.Errorf("viz: %w", err)
	}
	if err = os.Rename(tmp.Name(), path); err != nil {
		return fmt.Errorf("viz: %w", err)
	}
	return nil
}

func checkFigure(f Figure, s Style) error {
	if err := s.check(); err != nil {
		return err
	}
	if err := f.Describe().check(); err != nil {
		return err
	}
	return f.check()
}

const pageMargin = 6

func titleStyle(s Style) textStyle {
	return textStyle{size: 14, bold: true, tone: s.tone("ink")}
}

func titleLines(f Figure, s Style) []string {
	if s.NoTitle {
		return nil
	}
	return titleStyle(s).wrap(f.Describe().Title, s.Width-2*pageMargin)
}

func pageHeight(f Figure, s Style) float64 {
	h := 2*pageMargin + f.size(s.Width-2*pageMargin, s)
	if n := len(titleLines(f, s)); n > 0 {
		h += 18*float64(n) + 8
	}
	return math.Ceil(h)
}

func drawPage(p *pen, f Figure) hover {
	at := rect{pageMargin, pageMargin, p.width - 2*pageMargin, p.height - 2*pageMargin}
	for _, line := range titleLines(f, p.style) {
		p.text(at.x, at.y, line, titleStyle(p.style))
		at.y, at.h = at.y+18, at.h-18
	}
	if at.y > pageMargin {
		at.y, at.h = at.y+8, at.h-8
	}
	return f.draw(p, at)
}

// renderSVG returns the figure as SVG and where its numbers are. With css,
// colours are those of the page that contains it.
func renderSVG(f Figure, s Style, css bool) (string, hover, error) {
	if err := checkFigure(f, s); err != nil {
		return "", hover{}, err
	}
	s = s.filled()
	h := pageHeight(f, s)
	c := newSVG(h, css)
	p := &pen{c: c, style: s, width: s.Width, height: h, image: true, report: css}
	if !css {
		p.rect(0, 0, s.Width, h, s.tone("ground"))
	}
	hov := drawPage(p, f)
	size := ""
	if !css { // two columns of a journal: 7.2 inches for 760 points
		size = ` width="` + num(s.Width*7.2/760) + `in" height="` + num(h*7.2/760) + `in"`
	}
	head := `<svg xmlns="http://www.w3.org/2000/svg"` + size + ` viewBox="0 0 ` + num(s.Width) + " " + num(h) +
		`" font-family="` + svgFonts + `">` + "\n"
	return head + c.buf.String() + "</svg>\n", hov, nil
}

// drawAbsent writes why there is nothing to draw.
func (p *pen) drawAbsent(at rect, why string) {
	p.frame(at.x+0.5, at.y+0.5, at.w-1, at.h-1, 1, p.style.tone("grid"))
	t := textStyle{size: 12, tone: p.style.tone("soft"), h: 0.5, v: 0.5}
	lines := t.wrap(why, at.w-24)
	y := at.y + at.h/2 - 8*float64(len(lines)-1)
	for _, l := range lines {
		p.text(at.x+at.w/2, y, l, t)
		y += 16
	}
}
