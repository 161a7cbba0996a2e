// Package convert reads the routing traces of other programs into trace files,
// and writes trace files in their formats where these can hold them.
//
// A format's reader never guesses in silence: what the source does not say
// (top-k, the number of experts) is inferred from all of the data or taken from
// Options, and Report.Notes says so. A line or document that is malformed is
// left out and named with its place; the rest is converted. Memory is bounded by
// the largest document, or by the file where a format cannot be read in parts.
package convert

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/expertspec/expertspec/trace"
)

// Options tells a reader what its format does not say. Zero values are taken
// from the source or inferred.
type Options struct {
	Name       string // of the model; "": the source's, or "unknown"
	Dataset    string // of the documents; "": the source's, or the file's name
	Experts    int    // E; 0: the source's, or the largest id + 1
	TopK       int    // K; 0: the source's
	Vocabulary int    // V; 0: unknown
	Seed       int64  // kept in the trace's source
	// Program is recorded as the program that made the trace; "": the format.
	Program string
}

// Validate checks that no number is negative.
func (o *Options) Validate() error {
	if o.Experts < 0 || o.TopK < 0 || o.Vocabulary < 0 {
		return errors.New("convert: experts, top-k and vocabulary cannot be negative")
	}
	return nil
}

// Error is an error with its place in a source.
type Error struct {
	File string
	Line int    // 1-based; 0: none
	Item string // document, tensor or field; "": none
	Err  error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	if e.Item != "" {
		fmt.Fprintf(&b, ": %s", e.Item)
	}
	return b.String() + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// leftOut marks an error about one document: the reader goes on after it.
type leftOut struct{ error }

func (e leftOut) Unwrap() error { return e.error }

// source is an opened foreign trace.
type source struct {
	header trace.Header
	notes  []string
	// documents yields each document, or a leftOut error in its place; any
	// other error ends the sequence.
	documents iter.Seq2[*trace.Document, error]
}

// format is one foreign format.
type format struct {
	about string
	open  func(path string, o Options) (*source, error)
	write func(ctx context.Context, r *trace.Reader, out string) (*Report, error) // nil: cannot
}

var formats = map[string]format{
	"vllm":         {"experts [T,L,K] of vLLM or SGLang: .npy, .safetensors, or a folder of .npy", openVLLM, writeVLLM},
	"allenai":      {"JSON lines of OLMoE's analysis: input_ids [T], exp_ids [T,K,L]", openAllenAI, writeAllenAI},
	"bigmoe":       {"route CSV of BigMoeOnEdge", openBigMoE, writeBigMoE},
	"esft":         {"folder of expert_weights_N.txt of DeepSeek's ESFT", openESFT, writeESFT},
	"transformers": {"router logits of transformers: L tensors [B*T,E] and attention_mask [B,T] in safetensors", openTransformers, writeTransformers},
	"specmoe":      {"pickle of MixtralGatingDataPoint of specMoE; read only", openSpecMoE, nil},
}

// Formats returns the names of the formats and what they are, sorted.
func Formats() (names []string, about map[string]string) {
	about = map[string]string{}
	for name, f := range formats {
		about[name] = f.about
	}
	return slices.Sorted(maps.Keys(formats)), about
}

func lookup(name string) (format, error) {
	f, ok := formats[name]
	if !ok {
		names, _ := Formats()
		return f, fmt.Errorf("convert: no format %q; there are %s", name, strings.Join(names, ", "))
	}
	return f, nil
}

// Report is what a conversion did.
type Report struct {
	Header    trace.Header
	Documents int
	Tokens    int64
	// LeftOut holds the errors of the documents that were left out, each with
	// its place.
	LeftOut []error
	// Notes say what was inferred, and what the other format cannot hold.
	Notes []string
}

// Read converts the trace at path from a format into a new trace in dir, after
// each document calling visit (which may be nil).
func Read(ctx context.Context, from, path, dir string, o Options, w trace.WriterOptions, visit func(*trace.Document) error) (*Report, error) {
	f, err := lookup(from)
	if err != nil {
		return nil, err
	}
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Program == "" {
		o.Program = from
	}
	src, err := f.open(path, o)
	if err != nil {
		return nil, err
	}
	out, err := trace.Create(dir, src.header, w)
	if err != nil {
		return nil, err
	}
	defer out.Abort()
	r := &Report{Header: src.header, Notes: src.notes}
	for d, err := range src.documents {
		if ctx.Err() != nil {
			return r, ctx.Err()
		}
		if err == nil {
			if err = d.Validate(&src.header); err != nil {
				err = leftOut{&Error{File: path, Err: err}}
			} else if err = out.Write(d); err == nil && visit != nil {
				err = visit(d)
			}
		}
		if out := (leftOut{}); errors.As(err, &out) {
			r.LeftOut = append(r.LeftOut, out.error)
			continue
		} else if err != nil {
			return r, err
		}
		r.Documents++
		r.Tokens += int64(d.Len())
	}
	return r, out.Close()
}

// Write converts the trace at dir to a format. out is a file or folder, as the
// format has it; it must not exist.
func Write(ctx context.Context, to, dir, out string) (*Report, error) {
	f, err := lookup(to)
	if err != nil {
		return nil, err
	}
	if f.write == nil {
		return nil, fmt.Errorf("convert: format %q is read only: %s", to, f.about)
	}
	r, err := trace.Open(dir)
	if err != nil {
		return nil, err
	}
	return f.write(ctx, r, out)
}

// header fills what all formats have in common.
func header(o Options, m trace.Model, extra map[string]string) trace.Header {
	if o.Name != "" {
		m.Name = o.Name
	}
	if m.Name == "" {
		m.Name = "unknown"
	}
	if o.Vocabulary != 0 {
		m.Vocabulary = o.Vocabulary
	}
	return trace.Header{Model: m, Source: trace.Source{Program: o.Program, Seed: uint64(o.Seed), Extra: extra}}
}
