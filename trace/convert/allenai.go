package convert

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/expertspec/expertspec/trace"
)

// allenaiLine is one line.
type allenaiLine struct {
	ids     []int32 // [T]
	experts []int32 // [T,K,L]
	t, k, l int
}

type allenaiJSON struct {
	IDs     json.RawMessage `json:"input_ids"`
	Experts json.RawMessage `json:"exp_ids"`
}

func parseAllenAI(line []byte) (*allenaiLine, error) {
	var raw allenaiJSON
	if err := json.Unmarshal(line, &raw); err != nil {
		return nil, err
	}
	if raw.IDs == nil || raw.Experts == nil {
		return nil, errors.New("input_ids or exp_ids is missing")
	}
	ids, _, err := integers(raw.IDs, 1)
	if err != nil {
		return nil, fmt.Errorf("input_ids: %w", err)
	}
	experts, shape, err := integers(raw.Experts, 3)
	if err != nil {
		return nil, fmt.Errorf("exp_ids: %w", err)
	}
	x := &allenaiLine{ids, experts, shape[0], shape[1], shape[2]}
	if len(experts) == 0 {
		err = errors.New("exp_ids is empty")
	} else if x.t != len(ids) {
		err = fmt.Errorf("%d input_ids, exp_ids of %d tokens", len(ids), x.t)
	}
	return x, err
}

// openAllenAI reads the JSON lines of OLMoE's run_moe_analysis.py: input_ids [T]
// and exp_ids [T,K,L], experts in order of falling router logits. They hold no
// weights. path is a file or a folder of .jsonl files.
func openAllenAI(ctx context.Context, path string, o Options) (*source, error) {
	in, err := listInputs(path, ".jsonl")
	if err != nil {
		return nil, err
	}
	s := survey{topK: o.TopK, largest: -1}
	for _, file := range in.files {
		err := eachLine(ctx, file, func(l *lineReader) error {
			if x, err := parseAllenAI(l.Bytes()); err == nil { // errors are reported later
				s.add(x.experts, x.l, x.k)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if s.layers == 0 {
		return nil, fmt.Errorf("%s: no line holds input_ids and exp_ids", path)
	}
	h, notes := s.header(o)
	return &source{header: h, notes: notes, omitted: in.omitted, documents: func(yield func(*trace.Document, error) bool) {
		stop := errors.New("stop")
		for _, file := range in.files {
			err := eachLine(ctx, file, func(l *lineReader) error {
				if len(bytes.TrimSpace(l.Bytes())) == 0 {
					return nil
				}
				d, err := allenaiDocument(l.Bytes(), &h.Model)
				if err != nil {
					err = omission{l.place(err)}
				} else {
					d.Dataset, d.ID = in.name(o, file, l.n)
				}
				if !yield(d, err) {
					return stop
				}
				return nil
			})
			if err == stop {
				return
			}
			if err != nil {
				yield(nil, err)
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
		return nil, fmt.Errorf("exp_ids has top-k %d and %d layers, expected %d and %d", x.k, x.l, m.TopK, m.Layers)
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
// weights, positions and phases; it requires token ids and K experts everywhere.
func writeAllenAI(ctx context.Context, r *trace.Reader, out string) (*Report, error) {
	report := &Report{Header: r.Header(),
		Notes: []string{"not kept: names of data sets and documents, weights, positions, phases, logits"}}
	return report, writeFile(out, func(w *bufio.Writer) error {
		return report.each(ctx, routing(r).Documents(), func(d *trace.Document) error {
			if err := dense(d, true); err != nil {
				return err
			}
			return writeAllenAILine(w, d, &report.Header.Model)
		})
	})
}

func writeAllenAILine(w *bufio.Writer, d *trace.Document, m *trace.Model) error {
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
}

func writeInts(w *bufio.Writer, values []int32) {
	w.WriteByte('[')
	for i, v := range values {
		if i > 0 {
			w.WriteString(", ")
		}
		w.Write(strconv.AppendInt(w.AvailableBuffer(), int64(v), 10))
	}
	w.WriteByte(']')
}

// routing reads only what formats without logits and inputs hold.
func routing(r *trace.Reader) *trace.Reader {
	return r.Select(trace.Filter{NoLogits: true, NoInput: true})
}
