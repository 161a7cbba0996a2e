package switchtransformer

import (
	"context"
	"fmt"

	"github.com/expertspec/expertspec/mixtral/internal/xla"
	"github.com/gomlx/compute"
	g "github.com/gomlx/gomlx/core/graph"
)

// The graph executor runs a stack as programs that blocks of the same kind share. The
// host routes between them: all blocks up to the next router are one program. Where
// many rows have experts, another one computes these; a few select theirs in the
// program of the blocks that follow. Lengths and numbers of rows are bucketed, so that
// few programs are compiled.

// graph is the executor of GoMLX's graphs.
type graph struct {
	*xla.Device
	graphs
	w        *buffers
	programs xla.Programs[programName]
}

// newGraph returns the executor of GoMLX's graphs.
func newGraph(l *loading) (executor, error) {
	x := &graph{Device: xla.NewDevice(l.backend, 1)}
	x.graphs = graphs{cfg: l.cfg, dtype: l.dtype, isGo: x.IsGo, gpu: x.GPU}
	err := xla.Catch(func() (err error) {
		loader := &graphLoader{loading: l, d: x.Device}
		x.w, err = loader.load()
		return err
	})
	if err != nil {
		return nil, err
	}
	return x, nil
}

// programName identifies a program and the sizes that its shapes depend on.
type programName string

func (n programName) String() string { return string(n) }

func (x *graph) run(name programName, build func(in []*g.Node) []*g.Node, in ...compute.Buffer) ([]compute.Buffer, error) {
	return x.programs.Run(x.Device, name, build, in...)
}

func (x *graph) close() {
	x.programs.Close()
	x.w.free()
}

// groupRows is the number of a group's rows, with padding, unless one document has
// more.
const groupRows = 8192

// groups puts documents together whose lengths have the same power of two.
func (x *graph) groups(lens []int) [][]int {
	var groups [][]int
	open := make(map[int]int) // by padded length, the index of the group to add to
	for i, n := range lens {
		size := powerOfTwo(n)
		g, ok := open[size]
		if !ok || (len(groups[g])+1)*size > groupRows {
			g = len(groups)
			open[size] = g
			groups = append(groups, nil)
		}
		groups[g] = append(groups[g], i)
	}
	return groups
}

// concurrency is 1: a program uses all of the device.
func (x *graph) concurrency() int { return 1 }

// padded is a step on the device: B documents of T tokens, padded on the right. The
// last documents may be padding.
type padded struct {
	b, t   int
	tokens []int32 // [B*T]
	starts []int32 // positions of the first tokens, [B]
	lens   []int32 // tokens of each document, [B]
	rows   []int32 // of [B*T], those that are not padding, [N]
}

// minTokens is the smallest T except for decoding, where it is 1.
const minTokens = 64

func pad(s *step) *padded {
	p := &padded{b: bucketDocuments(len(s.tokens))}
	for _, tokens := range s.tokens {
		p.t = max(p.t, len(tokens))
	}
	if p.t > 1 || s.stack == Encoder {
		p.t = max(minTokens, powerOfTwo(p.t))
	}
	p.tokens, p.starts, p.lens = make([]int32, p.b*p.t), make([]int32, p.b), make([]int32, p.b)
	for b, tokens := range s.tokens {
		copy(p.tokens[b*p.t:], tokens)
		p.starts[b], p.lens[b] = int32(s.first[b]), int32(len(tokens))
		for t := range tokens {
			p.rows = append(p.rows, int32(b*p.t+t))
		}
	}
	return p
}

// bucketDocuments rounds up to 2^i or 3*2^i.
func bucketDocuments(n int) int {
	p := powerOfTwo(n)
	if p >= 4 && n <= p/4*3 {
		return p / 4 * 3
	}
	return p
}

