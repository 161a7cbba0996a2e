package convert

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/expertspec/expertspec/trace"
)

var esftName = regexp.MustCompile(`^expert_weights_(\d+)\.txt$`)

// esftFolder holds the files of all layers, which are read line by line in step.
type esftFolder struct {
	layers []*lineReader
	blocks []int // transformer block of each layer
}

func openESFTFolder(ctx context.Context, path string) (*esftFolder, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	files := map[int]string{}
	for _, e := range entries {
		name := esftName.FindStringSubmatch(e.Name())
		if name == nil {
			continue
		}
		block, err := strconv.Atoi(name[1])
		if err == nil && files[block] != "" {
			err = fmt.Errorf("layer %d has two files", block)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(path, e.Name()), err)
		}
		files[block] = filepath.Join(path, e.Name())
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: no expert_weights_N.txt in the folder", path)
	}
	f := &esftFolder{}
	for _, block := range slices.Sorted(maps.Keys(files)) {
		l, err := openLines(ctx, files[block])
		if err != nil {
			f.close()
			return nil, err
		}
		f.layers, f.blocks = append(f.layers, l), append(f.blocks, block)
	}
	return f, nil
}

func (f *esftFolder) close() {
	for _, l := range f.layers {
		l.close()
	}
}

// openESFT reads what ESFT's modelling code logs: a file for each layer, named
// by its transformer block, with a line for each sequence: all tokens' expert
// ids, then all their weights, rounded to four places. The choices of a token
// come in no particular order; the trace has them by falling weight. The weights
// are the softmax over all experts, as DeepSeek-V2-Lite uses them.
func openESFT(ctx context.Context, path string, o Options) (*source, error) {
	guess, err := surveyESFT(ctx, path, o)
	if err != nil {
		return nil, err
	}
	m := trace.Model{Layers: len(guess.blocks), Stacks: stack(guess.blocks), Experts: guess.experts, TopK: guess.topK}
	notes := append(guess.notes, "token ids are not in this format", "choices of a token are sorted by weight")
	return &source{header: header(o, m, nil), notes: notes, documents: func(yield func(*trace.Document, error) bool) {
		f, err := openESFTFolder(ctx, path)
		if err != nil {
			yield(nil, err)
			return
		}
		defer f.close()
		for n := 1; ; n++ {
			d, err := f.document(&m)
			if err == io.EOF {
				return
			}
			if d != nil {
				d.Dataset, d.ID = datasetOr(o, filepath.Base(filepath.Clean(path))), strconv.Itoa(n)
			}
			if !yield(d, err) || err != nil && !errors.As(err, new(omission)) {
				return
			}
		}
	}}, nil
}

// esftChoices are the choices of one line.
type esftChoices struct {
	ids     []int32
	weights []float32
}

// document reads the next line of all layers. Its error is io.EOF after the last.
func (f *esftFolder) document(m *trace.Model) (*trace.Document, error) {
	var bad error
	all := make([]esftChoices, len(f.layers))
	first := f.layers[0]
	more := first.Scan()
	for i, l := range f.layers {
		if i > 0 && l.Scan() != more && l.Err() == nil && first.Err() == nil {
			return nil, first.place(fmt.Errorf("only one of this file and %s has such a line", l.file.Name()))
		}
		if err := l.Err(); err != nil {
			return nil, err
		}
		if !more || bad != nil {
			continue
		}
		c, err := esftLine(l.Bytes())
		switch {
		case err != nil:
		case len(c.ids)%m.TopK != 0:
			err = fmt.Errorf("%d experts are not a multiple of top-k %d", len(c.ids), m.TopK)
		case i > 0 && len(c.ids) != len(all[0].ids):
			err = fmt.Errorf("%d tokens, in %s %d", len(c.ids)/m.TopK, first.file.Name(), len(all[0].ids)/m.TopK)
		}
		if err != nil {
			bad = omission{l.place(err)}
		}
		all[i] = c
	}
	if !more {
		return nil, io.EOF
	}
	if bad != nil {
		return nil, bad
	}
	return esftDocument(all, m), nil
}

