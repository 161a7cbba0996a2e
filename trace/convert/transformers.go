package convert

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/safetensors"
)

// Names of the tensors beside the router logits, and keys of the metadata.
const (
	maskName     = "attention_mask"
	idsName      = "input_ids"
	metaDocument = "documents" // JSON: [[data set, id], ...] of the batch
	metaTopK     = "top_k"
)

// layerName finds the last number of a tensor's name.
var layerName = regexp.MustCompile(`^(.*?)(\d+)(\D*)$`)

// logitFile is one safetensors file: a batch of B sequences padded to T.
type logitFile struct {
	path   string
	layers []string // tensor of each layer, [B*T,E] or [B,T,E]
	blocks []int    // transformer block of each layer
	dtype  safetensors.DType
	b, t   int
	e      int
	topK   string // of the metadata
	names  []documentKey
}

// openTransformers reads what transformers returns with output_router_logits: L
// tensors [B*T,E] or [B,T,E], with the number of the layer in their names, and
// the attention_mask [B,T] (without one [B*T,E] is one sequence), and where
// present input_ids [B,T]. Padding is omitted. The experts are the top-k of the
// logits, the weights the softmax over them, as Mixtral has it; the logits are
// kept.
func openTransformers(ctx context.Context, path string, o Options) (*source, error) {
	in, err := listInputs(path, ".safetensors")
	if err != nil {
		return nil, err
	}
	files, err := logitFiles(ctx, in.files)
	if err != nil {
		return nil, err
	}
	first := files[0]
	m := trace.Model{Layers: len(first.layers), Stacks: stack(first.blocks), Experts: first.e, TopK: o.TopK}
	var notes []string
	if m.Stacks[0].Blocks != nil {
		notes = append(notes, fmt.Sprintf("logits of the blocks %v; the others are taken to have no experts", first.blocks))
	}
	if m.TopK == 0 && first.topK != "" {
		if m.TopK, err = strconv.Atoi(first.topK); err != nil {
			return nil, &place{file: first.path, item: "metadata " + metaTopK, err: err}
		}
	}
	if m.TopK == 0 {
		m.TopK = min(2, m.Experts)
		notes = append(notes, fmt.Sprintf("top-k %d, as Mixtral; the file does not say", m.TopK))
	}
	if o.Experts != 0 && o.Experts != m.Experts {
		return nil, &place{file: first.path, err: fmt.Errorf("logits of %d experts, expected %d", m.Experts, o.Experts)}
	}
	notes = append(notes, "weights are the softmax over the chosen experts")
	h := header(o, m, nil)
	h.LogitLayers = m.AllLayers()
	return &source{header: h, notes: notes, omitted: in.omitted, documents: func(yield func(*trace.Document, error) bool) {
		for _, f := range files {
			if !f.documents(&m, func(b int, d *trace.Document, err error) bool {
				if err != nil {
					return yield(nil, err)
				}
				if f.names != nil {
					d.Dataset, d.ID = datasetOr(o, f.names[b][0]), f.names[b][1]
				} else {
					d.Dataset, d.ID = in.name(o, f.path, b)
				}
				return yield(d, nil)
			}) {
				return
			}
		}
	}}, nil
}

func logitFiles(ctx context.Context, paths []string) ([]*logitFile, error) {
	var files []*logitFile
	for _, p := range paths {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f, err := openLogits(p)
		if err != nil {
			return nil, located(p, "", err)
		}
		files = append(files, f)
		if first := files[0]; !slices.Equal(first.blocks, f.blocks) || first.e != f.e {
			return nil, &place{file: p, err: fmt.Errorf("%d layers of %d experts, in %s %d of %d",
				len(f.layers), f.e, first.path, len(first.layers), first.e)}
		}
	}
	return files, nil
}

