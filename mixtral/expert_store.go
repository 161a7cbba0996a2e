package mixtral

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"github.com/expertspec/expertspec/mixtral/internal/host"
	"github.com/expertspec/expertspec/mixtral/internal/kernel"
	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute/dtypes"
)

// ExpertStore holds the experts' weights of one model (Options.Experts): for
// example, a few of them in memory and the others in the checkpoint. Package
// mixtral/offload implements it.
type ExpertStore interface {
	// Plan is called before weights are read, by Load and Checkpoint.Plan, perhaps
	// several times. It returns the number of experts for which Open will make slots, and
	// of those that it may keep in memory besides, or an error if it has too little for
	// the model. src has no functions.
	Plan(src ExpertSource) (slots, copies int, err error)
	// Open is called once, by Load, which fails if it does. From then on the store
	// belongs to the model.
	Open(src ExpertSource) error
	// Use provides the experts of a layer that a step needs, and calls compute with
	// them: with all at once or, to need less memory, with some after the others, in
	// ascending order over all calls, so that sums are those of a model that holds
	// all experts. slots are those of experts; the store must not change them before
	// compute returns. experts are different numbers, in the order in which the
	// tokens chose them, first choices first. few says that the step has few tokens:
	// it needs all of its experts at once, and slots may be HostSlots. rt is the
	// routing after the hooks, not to be changed or kept. Use returns compute's error,
	// if any, or ctx's if ctx ends. Calls may be concurrent.
	Use(ctx context.Context, rt *Routing, experts []int, few bool, compute func(experts []int, slots []*ExpertSlot) error) error
	// Close is called by Model.Close, when no Use is in progress.
	Close() error
}

// ExpertSource is what a store needs of a model.
type ExpertSource struct {
	Layers, Experts, TopK int // L, E, K
	// Bytes is the size of one expert in the model's form, and Resident that of all
	// weights that are not experts'.
	Bytes    int
	Resident int64
	// Read reads an expert of the checkpoint into dst, [Bytes], in the form that
	// loading gives it: W1 over W3 [2F,D], then W2 [D,F], as float32, bfloat16, or
	// int8 followed, at the next multiple of 4 bytes, by the float32 scales of their
	// rows, [2F+D]. It may be called concurrently until the model is closed. Errors
	// name file and tensor; after one dst is undefined. Besides dst, memory is one
	// chunk, or one matrix in float32 where it quantizes.
	Read func(ctx context.Context, layer, expert int, dst []byte) error
	// NewSlot allocates memory of the device for one expert, of undefined values.
	NewSlot func() (*ExpertSlot, error)
	// NewMemory allocates host memory for one expert, [Bytes]. For a CUDA device it is
	// page-locked: slots are written from it at the bus's rate. It is valid until the
	// model is closed.
	NewMemory func() ([]byte, error)
	// HostSlot returns memory of NewMemory as a slot from which the processor's cores
	// compute, whatever the device.
	HostSlot func(memory []byte) *ExpertSlot
}

// ExpertSlot is memory from which a model computes one expert at a time.
type ExpertSlot struct {
	memory  []byte        // nil: the device's
	w13, w2 kernel.Matrix // views of memory
	on      *deviceSlot
}

// Memory returns the slot's memory, to be filled as ExpertSource.Read does, or nil if
// only Write can fill it, since the device has memory or buffers of its own.
func (s *ExpertSlot) Memory() []byte { return s.memory }

// Write fills the slot with an expert, [ExpertSource.Bytes]. It returns when that is
// done; calls for different slots may be concurrent. Copies to a CUDA device are made
// one at a time: urgent ones precede, and interrupt, others.
func (s *ExpertSlot) Write(expert []byte, urgent bool) error {
	if s.on != nil {
		return s.on.write(expert, urgent)
	}
	copy(s.memory, expert)
	return nil
}

// expertForm is the form of an expert in a slot.
type expertForm struct {
	dtype dtypes.DType
	int8  bool
	f, d  int
}

