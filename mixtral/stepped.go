package mixtral

import (
	"context"

	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
)

// runStepped computes one step, a program per part of a block.
func (r *run) runStepped(ctx context.Context, s *step) error {
	m := r.m
	x, err := m.embed(s) // [N,D]
	if err != nil {
		return err
	}
	defer func() { xla.Free(x) }()
	rope, err := m.uploadRope(s)
	if err != nil {
		return err
	}
	defer xla.Free(rope...)
	for i := range m.w.layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		if x, err = r.layer(ctx, s, i, x, rope); err != nil {
			return err
		}
	}
	return r.logits(s, x)
}

// layer computes one block. It frees x and returns the next; nil on an error.
func (r *run) layer(ctx context.Context, s *step, i int, x compute.Buffer, rope []compute.Buffer) (compute.Buffer, error) {
	m := r.m
	out, err := m.attention(s, i, x, rope)
	xla.Free(x)
	if err != nil {
		return nil, err
	}
	x, h, logits, k, v := out[0], out[1], out[2], out[3], out[4]
	defer xla.Free(h, logits)
	if s.part != nil {
		err = m.store(s, i, k, v)
	}
	xla.Free(k, v)
	var rt *Routing
	if err == nil {
		rt, err = r.route(ctx, s, i, h, logits)
	}
	if err == nil {
		err = m.experts(ctx, s, i, x, h, rt)
	}
	if err != nil {
		xla.Free(x)
		return nil, err
	}
	return x, nil
}

// route chooses the experts of layer i on the host, and calls the hooks.
func (r *run) route(ctx context.Context, s *step, i int, h, logits compute.Buffer) (*Routing, error) {
	values, err := r.m.d.Floats(logits)
	if err != nil {
		return nil, err
	}
	var input []float32
	if r.req.RouterInput {
		if input, err = r.m.d.Floats(h); err != nil {
			return nil, err
		}
	}
	rt := r.routing(s, i, values, input)
	return rt, r.hooks(ctx, rt)
}

// embed returns the tokens' embeddings, [N,D] float32.
func (m *Model) embed(s *step) (compute.Buffer, error) {
	n := s.rowsTotal()
	tokens, err := xla.Upload(m.d.Device, s.tokens, n)
	if err != nil {
		return nil, err
	}
	defer xla.Free(tokens)
	return xla.One(m.run(programKey{"embed", n, 0, 0, 0}, func(in []*Node) []*Node {
		return []*Node{embedding(in[0], in[1])}
	}, tokens, m.w.embed))
}

// uploadRope uploads cos and sin of the step's positions (see ropeTables).
func (m *Model) uploadRope(s *step) ([]compute.Buffer, error) {
	n := s.rowsTotal()
	positions := make([]int32, n)
	for row := range positions {
		positions[row] = int32(s.first[row/s.t] + row%s.t)
	}
	cosines, sines := ropeTables(&m.cfg, positions)
	cos, err := xla.Upload(m.d.Device, cosines, n, len(cosines)/n)
	if err != nil {
		return nil, err
	}
	sin, err := xla.Upload(m.d.Device, sines, n, len(sines)/n)
	if err != nil {
		xla.Free(cos)
		return nil, err
	}
	return []compute.Buffer{cos, sin}, nil
}

// pastLen is the length of the cache that the step sees; 0 if it sees none.
func (s *step) pastLen() int {
	if !s.past {
		return 0
	}
	return s.part.c
}

// attention runs layer i's first half. It returns x after attention [N,D], the
// router's input h [N,D], router logits [N,E], and the step's k and v.
func (m *Model) attention(s *step, i int, x compute.Buffer, rope []compute.Buffer) ([]compute.Buffer, error) {
	args := []compute.Buffer{x, rope[0], rope[1], s.starts}
	args = append(args, m.w.layers[i].dense()...)
	past := s.pastLen()
	if past > 0 {
		args = append(args, s.part.k[i], s.part.v[i])
	}
	return m.run(programKey{"attention", s.b, s.t, past, 0}, func(in []*Node) []*Node {
		x, cos, sin, starts := in[0], in[1], in[2], in[3]
		in = in[4:]
		w := takeNodes(&in)
		mask := newGraphMask(&m.cfg, starts, s.b, past, attentionBlock)
		var cache *split
		if past > 0 {
			cache = &split{k: in[0], v: in[1]}
		}
		x, h, logits, k, v := m.block(x, w, cos, sin, cache, mask, s.b, s.t)
		return []*Node{x, h, logits, k, v}
	}, args...)
}

// logits computes the next-token logits that the request asks of this step.
func (r *run) logits(s *step, x compute.Buffer) error {
	m := r.m
	rows, docs := r.headRows(s)
	if len(rows) == 0 {
		return nil
	}
	index, size, err := m.uploadRows(rows)
	if err != nil {
		return err
	}
	defer xla.Free(index)
	out, err := xla.One(m.run(programKey{"head", s.rowsTotal(), size, 0, 0}, func(in []*Node) []*Node {
		return []*Node{m.head(in[0], in[1], in[2], in[3])}
	}, x, index, m.w.norm, m.w.head))
	if err != nil {
		return err
	}
	defer xla.Free(out)
	return r.readLogits(out, docs)
}

// uploadRows uploads rows, padded by row 0 to a size that it returns.
func (m *Model) uploadRows(rows []int32) (compute.Buffer, int, error) {
	size := m.bucket(len(rows))
	index, err := xla.Upload(m.d.Device, append(rows, make([]int32, size-len(rows))...), size)
	return index, size, err
}

// headRows returns the rows of the step whose logits are requested, and the
// document of each.
func (r *run) headRows(s *step) (rows []int32, docs []int) {
	for b, n := range s.lens {
		doc := s.docs[b]
		done := s.first[b] + n - r.cached(doc)
		from := n
		switch {
		case r.req.Logits == AllLogits:
			from = 0
		case r.req.Logits == LastLogits && done == len(r.req.Tokens[doc]) && n > 0:
			from = n - 1
		}
		for t := from; t < n; t++ {
			rows = append(rows, int32(b*s.t+t))
			docs = append(docs, doc)
		}
	}
	return rows, docs
}

// readLogits is takeLogits of logits on the device.
func (r *run) readLogits(b compute.Buffer, docs []int) error {
	logits, err := r.m.d.Floats(b)
	if err == nil {
		r.takeLogits(logits, docs)
	}
	return err
}

// takeLogits appends rows of logits [R,V] to their documents' output.
func (r *run) takeLogits(logits []float32, docs []int) {
	v := r.m.cfg.VocabSize
	for i, doc := range docs {
		if r.out.Logits[doc] == nil && r.req.Logits == AllLogits {
			r.out.Logits[doc] = make([]float32, 0, len(r.req.Tokens[doc])*v)
		}
		r.out.Logits[doc] = append(r.out.Logits[doc], logits[i*v:(i+1)*v]...)
	}
}
