package convert

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/expertspec/expertspec/trace"
)

const (
	bigmoeMagic  = "# route_trace v1"
	bigmoeHeader = "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes"
)

// bigmoeFile is a route CSV as it is read.
type bigmoeFile struct {
	model   trace.Model
	known   bool              // the model's line was read
	extra   map[string]string // header lines, kept for writing
	columns bool
	layers  strings.Builder
	g       *gather
	turn    int32
}

// openBigMoE reads a route CSV of BigMoeOnEdge: a row for each choice, a turn is
// a document. Residency and bytes read belong to the run's cache, not to routing,
// and are not kept. Prompt tokens skip the last layer in some engines: they have
// no experts there.
func openBigMoE(ctx context.Context, file string, o Options) (*source, error) {
	f := &bigmoeFile{g: newGather(), extra: map[string]string{}}
	if err := eachLine(ctx, file, f.line); err != nil {
		return nil, err
	}
	if !f.known || !f.columns {
		return nil, &place{file: file, err: errors.New("not a route trace: model line or column names are missing")}
	}
	if len(f.g.choices) == 0 {
		return nil, &place{file: file, err: errors.New("no rows")}
	}
	if last := slices.Max(slices.Collect(maps.Keys(f.g.layers))); int(last) >= f.model.Layers {
		return nil, &place{file: file, err: fmt.Errorf("layer %d of n_layer=%d", last, f.model.Layers)}
	}
	if f.layers.Len() > 0 {
		f.extra["bigmoe.layers"] = f.layers.String()
	}
	src := f.g.source(file, o, f.model, func(turn int32) trace.Key {
		return trace.Key{Dataset: strings.TrimSuffix(base(file), ".route"), Document: fmt.Sprintf("turn-%d", turn)}
	})
	src.header.Source.Extra = f.extra
	src.notes = []string{"token ids are not in this format", "not kept: residency, expert_bytes of each row"}
	return src, nil
}

func (f *bigmoeFile) line(l *lineReader) error {
	line := l.Bytes()
	switch {
	case l.n == 1:
		if string(line) != bigmoeMagic {
			return l.place(fmt.Errorf("not a route trace: expected %q", bigmoeMagic))
		}
	case len(bytes.TrimSpace(line)) == 0:
	case line[0] == '#':
		if err := f.comment(string(line[1:])); err != nil {
			return l.place(err)
		}
	case !f.columns:
		if string(line) != bigmoeHeader {
			return l.place(fmt.Errorf("columns are %q, expected %q", line, bigmoeHeader))
		}
		f.columns = true
	default:
		if err := f.row(line); err != nil {
			f.g.omit(f.turn, l.place(fmt.Errorf("turn %d: %w", f.turn, err)))
		}
	}
	return nil
}

// comment reads "model=PATH arch=A n_layer=L n_expert=E n_expert_used=K" and
// keeps the lines of the layers.
func (f *bigmoeFile) comment(text string) error {
	text = strings.TrimSpace(text)
	if !strings.HasPrefix(text, "model=") {
		if strings.HasPrefix(text, "layer=") {
			fmt.Fprintf(&f.layers, "# %s\n", text)
		}
		return nil
	}
	at := strings.LastIndex(text, " arch=") // the path may hold blanks
	if at < 0 {
		return errors.New("model line without arch")
	}
	file := text[len("model="):at]
	f.extra["bigmoe.model"] = file
	f.model.Name = path.Base(file)
	for _, field := range strings.Fields(text[at:]) {
		key, value, _ := strings.Cut(field, "=")
		var dst *int
		switch key {
		case "arch":
			f.extra["bigmoe.arch"] = value
			continue
		case "n_layer":
			dst = &f.model.Layers
		case "n_expert":
			dst = &f.model.Experts
		case "n_expert_used":
			dst = &f.model.TopK
		default:
			continue
		}
		v, err := strconv.Atoi(value)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		*dst = v
	}
	f.known = true
	return f.model.Validate()
}

// row takes one choice. It sets f.turn where the row begins with one.
func (f *bigmoeFile) row(line []byte) error {
	fields := strings.Split(string(line), ",")
	var v [6]int32
	for i := range min(len(v), len(fields)) {
		x, err := strconv.ParseInt(fields[i], 10, 32)
		if err != nil {
			return fmt.Errorf("field %d: %w", i+1, err)
		}
		v[i] = int32(x)
		f.turn = v[0]
	}
	if len(fields) != 9 {
		return fmt.Errorf("%d fields, expected 9", len(fields))
	}
	if v[1] != 0 && v[1] != 1 {
		return fmt.Errorf("phase is %d, expected 0 or 1", v[1])
	}
	w, err := strconv.ParseFloat(fields[6], 32)
	if err != nil {
		return fmt.Errorf("field 7: %w", err)
	}
	return f.g.add(choice{doc: v[0], decode: v[1] == 1, position: v[2], layer: v[3], slot: v[4], expert: v[5],
		weight: float32(w), token: trace.NoToken})
}

// writeBigMoE writes a route CSV, each document a turn. Residency and bytes read
// belong to a run's cache: residency is -1 for unknown, bytes are 0.
func writeBigMoE(ctx context.Context, r *trace.Reader, out string) (*Report, error) {
	h := r.Header()
	m := &h.Model
	if h.NoWeights {
		return nil, errors.New("format bigmoe requires routing weights")
	}
	blocks := blockNumbers(m)
	extra := h.Source.Extra
	report := &Report{Header: h,
		Notes: []string{"turns are numbered in order; not kept: names, token ids, logits; residency is -1 and expert_bytes 0 for unknown"}}
	return report, writeFile(out, func(w *bufio.Writer) error {
		fmt.Fprintf(w, "%s\n# model=%s arch=%s n_layer=%d n_expert=%d n_expert_used=%d\n%s%s\n", bigmoeMagic,
			strings.NewReplacer("\n", " ", "\r", " ").Replace(cmp.Or(extra["bigmoe.model"], m.Name)), cmp.Or(extra["bigmoe.arch"], "unknown"),
			blocks[len(blocks)-1]+1, m.Experts, m.TopK, extra["bigmoe.layers"], bigmoeHeader)
		turn := -1
		return report.each(ctx, routing(r).Documents(), func(d *trace.Document) error {
			turn++
			return writeTurn(w, d, m, turn, blocks)
		})
	})
}

func writeTurn(w *bufio.Writer, d *trace.Document, m *trace.Model, turn int, blocks []int) error {
	for t := range d.Len() {
		phase := 0
		if d.Phase(t) == trace.Decode {
			phase = 1
		}
		for l := range m.Layers {
			weights := d.WeightsAt(m, t, l)
			for k, e := range d.ExpertsAt(m, t, l) {
				if e == trace.NoExpert {
					continue
				}
				_, err := fmt.Fprintf(w, "%d,%d,%d,%d,%d,%d,%s,-1,0\n", turn, phase, d.Position(t), blocks[l], k, e,
					strconv.FormatFloat(float64(weights[k]), 'g', -1, 32))
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// blockNumbers returns the transformer block of each layer; blocks of later
// stacks follow those of earlier ones.
func blockNumbers(m *trace.Model) []int {
	var all []int
	first := 0
	for _, s := range m.Stacks {
		for i := range s.Layers {
			b := first + i
			if s.Blocks != nil {
				b = first + s.Blocks[i]
			}
			all = append(all, b)
		}
		first = all[len(all)-1] + 1
	}
	for len(all) < m.Layers {
		all = append(all, len(all))
	}
	return all
}
