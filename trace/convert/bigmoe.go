package convert

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
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
	path    string
	model   trace.Model
	known   bool              // the model's line was read
	extra   map[string]string // header lines, kept for writing back
	columns bool
	layers  strings.Builder
	g       *gather
	bad     map[int32]error // turns that cannot be whole
	turn    int32
}

// openBigMoE reads a route CSV of BigMoeOnEdge: a row a choice, a turn a
// document. Residency and read bytes belong to the run's cache, not to routing,
// and are left behind. Prompt tokens skip the last layer in some engines: they
// get no experts there.
func openBigMoE(file string, o Options) (*source, error) {
	f := &bigmoeFile{path: file, g: newGather(), extra: map[string]string{}, bad: map[int32]error{}}
	if err := lines(file, f.line); err != nil {
		return nil, err
	}
	if !f.known || !f.columns {
		return nil, &Error{File: file, Err: errors.New("no route trace: model line or column names are missing")}
	}
	if len(f.g.choices) == 0 {
		return nil, &Error{File: file, Err: errors.New("no rows")}
	}
	f.g.sort()
	blocks := f.g.blocks()
	m := f.model
	if last := blocks[len(blocks)-1]; last >= m.Layers {
		return nil, &Error{File: file, Err: fmt.Errorf("layer %d of n_layer=%d", last, m.Layers)}
	}
	m.Layers, m.Stacks = len(blocks), stack(blocks)
	if o.Experts != 0 {
		m.Experts = o.Experts
	}
	if o.TopK != 0 {
		m.TopK = o.TopK
	}
	if f.layers.Len() > 0 {
		f.extra["bigmoe.layers"] = f.layers.String()
	}
	return &source{
		header: header(o, m, f.extra),
		notes:  []string{"token ids are not in this format", "not kept: residency, expert_bytes of each row"},
		documents: func(yield func(*trace.Document, error) bool) {
			for _, turn := range slices.Sorted(mapKeys(f.bad)) {
				if !yield(nil, leftOut{f.bad[turn]}) {
					return
				}
			}
			f.g.documents(&m, blocks, func(turn int32, d *trace.Document, err error) bool {
				if _, bad := f.bad[turn]; bad {
					return true
				}
				if err != nil {
					err = leftOut{&Error{File: file, Item: fmt.Sprintf("turn %d", turn), Err: err}}
				} else {
					d.Dataset = datasetOr(o, strings.TrimSuffix(base(file), ".route"))
					d.ID = fmt.Sprintf("turn-%d", turn)
				}
				return yield(d, err)
			})
		},
	}, nil
}

func mapKeys[V any](m map[int32]V) func(func(int32) bool) {
	return func(yield func(int32) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (f *bigmoeFile) line(n int, line []byte) error {
	fail := func(err error) error { return &Error{File: f.path, Line: n, Err: err} }
	switch {
	case n == 1:
		if string(line) != bigmoeMagic {
			return fail(fmt.Errorf("no route trace: want %q", bigmoeMagic))
		}
	case len(bytes.TrimSpace(line)) == 0:
	case line[0] == '#':
		if err := f.comment(string(line[1:])); err != nil {
			return fail(err)
		}
	case !f.columns:
		if string(line) != bigmoeHeader {
			return fail(fmt.Errorf("columns are %q, want %q", line, bigmoeHeader))
		}
		f.columns = true
	default:
		if err := f.row(line); err != nil && f.bad[f.turn] == nil {
			f.bad[f.turn] = fail(fmt.Errorf("turn %d is left out: %w", f.turn, err))
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
	if err := f.model.Validate(); err != nil {
		return err
	}
	return nil
}

func (f *bigmoeFile) row(line []byte) error {
	var fields [9]string
	n := 0
	for part := range bytes.SplitSeq(line, []byte(",")) {
		if n < len(fields) {
			fields[n] = string(part)
		}
		n++
	}
	if n != len(fields) {
		return fmt.Errorf("%d fields, want %d", n, len(fields))
	}
	var v [6]int32
	for i := range v {
		x, err := strconv.ParseInt(fields[i], 10, 32)
		if err != nil {
			return fmt.Errorf("field %d: %w", i+1, err)
		}
		v[i] = int32(x)
	}
	f.turn = v[0]
	if v[1] != 0 && v[1] != 1 {
		return fmt.Errorf("phase %d", v[1])
	}
	w, err := strconv.ParseFloat(fields[6], 32)
	if err != nil {
		return fmt.Errorf("field 7: %w", err)
	}
	return f.g.add(choice{doc: v[0], decode: v[1] == 1, position: v[2], layer: v[3], slot: v[4], expert: v[5],
		weight: float32(w), token: trace.NoToken})
}

// writeBigMoE writes a route CSV, each document a turn. Residency and read
// bytes are of a run's cache: residency is -1 for unknown, bytes are 0.
func writeBigMoE(ctx context.Context, r *trace.Reader, out string) (*Report, error) {
	h := r.Header()
	m := &h.Model
	if h.NoWeights {
		return nil, errors.New("convert: bigmoe needs routing weights")
	}
	blocks := blockNumbers(m)
	extra := h.Source.Extra
	var report *Report
	err := whole(out, func(w *bufio.Writer) (err error) {
		name, arch := extra["bigmoe.model"], extra["bigmoe.arch"]
		if name == "" {
			name = m.Name
		}
		if arch == "" {
			arch = "unknown"
		}
		fmt.Fprintf(w, "%s\n# model=%s arch=%s n_layer=%d n_expert=%d n_expert_used=%d\n%s%s\n", bigmoeMagic, name, arch,
			blocks[len(blocks)-1]+1, m.Experts, m.TopK, extra["bigmoe.layers"], bigmoeHeader)
		turn := -1
		report, err = each(ctx, r, trace.Filter{NoLogits: true, NoInput: true}, func(d *trace.Document) error {
			turn++
			return writeTurn(w, d, m, turn, blocks)
		})
		return err
	})
	if report != nil {
		report.Notes = []string{"turns are numbered in order; not kept: names, token ids, logits; residency is -1 and expert_bytes 0 for unknown"}
	}
	return report, err
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
