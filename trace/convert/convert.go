// Package convert reads the routing traces of other programs into trace files,
// and writes trace files in their formats where these can hold them.
//
// Nothing is guessed silently. What the source does not state (top-k, the number
// of experts) is inferred from all of the data or taken from Options, and
// Report.Notes says which. A malformed line or document is omitted and reported
// with its place; the rest is converted. Memory is bounded by the largest
// document, or by the file where a format cannot be read in parts (bigmoe,
// specmoe) or written in parts (vllm as one safetensors file).
package convert

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/expertspec/expertspec/trace"
)

// Options states what a format does not. Zero values are taken from the source
// or inferred.
type Options struct {
	Name       string // of the model; "": the source's, or "unknown"
	Dataset    string // of all documents; "": the source's, or the file's name
	Experts    int    // E; 0: the source's, or the largest id + 1
	TopK       int    // K; 0: the source's, or inferred
	Vocabulary int    // V; 0: unknown
	// Cut is the largest number of tokens of a document; 0: any. A longer one is cut
	// into documents named NAME/POSITION, so that a trace of one long document can be
	// split into parts. They are of one text, and not independent.
	Cut int
}

// Validate returns an error if a number is negative.
func (o *Options) Validate() error {
	if min(o.Experts, o.TopK, o.Vocabulary, o.Cut) < 0 {
		return errors.New("experts, top-k, vocabulary and cut cannot be negative")
	}
	return nil
}

// place is an error with its place in a source.
type place struct {
	file string
	line int    // 1-based; 0: none
	item string // document, tensor or field; "": none
	err  error
}

func (e *place) Error() string {
	var b strings.Builder
	b.WriteString(e.file)
	if e.line > 0 {
		fmt.Fprintf(&b, ":%d", e.line)
	}
	if e.item != "" {
		fmt.Fprintf(&b, ": %s", e.item)
	}
	return b.String() + ": " + e.err.Error()
}

func (e *place) Unwrap() error { return e.err }

// omission is an error about one document, after which the conversion continues.
type omission struct{ err error }

func (e omission) Error() string { return e.err.Error() }
func (e omission) Unwrap() error { return e.err }

// source is an opened foreign trace.
type source struct {
	header  trace.Header
	notes   []string
	omitted []error // files that were skipped
	// documents yields each document, or an omission in its place; any other
	// error ends the sequence.
	documents iter.Seq2[*trace.Document, error]
}

// format is a foreign format. write creates a file or folder and may leave it
// incomplete when it fails; nil: the format is read only.
type format struct {
	about string
	open  func(ctx context.Context, path string, o Options) (*source, error)
	write func(ctx context.Context, r *trace.Reader, out string) (*Report, error)
	gaps  bool // what is written may have tokens without experts at a layer
}

var formats = map[string]format{
	"vllm":         {"experts [T,L,K] of vLLM or SGLang: .npy, .safetensors, or a folder of these", openVLLM, writeVLLM, true},
	"allenai":      {"JSON lines of OLMoE's analysis: input_ids [T], exp_ids [T,K,L]", openAllenAI, writeAllenAI, false},
	"bigmoe":       {"route CSV of BigMoeOnEdge", openBigMoE, writeBigMoE, true},
	"esft":         {"folder of expert_weights_N.txt of DeepSeek's ESFT", openESFT, writeESFT, false},
	"transformers": {"router logits of transformers: L tensors [B*T,E] and attention_mask [B,T] in safetensors", openTransformers, writeTransformers, false},
	"specmoe":      {"pickle of MixtralGatingDataPoint of specMoE; read only", openSpecMoE, nil, false},
}

// Formats returns the sorted names of the formats, and a description of each.
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
		return f, fmt.Errorf("unknown format %q; must be one of %s", name, strings.Join(names, ", "))
	}
	return f, nil
}

// Report describes a conversion.
type Report struct {
	Header    trace.Header
	Documents int
	Tokens    int64
	// Omitted holds an error, with its place, for each document that was omitted
	// and each entry of a folder that was skipped because it is not a regular
	// file.
	Omitted []error
	// Notes say what was inferred, and what the other format cannot hold.
	Notes []string
}

// each calls f with every document and counts those that are not omitted.
func (r *Report) each(ctx context.Context, docs iter.Seq2[*trace.Document, error], f func(d *trace.Document) error) error {
	for d, err := range docs {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			err = f(d)
		}
		if out := (omission{}); errors.As(err, &out) {
			r.Omitted = append(r.Omitted, out.err)
		} else if err != nil {
			return err
		} else {
			r.Documents++
			r.Tokens += int64(d.Len())
		}
	}
	return nil
}