// router returns s's route as a function of padded rows.
func (x *graph) router(s *step, p *padded, route routeFunc) routeRows {
	return func(layer int, logits, input []float32) ([]int32, []float32, error) {
		experts, weights, err := route(layer, gather(logits, p.rows, x.cfg.Experts), gather(input, p.rows, x.cfg.HiddenSize))
		if err != nil {
			return nil, nil, err
		}
		allExperts, allWeights := make([]int32, p.b*p.t), make([]float32, p.b*p.t)
		for i, row := range p.rows {
			allExperts[row], allWeights[row] = experts[i], weights[i]
		}
		return allExperts, allWeights, nil
	}
}

// gather returns rows of width d; nil for nil.
func gather(from []float32, rows []int32, d int) []float32 {
	if from == nil {
		return nil
	}
	out := make([]float32, len(rows)*d)
	for i, row := range rows {
		copy(out[i*d:(i+1)*d], from[int(row)*d:])
	}
	return out
}

func (x *graph) encode(ctx context.Context, s *step, m memory, route routeFunc) error {
	p := pad(s)
	lens, err := xla.Upload(x.Device, p.lens, p.b)
	if err != nil {
		return err
	}
	out, err := x.stack(ctx, Encoder, &pass{p: p, lens: lens, input: s.input, routingOnly: m == nil}, x.router(s, p, route))
	if err != nil || m == nil {
		xla.Free(lens)
		return err
	}
	defer xla.Free(out)
	return m.(*graphMemory).remember(x, out, p, lens)
}

func (x *graph) decode(ctx context.Context, s *step, m memory, route routeFunc, rows []int, emit func(i int, logits []float32)) error {
	p, mem := pad(s), m.(*graphMemory)
	if s.keep {
		need := 0
		for b, tokens := range s.tokens {
			need = max(need, s.first[b]+len(tokens))
		}
		if err := mem.reserve(x, need); err != nil {
			return err
		}
	}
	routingOnly := len(rows) == 0 && !s.keep
	out, err := x.stack(ctx, Decoder, &pass{p: p, memory: mem, input: s.input, routingOnly: routingOnly}, x.router(s, p, route))
	if err != nil || routingOnly {
		return err
	}
	defer xla.Free(out)
	head := make([]int32, len(rows))
	for i, row := range rows {
		head[i] = p.rows[row]
	}
	return x.head(out, p.b*p.t, head, emit)
}

// maxHead is the number of rows whose logits one program computes, and minHead the
// smallest one except for 1.
const (
	maxHead = 512
	minHead = 64
)

// head calls emit with the next-token logits [V] of rows of the decoder's x [N,D].
func (x *graph) head(out compute.Buffer, n int, rows []int32, emit func(i int, logits []float32)) error {
	for from := 0; from < len(rows); from += maxHead {
		some := rows[from:min(from+maxHead, len(rows))]
		if err := x.someHead(out, n, some, func(i int, logits []float32) { emit(from+i, logits) }); err != nil {
			return err
		}
	}
	return nil
}

func (x *graph) someHead(out compute.Buffer, n int, rows []int32, emit func(i int, logits []float32)) error {
	size := powerOfTwo(len(rows))
	if size > 1 {
		size = max(minHead, size)
	}
	index, err := xla.Upload(x.Device, append(append([]int32(nil), rows...), make([]int32, size-len(rows))...), size)
	if err != nil {
		return err
	}
	defer xla.Free(index)
	b, err := xla.One(x.run(name("head{%d of %d}", size, n), func(in []*g.Node) []*g.Node {
		return []*g.Node{x.headNodes(g.Gather(in[0], g.InsertAxes(in[1], -1)), in[2], in[3])}
	}, out, index, x.w.stacks[Decoder].norm, x.w.head))
	if err != nil {
		return err
	}
	defer xla.Free(b)
	logits, err := x.Floats(b)
	if err != nil {
		return err
	}
	for i := range rows {
		emit(i, logits[i*x.cfg.VocabSize:][:x.cfg.VocabSize])
	}
	return nil
}

func name(format string, args ...any) programName { return programName(fmt.Sprintf(format, args...)) }
