package neural

import (
	"context"
	"errors"
	"math"
	"sync"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/float16"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// onDevice holds all N tokens of the training documents on the backend. Batches
// are gathered from them there.
type onDevice struct {
	backend compute.Backend
	ids     []*tensors.Tensor   // [N] rows of the embedding
	route   []*tensors.Tensor   // [N,L*E] float16
	z       []*tensors.Tensor   // [N,L*E] float16, where targets are soft
	x       [][]*tensors.Tensor // of each layer [N,D] float16, where router inputs are read; not standardised
	moments []*tensors.Tensor   // mean and inv, [L*D] each, likewise

	others [][]*tensors.Tensor // the same arrays on each device but the first

	passages []passage // without their documents
	tokens   int
	digest   digest // of the documents, where training may be resumed
}

// deviceBytes returns the size of a token in onDevice.
func (t *transformerJob) deviceBytes() int64 {
	n := 4 + 2*t.z.l*t.z.e
	if t.soft {
		n += 2 * t.z.l * t.z.e
	}
	if t.c.Inputs {
		n += 2 * t.z.l * t.z.d
	}
	return int64(n)
}

// hold copies the documents to the backend, or returns nil if they exceed
// o.DeviceBytes.
func (t *transformerJob) hold(ctx context.Context, d speculate.Data, o TrainOptions) (*onDevice, error) {
	limit := int(min(o.DeviceBytes/t.deviceBytes(), math.MaxInt32))
	if limit == 0 {
		return nil, nil
	}
	h := &onDevice{backend: o.Backend}
	if t.c.Inputs {
		h.x = make([][]*tensors.Tensor, t.z.l)
	}
	fit, err := t.copyDocuments(ctx, h, d, limit, o)
	if err == nil && fit {
		err = t.complete(h)
	}
	for d := 1; err == nil && fit && d < o.Devices; d++ {
		err = h.copyTo(compute.DeviceNum(d))
	}
	if err != nil || !fit {
		h.close()
		return nil, err
	}
	return h, nil
}

// devicePart is a number of documents on their way to the backend.
type devicePart struct {
	tokens   int
	ids      []int32
	route, z []float16.Float16
	x        [][]float16.Float16 // of each layer
}

// copyDocuments copies documents of at most limit tokens to h. It reports whether
// there are no more, and at least one. A part is copied while the next is read.
func (t *transformerJob) copyDocuments(ctx context.Context, h *onDevice, d speculate.Data, limit int, o TrainOptions) (fit bool, err error) {
	free, full := make(chan *devicePart, 2), make(chan *devicePart)
	free <- new(devicePart)
	free <- new(devicePart)
	var copyErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		for p := range full {
			if copyErr == nil {
				copyErr = t.copyPart(h, p)
			}
			if h.backend.HasSharedBuffers() {
				p = new(devicePart) // the backend uses its memory
			}
			free <- p
		}
	})
	defer func() {
		close(full)
		wg.Wait()
		err = errors.Join(err, copyErr)
	}()
	var docs []*trace.Document // not yet copied
	n := 0                     // their tokens
	flush := func() error {
		p := <-free
		if err := t.fillPart(p, d.Header, docs, n); err != nil {
			return err
		}
		full <- p
		h.tokens += n
		docs, n = nil, 0
		return nil
	}
	for doc, err := range d.All(ctx) {
		if err != nil {
			return false, err
		}
		for from := 0; from < doc.Len(); from += t.c.Window {
			h.passages = append(h.passages, passage{from: from, to: min(from+t.c.Window, doc.Len()), row: h.tokens + n + from})
		}
		if h.tokens+n+doc.Len() > limit {
			return false, nil
		}
		n += doc.Len()
		if o.Resume != "" {
			h.digest.document(doc)
		}
		if docs = append(docs, doc); n >= o.devicePart {
			if err := flush(); err != nil {
				return false, err
			}
		}
	}
	if n > 0 {
		err = flush()
	}
	return h.tokens > 0, err // of none, the source reports it
}

