package mixtral

import (
	"fmt"
	"runtime"
	"slices"
	"sync"

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
		if d.m.d.shared {
			*p.buffer, _, err = d.m.d.backend.NewSharedBuffer(0, p.shape)
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
	if err := cudaLock(b); err != nil {
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
		free(slices.Concat(s.w13.all(), s.w2.all())...)
	}
	for _, b := range d.locked {
		cudaUnlock(b)
	}
	runtime.KeepAlive(d.locked)
}

// all is buffers where they may be nil.
func (m matrix) all() []compute.Buffer { return []compute.Buffer{m.w, m.scale} }

// blank returns a buffer of zeros, which the device makes.
func (m *Model) blank(shape shapes.Shape) (compute.Buffer, error) {
	zero, err := m.d.zeros(shape.DType, 1)
	if err != nil {
		return nil, err
	}
	defer free(zero)
	return one(m.run(programKey{kind: fmt.Sprintf("blank %v", shape)}, func(in []*Node) []*Node {
		return []*Node{BroadcastToDims(Reshape(in[0]), shape.Dimensions...)}
	}, zero))
}

// write copies an expert's bytes into the buffers. Where they are not in memory that
// the host or the CUDA driver writes, it makes others.
func (s *deviceSlot) write(expert []byte, urgent bool) error {
	switch {
	case s.d.shared:
		for _, p := range s.parts {
			flat, err := (*p.buffer).Data()
			if err != nil {
				return err
			}
			copy(dtypes.UnsafeByteSliceFromAny(flat), expert[p.from:p.to])
		}
		return nil
	case s.d.gpu && cudaOpened():
		for _, p := range s.parts {
			if err := cudaBus.each(expert[p.from:p.to], urgent, func(offset int, some []byte) error {
				return cudaWrite(*p.buffer, offset, some)
			}); err != nil {
				return err
			}
		}
		return nil
	}
	for _, p := range s.parts {
		b, err := s.d.backend.BufferFromFlatData(0, flatOf(p.shape.DType, expert[p.from:p.to]), p.shape)
		if err != nil {
			return err
		}
		free(*p.buffer)
		*p.buffer = b
	}
	return nil
}

// bus serializes copies: two at a time would share its rate and both end late.
type bus struct {
	mu      sync.Mutex
	changed *sync.Cond // nil until some copy waits
	busy    bool
	urgent  int // copies that wait or run
}

var cudaBus bus

// busBytes is what others wait for: .6 ms at 50 GB/s, of which the start of a copy, and
// the wait for its end, are 3 %.
const busBytes = 32 << 20

// each calls f for parts of a copy, and lets urgent ones precede the next part.
func (b *bus) each(bytes []byte, urgent bool, f func(offset int, some []byte) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed == nil {
		b.changed = sync.NewCond(&b.mu)
	}
	if urgent {
		b.urgent++
		defer func() { b.urgent-- }()
	}
	for from := 0; from < len(bytes); from += busBytes {
		for b.busy || !urgent && b.urgent > 0 {
			b.changed.Wait()
		}
		b.busy = true
		b.mu.Unlock()
		err := f(from, bytes[from:min(from+busBytes, len(bytes))])
		b.mu.Lock()
		b.busy = false
		b.changed.Broadcast()
		if err != nil {
			return err
		}
	}
	return nil
}
