package mixtral

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
)

// Mesh divides a model among Experts x Width devices of one backend, the first ones.
// Each has a part of every layer: its share of the attention heads with their cache,
// and of its group's experts, and adds up what all computed, [T,D] float32, twice a
// layer. Embedding, head, norms and routers are on each. What does not divide is
// filled up with zeros. The zero Mesh is one device.
type Mesh struct {
	// Experts is the number of groups among which a layer's experts are divided, at
	// most E. A device of another group computes nothing for a token's expert, but in
	// steps of few tokens waits as long as if it did.
	Experts int
	// Width is the number of devices of a group, among which each expert's width F is
	// divided, so that all compute for every token.
	Width int
}

// Devices returns the number of devices.
func (m Mesh) Devices() int { return max(1, m.Experts) * max(1, m.Width) }

// String returns the mesh as in "2x4", Experts x Width, or "4", the Width.
func (m Mesh) String() string {
	if m.Experts > 1 {
		return fmt.Sprintf("%dx%d", m.Experts, max(1, m.Width))
	}
	return strconv.Itoa(max(1, m.Width))
}

// MarshalText returns the mesh's String, so that it can be a flag (flag.TextVar).
func (m Mesh) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText sets the mesh from what String returns.
func (m *Mesh) UnmarshalText(text []byte) error {
	experts, width, both := strings.Cut(string(text), "x")
	if !both {
		experts, width = "1", experts
	}
	e, err := strconv.Atoi(experts)
	w, err2 := strconv.Atoi(width)
	if err != nil || err2 != nil || e < 1 || w < 1 {
		return fmt.Errorf("devices %q: must be a number, or two as in 2x4: groups of experts x devices of each", text)
	}
	*m = Mesh{e, w}
	return nil
}

// check returns an error unless the mesh can hold the model on b, nil for any backend.
func (m Mesh) check(c *Config, b compute.Backend, experts ExpertStore) error {
	switch n := m.Devices(); {
	case m.Experts <= 1 && m.Width <= 1:
	case b != nil && b.String() != "xla":
		return fmt.Errorf("Options.Mesh is %v: %d devices require an XLA backend, not %s", m, n, b)
	case b != nil && (n > b.NumDevices() || max(m.Experts, m.Width) > b.NumDevices()): // the product may overflow
		return fmt.Errorf("Options.Mesh is %v: it requires %d devices, the backend has %d", m, n, b.NumDevices())
	case m.Experts > c.Experts:
		return fmt.Errorf("Options.Mesh is %v: %d groups cannot share the %d experts of a layer", m, m.Experts, c.Experts)
	case m.Width > c.IntermediateSize:
		return fmt.Errorf("Options.Mesh is %v: %d devices cannot share the width of an expert, %d", m, m.Width, c.IntermediateSize)
	case experts != nil:
		return fmt.Errorf("Options.Mesh is %v: Options.Experts requires one device", m)
	}
	return nil
}

// share is what each device of a mesh holds of a layer, zeros included.
type share struct {
	experts, width int // experts, and their rows of w1 and w3
	heads, kvHeads int // of attention and its cache
}

// share returns the mesh's share of a model.
func (m Mesh) share(c *Config) share {
	kv := parts(c.KVHeads, m.Devices())
	return share{experts: parts(c.Experts, max(1, m.Experts)), width: parts(c.IntermediateSize, max(1, m.Width)),
		heads: kv * (c.Heads / c.KVHeads), kvHeads: kv}
}

// parts returns the size of one of n parts of size, the last ones filled up.
func parts(size, n int) int { return (size + n - 1) / n }

// slots returns the number of experts of all groups, those of zeros included.
func (m Mesh) slots(c *Config) int { return m.share(c).experts * max(1, m.Experts) }

// part returns the i-th part of share rows of size, shifted by offset.
func part(i, share, size, offset int) xla.Span {
	from := min(i*share, size)
	return xla.Span{From: offset + from, To: offset + min(from+share, size), Size: share}
}