// esftDocument sorts the choices of each token by falling weight.
func esftDocument(all []esftChoices, m *trace.Model) *trace.Document {
	k := m.TopK
	tokens := len(all[0].ids) / k
	d := &trace.Document{
		Tokens:  slices.Repeat([]int32{trace.NoToken}, tokens),
		Experts: make([]int32, tokens*m.Layers*k),
		Weights: make([]float32, tokens*m.Layers*k),
	}
	order := make([]int, k)
	for l, c := range all {
		for t := range tokens {
			for j := range order {
				order[j] = t*k + j
			}
			slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(c.weights[b], c.weights[a]) })
			at := (t*m.Layers + l) * k
			for j, from := range order {
				d.Experts[at+j], d.Weights[at+j] = c.ids[from], c.weights[from]
			}
		}
	}
	return d
}

// esftLine splits a line into expert ids and the same number of weights. They are
// separated by an empty field, or else are the halves of the line.
func esftLine(line []byte) (c esftChoices, err error) {
	fields := bytes.Count(line, []byte("\t")) + 1
	half := bytes.Index(line, []byte("\t\t"))
	var left, right []byte
	if half >= 0 {
		left, right = line[:half], line[half+2:]
	} else {
		if fields%2 != 0 {
			return c, fmt.Errorf("%d fields are not two halves", fields)
		}
		n := 0
		at := 0
		for ; n < fields/2; at++ {
			if line[at] == '\t' {
				n++
			}
		}
		left, right = line[:at-1], line[at:]
	}
	column := 0
	for part := range bytes.SplitSeq(left, []byte("\t")) {
		column++
		v, err := strconv.ParseInt(string(part), 10, 32)
		if err != nil || v < 0 {
			return c, fmt.Errorf("field %d: %q is not an expert", column, clip(part))
		}
		c.ids = append(c.ids, int32(v))
	}
	for part := range bytes.SplitSeq(bytes.TrimRight(right, "\t"), []byte("\t")) {
		column++
		v, err := strconv.ParseFloat(string(part), 32)
		if err != nil || !(v >= 0) {
			return c, fmt.Errorf("field %d: %q is not a weight", column, clip(part))
		}
		c.weights = append(c.weights, float32(v))
	}
	if len(c.ids) != len(c.weights) {
		return c, fmt.Errorf("%d experts, %d weights", len(c.ids), len(c.weights))
	}
	return c, nil
}

func clip(b []byte) []byte { return b[:min(len(b), 20)] }

// writeESFT writes a folder of expert_weights_N.txt.
func writeESFT(ctx context.Context, r *trace.Reader, out string) (report *Report, err error) {
	h := r.Header()
	if h.NoWeights {
		return nil, errors.New("format esft requires routing weights")
	}
	if err := os.Mkdir(out, 0o777); err != nil {
		return nil, err
	}
	var files []*outFile
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.close())
		}
	}()
	for _, block := range blockNumbers(&h.Model) {
		f, err := createFile(filepath.Join(out, fmt.Sprintf("expert_weights_%d.txt", block)))
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	report = &Report{Header: h, Notes: []string{"weights are rounded to four places; not kept: names, token ids, positions, phases, logits"}}
	return report, report.each(ctx, routing(r).Documents(), func(d *trace.Document) error {
		if err := dense(d, false); err != nil {
			return err
		}
		for l, f := range files {
			if err := writeESFTLine(f.Writer, d, &h.Model, l); err != nil {
				return err
			}
		}
		return nil
	})
}

func writeESFTLine(w *bufio.Writer, d *trace.Document, m *trace.Model, l int) error {
	tab := ""
	for t := range d.Len() {
		for _, e := range d.ExpertsAt(m, t, l) {
			w.WriteString(tab)
			w.WriteString(strconv.Itoa(int(e)))
			tab = "\t"
		}
	}
	w.WriteByte('\t')
	for t := range d.Len() {
		for _, v := range d.WeightsAt(m, t, l) {
			// The shortest text that reads back as the weight, to four places.
			text := strconv.FormatFloat(float64(v), 'f', 4, 32)
			for text[len(text)-1] == '0' && text[len(text)-2] != '.' {
				text = text[:len(text)-1]
			}
			w.WriteByte('\t')
			w.WriteString(text)
		}
	}
	return w.WriteByte('\n')
}
