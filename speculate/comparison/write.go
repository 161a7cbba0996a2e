package comparison

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// WriteJSON writes the result as indented JSON.
func (r *Result) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(r)
}

// WriteTable writes the rows as text for a terminal, in aligned columns, and below
// them, if meanings, a sentence about each.
func (r *Result) WriteTable(w io.Writer, meanings bool) error {
	lines := [][]string{{""}}
	for _, c := range r.Columns {
		lines[0] = append(lines[0], c.Name)
	}
	section := ""
	for _, row := range r.Rows {
		if row.Section != section {
			section = row.Section
			lines = append(lines, nil, []string{section})
		}
		line := []string{"  " + row.Label()}
		for _, c := range row.Cells {
			line = append(line, c.String())
		}
		lines = append(lines, line)
	}
	var b strings.Builder
	writeAligned(&b, lines)
	fmt.Fprintf(&b, "\n%d documents", r.Documents)
	if len(r.Test) > 0 {
		fmt.Fprintf(&b, ", predictors scored on %d of them and fitted on the others", len(r.Test))
	}
	b.WriteString("; ± 95 % intervals over documents (jackknife)\n")
	for _, m := range r.Warnings {
		fmt.Fprintln(&b, "warning:", m)
	}
	if meanings {
		r.writeMeanings(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeMeanings writes each sentence once, with the rows that it is about.
func (r *Result) writeMeanings(b *strings.Builder) {
	section := ""
	for i := 0; i < len(r.Rows); {
		first := r.Rows[i]
		if first.Section != section {
			section = first.Section
			fmt.Fprintf(b, "\n%s\n", section)
		}
		k := i
		for k < len(r.Rows) && r.Rows[k].Section == section && r.Rows[k].Meaning == first.Meaning {
			k++
		}
		name := strings.TrimSpace(first.Name)
		if k-i > 1 {
			name += " ..."
		}
		fmt.Fprintf(b, "  %s: %s\n", name, first.Meaning)
		i = k
	}
}

// Label is the name with its unit.
func (r Row) Label() string {
	if r.Unit == "" || r.Unit == "x" {
		return r.Name
	}
	return r.Name + " (" + r.Unit + ")"
}

// String returns the value with half its interval, or the text, or the reason why there
// is no value.
func (c Cell) String() string {
	if c.Text != "" {
		return c.Text
	}
	v := c.Value
	if !v.OK() {
		return v.Missing
	}
	s := number(v.Value)
	if v.HasInterval() {
		s += " ± " + number((v.High-v.Low)/2)
	}
	if c.Note != "" {
		s += " (" + c.Note + ")"
	}
	return s
}

// number writes counts whole, with their thousands apart, and others with three
// decimals, or two digits where that were less.
func number(x float64) string {
	if x != math.Trunc(x) || math.Abs(x) > 1e15 {
		if a := math.Abs(x); a < .0095 && a >= 1e-5 {
			return strconv.FormatFloat(x, 'f', 1-int(math.Floor(math.Log10(a))), 64)
		}
		return strconv.FormatFloat(x, 'f', 3, 64)
	}
	s := strconv.FormatFloat(math.Abs(x), 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if x < 0 {
		s = "-" + s
	}
	return s
}

// writeAligned writes lines of cells in columns as wide as their widest cell. Lines of
// one cell do not widen the first.
func writeAligned(b *strings.Builder, lines [][]string) {
	var widths []int
	for _, line := range lines {
		for i, s := range line {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			if len(line) > 1 {
				widths[i] = max(widths[i], utf8.RuneCountInString(s))
			}
		}
	}
	for _, line := range lines {
		for i, s := range line {
			b.WriteString(s)
			if i+1 < len(line) {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(s)+2))
			}
		}
		b.WriteByte('\n')
	}
}