// whole returns an axis that is not divided.
func whole(size int) []xla.Span { return []xla.Span{{From: 0, To: size, Size: size}} }

// meshCut returns a device's part of a matrix.
type meshCut func(c *Config, device int) xla.Cut

// rows is the cut of a matrix's rows without its last axis.
func (cut meshCut) rows() meshCut {
	return func(c *Config, device int) xla.Cut {
		all := cut(c, device)
		return all[:len(all)-1]
	}
}

// firsts returns the number of each device's first expert, int32.
func (m Mesh) firsts(c *Config, d *device) (compute.Buffer, error) {
	return xla.UploadEach(d.Device, func(device int) []int32 { return []int32{int32(device / max(1, m.Width) * m.share(c).experts)} })
}

// w13 returns a device's part of [E,2F,D].
func (m Mesh) w13(c *Config, device int) xla.Cut {
	s, f, i := m.share(c), c.IntermediateSize, device%max(1, m.Width)
	return xla.Cut{m.group(c, device), {part(i, s.width, f, 0), part(i, s.width, f, f)}, whole(c.HiddenSize)}
}

// w2 returns a device's part of [E,D,F].
func (m Mesh) w2(c *Config, device int) xla.Cut {
	i := device % max(1, m.Width)
	return xla.Cut{m.group(c, device), whole(c.HiddenSize), {part(i, m.share(c).width, c.IntermediateSize, 0)}}
}

// group returns the experts of a device's group.
func (m Mesh) group(c *Config, device int) []xla.Span {
	return []xla.Span{part(device/max(1, m.Width), m.share(c).experts, c.Experts, 0)}
}

// qkv returns a device's part of [(H+2KV)*hd, D] in projectQKV's order:
// queries of the heads that attend to its keys.
func (m Mesh) qkv(c *Config, device int) xla.Cut {
	s, half := m.share(c), c.HeadDim/2
	var rows []xla.Span
	at := 0
	add := func(share, heads, size int) {
		rows = append(rows, part(device, share*size, heads*size, at))
		at += heads * size
	}
	for range 2 {
		add(s.heads, c.Heads, half)
		add(s.kvHeads, c.KVHeads, half)
	}
	add(s.kvHeads, c.KVHeads, c.HeadDim)
	return xla.Cut{rows, whole(c.HiddenSize)}
}

// o returns a device's part of [D, H*hd].
func (m Mesh) o(c *Config, device int) xla.Cut {
	return xla.Cut{whole(c.HiddenSize), {part(device, m.share(c).heads*c.HeadDim, c.Heads*c.HeadDim, 0)}}
}

// own returns a routing, index and weights [N,K], in terms of the device's experts:
// others' weights are 0, and their index is one of the device's.
func (w weight) own(index, weights *Node) (*Node, *Node) {
	if w.first == nil {
		return index, weights
	}
	index = Sub(index, w.first)
	own := within(index, w.w.Shape().Dimensions[0])
	return Where(own, index, ZerosLike(index)), Where(own, weights, ZerosLike(weights))
}

// ownRows returns batchedMoE's indices in terms of the device's experts, of slots.
func (w weight) ownRows(rows, back, weights *Node, slots int) (ownRows, ownBack, ownWeights *Node) {
	size := rows.Shape().Dimensions[0] / slots
	n := size * w.w.Shape().Dimensions[0]
	from := MulScalar(w.first, int32(size))
	rows = DynamicSlice(rows, []*Node{from, ZerosLike(from)}, []int{n, 1})
	back = Sub(back, from)
	own := within(back, n)
	weights = Where(Reshape(own, weights.Shape().Dimensions...), weights, ZerosLike(weights))
	return rows, Where(own, back, ZerosLike(back)), weights
}

// within reports which of x, int32, are indices of n.
func within(x *Node, n int) *Node {
	return LogicalAnd(GreaterOrEqual(x, ZerosLike(x)), LessThan(x, AddScalar(ZerosLike(x), int32(n))))
}
