package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/safetensors"
)

// Outputs are what a model computes for the documents of a file, chosen by flags.
// A line of the file is {"id": "a", "text": "Once upon"} or {"id": "b", "ids": [1, 17, 4]}.
type Outputs struct {
	In, Out string // files
	Greedy  int
	Logits  bool
}

// Flags defines -in, -out, -greedy and -logits.
func (o *Outputs) Flags(f *flag.FlagSet) {
	f.StringVar(&o.In, "in", "", "`file` of documents, JSON lines (required)")
	f.StringVar(&o.Out, "out", "", "`file` to write, safetensors (required)")
	f.IntVar(&o.Greedy, "greedy", 0, "`tokens` to continue each document by, always the likeliest one; the end-of-text token does not stop it")
	f.BoolVar(&o.Logits, "logits", true, "write the logits, 4*T*V bytes a document")
}

// Check reports flags that cannot be used.
func (o *Outputs) Check() error {
	switch {
	case o.In == "":
		return errors.New("-in is required")
	case o.Out == "":
		return errors.New("-out is required")
	case o.Greedy < 0:
		return fmt.Errorf("-greedy is %d tokens", o.Greedy)
	}
	return nil
}

// Generator is Generate of a mixtral.Model, or does something besides.
type Generator func(ctx context.Context, prompt []int32, o mixtral.GenerateOptions) ([]int32, error)

// Compute returns the tensors of all documents and the number of invalid lines, which
// are omitted and named to errs. generate, if not nil, replaces m.Generate.
func (o *Outputs) Compute(ctx context.Context, program string, files *Model, m *mixtral.Model, generate Generator, errs io.Writer) (made []safetensors.Tensor, bad int, err error) {
	if generate == nil {
		generate = m.Generate
	}
	return o.lines(ctx, program, files, errs, func(d document) ([]safetensors.Tensor, error) {
		if d.DecoderIDs != nil {
			return nil, errors.New("decoder_ids are for a Switch Transformer; Mixtral has no encoder")
		}
		return o.mixtral(ctx, files, m, generate, d)
	})
}

// lines calls compute with each document of the file, and returns all tensors and the
// number of invalid lines.
func (o *Outputs) lines(ctx context.Context, program string, files *Model, errs io.Writer, compute func(document) ([]safetensors.Tensor, error)) (made []safetensors.Tensor, bad int, err error) {
	file, err := os.Open(o.In)
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	w := &outputs{files: files, compute: compute, seen: map[string]int{}}
	lines, reported := bufio.NewReader(file), time.Now()
	for number := 1; ; number++ {
		line, readErr := ReadLine(lines)
		if readErr != nil && readErr != io.EOF {
			return nil, bad, fmt.Errorf("%s:%d: %w", o.In, number, readErr)
		}
		if time.Since(reported) > 5*time.Second {
			reported = time.Now()
			fmt.Fprintf(errs, "%s: line %d, %d documents done\n", program, number, len(w.seen))
		}
		if len(bytes.TrimSpace(line)) > 0 {
			if err := w.line(number, line); err != nil {
				if ctx.Err() != nil {
					return nil, bad, ctx.Err()
				}
				fmt.Fprintf(errs, "%s: %s:%d: %v\n", program, o.In, number, err)
				bad++
			}
		}
		if readErr == io.EOF {
			return w.tensors, bad, nil
		}
	}
}

// Write writes the tensors. Its error is an [Incomplete] where lines were omitted.
func (o *Outputs) Write(made []safetensors.Tensor, bad int) error {
	if err := safetensors.WriteFile(o.Out, made, nil); err != nil {
		return err
	}
	if bad > 0 {
		return &Incomplete{Omitted: bad, What: "lines of " + o.In}
	}
	return nil
}

type outputs struct {
	files     *Model
	compute   func(document) ([]safetensors.Tensor, error)
	tokenizer *tokenizer.Tokenizer // loaded for the first text
	seen      map[string]int       // line of an id
	tensors   []safetensors.Tensor
}