func openLogits(path string) (*logitFile, error) {
	r, err := openTensors(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	f := &logitFile{path: path}
	first, err := f.find(r)
	if err != nil {
		return nil, err
	}
	shape := first.Shape
	f.dtype, f.e = first.DType, shape[len(shape)-1]
	f.b, f.t = 1, shape[0]
	if len(shape) == 3 {
		f.b, f.t = shape[0], shape[1]
	}
	if info, ok := r.Info(maskName); ok {
		if len(info.Shape) != 2 || info.Shape[0]*info.Shape[1] != f.b*f.t || len(shape) == 3 && info.Shape[0] != f.b {
			return nil, fmt.Errorf("tensor %q has shape %v, the logits %v", maskName, info.Shape, shape)
		}
		f.b, f.t = info.Shape[0], info.Shape[1]
	}
	meta := r.Metadata()
	f.topK = meta[metaTopK]
	if text := meta[metaDocument]; text != "" {
		if err := json.Unmarshal([]byte(text), &f.names); err != nil || len(f.names) != f.b {
			return nil, fmt.Errorf("metadata %q does not name %d documents", metaDocument, f.b)
		}
	}
	return f, nil
}

// find lists the tensors of router logits by layer and returns the first. They
// are the floating-point tensors of two or three axes whose names differ in one
// number; of several such families, the one that names a router or gate.
func (f *logitFile) find(r *safetensors.Reader) (safetensors.Info, error) {
	type member struct {
		block int
		info  safetensors.Info
	}
	families := map[string][]member{}
	for _, name := range r.Names() {
		info, _ := r.Info(name)
		part := layerName.FindStringSubmatch(name)
		if part == nil || len(info.Shape) != 2 && len(info.Shape) != 3 || !isFloat(info.DType) {
			continue
		}
		n, err := strconv.Atoi(part[2])
		if err != nil {
			return info, fmt.Errorf("tensor %q: %w", name, err)
		}
		key := part[1] + "N" + part[3]
		families[key] = append(families[key], member{n, info})
	}
	var names []string
	for name := range families {
		if lower := strings.ToLower(name); len(families) == 1 || strings.Contains(lower, "router") || strings.Contains(lower, "gate") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	switch {
	case len(families) == 0:
		return safetensors.Info{}, errors.New("no tensors [B*T,E] with a layer's number in their names")
	case len(names) != 1:
		return safetensors.Info{}, fmt.Errorf("%d families of tensors; %d of them (%s) name a router or gate, expected one",
			len(families), len(names), strings.Join(names, ", "))
	}
	all := families[names[0]]
	slices.SortFunc(all, func(a, b member) int { return cmp.Compare(a.block, b.block) })
	first := all[0].info
	for i, m := range all {
		if i > 0 && m.block == all[i-1].block {
			return first, fmt.Errorf("tensor %q: layer %d twice", m.info.Name, m.block)
		}
		if !slices.Equal(m.info.Shape, first.Shape) || m.info.DType != first.DType {
			return first, fmt.Errorf("tensor %q is %s %v, the first %s %v", m.info.Name, m.info.DType, m.info.Shape, first.DType, first.Shape)
		}
		f.layers, f.blocks = append(f.layers, m.info.Name), append(f.blocks, m.block)
	}
	return first, nil
}

func isFloat(t safetensors.DType) bool {
	return t == safetensors.F32 || t == safetensors.F16 || t == safetensors.BF16 || t == safetensors.F64
}

// documents calls yield with each sequence of the batch and its number until
// that returns false, which documents then returns, too.
func (f *logitFile) documents(m *trace.Model, yield func(b int, d *trace.Document, err error) bool) bool {
	r, err := openTensors(f.path)
	if err != nil {
		yield(0, nil, err)
		return false
	}
	defer r.Close()
	mask, ids := slices.Repeat([]int32{1}, f.b*f.t), slices.Repeat([]int32{trace.NoToken}, f.b*f.t)
	for name, dst := range map[string]*[]int32{maskName: &mask, idsName: &ids} {
		info, ok := r.Info(name)
		if !ok {
			continue
		}
		*dst, err = readInts(r, name)
		if err == nil && len(*dst) != f.b*f.t {
			err = fmt.Errorf("shape %v for logits of %d rows", info.Shape, f.b*f.t)
		}
		if err != nil {
			yield(0, nil, located(f.path, name, err))
			return false
		}
	}
	for b := range f.b {
		row, end := b*f.t, (b+1)*f.t
		d, err := f.document(r, m, b, mask[row:end])
		if err != nil {
			err = omission{located(f.path, fmt.Sprintf("sequence %d", b), err)}
		} else {
			for i := row; i < end; i++ {
				if mask[i] != 0 {
					d.Tokens = append(d.Tokens, ids[i])
				}
			}
		}
		if !yield(b, d, err) {
			return false
		}
	}
	return true
}

// document reads the rows of one sequence, without padding, and routes them.
func (f *logitFile) document(r *safetensors.Reader, m *trace.Model, b int, mask []int32) (*trace.Document, error) {
	tokens := 0
	for i, v := range mask {
		if v != 0 && v != 1 {
			return nil, fmt.Errorf("attention mask is %d at %d", v, i)
		}
		tokens += int(v)
	}
	if tokens == 0 {
		return nil, errors.New("attention mask selects no token")
	}
	size := f.dtype.Size()
	raw := make([]byte, f.t*f.e*size)
	row := make([]byte, 4*f.e)
	d := &trace.Document{RouterLogits: make([]float32, tokens*m.Layers*f.e)}
	for l, name := range f.layers {
		if err := r.ReadAt(name, raw, int64(b)*int64(len(raw))); err != nil {
			return nil, err
		}
		t := 0
		for i, v := range mask {
			if v == 0 {
				continue
			}
			if err := safetensors.Convert(row, safetensors.F32, raw[i*f.e*size:(i+1)*f.e*size], f.dtype); err != nil {
				return nil, err
			}
			if e := safetensors.FirstNonFinite(row, safetensors.F32); e >= 0 {
				return nil, fmt.Errorf("tensor %q, row %d: logit %d is not finite", name, b*f.t+i, e)
			}
			dst := d.RouterLogits[(t*m.Layers+l)*f.e:][:f.e]
			for e := range dst {
				dst[e] = math.Float32frombits(binary.LittleEndian.Uint32(row[4*e:]))
			}
			t++
		}
	}
	for i := 0; i < len(d.RouterLogits); i += f.e {
		e, w := route(d.RouterLogits[i:i+f.e], m.TopK)
		d.Experts, d.Weights = append(d.Experts, e...), append(d.Weights, w...)
	}
	return d, nil
}

// route returns the k experts of the largest logits, largest first (of equal
// ones the lower number), and the softmax over their logits, as Mixtral routes.
func route(logits []float32, k int) (experts []int32, weights []float32) {
	experts = make([]int32, 0, k)
	for range k {
		best := -1
		for e, x := range logits {
			if (best < 0 || x > logits[best]) && !slices.Contains(experts, int32(e)) {
				best = e
			}
		}
		experts = append(experts, int32(best))
	}
	weights = make([]float32, k)
	var z float64
	for i, e := range experts {
		x := math.Exp(float64(logits[e]) - float64(logits[experts[0]]))
		weights[i] = float32(x)
		z += x
	}
	for i := range weights {
		weights[i] = float32(float64(weights[i]) / z)
	}
	return experts, weights
}

// batchDocuments is how many documents writeTransformers pads to one batch.
const batchDocuments = 8

// writeTransformers writes a folder of batches: router_logits.N [B*T,E] float32
// for each layer, padded on the right, with attention_mask and input_ids [B,T].
// The trace must have the logits of all layers.
func writeTransformers(ctx context.Context, r *trace.Reader, out string) (*Report, error) {
	h := r.Header()
	m := &h.Model
	if len(h.LogitLayers) != m.Layers {
		return nil, fmt.Errorf("format transformers requires the router logits of all %d layers; the trace has %d", m.Layers, len(h.LogitLayers))
	}
	if err := os.Mkdir(out, 0o777); err != nil {
		return nil, err
	}
	var batch []*trace.Document
	n := 0
	flush := func() error {
		path := filepath.Join(out, fmt.Sprintf("batch-%05d.safetensors", n))
		n++
		err := writeBatch(path, batch, m)
		batch = batch[:0]
		return err
	}
	report := &Report{Header: h, Notes: []string{"not kept: weights and choices other than the top-k of the logits, positions, phases"}}
	err := report.each(ctx, r.Select(trace.Filter{NoInput: true}).Documents(), func(d *trace.Document) error {
		if batch = append(batch, d); len(batch) == batchDocuments {
			return flush()
		}
		return nil
	})
	if err == nil && len(batch) > 0 {
		err = flush()
	}
	return report, err
}

func writeBatch(path string, batch []*trace.Document, m *trace.Model) error {
	width := 0
	var names []documentKey
	for _, d := range batch {
		width = max(width, d.Len())
		names = append(names, documentKey{d.Dataset, d.ID})
	}
	mask, ids := make([]int64, len(batch)*width), make([]int64, len(batch)*width)
	known := true
	for b, d := range batch {
		for t, id := range d.Tokens {
			mask[b*width+t], ids[b*width+t] = 1, int64(id)
			known = known && id != trace.NoToken
		}
	}
	tensors := []safetensors.Tensor{safetensors.Int64s(maskName, []int{len(batch), width}, mask)}
	if known {
		tensors = append(tensors, safetensors.Int64s(idsName, []int{len(batch), width}, ids))
	}
	for l, block := range blockNumbers(m) {
		logits := make([]float32, len(batch)*width*m.Experts)
		for b, d := range batch {
			for t := range d.Len() {
				copy(logits[(b*width+t)*m.Experts:], d.RouterLogits[(t*m.Layers+l)*m.Experts:][:m.Experts])
			}
		}
		tensors = append(tensors, safetensors.Float32s(fmt.Sprintf("router_logits.%d", block), []int{len(batch) * width, m.Experts}, logits))
	}
	text, err := json.Marshal(names)
	if err != nil {
		return err
	}
	return safetensors.WriteFile(path, tensors, map[string]string{metaDocument: string(text), metaTopK: strconv.Itoa(m.TopK)})
}