// complete joins the parts and adds the standardisation.
func (t *transformerJob) complete(h *onDevice) error {
	e, err := graph.NewExec(h.backend, func(in []*graph.Node) *graph.Node { return graph.Concatenate(in, 0) })
	if err != nil {
		return err
	}
	defer e.Finalize()
	arrays := []*[]*tensors.Tensor{&h.ids, &h.route, &h.z}
	for l := range h.x {
		arrays = append(arrays, &h.x[l])
	}
	for _, parts := range arrays {
		if err := join(e, parts); err != nil {
			return err
		}
	}
	if !t.c.Inputs {
		return nil
	}
	return errors.Join(h.add(&h.moments, t.mean, dtypes.Float32, len(t.mean)), h.add(&h.moments, t.inv, dtypes.Float32, len(t.inv)))
}

// fillPart converts documents of n tokens.
func (t *transformerJob) fillPart(p *devicePart, header trace.Header, docs []*trace.Document, n int) error {
	le := t.z.l * t.z.e
	p.tokens, p.ids, p.route = n, sized(p.ids, n), sized(p.route, n*le)
	if t.soft {
		p.z = sized(p.z, n*le)
	}
	if t.c.Inputs {
		p.x = sized(p.x, t.z.l)
		for l := range p.x {
			p.x[l] = sized(p.x[l], n*t.z.d)
		}
	}
	starts := make([]int, len(docs))
	for i := range docs[1:] {
		starts[i+1] = starts[i] + docs[i].Len()
	}
	return parallel(len(docs), func(i int) error {
		doc, at := docs[i], starts[i]
		if err := validDocument(doc, header); err != nil {
			return err
		}
		for j, id := range doc.Tokens {
			p.ids[at+j] = int32(row(id, t.z.v))
		}
		dense := make([]float32, doc.Len()*le)
		t.routes(passage{doc: doc, to: doc.Len()}, dense)
		raise(dense)
		halves(dense, p.route[at*le:])
		if t.soft {
			halves(doc.RouterLogits, p.z[at*le:])
		}
		if t.c.Inputs {
			for i := range doc.Len() * t.z.l {
				j, l := i/t.z.l, i%t.z.l
				halves(doc.RouterInput[i*t.z.d:(i+1)*t.z.d], p.x[l][(at+j)*t.z.d:])
			}
		}
		return nil
	})
}

// sized returns a slice of n elements, x if it is large enough.
func sized[T any](x []T, n int) []T {
	if cap(x) < n {
		return make([]T, n)
	}
	return x[:n]
}

func (t *transformerJob) copyPart(h *onDevice, p *devicePart) error {
	le := t.z.l * t.z.e
	err := errors.Join(h.add(&h.ids, p.ids, dtypes.Int32, p.tokens), h.add(&h.route, p.route, dtypes.Float16, p.tokens, le))
	if t.soft {
		err = errors.Join(err, h.add(&h.z, p.z, dtypes.Float16, p.tokens, le))
	}
	for l := range h.x {
		err = errors.Join(err, h.add(&h.x[l], p.x[l], dtypes.Float16, p.tokens, t.z.d))
	}
	return err
}

// add copies an array to the backend and appends it to xs.
func (h *onDevice) add(xs *[]*tensors.Tensor, flat any, dtype dtypes.DType, dims ...int) error {
	x, err := onBackend(h.backend, 0, flat, dtype, dims...)
	if err == nil {
		*xs = append(*xs, x)
	}
	return err
}

// onBackend copies an array to a backend's device, or has it use the array's memory if
// that is its own.
func onBackend(b compute.Backend, device compute.DeviceNum, flat any, dtype dtypes.DType, dims ...int) (*tensors.Tensor, error) {
	buffer, err := b.BufferFromFlatData(device, flat, shapes.Make(dtype, dims...))
	if err != nil {
		return nil, err
	}
	return tensors.FromBuffer(buffer)
}

// halves writes x in float16 to out, rounded to the nearest, ties to even. What
// float16 cannot represent becomes its largest number.
func halves(x []float32, out []float16.Float16) {
	out = out[:len(x)]
	for i, v := range x {
		out[i] = half(v)
	}
}

