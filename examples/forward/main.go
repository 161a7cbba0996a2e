// Command forward runs Mixtral on documents and writes what it computed:
//
//	$ go run ./examples/forward -model mini -in documents.jsonl -out outputs.safetensors -greedy 8
//
// A line of documents.jsonl is {"id": "a", "text": "Once upon"} or {"id": "b", "ids": [1, 17, 4]}. For each the output
// holds <id>.input_ids [T], <id>.logits [T,V], <id>.router_logits [L,T,E], <id>.experts [T,L,K], <id>.weights [T,L,K] and,
// with -greedy N, <id>.greedy_ids [N].
package main

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

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/safetensors"
)

const help = `
forward runs Mixtral on the documents of a JSON lines file and writes logits and routing as safetensors.

A line is {"id": "...", "text": "..."} (the tokenizer puts <s> before it) or {"id": "...", "ids": [..]}. An invalid
line is named on standard error by its number (from 1) and omitted; the others are processed.`

type options struct {
	model   cli.Model
	in, out string
	greedy  int
	logits  bool
}

func main() { new(options).program().Main() }

func (o *options) program() cli.Program {
	return cli.Program{Name: "forward", Help: help, Flags: o.flags, Check: o.check, Run: o.run,
		Interrupted: func() string { return "nothing was written; run it again" }}
}

func (o *options) flags(f *flag.FlagSet) {
	o.model.Flags(f)
	f.StringVar(&o.in, "in", "", "`file` of documents, JSON lines (required)")
	f.StringVar(&o.out, "out", "", "`file` to write, safetensors (required)")
	f.IntVar(&o.greedy, "greedy", 0, "`tokens` to continue each document by, always the likeliest one; the end-of-text token does not stop it")
	f.BoolVar(&o.logits, "logits", true, "write the logits, 4*T*V bytes a document")
}

func (o *options) check(*flag.FlagSet) error {
	switch {
	case o.in == "":
		return errors.New("-in is required")
	case o.out == "":
		return errors.New("-out is required")
	case o.greedy < 0:
		return fmt.Errorf("-greedy is %d tokens", o.greedy)
	}
	return nil
}

func (o *options) run(ctx context.Context, s cli.Streams) error {
	model, free, err := o.model.Load(ctx)
	if err != nil {
		return err
	}
	defer free()
	file, err := os.Open(o.in)
	if err != nil {
		return err
	}
	defer file.Close()
	w := &worker{ctx: ctx, o: o, model: model, seen: map[string]int{}}
	bad, err := w.lines(file, s.Err)
	if err != nil {
		return err
	}
	if err := safetensors.WriteFile(o.out, w.tensors, nil); err != nil {
		return err
	}
	if bad > 0 {
		return &cli.Incomplete{Omitted: bad, What: "lines of " + o.in}
	}
	return nil
}

// lines processes the documents and returns the number of invalid ones.
func (w *worker) lines(file io.Reader, errs io.Writer) (bad int, err error) {
	lines, reported := bufio.NewReader(file), time.Now()
	for number := 1; ; number++ {
		line, readErr := cli.ReadLine(lines)
		if readErr != nil && readErr != io.EOF {
			return bad, fmt.Errorf("%s:%d: %w", w.o.in, number, readErr)
		}
		if time.Since(reported) > 5*time.Second {
			reported = time.Now()
			fmt.Fprintf(errs, "forward: line %d, %d documents done\n", number, len(w.seen))
		}
		if len(bytes.TrimSpace(line)) > 0 {
			if err := w.line(number, line); err != nil {
				if w.ctx.Err() != nil {
					return bad, w.ctx.Err()
				}
				fmt.Fprintf(errs, "forward: %s:%d: %v\n", w.o.in, number, err)
				bad++
			}
		}
		if readErr == io.EOF {
			return bad, nil
		}
	}
}

type worker struct {
	ctx       context.Context
	o         *options
	model     *mixtral.Model
	tokenizer *tokenizer.Tokenizer // loaded for the first text
	seen      map[string]int       // line of an id
	tensors   []safetensors.Tensor
}

type document struct {
	ID   string   `json:"id"`
	Text *string  `json:"text"`
	IDs  *[]int32 `json:"ids"`
}

func (w *worker) line(number int, line []byte) error {
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
	ids, err := w.ids(d)
	if err != nil {
		return fmt.Errorf("document %q: %w", d.ID, err)
	}
	if err := w.compute(d.ID, ids); err != nil {
		return fmt.Errorf("document %q: %w", d.ID, err)
	}
	w.seen[d.ID] = number
	return nil
}

func (w *worker) ids(d document) ([]int32, error) {
	if d.IDs != nil {
		return *d.IDs, nil
	}
	if w.tokenizer == nil {
		t, err := w.o.model.LoadTokenizer()
		if err != nil {
			return nil, err
		}
		w.tokenizer = t
	}
	return w.tokenizer.Encode(*d.Text, true), nil
}

// compute adds the tensors of one document.
func (w *worker) compute(id string, ids []int32) error {
	c := w.model.Config()
	t := len(ids)
	h := trace.Header{Model: c.TraceModel(w.o.model.Name())}
	for l := range c.Layers {
		h.LogitLayers = append(h.LogitLayers, l)
	}
	recorder, err := mixtral.NewRecorder(h)
	if err != nil {
		return err
	}
	req := mixtral.Request{Tokens: [][]int32{ids}, Observe: recorder.Observe}
	if w.o.logits {
		req.Logits = mixtral.AllLogits
	}
	out, err := w.model.Forward(w.ctx, req)
	if err != nil {
		return err
	}
	doc := recorder.Take(0)
	routerLogits := make([]float32, 0, len(doc.RouterLogits)) // [L,T,E], as transformers returns them
	for l := range c.Layers {
		for p := range t {
			routerLogits = append(routerLogits, doc.RouterLogits[(p*c.Layers+l)*c.Experts:][:c.Experts]...)
		}
	}
	name := func(field string) string { return id + "." + field }
	made := []safetensors.Tensor{
		safetensors.Int32s(name("input_ids"), []int{t}, ids),
		safetensors.Float32s(name("router_logits"), []int{c.Layers, t, c.Experts}, routerLogits),
		safetensors.Int32s(name("experts"), []int{t, c.Layers, c.TopK}, doc.Experts),
		safetensors.Float32s(name("weights"), []int{t, c.Layers, c.TopK}, doc.Weights),
	}
	if w.o.logits {
		made = append(made, safetensors.Float32s(name("logits"), []int{t, c.VocabSize}, out.Logits[0]))
	}
	if w.o.greedy > 0 {
		greedy, err := w.model.Generate(w.ctx, ids, mixtral.GenerateOptions{MaxTokens: w.o.greedy, Stop: []int32{}})
		if err != nil {
			return err
		}
		made = append(made, safetensors.Int32s(name("greedy_ids"), []int{len(greedy)}, greedy))
	}
	w.tensors = append(w.tensors, made...)
	return nil
}