// Read converts the foreign trace at path into a new trace in dir. If that fails,
// ctx is cancelled, or every document is omitted, which is an error, no shard of it
// is left. The Report is not nil once the source could be opened, also where the
// conversion fails later.
func Read(ctx context.Context, from, path, dir string, o Options, w trace.WriterOptions) (report *Report, err error) {
	f, err := lookup(from)
	if err != nil {
		return nil, err
	}
	if err := o.Validate(); err != nil {
		return nil, err
	}
	src, err := f.open(ctx, path, o)
	if err != nil {
		return nil, err
	}
	src.header.Source.Program = "expertspec convert -from " + from
	var shards []string
	onShard := w.OnShard
	w.OnShard = func(path string, documents int) {
		shards = append(shards, path)
		if onShard != nil {
			onShard(path, documents)
		}
	}
	out, err := trace.Create(dir, src.header, w)
	if err != nil {
		return nil, err
	}
	defer func() {
		out.Abort()
		if err != nil {
			for _, path := range shards {
				err = errors.Join(err, os.Remove(path))
			}
		}
	}()
	report = &Report{Header: src.header, Omitted: src.omitted, Notes: src.notes}
	if o.Cut > 0 {
		src.documents = cut(src.documents, &src.header, o.Cut)
	}
	seen := map[trace.Key]bool{}
	err = report.each(ctx, src.documents, func(d *trace.Document) error {
		err := d.Validate(&src.header)
		if err == nil && seen[d.Key()] {
			err = fmt.Errorf("document %q of data set %q occurs twice", d.ID, d.Dataset)
		}
		if err != nil {
			return omission{&place{file: path, err: err}}
		}
		seen[d.Key()] = true
		return out.Write(d)
	})
	if err != nil {
		return report, err
	}
	if report.Documents == 0 && len(report.Omitted) > 0 {
		return report, fmt.Errorf("%s: no document could be converted", path)
	}
	return report, out.Close()
}

// Write converts the trace at dir to a format. out is a file or folder, as the
// format has it, and must not exist or be an empty folder. It appears complete or
// not at all.
//
// A folder of vllm also holds documents.json, a JSON object of the data set and
// id of each document by the name of its arrays, from which Read restores them. A
// safetensors file holds the same as metadata.
func Write(ctx context.Context, to, dir, out string) (report *Report, err error) {
	f, err := lookup(to)
	if err != nil {
		return nil, err
	}
	if f.write == nil {
		return nil, fmt.Errorf("format %q is read only", to)
	}
	r, err := trace.Open(dir)
	if err != nil {
		return nil, err
	}
	h := r.Header()
	encoder := h.Model.Routes(trace.Encode, 0)
	if encoder && !f.gaps {
		return nil, fmt.Errorf("%s: format %q cannot hold a model of an encoder and a decoder, whose tokens have no experts in the other's layers", dir, to)
	}
	err = aside(out, func(temp string) error {
		report, err = f.write(ctx, r, temp)
		return err
	})
	if report != nil && encoder {
		report.Notes = append(report.Notes, "not kept: which layers and tokens are the encoder's")
	}
	if report != nil && h.Dropped {
		report.Notes = append(report.Notes, "not kept: dropped tokens")
	}
	return report, err
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
	return trace.Header{Model: m, Source: trace.Source{Extra: extra}}
}

// survey collects what arrays of experts [T,L,K] say about their model.
type survey struct {
	layers, topK int // of the first array
	largest      int32
}

func (s *survey) add(experts []int32, layers, topK int) {
	if s.layers == 0 {
		s.layers = layers
		if s.topK == 0 {
			s.topK = topK
		}
	}
	if layers == s.layers && topK == s.topK {
		s.largest = max(s.largest, slices.Max(experts))
	}
}

// header returns the header of a trace without weights.
func (s *survey) header(o Options) (h trace.Header, notes []string) {
	m := trace.Model{Layers: s.layers, TopK: s.topK, Experts: o.Experts}
	if m.Experts == 0 {
		m.Experts = max(int(s.largest)+1, m.TopK)
		notes = append(notes, noteExperts(m.Experts))
	}
	h = header(o, m, nil)
	h.NoWeights = true
	return h, append(notes, "no routing weights in this format")
}

func noteExperts(n int) string { return fmt.Sprintf("%d experts: the largest id and one", n) }