func half(v float32) float16.Float16 {
	const (
		most  = 0x477fe000 // bits of 65504
		least = 0x38800000 // bits of 2^-14, below which numbers are subnormal
	)
	b := math.Float32bits(v)
	sign := uint16(b >> 16 & 0x8000)
	b = min(b&0x7fffffff, most)
	if b < least {
		// Adding 0.5 aligns the fraction to multiples of 2^-24, rounding to even.
		r := math.Float32bits(math.Float32frombits(b) + 0.5)
		return float16.Float16(sign | uint16(r-math.Float32bits(0.5)))
	}
	return float16.Float16(sign | uint16((b+0xfff+(b>>13&1))>>13-112<<10))
}

// raise keeps the routing weights of chosen experts above 0 in float16.
func raise(route []float32) {
	const least = 1.0 / (1 << 14) // less loses digits, or becomes 0
	for i, v := range route {
		if v > 0 {
			route[i] = max(v, least)
		}
	}
}

// manyHalves is halves, by all processors.
func manyHalves(x []float32, out []float16.Float16) {
	const part = 1 << 16
	_ = parallel((len(x)+part-1)/part, func(i int) error {
		halves(x[i*part:min(len(x), (i+1)*part)], out[i*part:])
		return nil
	})
}

// join replaces the parts of an array by the whole.
func join(e *graph.Exec, parts *[]*tensors.Tensor) error {
	if len(*parts) < 2 {
		return nil
	}
	in := make([]any, len(*parts))
	for i, x := range *parts {
		in[i] = x
	}
	*parts = nil
	out, err := call(e, in, in)
	*parts = out
	return err
}

func (h *onDevice) all() []*tensors.Tensor {
	var all []*tensors.Tensor
	for _, xs := range append([][]*tensors.Tensor{h.ids, h.route, h.z}, h.x...) {
		all = append(all, xs...)
	}
	return append(all, h.moments...)
}

// copyTo copies all arrays to another device.
func (h *onDevice) copyTo(device compute.DeviceNum) error {
	h.others = append(h.others, nil)
	for _, x := range h.all() {
		from, err := x.Buffer(h.backend, 0)
		if err != nil {
			return err
		}
		to, err := from.CopyToDevice(device)
		if err != nil {
			return err
		}
		y, err := tensors.FromBuffer(to)
		if err != nil {
			return err
		}
		h.others[device-1] = append(h.others[device-1], y)
	}
	return nil
}

func (h *onDevice) close() {
	for _, xs := range append(h.others, h.all()) {
		for _, x := range xs {
			_ = x.FinalizeAll()
		}
	}
}

// resident implements job.
func (t *transformerJob) resident(device compute.DeviceNum) []any {
	if t.held == nil {
		return nil
	}
	xs := t.held.all()
	if device > 0 {
		xs = t.held.others[device-1]
	}
	var all []any
	for _, x := range xs {
		all = append(all, x)
	}
	return all
}

// gathered returns a batch of resident documents. in: [B] rows of the passages'
// first tokens, [B] their lengths. Rows after a passage's end hold other tokens.
func (t *transformerJob) gathered(held, in []*graph.Node) (b passages) {
	g, n, w := in[0].Graph(), len(t.drawn), t.c.Window
	at := graph.Iota(g, shapes.Make(dtypes.Int32, n, w), 1)
	rows := graph.ExpandAxes(graph.Add(graph.ExpandAxes(in[0], 1), at), -1) // [B,T,1]
	b.count = graph.ConvertDType(graph.LessThan(at, graph.ExpandAxes(in[1], 1)), dtypes.Float32)
	take := func(width ...int) *graph.Node {
		x := graph.Gather(held[0], rows, false)
		held = held[1:]
		return graph.Reshape(x, append([]int{n, w}, width...)...)
	}
	b.ids, b.route = take(), take(t.z.l, t.z.e)
	if t.soft {
		b.z = take(t.z.l, t.z.e)
	}
	if t.c.Inputs {
		layers := make([]*graph.Node, t.z.l)
		for l := range layers {
			layers[l] = take(1, t.z.d)
		}
		x := graph.ConvertDType(graph.Concatenate(layers, 2), dtypes.Float32)
		mean, inv := graph.Reshape(held[0], 1, 1, t.z.l, t.z.d), graph.Reshape(held[1], 1, 1, t.z.l, t.z.d)
		b.x = graph.Mul(graph.Sub(x, mean), inv)
	}
	return b
}
