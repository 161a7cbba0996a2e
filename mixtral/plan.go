package mixtral

import (
	"fmt"
	"strings"
	"unsafe"

	"github.com/expertspec/expertspec/mixtral/internal/kernel"
	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
)

// Plan is the memory that a model needs, by what it is for, and its parameters.
type Plan struct {
	Embedding Memory `json:"embedding"` // and the output head, unless that is tied to it
	Attention Memory `json:"attention"`
	Router    Memory `json:"router"` // and norms
	Experts   Memory `json:"experts"`
	Cache     Memory `json:"cache"`     // keys and values of PlanOptions.Documents
	Temporary Memory `json:"temporary"` // while loading or computing, whichever is more: an estimate
	// ExpertBytes is the size of one expert in the model's form, and StoredExpertBytes
	// that in the checkpoint.
	ExpertBytes       int64 `json:"expert_bytes"`
	StoredExpertBytes int64 `json:"stored_expert_bytes"`
	// Devices is the number of devices of Options.Mesh, each of which needs Device.
	Devices int `json:"devices"`
	// Slots and Copies are the numbers of experts that Options.Experts holds in Device
	// and in Host; 0 without it.
	Slots  int `json:"slots"`
	Copies int `json:"copies"`
}

// Memory is bytes of a Plan by where they are.
type Memory struct {
	Parameters int64 `json:"parameters"`
	Device     int64 `json:"device"`     // memory of what computes: the host's, or each GPU's
	Host       int64 `json:"host"`       // the host's, besides; page-locked for a CUDA device
	Checkpoint int64 `json:"checkpoint"` // in neither: read when it is needed, of its size there
}

func (m Memory) plus(o Memory) Memory {
	return Memory{m.Parameters + o.Parameters, m.Device + o.Device, m.Host + o.Host, m.Checkpoint + o.Checkpoint}
}

// Total returns the sum.
func (p *Plan) Total() Memory {
	return p.Weights().plus(p.Cache).plus(p.Temporary)
}

// Weights returns the sum without Cache and Temporary. Device of it is exact.
func (p *Plan) Weights() Memory {
	return p.Embedding.plus(p.Attention).plus(p.Router).plus(p.Experts)
}

// PlanOptions say how a model would be loaded, and for what.
type PlanOptions struct {
	// Options are those of Load. Backend may be nil, and Progress is not used.
	Options
	// Kind is what Options.Backend would be, if it is nil: "go", "xla:cpu" or "xla:cuda"
	// (see OpenBackend).
	Kind string
	// Documents are computed together, each of Tokens tokens and continued by Generated
	// more. 0: the plan is for the weights alone.
	Documents, Tokens, Generated int
}

// maxPlanned bounds the tokens of PlanOptions, so that no size overflows.
const maxPlanned = 1 << 24

// Plan returns the memory that a model of this checkpoint needs, of which it reads no
// weights. The error is about options that are invalid, or for which Options.Experts
// has too little memory.
func (c *Checkpoint) Plan(o PlanOptions) (*Plan, error) {
	d := new(device)
	switch {
	case o.Backend != nil:
		d.Device = xla.NewDevice(o.Backend, o.Mesh.Devices())
	case o.Kind == "go" || o.Kind == "xla:cpu" || o.Kind == "xla:cuda":
		d.Device = &xla.Device{Count: o.Mesh.Devices(), IsGo: o.Kind == "go", GPU: o.Kind == "xla:cuda", Shared: o.Kind != "xla:cuda" && o.Mesh.Devices() == 1}
		if d.IsGo && d.Count > 1 {
			return nil, fmt.Errorf("mixtral: Options.Mesh is %v: %d devices require an XLA backend, not go", o.Mesh, d.Count)
		}
		o.Backend = struct{ compute.Backend }{}
	default:
		return nil, fmt.Errorf("mixtral: PlanOptions.Kind is %q; must be go, xla:cpu or xla:cuda", o.Kind)
	}
	if o.Documents < 0 || o.Documents > 0 && o.Tokens < 1 || o.Generated < 0 {
		return nil, fmt.Errorf("mixtral: PlanOptions are of %d documents of %d tokens and %d more", o.Documents, o.Tokens, o.Generated)
	}
	if max(o.Documents, o.Tokens, o.Generated) > maxPlanned || o.Documents*(o.Tokens+o.Generated) > maxPlanned {
		return nil, fmt.Errorf("mixtral: PlanOptions are of %d documents of %d tokens and %d more; must be at most %d tokens", o.Documents, o.Tokens, o.Generated, maxPlanned)
	}
	if err := o.Validate(); err != nil {
		return nil, prefixed(err)
	}
	m, err := newModel(c.Config(), o.Options, d)
	if err != nil {
		return nil, err
	}
	p, err := m.plan(c, o.Options)
	if err != nil {
		return nil, err
	}
	if o.Documents > 0 {
		m.planWork(p, formOf(c, o.Options), o.Documents, o.Tokens, o.Generated)
	}
	return p, nil
}