type document struct {
	ID         string   `json:"id"`
	Text       *string  `json:"text"`
	IDs        *[]int32 `json:"ids"`
	DecoderIDs *[]int32 `json:"decoder_ids"`

	ids []int32 // those of the line, or of its text
}

func (w *outputs) line(number int, line []byte) error {
	var d document
	if err := json.Unmarshal(line, &d); err != nil {
		return fmt.Errorf("not a document: %w", err)
	}
	switch {
	case d.ID == "":
		return errors.New("the document has no id")
	case w.seen[d.ID] != 0:
		return fmt.Errorf("id %q is in line %d already", d.ID, w.seen[d.ID])
	case (d.Text == nil) == (d.IDs == nil):
		return fmt.Errorf("document %q: has both or neither of text and ids", d.ID)
	}
	var made []safetensors.Tensor
	var err error
	if d.ids, err = w.ids(d); err == nil {
		made, err = w.compute(d)
	}
	if err != nil {
		return fmt.Errorf("document %q: %w", d.ID, err)
	}
	w.seen[d.ID] = number
	w.tensors = append(w.tensors, made...)
	return nil
}

func (w *outputs) ids(d document) ([]int32, error) {
	if d.IDs != nil {
		return *d.IDs, nil
	}
	if w.tokenizer == nil {
		t, err := w.files.LoadTokenizer()
		if err != nil {
			return nil, err
		}
		w.tokenizer = t
	}
	return w.tokenizer.Encode(*d.Text, true), nil
}

// mixtral returns the tensors of one document.
func (o *Outputs) mixtral(ctx context.Context, files *Model, m *mixtral.Model, generate Generator, d document) ([]safetensors.Tensor, error) {
	c := m.Config()
	t := len(d.ids)
	h := trace.Header{Model: c.TraceModel(files.Name())}
	h.LogitLayers = h.Model.AllLayers()
	recorder, err := mixtral.NewRecorder(h)
	if err != nil {
		return nil, err
	}
	req := mixtral.Request{Tokens: [][]int32{d.ids}, Observe: recorder.Observe}
	if o.Logits {
		req.Logits = mixtral.AllLogits
	}
	out, err := m.Forward(ctx, req)
	if err != nil {
		return nil, err
	}
	doc := recorder.Take(0)
	name := func(field string) string { return d.ID + "." + field }
	made := []safetensors.Tensor{
		safetensors.Int32s(name("input_ids"), []int{t}, d.ids),
		safetensors.Float32s(name("router_logits"), []int{c.Layers, t, c.Experts}, byLayer(doc.RouterLogits, t, 0, c.Layers, c.Layers, c.Experts)),
		safetensors.Int32s(name("experts"), []int{t, c.Layers, c.TopK}, doc.Experts),
		safetensors.Float32s(name("weights"), []int{t, c.Layers, c.TopK}, doc.Weights),
	}
	if o.Logits {
		made = append(made, safetensors.Float32s(name("logits"), []int{t, c.VocabSize}, out.Logits[0]))
	}
	if o.Greedy > 0 {
		greedy, err := generate(ctx, d.ids, mixtral.GenerateOptions{MaxTokens: o.Greedy, Stop: []int32{}})
		if err != nil {
			return nil, err
		}
		made = append(made, safetensors.Int32s(name("greedy_ids"), []int{len(greedy)}, greedy))
	}
	return made, nil
}

// byLayer returns layers from..to-1 of values [T,layers,width] as [to-from,T,width], the
// order in which transformers returns them.
func byLayer[V any](values []V, t, from, to, layers, width int) []V {
	out := make([]V, 0, (to-from)*t*width)
	for l := from; l < to; l++ {
		for p := range t {
			out = append(out, values[(p*layers+l)*width:][:width]...)
		}
	}
	return out
}
