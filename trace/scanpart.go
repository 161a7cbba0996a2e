package trace

import (
	"fmt"
	"slices"

	"github.com/expertspec/expertspec/trace/internal/pq"
)

// readPart appends k rows to the current document, of which rest are known to
// follow in this row group.
func (c *scan) readPart(k, rest int) error {
	m := &c.header.Model
	d := c.doc
	choices := m.Layers * m.TopK
	logits := len(c.header.LogitLayers) * m.Experts
	input := len(c.header.InputLayers) * m.Hidden
	if (int64(d.Len())+int64(k))*c.rowBytes() > c.limit {
		return fmt.Errorf("document %q needs more than %d bytes of memory, which its shard of %d bytes does not justify", d.ID, c.limit, c.pq.Size())
	}
	if err := c.readInts(c.position, colPosition, &d.Positions, k, rest, 1); err != nil {
		return err
	}
	if err := c.readPhases(k); err != nil {
		return err
	}
	if err := c.readInts(c.token, colToken, &d.Tokens, k, rest, 1); err != nil {
		return err
	}
	if err := c.readInts(c.experts, colExperts, &d.Experts, k, rest, choices); err != nil {
		return err
	}
	if err := c.readFloats(c.weights, colWeights, &d.Weights, k, rest, choices); err != nil {
		return err
	}
	if c.dropped != nil {
		c.column = colDropped
		n := len(d.Dropped)
		d.Dropped = room(d.Dropped, k, rest, m.Layers)
		if err := c.dropped.ReadBools(d.Dropped[n:]); err != nil {
			return err
		}
	}
	if err := c.readFloats(c.logits, colLogits, &d.RouterLogits, k, rest, logits); err != nil {
		return err
	}
	return c.readFloats(c.input, colInput, &d.RouterInput, k, rest, input)
}

// rowBytes returns the memory of a token.
func (c *scan) rowBytes() int64 {
	if c.filter.TokensOnly {
		return 4
	}
	m := &c.header.Model
	n := 8 + 16 + 8*m.Layers*m.TopK
	if c.header.Dropped {
		n += m.Layers
	}
	if !c.filter.NoLogits {
		n += 4 * len(c.header.LogitLayers) * m.Experts
	}
	if !c.filter.NoInput {
		n += 4 * len(c.header.InputLayers) * m.Hidden
	}
	return int64(n)
}

// room adds k rows of width to s, with capacity for all rest rows unless they are
// so many that a corrupt file may claim them.
func room[T any](s []T, k, rest, width int) []T {
	if cap(s)-len(s) < k*width {
		const usual = 1 << 22
		s = slices.Grow(s, max(k*width, min(rest*width, usual)))
	}
	return s[:len(s)+k*width]
}

func (c *scan) readInts(p *pq.Cursor, name string, dst *[]int32, k, rest, width int) error {
	if p == nil {
		return nil
	}
	c.column = name
	n := len(*dst)
	*dst = room(*dst, k, rest, width)
	return p.ReadInts((*dst)[n:])
}

func (c *scan) readFloats(p *pq.Cursor, name string, dst *[]float32, k, rest, width int) error {
	if p == nil {
		return nil
	}
	c.column = name
	n := len(*dst)
	*dst = room(*dst, k, rest, width)
	return p.ReadFloats((*dst)[n:])
}

// readPhases keeps phases only once one is not Prefill.
func (c *scan) readPhases(k int) error {
	if c.phase == nil {
		return nil
	}
	c.column = colPhase
	d := c.doc
	before := len(d.Tokens) // tokens come after phases
	for k > 0 {
		s, n, err := c.phase.ReadString(k)
		if err != nil {
			return err
		}
		phase := Phase(s)
		if phase != Prefill || d.Phases != nil {
			for len(d.Phases) < before {
				d.Phases = append(d.Phases, Prefill)
			}
			for range n {
				d.Phases = append(d.Phases, phase)
			}
		}
		before += n
		k -= n
	}
	return nil
}