// form is which matrices are int8.
type form struct{ attention, experts bool }

func formOf(c *Checkpoint, o Options) (f form) {
	if o.Quantize == Int8 {
		return form{true, true}
	}
	f.attention, f.experts = c.int8Class()
	return f
}

// plan returns the plan of the weights, with what loading needs besides.
func (m *Model) plan(ck *Checkpoint, o Options) (*Plan, error) {
	c, f := &m.cfg, formOf(ck, o)
	layers, d, hd, size := int64(c.Layers), int64(c.HiddenSize), int64(c.HeadDim), int64(m.dtype.Size())
	p := &Plan{}
	p.Embedding.Parameters = int64(c.VocabSize) * d
	if !c.TieEmbeddings {
		p.Embedding.Parameters *= 2
	}
	p.Embedding.Device = p.Embedding.Parameters * size
	heads, rows := int64(c.Heads)*hd, int64(c.Heads+2*c.KVHeads)*hd
	p.Attention.Parameters = layers * (rows*d + d*heads)
	heads, rows = int64(m.share.heads)*hd, int64(m.share.heads+2*m.share.kvHeads)*hd
	p.Attention.Device = layers * matrixBytes(f.attention, size, rows, d)
	p.Attention.Device += layers * matrixBytes(f.attention, size, d, heads)
	p.Router.Parameters = layers*(int64(c.Experts)*d+2*d) + d
	p.Router.Device = 4 * p.Router.Parameters
	width, experts := int64(m.share.width), layers*int64(m.share.experts)
	p.Experts.Parameters = layers * int64(c.Experts) * 3 * d * int64(c.IntermediateSize)
	p.ExpertBytes = int64(m.expertForm(f).bytes())
	p.Experts.Device = experts * (matrixBytes(f.experts, size, 2*width, d) + matrixBytes(f.experts, size, d, width))
	if p.Devices = m.d.Count; m.mesh.Experts > 1 {
		p.Experts.Device += 4 * layers // the number of the first
	}
	var err error
	if p.StoredExpertBytes, err = ck.storedExpert(); err != nil {
		return nil, err
	}
	if o.Experts != nil {
		if err := m.planStore(p, o.Experts); err != nil {
			return nil, err
		}
	}
	loading := m.loadingBytes(f, o.Experts == nil)
	if m.d.Shared {
		p.Temporary.Device = loading
	} else {
		p.Temporary.Host = loading
	}
	return p, nil
}

// matrixBytes is the size of a matrix [O,I], of values of size bytes or int8.
func matrixBytes(int8 bool, size, rows, columns int64) int64 {
	if int8 {
		return rows*columns + 4*rows
	}
	return rows * columns * size
}

// planStore makes the plan that of a store.
func (m *Model) planStore(p *Plan, store ExpertStore) error {
	p.Experts.Device = 0
	src := m.plannedSource(p)
	var err error
	if p.Slots, p.Copies, err = store.Plan(src); err != nil {
		return err
	}
	all := src.Layers * src.Experts
	p.Experts.Device = int64(p.Slots) * p.ExpertBytes
	p.Experts.Host = int64(p.Copies) * p.ExpertBytes
	p.Experts.Checkpoint = int64(max(0, all-p.Slots-p.Copies)) * p.StoredExpertBytes
	return nil
}

