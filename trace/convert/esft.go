package convert

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/expertspec/expertspec/trace"
)

var esftName = regexp.MustCompile(`^expert_weights_(\d+)\.txt$`)

// esftLayer is the file of one layer, read line by line in step with the others.
type esftLayer struct {
	path  string
	block int
	file  *os.File
	r     *bufio.Reader
	n     int
	buf   []byte
}

func (l *esftLayer) rewind() error {
	l.n = 0
	if _, err := l.file.Seek(0, 0); err != nil {
		return err
	}
	l.r = bufio.NewReaderSize(l.file, 1<<16)
	return nil
}

// next returns the next line, or false at the end.
func (l *esftLayer) next() (line []byte, ok bool, err error) {
	l.n++
	l.buf = l.buf[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		l.buf = append(l.buf, part...)
		if errors.Is(err, bufio.ErrBufferFull) && len(l.buf) < maxLine {
			continue
		}
		if err != nil && len(l.buf) == 0 {
			return nil, false, nil
		}
		if len(l.buf) >= maxLine {
			return nil, false, &Error{File: l.path, Line: l.n, Err: errLongLine}
		}
		return trimEnd(l.buf), true, nil
	}
}

// esftFolder is an opened folder.
type esftFolder struct {
	path   string
	layers []*esftLayer
}

func openESFTFolder(path string) (*esftFolder, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	f := &esftFolder{path: path}
	for _, e := range entries {
		name := esftName.FindStringSubmatch(e.Name())
		if name == nil {
			continue
		}
		block, err := strconv.Atoi(name[1])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(path, e.Name()), err)
		}
		l := &esftLayer{path: filepath.Join(path, e.Name()), block: block}
		if l.file, err = os.Open(l.path); err != nil {
			f.close()
			return nil, err
		}
		f.layers = append(f.layers, l)
	}
	if len(f.layers) == 0 {
		return nil, fmt.Errorf("%s: no expert_weights_N.txt in the folder", path)
	}
	slices.SortFunc(f.layers, func(a, b *esftLayer) int { return cmp.Compare(a.block, b.block) })
	for i, l := range f.layers {
		if i > 0 && l.block == f.layers[i-1].block {
			f.close()
			return nil, fmt.Errorf("%s: layer %d has two files", path, l.block)
		}
	}
	return f, f.rewind()
}

func (f *esftFolder) rewind() error {
	for _, l := range f.layers {
		if err := l.rewind(); err != nil {
			return err
		}
	}
	return nil
}

func (f *esftFolder) close() {
	for _, l := range f.layers {
		if l.file != nil {
			l.file.Close()
		}
	}
}

// openESFT reads what ESFT's modelling code logs: a file for each layer, named
// by its transformer block, with a line for each sequence: all tokens' expert
// ids, then all their weights, rounded to four places. The choices of a token
// come in no particular order; the trace has them by falling weight. The weights
// are the softmax over all experts, as DeepSeek-V2-Lite uses them.
func openESFT(path string, o Options) (*source, error) {
	f, err := openESFTFolder(path)
	if err != nil {
		return nil, err
	}
	defer f.close()
	guess, err := f.survey(o)
	if err != nil {
		return nil, err
	}
	blocks := make([]int, len(f.layers))
	for i, l := range f.layers {
		blocks[i] = l.block
	}
	m := trace.Model{Layers: len(blocks), Stacks: stack(blocks), Experts: guess.experts, TopK: guess.topK}
	notes := append(guess.notes, "token ids are not in this format", "choices of a token are sorted by weight")
	return &source{header: header(o, m, nil), notes: notes, documents: func(yield func(*trace.Document, error) bool) {
		f, err := openESFTFolder(path)
		if err != nil {
			yield(nil, err)
			return
		}
		defer f.close()
		for n := 1; ; n++ {
			d, more, err := f.document(&m)
			if !more && err == nil {
				return
			}
			if d != nil {
				d.Dataset, d.ID = datasetOr(o, filepath.Base(filepath.Clean(path))), strconv.Itoa(n)
			}
			if !yield(d, err) || !more {
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

// document reads the next line of all layers.
func (f *esftFolder) document(m *trace.Model) (d *trace.Document, more bool, err error) {
	var bad error
	all := make([]esftChoices, len(f.layers))
	first := f.layers[0]
	for i, l := range f.layers {
		line, ok, err := l.next()
		if err != nil {
			return nil, false, err
		}
		if i == 0 {
			more = ok
		} else if ok != more {
			return nil, false, &Error{File: first.path, Line: l.n, Err: fmt.Errorf("only one of this file and %s has such a line", l.path)}
		}
		if !ok || bad != nil {
			continue
		}
		c, err := esftLine(line)
		switch {
		case err != nil:
		case len(c.ids)%m.TopK != 0:
			err = fmt.Errorf("%d experts are no multiple of top-k %d", len(c.ids), m.TopK)
		case len(c.ids) != len(all[0].ids) && i > 0:
			err = fmt.Errorf("%d tokens, in %s %d", len(c.ids)/m.TopK, first.path, len(all[0].ids)/m.TopK)
		}
		if err != nil {
			bad = leftOut{&Error{File: l.path, Line: l.n, Err: err}}
			continue
		}
		all[i] = c
	}
	if !more || bad != nil {
		return nil, more, bad
	}
	return esftDocument(all, m), true, nil
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

// esftLine splits a line into expert ids and weights, as many of each. An empty
// field stands between them; without one they are halves.
func esftLine(line []byte) (c esftChoices, err error) {
	fields := bytes.Count(line, []byte("\t")) + 1
	half := bytes.Index(line, []byte("\t\t"))
	var left, right []byte
	if half >= 0 {
		left, right = line[:half], line[half+2:]
	} else {
		if fields%2 != 0 {
			return c, fmt.Errorf("%d fields are no two halves", fields)
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
			return c, fmt.Errorf("field %d: %q is no expert", column, clip(part))
		}
		c.ids = append(c.ids, int32(v))
	}
	for part := range bytes.SplitSeq(bytes.TrimRight(right, "\t"), []byte("\t")) {
		column++
		v, err := strconv.ParseFloat(string(part), 32)
		if err != nil || !(v >= 0) {
			return c, fmt.Errorf("field %d: %q is no weight", column, clip(part))
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
func writeESFT(ctx context.Context, r *trace.Reader, out string) (*Report, error) {
	h := r.Header()
	m := &h.Model
	if h.NoWeights {
		return nil, errors.New("convert: esft needs routing weights")
	}
	if err := newFolder(out); err != nil {
		return nil, err
	}
	blocks := blockNumbers(m)
	writers := make([]*bufio.Writer, m.Layers)
	for l := range writers {
		f, err := os.Create(filepath.Join(out, fmt.Sprintf("expert_weights_%d.txt", blocks[l])))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		writers[l] = bufio.NewWriterSize(f, 1<<15)
	}
	report, err := each(ctx, r, trace.Filter{NoLogits: true, NoInput: true}, func(d *trace.Document) error {
		if err := dense(d, false); err != nil {
			return err
		}
		for l, w := range writers {
			if err := writeESFTLine(w, d, m, l); err != nil {
				return err
			}
		}
		return nil
	})
	for _, w := range writers {
		err = errors.Join(err, w.Flush())
	}
	if report != nil {
		report.Notes = []string{"weights are rounded to four places; not kept: names, token ids, positions, phases, logits"}
	}
	return report, err
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
