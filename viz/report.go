package viz

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"strings"
)

// Report is the content of a self-contained HTML file of figures, tables and
// token journeys. The file loads nothing from the network and runs no script but
// its own; text from data sets is always displayed as text.
type Report struct {
	Title string
	// Lead is the text below the title.
	Lead string
	// Facts are the key numbers.
	Facts []Fact
	// Sections have an entry each in the navigation.
	Sections []Section
	// Source is the origin of the data, at the end of the report.
	Source []Fact
}

// Fact is a value and its name: {"tokens", "25,600", "10 data sets"}.
type Fact struct{ Label, Value, Note string }

// Section is a part of a report.
type Section struct {
	// ID is the section's address in the page. It is unique and has the form of
	// a figure's name.
	ID     string
	Title  string
	Text   []string // paragraphs
	Blocks []Block
}

// add adds figures that are shown one below the other.
func (s *Section) add(figures ...Figure) {
	s.Blocks = append(s.Blocks, Figures{List: figures})
}

// Block is an element of a section: [Figures] or a [Table].
type Block interface {
	block(p *page) (blockHTML, error)
}

// Figures is a list of figures, or a choice of one of them.
type Figures struct {
	// Label names the choice ("Data set"); "": all figures are shown.
	Label string
	List  []Figure
	// Options are the names of the figures in the choice; nil: their titles.
	Options []string
}

func (f *Figures) add(option string, figure Figure) {
	f.List, f.Options = append(f.List, figure), append(f.Options, option)
}

// journeys is the block in which a reader chooses document, layer and token.
type journeys struct {
	Info
	Layers, Experts, TopK int
	// Documents have these layers and this top-k.
	Documents []Journey
	// MaxTokens is the maximum number of tokens; 0 means what fits into about
	// 2.5 MB. Documents are included completely or not at all, from each data
	// set in turn.
	MaxTokens int
	names     []string // of the layers, [L]; nil: their numbers
}

//go:embed assets/report.tmpl
var reportTemplate string

//go:embed assets/report.css
var reportCSS string

//go:embed assets/report.js
var reportJS string

var reportPage = template.Must(template.New("report").Parse(reportTemplate))

// page collects what the blocks of a report require.
type page struct {
	used    map[string]bool
	figures map[string]figureJSON
	tables  map[string]tableJSON
	jour    map[string]journeysJSON
	experts int
}

func (p *page) claim(i Info) error {
	if err := i.check(); err != nil {
		return err
	}
	if p.used[i.Name] {
		return fmt.Errorf("viz: report: two figures or tables are named %q", i.Name)
	}
	p.used[i.Name] = true
	return nil
}

// section reserves the address of a section.
func (p *page) section(id string) error {
	if err := (Info{Name: id}).check(); err != nil {
		return err
	}
	for _, own := range []string{"main", "source", "data", "tip", "theme"} {
		if id == own || strings.HasPrefix(id, "fig-") || strings.HasPrefix(id, "table-") {
			return fmt.Errorf("viz: report: section ID %q is reserved", id)
		}
	}
	if p.used["#"+id] {
		return fmt.Errorf("viz: report: two sections have the ID %q", id)
	}
	p.used["#"+id] = true
	return nil
}

// css returns the style sheet with the colours of both themes.
func css(experts int) string {
	var b strings.Builder
	vars := func(dark bool) {
		s := Style{Dark: dark}
		for _, t := range tones {
			fmt.Fprintf(&b, "--%s:%s;", t.name, s.tone(t.name).hex())
		}
		for e := range experts {
			fmt.Fprintf(&b, "--e%d:%s;", e, hexString(expertGround(e, experts, dark)))
		}
		if dark {
			b.WriteString("--page:#0f1217;--link:#8ab8ff;color-scheme:dark")
		} else {
			b.WriteString("--page:#f6f7f9;--link:#0b57d0;color-scheme:light")
		}
	}
	b.WriteString(":root{")
	vars(false)
	b.WriteString("}\n:root[data-theme=dark]{")
	vars(true)
	b.WriteString("}\n@media screen and (prefers-color-scheme:dark){:root:not([data-theme=light]){")
	vars(true)
	b.WriteString("}}\n@media print{:root:root{")
	vars(false)
	b.WriteString("}}\n")
	b.WriteString(reportCSS)
	return b.String()
}

// WriteHTML writes the report as one HTML file. Equal reports are written as
// equal bytes.
func (r Report) WriteHTML(w io.Writer) error {
	p := &page{used: map[string]bool{}, figures: map[string]figureJSON{}, tables: map[string]tableJSON{}, jour: map[string]journeysJSON{}}
	type sectionHTML struct {
		ID, Title string
		Text      []string
		Blocks    []blockHTML
	}
	var sections []sectionHTML
	for _, s := range r.Sections {
		if err := p.section(s.ID); err != nil {
			return err
		}
		out := sectionHTML{ID: s.ID, Title: s.Title, Text: s.Text}
		for _, b := range s.Blocks {
			if b == nil {
				return fmt.Errorf("viz: report: section %s has a nil block", s.ID)
			}
			h, err := b.block(p)
			if err != nil {
				return err
			}
			if f, ok := b.(Figures); ok && len(f.List) == 0 {
				continue
			}
			out.Blocks = append(out.Blocks, h)
		}
		sections = append(sections, out)
	}
	data, err := json.Marshal(map[string]any{"figures": p.figures, "tables": p.tables, "journeys": p.jour}) // escapes <, >, &, U+2028 and U+2029
	if err != nil {
		return fmt.Errorf("viz: report: %w", err)
	}
	js := strings.TrimSpace(reportJS)
	sum := sha256.Sum256([]byte(js))
	// Nothing is fetched and no other script runs, whatever a data set contains.
	csp := "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; script-src 'sha256-" +
		base64.StdEncoding.EncodeToString(sum[:]) + "'"
	var buf bytes.Buffer
	err = reportPage.Execute(&buf, map[string]any{
		"Title": r.Title, "Lead": r.Lead, "Facts": r.Facts, "Source": r.Source, "Sections": sections,
		"CSP": csp, "CSS": template.CSS(css(p.experts)), "JS": template.JS(js), "Data": template.JS(data),
	})
	if err != nil {
		return fmt.Errorf("viz: report: %w", err)
	}
	if _, err := w.Write(buf.Bytes()); err != nil {
		return fmt.Errorf("viz: report: %w", err)
	}
	return nil
}

// figures yields the figures of the report.
func (r Report) figures(yield func(Figure) bool) {
	for _, s := range r.Sections {
		for _, b := range s.Blocks {
			f, _ := b.(Figures)
			for _, fig := range f.List {
				if !yield(fig) {
					return
				}
			}
		}
	}
}

// Figure returns the figure with the given name, or nil if the report has none.
// The package documentation lists the names.
func (r Report) Figure(name string) Figure {
	for f := range r.figures {
		if f.Describe().Name == name {
			return f
		}
	}
	return nil
}

// Save writes the report to a file, completely or not at all. Unless pictures is
// "", it also writes every figure as PNG, SVG and CSV into that existing folder.
func (r Report) Save(file, pictures string) error {
	if file == "" {
		return errors.New("viz: report: no file name")
	}
	if pictures != "" {
		for f := range r.figures {
			if _, err := Save(pictures, f, Style{}); err != nil {
				return err
			}
		}
	}
	return writeFile(file, r.WriteHTML)
}
