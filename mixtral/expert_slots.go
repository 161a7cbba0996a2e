package mixtral

import (
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
)

// deviceSlots are the slots of an XLA device and page-locked memory, which are freed
// with the model.
type deviceSlots struct {
	m      *Model
	form   expertForm
	mu     sync.Mutex
	slots  []*deviceSlot
	locked [][]byte
}

// deviceSlot is an expert's buffers: w13 [2F,D] and w2 [D,F].
type deviceSlot struct {
	d       *device
	w13, w2 matrix
	parts   []slotPart
}

// slotPart is a buffer and the expert's bytes that it holds.
type slotPart struct {
	buffer   *compute.Buffer
	shape    shapes.Shape
	from, to int
}

// matrices returns the weights of a slot of a device.
func (s *ExpertSlot) matrices() (w13, w2 matrix) { return s.on.w13, s.on.w2 }

// add makes a slot.
func (d *deviceSlots) add() (*ExpertSlot, error) {
	x := d.form
	s := &deviceSlot{d: d.m.d}
	dtype, n := x.dtype, x.matrix()
	if x.int8 {
		dtype = dtypes.Int8
	}
	s.parts = []slotPart{
		{&s.w13.w, shapes.Make(dtype, 2*x.f, x.d), 0, 2 * n},
		{&s.w2.w, shapes.Make(dtype, x.d, x.f), 2 * n, 3 * n},
	}
	if x.int8 {
		at := x.scales()
		s.parts = append(s.parts,
			slotPart{&s.w13.scale, shapes.Make(dtypes.Float32, 2*x.f), at, at + 8*x.f},
			slotPart{&s.w2.scale, shapes.Make(dtypes.Float32, x.d), at + 8*x.f, at + 8*x.f + 4*x.d})
	}
	d.mu.Lock()
	d.slots = append(d.slots, s)
	d.mu.Unlock()
	for _, p := range s.parts {
		var err error
		if d.m.d.Shared {
			*p.buffer, _, err = d.m.d.Backend.NewSharedBuffer(0, p.shape)
		} else {
			*p.buffer, err = d.m.blank(p.shape)
		}
		if err != nil {
			return nil, fmt.Errorf("allocating an expert's slot, %v: %w", p.shape, err)
		}
	}
	return &ExpertSlot{on: s}, nil
}

// memory returns page-locked memory for an expert.
func (d *deviceSlots) memory() ([]byte, error) {
	b := d.form.hostMemory()
	if err := xla.Lock(b); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.locked = append(d.locked, b)
	return b, nil
}

func (d *deviceSlots) free() {
	if d == nil {
		return
	}
	for _, s := range d.slots {
		xla.Free(slices.Concat(s.w13.all(), s.w2.all())...)
	}
	for _, b := range d.locked {
		xla.Unlock(b)
	}
	runtime.KeepAlive(d.locked)
}

// all is buffers where they may be nil.
func (m matrix) all() []compute.Buffer { return []compute.Buffer{m.w, m.scale} }

// blank returns a buffer of zeros, which the device makes.
func (m *Model) blank(shape shapes.Shape) (compute.Buffer, error) {
	zero, err := m.d.Zeros(shape.DType, 1)
	if err != nil {
		return nil, err
	}
	defer xla.Free(zero)
	return xla.One(m.run(programKey{kind: fmt.Sprintf("blank %v", shape)}, func(in []*Node) []*Node {
		return []*Node{BroadcastToDims(Reshape(in[0]), shape.Dimensions...)}
	}, zero))
}

// write copies an expert's bytes into the buffers. Where they are not in memory that
// the host or the CUDA driver writes, it makes others.
func (s *deviceSlot) write(expert []byte, urgent bool) error {
	switch {
	case s.d.Shared:
		for _, p := range s.parts {
			flat, err := (*p.buffer).Data()
			if err != nil {
				return err
			}
			copy(dtypes.UnsafeByteSliceFromAny(flat), expert[p.from:p.to])
		}
		return nil
	case s.d.GPU && xla.CUDA():
		return cudaBus.copy(s.copies(expert, urgent), urgent)
	}
	for _, p := range s.parts {
		b, err := s.d.Backend.BufferFromFlatData(0, xla.Flat(p.shape.DType, expert[p.from:p.to]), p.shape)
		if err != nil {
			return err
		}
		xla.Free(*p.buffer)
		*p.buffer = b
	}
	return nil
}

// busBytes is what urgent copies wait for: .6 ms at 50 GB/s. The pause between two
// copies is 3 % of it.
const busBytes = 32 << 20

// copies returns the copies that write an expert, to be made together; those that are
// not urgent in pieces.
func (s *deviceSlot) copies(expert []byte, urgent bool) (all [][]xla.Copy) {
	var some []xla.Copy
	n := 0
	for _, p := range s.parts {
		for from := p.from; from < p.to; {
			to := p.to
			if !urgent {
				to = min(to, from+busBytes-n)
			}
			some = append(some, xla.Copy{To: *p.buffer, Offset: from - p.from, From: expert[from:to]})
			n, from = n+to-from, to
			if !urgent && n == busBytes {
				all, some, n = append(all, some), nil, 0
			}
		}
	}
	if len(some) > 0 {
		all = append(all, some)
	}
	return all
}

// bus serializes copies: two at a time would share its rate and both end late.
type bus struct {
	mu      sync.Mutex
	changed *sync.Cond // nil until there was a copy
	busy    bool
	urgent  int // copies that wait or run
	write   func([]xla.Copy) error
}

var cudaBus = bus{write: xla.Write}

// copy makes copies. Urgent ones precede what remains of others.
func (b *bus) copy(all [][]xla.Copy, urgent bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed == nil {
		b.changed = sync.NewCond(&b.mu)
	}
	if urgent {
		b.urgent++
		defer func() { b.urgent-- }()
	}
	for _, some := range all {
		for b.busy || !urgent && b.urgent > 0 {
			b.changed.Wait()
		}
		b.busy = true
		b.mu.Unlock()
		err := b.write(some)
		b.mu.Lock()
		b.busy = false
		b.changed.Broadcast()
		if err != nil {
			return err
		}
	}
	return nil
}
