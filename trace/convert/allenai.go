package convert

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/expertspec/expertspec/trace"
)

// allenaiFiles lists the files of path: itself, or a folder's *.jsonl.
func allenaiFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return []string{path}, err
	}
	files, err := filepath.Glob(filepath.Join(path, "*.jsonl"))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s: no .jsonl in the folder", path)
	}
	slices.Sort(files)
	return files, err
}

// allenaiLine is one line: input_ids [T], exp_ids [T,K,L].
type allenaiLine struct {
	ids, experts []int32
	t, k, l      int
}

func parseAllenAI(line []byte) (*allenaiLine, error) {
	var x allenaiLine
	var have [2]bool
	err := members(line, func(key string, value []byte) error {
		switch key {
		case "input_ids":
			ids, _, err := integers(value, 1)
			x.ids, have[0] = ids, true
			return err
		case "exp_ids":
			experts, shape, err := integers(value, 3)
			if err == nil {
				x.experts, x.t, x.k, x.l, have[1] = experts, shape[0], shape[1], shape[2], true
			}
			return err
		}
		return nil
	})
	switch {
	case err != nil:
	case !have[0] || !have[1]:
		err = errors.New("input_ids or exp_ids is missing")
	case x.t == 0 || x.k == 0 || x.l == 0:
		err = errors.New("exp_ids is empty")
	case x.t != len(x.ids):
		err = fmt.Errorf("%d input_ids, exp_ids of %d tokens", len(x.ids), x.t)
	}
	return &x, err
}

// openAllenAI reads the JSON lines of OLMoE's run_moe_analysis.py: exp_ids
// [T,K,L], experts in order of falling router logits. They hold no weights.
func openAllenAI(path string, o Options) (*source, error) {
	files, err := allenaiFiles(path)
	if err != nil {
		return nil, err
	}
	m := trace.Model{Experts: o.Experts, TopK: o.TopK}
	most := int32(-1)
	found := false
	for _, file := range files { // the shape of the first good line; the largest id
		err := lines(file, func(_ int, line []byte) error {
			x, err := parseAllenAI(line)
			if err != nil {
				return nil // told when it is its turn
			}
			if !found {
				found = true
				m.Layers = x.l
				if m.TopK == 0 {
					m.TopK = x.k
				}
			}
			if x.l == m.Layers && x.k == m.TopK {
				most = max(most, slices.Max(x.experts))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if !found {
		return nil, fmt.Errorf("%s: no line holds input_ids and exp_ids", path)
	}
	var notes []string
	if m.Experts == 0 {
		m.Experts = max(int(most)+1, m.TopK)
		notes = append(notes, fmt.Sprintf("%d experts: the largest id and one", m.Experts))
	}
	h := header(o, m, nil)
	h.NoWeights = true
	notes = append(notes, "no routing weights in this format")
	return &source{header: h, notes: notes, documents: func(yield func(*trace.Document, error) bool) {
		stop := errors.New("stop")
		for _, file := range files {
			err := lines(file, func(n int, line []byte) error {
				if len(bytes.TrimSpace(line)) == 0 {
					return nil
				}
				d, err := allenaiDocument(line, &m)
				if err != nil {
					err = leftOut{&Error{File: file, Line: n, Err: err}}
				} else {
					d.Dataset, d.ID = datasetOr(o, base(file)), strconv.Itoa(n)
				}
				if !yield(d, err) {
					return stop
				}
				return nil
			})
			if err != nil {
				if err != stop {
					yield(nil, err)
				}
				return
			}
		}
	}}, nil
}

func allenaiDocument(line []byte, m *trace.Model) (*trace.Document, error) {
	x, err := parseAllenAI(line)
	if err != nil {
		return nil, err
	}
	if x.l != m.Layers || x.k != m.TopK {
		return nil, fmt.Errorf("exp_ids has top-k %d and %d layers, want %d and %d", x.k, x.l, m.TopK, m.Layers)
	}
	d := &trace.Document{Tokens: x.ids, Experts: make([]int32, len(x.experts))}
	for t := range x.t {
		for k := range x.k {
			for l := range x.l {
				d.Experts[(t*x.l+l)*x.k+k] = x.experts[(t*x.k+k)*x.l+l]
			}
		}
	}
	return d, nil
}

// writeAllenAI writes one JSON-lines file. The format has no place for names,
// weights, positions and phases; it needs token ids and K experts everywhere.
func writeAllenAI(ctx context.Context, r *trace.Reader, out string) (*Report, error) {
	h := r.Header()
	m := &h.Model
	var report *Report
	err := whole(out, func(w *bufio.Writer) (err error) {
		report, err = each(ctx, r, trace.Filter{NoLogits: true, NoInput: true}, func(d *trace.Document) error {
			if err := dense(d, true); err != nil {
				return err
			}
			w.WriteString(`{"input_ids": `)
			writeInts(w, d.Tokens)
			w.WriteString(`, "exp_ids": [`)
			column := make([]int32, m.Layers)
			for t := range d.Len() {
				if t > 0 {
					w.WriteString(", ")
				}
				w.WriteByte('[')
				for k := range m.TopK {
					for l := range column {
						column[l] = d.ExpertsAt(m, t, l)[k]
					}
					if k > 0 {
						w.WriteString(", ")
					}
					writeInts(w, column)
				}
				w.WriteByte(']')
			}
			_, err := w.WriteString("]}\n")
			return err
		})
		return err
	})
	if report != nil {
		report.Notes = []string{"not kept: names of data sets and documents, weights, positions, phases, logits"}
	}
	return report, err
}

func writeInts(w *bufio.Writer, values []int32) {
	w.WriteByte('[')
	var b [12]byte
	for i, v := range values {
		if i > 0 {
			w.WriteString(", ")
		}
		w.Write(strconv.AppendInt(b[:0], int64(v), 10))
	}
	w.WriteByte(']')
}

// dense checks that a format without gaps can hold a document.
func dense(d *trace.Document, tokens bool) error {
	name := fmt.Sprintf("document %q of data set %q", d.ID, d.Dataset)
	if i := slices.Index(d.Experts, trace.NoExpert); i >= 0 {
		return leftOut{fmt.Errorf("%s: a token has fewer than top-k experts (choice %d), which the format cannot hold", name, i)}
	}
	if i := slices.Index(d.Tokens, trace.NoToken); tokens && i >= 0 {
		return leftOut{fmt.Errorf("%s: the id of token %d is unknown, which the format cannot hold", name, i)}
	}
	return nil
}
