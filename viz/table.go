package viz

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Table holds numbers and words: those of a figure, or a table of a report.
type Table struct {
	Info
	Columns []Column
	// Rows hold one value per column: a string, an int or a float64. NaN means
	// that there is no value.
	Rows [][]any
}

// Column describes a column of a [Table].
type Column struct {
	Name string
	// Unit is written after the name: "%", "bits", "ms".
	Unit string
	// Digits is the number of decimals in a report; CSV and JSON have all.
	Digits int
	// Best marks the best value of the column in a report: 1 the largest, -1
	// the smallest, 0 none.
	Best int
}

func (c Column) head() string {
	if c.Unit == "" {
		return c.Name
	}
	return c.Name + " (" + c.Unit + ")"
}

func (t Table) check() error {
	for i, r := range t.Rows {
		if len(r) != len(t.Columns) {
			return fmt.Errorf("viz: table %s: row %d has %d values for %d columns", t.Name, i, len(r), len(t.Columns))
		}
		for j, v := range r {
			switch v.(type) {
			case string, int, float64:
			default:
				return fmt.Errorf("viz: table %s: row %d, column %s is a %T; must be a string, int or float64", t.Name, i, t.Columns[j].Name, v)
			}
		}
	}
	return nil
}

// WriteCSV writes the table as CSV (RFC 4180) with a header line. A text that a
// spreadsheet would run as a formula, because it begins with =, +, -, @, a tab
// or a line break, is preceded by an apostrophe; numbers are not.
func (t Table) WriteCSV(w io.Writer) error {
	if err := t.check(); err != nil {
		return err
	}
	c := csv.NewWriter(w)
	rec := make([]string, len(t.Columns))
	for j, col := range t.Columns {
		rec[j] = csvText(col.head())
	}
	err := c.Write(rec)
	for i := 0; i < len(t.Rows) && err == nil; i++ {
		for j, v := range t.Rows[i] {
			if s, ok := v.(string); ok {
				rec[j] = csvText(s)
			} else {
				rec[j] = exact(v)
			}
		}
		err = c.Write(rec)
	}
	c.Flush()
	if err = cmp.Or(err, c.Error()); err != nil {
		return fmt.Errorf("viz: table %s: %w", t.Name, err)
	}
	return nil
}

// csvText returns a cell that no spreadsheet runs as a formula. The full-width
// forms are those that Excel converts. report.js does the same.
func csvText(s string) string {
	if r, _ := utf8.DecodeRuneInString(s); strings.ContainsRune("=+-@\t\r\n＝＋－＠", r) {
		return "'" + s
	}
	return s
}

// exact formats a number with all digits; NaN is empty.
func exact(v any) string {
	switch x := v.(type) {
	case int:
		return strconv.Itoa(x)
	case float64:
		if !math.IsNaN(x) {
			return strconv.FormatFloat(x, 'g', -1, 64)
		}
	}
	return ""
}

// show formats a value for reading.
func (c Column) show(v any) string {
	switch x := v.(type) {
	case string:
		return x
	case int:
		return thousands(strconv.Itoa(x))
	case float64:
		if !math.IsNaN(x) && !math.IsInf(x, 0) {
			return thousands(strconv.FormatFloat(x, 'f', c.Digits, 64))
		}
	}
	return "–"
}

// thousands groups the digits before the decimal point: 12,345.6.
func thousands(s string) string {
	neg := strings.HasPrefix(s, "-")
	s = strings.TrimPrefix(s, "-")
	whole, frac, has := strings.Cut(s, ".")
	var b strings.Builder
	for i, r := range whole {
		if i > 0 && (len(whole)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(r)
	}
	out := b.String()
	if has {
		out += "." + frac
	}
	if neg && strings.Trim(out, "0.,") != "" {
		out = "−" + out
	}
	return out
}

// jsonNum is a number of six digits in JSON, null where there is no value.
type jsonNum float64

// MarshalJSON implements json.Marshaler.
func (n jsonNum) MarshalJSON() ([]byte, error) {
	f := float64(n)
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return []byte("null"), nil
	}
	return strconv.AppendFloat(nil, f, 'g', 6, 64), nil
}

// tableJSON is a table in the report's data.
type tableJSON struct {
	Columns []string `json:"columns"`
	Rows    [][]any  `json:"rows"`
}

func (t Table) forJSON() tableJSON {
	out := tableJSON{Columns: []string{}, Rows: make([][]any, len(t.Rows))}
	for _, c := range t.Columns {
		out.Columns = append(out.Columns, c.head())
	}
	for i, r := range t.Rows {
		row := make([]any, len(r))
		for j, v := range r {
			if f, ok := v.(float64); ok {
				v = jsonNum(f)
			}
			row[j] = v
		}
		out.Rows[i] = row
	}
	return out
}
