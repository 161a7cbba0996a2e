package neural

import (
	"math"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/distributed"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// build compiles the graphs and creates the state.
func (l *loop[B]) build() error {
	n := len(l.params)
	var err error
	if l.forward, err = graph.NewExec(l.o.Backend, func(in []*graph.Node) []*graph.Node {
		losses, out := l.job.graph(l.named(in), nil, in[n:])
		return []*graph.Node{losses, out}
	}); err != nil {
		return err
	}
	values, zeros := make([][]float32, 0, 3*n), make([][]float32, n)
	for i, p := range l.params {
		values, zeros[i] = append(values, p.value), make([]float32, p.size())
	}
	step := l.fused
	if l.o.Accumulate > 1 {
		step = l.apply
		if l.sum, err = l.replicated(l.add); err != nil {
			return err
		}
		l.sums = l.copies(zeros)
	}
	if l.step, err = l.replicated(step); err != nil {
		return err
	}
	l.state = l.copies(append(append(values, zeros...), zeros...))
	return nil
}

// replicated returns an executable that each device runs on arguments of its own.
func (l *loop[B]) replicated(f func([]*graph.Node) []*graph.Node) (*graph.Exec, error) {
	e, err := graph.NewExec(l.o.Backend, f)
	if err != nil || l.o.Devices == 1 {
		return e, err
	}
	mesh, err := distributed.NewDeviceMesh([]int{l.o.Devices}, []string{"batch"})
	if err != nil {
		return nil, err
	}
	return e.SPMD(mesh), nil
}

// copies returns tensors of values, arrays of all parameters in order once or more,
// for each device.
func (l *loop[B]) copies(values [][]float32) []*tensors.Tensor {
	var xs []*tensors.Tensor
	for range l.o.Devices {
		for i, x := range values {
			xs = append(xs, tensors.FromFlatDataAndDimensions(x, l.params[i%len(l.params)].dims...))
		}
	}
	return xs
}

// mean returns the mean of xs over devices.
func (l *loop[B]) mean(xs ...*graph.Node) []*graph.Node {
	if l.o.Devices == 1 {
		return xs
	}
	xs = xs[0].Graph().Distributed().AllReduce(xs, compute.ReduceOpSum)
	for i, x := range xs {
		xs[i] = graph.MulScalar(x, 1/float64(l.o.Devices))
	}
	return xs
}

func (l *loop[B]) named(nodes []*graph.Node) map[string]*graph.Node {
	m := map[string]*graph.Node{}
	for i, p := range l.params {
		m[p.name] = nodes[i]
	}
	return m
}

// gradient returns the gradient of a batch's loss, summed over heads, and the
// loss, mean over heads. inputs: resident arrays, batch.
func (l *loop[B]) gradient(values, inputs []*graph.Node) (grads []*graph.Node, mean *graph.Node) {
	n := len(l.job.resident(0))
	losses, _ := l.job.graph(l.named(values), inputs[:n], inputs[n:])
	loss := graph.ReduceAllSum(losses)
	return graph.Gradient(loss, values...), graph.MulScalar(loss, 1/float64(l.heads))
}

// fused is a step of one batch of each device. in: values, moments, second moments, rate,
// decay, c2 (see adamW), resident arrays, batch; out: values, moments, second
// moments, loss.
func (l *loop[B]) fused(in []*graph.Node) []*graph.Node {
	n := len(l.params)
	grads, loss := l.gradient(in[:n], in[3*n+3:])
	reduced := l.mean(append(grads, loss)...)
	return append(l.adamW(in, reduced[:n]), reduced[n])
}

// add adds a batch of a step. in: values, sums, 0 for the step's first
// batch or 1, resident arrays, batch; out: sums, loss.
func (l *loop[B]) add(in []*graph.Node) []*graph.Node {
	n := len(l.params)
	grads, loss := l.gradient(in[:n], in[2*n+1:])
	for i, g := range grads {
		grads[i] = graph.Add(graph.Mul(in[n+i], in[2*n]), g)
	}
	return append(grads, l.mean(loss)...)
}

// apply ends a step of several batches. in: values, moments, second moments,
// rate, decay, c2, sums; out: values, moments, second moments.
func (l *loop[B]) apply(in []*graph.Node) []*graph.Node {
	n := len(l.params)
	grads := make([]*graph.Node, n)
	for i, s := range in[3*n+3:] {
		grads[i] = graph.MulScalar(s, 1/float64(l.o.Accumulate))
	}
	return l.adamW(in, l.mean(grads...))
}

// adamW clips and applies gradients. in begins as that of fused.
func (l *loop[B]) adamW(in, grads []*graph.Node) []*graph.Node {
	n := len(l.params)
	grads = clip(grads, clipNorm*math.Sqrt(float64(l.heads)))
	rate, decay, c2 := in[3*n], in[3*n+1], in[3*n+2]
	out := make([]*graph.Node, 3*n, 3*n+1)
	for i, p := range l.params {
		out[i], out[n+i], out[2*n+i] = adamW(p, in[i], in[n+i], in[2*n+i], grads[i], rate, decay, c2)
	}
	return out
}

// clip scales gradients so that their joint norm is at most bound.
func clip(grads []*graph.Node, bound float64) []*graph.Node {
	var squares *graph.Node
	for _, g := range grads {
		squares = sum(squares, graph.ReduceAllSum(graph.Square(g)))
	}
	scale := graph.MinScalar(graph.MulScalar(graph.Reciprocal(graph.AddScalar(graph.Sqrt(squares), 1e-12)), bound), 1)
	out := make([]*graph.Node, len(grads))
	for i, g := range grads {
		out[i] = graph.Mul(g, scale)
	}
	return out
}

// keep copies the parameters to the host, those of the first device, as the best so far.
func (l *loop[B]) keep() error {
	if l.best == nil {
		l.best = make([][]float32, len(l.params))
	}
	for i, p := range l.params {
		if l.best[i] == nil {
			l.best[i] = make([]float32, p.size())
		}
		err := tensors.ConstFlatData(l.state[i], func(flat []float32) { copy(l.best[i], flat) })
		if err != nil {
			return err
		}
		l.state[i].FinalizeLocal() // where it is a copy of the backend's
	}
	return nil
}

// weights returns the best state by name, before the first check the initial one.
func (l *loop[B]) weights() map[string][]float32 {
	w := map[string][]float32{}
	for i, p := range l.params {
		if w[p.name] = p.value; l.best != nil {
			w[p.name] = l.best[i]
		}
	}
	return w
}