// plannedSource is the source for a store, without its functions.
func (m *Model) plannedSource(p *Plan) ExpertSource {
	c := &m.cfg
	w := p.Weights()
	return ExpertSource{Layers: c.Layers, Experts: c.Experts, TopK: c.TopK, Bytes: int(p.ExpertBytes), Resident: w.Device - p.Experts.Device}
}

// storedExpert is the bytes of an expert's matrices in the files.
func (c *Checkpoint) storedExpert() (n int64, err error) {
	for _, name := range []string{"w1", "w2", "w3"} {
		p, err := c.resolve(expertName(0, 0, name))
		if err != nil {
			return 0, err
		}
		n += int64(p.Elements()) * int64(p.Info.DType.Size())
	}
	return n, nil
}

// loadingBytes is the host memory that the loader needs besides the result.
func (m *Model) loadingBytes(f form, experts bool) int64 {
	c, size := &m.cfg, int64(m.dtype.Size())
	d, heads := int64(c.HiddenSize), int64(c.Heads*c.HeadDim)
	matrix, buffer := heads*d, int64(c.VocabSize)*d*size // the largest
	if experts {
		matrix = max(matrix, d*int64(c.IntermediateSize))
	}
	wide := 4 * matrix // in float32
	if !f.attention && !(f.experts && experts) {
		wide = 0
	}
	if m.d.Shared {
		return max(wide, heads*d*size)
	}
	if experts {
		n := int64(2 * m.expertForm(f).matrix()) // w13
		if m.stacked() {
			n *= int64(c.Experts)
		}
		buffer = max(buffer, n)
	}
	const workers, atOnce = 4, 4 // of allLayers and readInt8s
	if m.d.Count > 1 {           // a part at a time
		buffer += buffer / int64(m.d.Count)
	}
	return workers * (buffer + atOnce*wide)
}

// Check returns an error that says what needs how much, unless the weights fit into
// so many bytes of the memory of what computes.
func (p *Plan) Check(memory int64) error {
	need := p.Weights().Device
	if need <= memory {
		return nil
	}
	var parts []string
	for _, x := range []struct {
		name  string
		bytes int64
	}{{"embedding and head", p.Embedding.Device}, {"attention", p.Attention.Device}, {"routers and norms", p.Router.Device}, {"experts", p.Experts.Device}} {
		parts = append(parts, fmt.Sprintf("%s %d", x.name, x.bytes))
	}
	return fmt.Errorf("the weights need %d bytes of memory, there are %d: %s", need, memory, strings.Join(parts, ", "))
}

// checkMemory is Check against the memory that there is, if that is known.
func (m *Model) checkMemory(p *Plan) error {
	memory := int64(0)
	switch {
	case m.d.Shared:
		memory = hostMemory()
	case m.d.GPU:
		memory = xla.DeviceMemory()
	}
	if memory == 0 {
		return nil
	}
	if w := p.Weights(); m.d.Shared && w.Device <= memory && w.Device+w.Host > memory {
		return fmt.Errorf("mixtral: the weights need %d bytes of memory and the copies of experts in host memory %d; there are %d", w.Device, w.Host, memory)
	}
	if err := p.Check(memory); err != nil {
		return fmt.Errorf("mixtral: %w; package mixtral/offload runs the model in less", err)
	}
	return nil
}

// planWork adds what computing needs, the cache exactly.
func (m *Model) planWork(p *Plan, f form, documents, tokens, generated int) {
	c := &m.cfg
	cached := documents
	if generated == 0 {
		if cached = 0; tokens > m.chunk { // its chunks attend to each other
			cached = documents
			if m.d.Shared {
				cached = min(documents, m.lanes)
			}
		}
	}
	if cached > 0 {
		p.Cache.Device = int64(cached) * m.cacheBytes(m.planCapacity(documents, tokens, generated))
	}
	copies := int64(0) // of the cache, when it grows or is appended to
	if !m.d.Shared && generated > 1 && documents <= maxFew {
		p.Cache.Device += int64(documents) * int64(2*c.Layers*m.share.kvHeads*recentSize*c.HeadDim*m.dtype.Size())
		if generated-1 > recentSize {
			copies = p.Cache.Device
		}
	}
	work := m.workBytes(f, documents, min(tokens, m.chunk), tokens+generated)
	p.Temporary.Device = max(p.Temporary.Device, work, copies)
}