// matrix is the bytes of [F,D].
func (x expertForm) matrix() int {
	if x.int8 {
		return x.f * x.d
	}
	return x.f * x.d * x.dtype.Size()
}

// scales is where an int8 expert's scales are.
func (x expertForm) scales() int { return (3*x.matrix() + 3) &^ 3 }

func (x expertForm) bytes() int {
	if x.int8 {
		return x.scales() + 4*(2*x.f+x.d)
	}
	return 3 * x.matrix()
}

// hostMemory returns memory that is aligned for numbers.
func (x expertForm) hostMemory() []byte {
	size := x.bytes()
	aligned := make([]uint64, (size+7)/8)
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(aligned))), size)
}

func (x expertForm) hostSlot(memory []byte) *ExpertSlot {
	s := &ExpertSlot{memory: memory}
	m := x.matrix()
	w13, w2, round := s.memory[:2*m], s.memory[2*m:3*m], x.dtype == dtypes.BFloat16
	switch {
	case x.int8:
		scales := words[float32](s.memory[x.scales():])
		s.w13 = kernel.Int8(words[int8](w13), scales[:2*x.f:2*x.f], round)
		s.w2 = kernel.Int8(words[int8](w2), scales[2*x.f:], round)
	case round:
		s.w13, s.w2 = kernel.BF16(words[uint16](w13), 2*x.f), kernel.BF16(words[uint16](w2), x.d)
	default:
		s.w13, s.w2 = kernel.F32(words[float32](w13), 2*x.f), kernel.F32(words[float32](w2), x.d)
	}
	return s
}

// expertForm is the form of the model's experts.
func (m *Model) expertForm(f form) expertForm {
	return expertForm{m.dtype, f.experts, m.cfg.IntermediateSize, m.cfg.HiddenSize}
}

func (m *Model) expertSource(ck *Checkpoint, p *Plan, f form) ExpertSource {
	c, x := &m.cfg, m.expertForm(f)
	r := &expertReader{ck: ck, layers: c.Layers, experts: c.Experts, form: x}
	src := m.plannedSource(p)
	src.Read, src.HostSlot = r.read, x.hostSlot
	src.NewMemory = func() ([]byte, error) { return x.hostMemory(), nil }
	src.NewSlot = func() (*ExpertSlot, error) { return x.hostSlot(x.hostMemory()), nil }
	if m.host == nil {
		m.slots = &deviceSlots{m: m, form: x}
		src.NewSlot = m.slots.add
		if m.d.GPU && xla.CUDA() {
			src.NewMemory = m.slots.memory
		}
	}
	return src
}

type expertReader struct {
	ck              *Checkpoint
	layers, experts int
	form            expertForm
	wide            sync.Pool // of *[]uint64, where matrices are quantized
}

func (r *expertReader) read(ctx context.Context, layer, expert int, dst []byte) error {
	x := r.form
	switch {
	case layer < 0 || layer >= r.layers || expert < 0 || expert >= r.experts:
		return fmt.Errorf("mixtral: no expert %d of layer %d: there are %d layers of %d", expert, layer, r.layers, r.experts)
	case len(dst) != x.bytes():
		return fmt.Errorf("mixtral: an expert needs %d bytes, the destination has %d", x.bytes(), len(dst))
	}
	m := x.matrix()
	var scales []float32
	if x.int8 {
		// dst need not be aligned.
		scales = make([]float32, 2*x.f+x.d)
	}
	for i, name := range []string{"w1", "w3", "w2"} {
		if err := ctx.Err(); err != nil {
			return err
		}
		to, name := dst[i*m:(i+1)*m], expertName(layer, expert, name)
		if !x.int8 {
			if err := r.ck.Read(name, x.dtype, to); err != nil {
				return err
			}
			continue
		}
		if err := r.readInt8(name, to, scales[i*x.f:][:len(to)/r.columns(i)]); err != nil {
			return err
		}
	}
	if x.int8 {
		copy(dst[x.scales():], dtypes.UnsafeByteSliceFromAny(scales))
	}
	return nil
}

// columns is those of w1, w3 and w2.
func (r *expertReader) columns(i int) int {
	if i < 2 {
		return r.form.d
	}
	return r.form.f
}

func (r *expertReader) readInt8(name string, dst []byte, scales []float32) error {
	scratch, _ := r.wide.Get().(*[]uint64)
	if scratch == nil {
		scratch = new([]uint64)
	}
	defer r.wide.Put(scratch)
	return r.ck.readInt8(name, dst, scales, func(size int) []byte { return grow(scratch, size) })
}

// useExperts calls compute with the groups of a step's experts and their slots in
// m.elsewhere.
func (m *Model) useExperts(ctx context.Context, rt *Routing, groups []chosen, few bool, compute func(groups []chosen, slots []*ExpertSlot) error) error {
	if len(groups) == 0 {
		return nil
	}
	rest := groups
	err := m.elsewhere.Use(ctx, rt, rt.order(len(groups), m.cfg.Experts), few, func(experts []int, slots []*ExpertSlot) error {
		if len(experts) > len(rest) || len(slots) != len(experts) || few && len(experts) < len(groups) {
			return fmt.Errorf("layer %d: the expert store computes %v on %d slots; %d experts remain", rt.Layer, experts, len(slots), len(rest))
		}
		for i, e := range experts {
			if e != rest[i].expert || slots[i] == nil {
				return fmt.Errorf("layer %d: the expert store computes expert %d where %d follows, or without a slot", rt.Layer, e, rest[i].expert)
			}
		}
		if err := compute(rest[:len(experts)], slots); err != nil {
			return err
		}
		rest = rest[len(experts):]
		return nil
	})
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("layer %d: the expert store did not compute expert %d", rt.Layer, rest[0].expert)
	}
	return err
}

// in returns layer w with the experts of groups in slots of host memory.
func (w *hostLayer) in(groups []chosen, slots []*ExpertSlot, experts int) *hostLayer {
	layer := *w
	layer.w13, layer.w2 = make([]kernel.Matrix, experts), make([]kernel.Matrix, experts)
	for i, g := range groups {
		layer.w13[g.expert], layer.w2[g.expert] = slots[i].w13, slots[i].w2
	}
	return &layer
}

// computeHostSlots adds the outputs of experts in slots of host memory to x, from h,
// both [N,D], and returns the others.
func (m *Model) computeHostSlots(groups []chosen, slots []*ExpertSlot, x, h []float32) (rest []chosen, on []*ExpertSlot) {
	var here []chosen
	var memory []*ExpertSlot
	for i, s := range slots {
		if s.on != nil {
			rest, on = append(rest, groups[i]), append(on, s)
		} else {
			here, memory = append(here, groups[i]), append(memory, s)
		}
	}
	if len(here) == 0 {
		return rest, on
	}
	lanes := runtime.GOMAXPROCS(0)
	work := m.work.Get().(*hostWork)
	defer m.work.Put(work)
	for len(work.lanes) < lanes {
		work.lanes = append(work.lanes, hostLane{})
	}
	f := &hostRowsForm{hostStep: &hostStep{m: m, n: len(x) / m.cfg.HiddenSize, work: work, team: host.Team{Lanes: lanes}}, x: x, h: h}
	defer f.team.Stop()
	f.experts(new(hostLayer).in(here, memory, m.cfg.Experts), here)
	return rest, on
}

// order returns the n different experts of positive weight, of numExperts, in the
// order in which the tokens chose them.
func (r *Routing) order(n, numExperts int) []int {
	order, seen := make([]int, 0, n), make([]bool, numExperts)
	for i, e := range r.Experts {
		if r.Weights[i] == 0 || seen[e] {
			continue
		}
		seen[e] = true
		if order = append(order, int(e)); len(order) == n {
			break
		}
	}
	return order
}