// cacheBytes is the size of a document's keys and values.
func (m *Model) cacheBytes(capacity int) int64 {
	c := &m.cfg
	if m.onHost() {
		return int64(2*c.Layers) * 4 * int64(hostCacheSize(c, capacity))
	}
	return int64(2*c.Layers*m.share.kvHeads*c.HeadDim*m.dtype.Size()) * int64(capacity)
}

// planCapacity is the capacity of a cache, see cachePart.reserve, at the end.
func (m *Model) planCapacity(documents, tokens, generated int) int {
	last := (tokens-1)%m.chunk + 1 // tokens of the last step of the prompt
	need := tokens - last + m.planBucket(last)
	if before := tokens - last; before > 0 {
		need = max(need, before-m.chunk+m.planBucket(m.chunk))
	}
	fed := max(0, generated-1) // the last one that is generated is not computed
	if !m.d.Shared && documents <= maxFew {
		if fed > 0 {
			need = max(need, tokens+(fed-1)/recentSize*recentSize)
		}
	} else {
		need = max(need, tokens+fed)
	}
	return max(minCache, powerOfTwo(need))
}

// planBucket is bucket, before the weights are there.
func (m *Model) planBucket(n int) int {
	if m.onHost() {
		return n
	}
	return powerOfTwo(n)
}

// workBytes estimates the memory of a step of t tokens of each document, that attend to
// at most context.
func (m *Model) workBytes(f form, documents, t, context int) int64 {
	if m.onHost() {
		return int64(min(documents, m.lanes)) * m.hostWorkBytes(t, context)
	}
	c := &m.cfg
	rows := 2 * c.TopK // of a token in the experts' batches, which have the size of the largest
	width, copied := rows*m.share.width, int64(2*m.share.experts)
	if !m.stacked() { // one expert after the other
		width, copied = width/c.Experts, 2
	}
	residual := 12 * c.HiddenSize
	attention := 16*(m.share.heads+2*m.share.kvHeads)*c.HeadDim + 10*m.share.heads*min(context, 4*t)
	experts := (4*rows+6*c.TopK)*c.HiddenSize + 14*width
	n := int64(documents*t) * int64(residual+attention+experts+4*c.VocabSize)
	if f.experts && t > 1 { // XLA dequantizes before products of many rows
		n += copied * int64(m.share.width) * int64(c.HiddenSize) * int64(m.dtype.Size())
	}
	return n
}

// hostWorkBytes is the size of a hostWork and the logits of all tokens.
func (m *Model) hostWorkBytes(t, context int) int64 {
	c := &m.cfg
	d, hd, heads, rows := int64(c.HiddenSize), int64(c.HeadDim), int64(c.Heads), int64(c.Heads+2*c.KVHeads)
	padded := (int64(t) + width - 1) / width * width
	chosen := int64(t*c.TopK) + width*int64(c.Experts)/2 // half a panel of an expert is padding
	if t <= hostRows {
		padded, chosen = int64(t), int64(t*c.TopK)
	}
	n := padded*(3*d+2*hd+rows*hd+heads*hd) + int64(t)*int64(c.Experts)
	operands := chosen * (d + int64(c.IntermediateSize))
	if pairs := kernel.BF16([]uint16{0}, 1); m.dtype == dtypes.BFloat16 && pairs.PairPanels() {
		operands = operands/2 + padded*(d+heads*hd)/2
	}
	n += operands
	if t > hostRows {
		scratch := int64(unsafe.Sizeof(kernel.Scratch{}))/4 + padded*kernel.BlockRows
		lane := 2*scratch + 2*width*(2*hd+int64(context))
		n += lane * int64(m.lanes)
	}
	n += 2 * int64(hostCacheSize(c, t)) // without a cache
	return 4 * (n + int64(t)*int64(c.VocabSize))
}
