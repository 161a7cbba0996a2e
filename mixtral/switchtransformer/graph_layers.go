package switchtransformer

import (
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	g "github.com/gomlx/gomlx/core/graph"
)

// The graph-building functions below follow transformers'
// models/switch_transformers/modeling_switch_transformers.py. B documents of T
// tokens are N = B*T rows; S is a number of keys, and hd is d_kv.

func float(x *g.Node) *g.Node { return g.ConvertDType(x, dtypes.Float32) }

// embedding returns the embeddings [N,D] of tokens [N]. embed: [V,D].
func embedding(tokens, embed *g.Node) *g.Node {
	return float(g.Gather(embed, g.InsertAxes(tokens, -1)))
}

// rmsNorm returns x / sqrt(mean(x^2) + eps) * w. x: [N,D] float32; w: [D].
func rmsNorm(x, w *g.Node, eps float64) *g.Node {
	ms := g.ReduceAndKeep(g.Square(x), g.ReduceMean, -1) // [N,1]
	x = g.Mul(x, g.Rsqrt(g.AddScalar(ms, eps)))          // [N,D]
	return g.Mul(x, g.InsertAxes(w, 0))                  // [N,D]
}

// linear returns x W^T in float32. x: [N,I]; w: [O,I]. x is rounded to w's type,
// since XLA CPU has no mixed products.
func linear(x, w *g.Node) *g.Node {
	return float(g.DotGeneral(g.ConvertDType(x, w.DType()), []int{1}, nil, w, []int{1}, nil))
}

// batchedLinear is linear for E matrices: x [E,C,I], w [E,O,I], result [E,C,O].
func batchedLinear(x, w *g.Node) *g.Node {
	return float(g.DotGeneral(g.ConvertDType(x, w.DType()), []int{2}, []int{0}, w, []int{2}, []int{0}))
}

// masked is added to scores of keys that a query does not see. It is finite, so that
// a row of padding stays finite, and its exponential is 0 relative to any other
// score.
const masked = -1e30

// hidden returns 0 where sees, and masked elsewhere.
func hidden(sees *g.Node) *g.Node {
	zero := g.Scalar(sees.Graph(), dtypes.Float32, float32(0))
	none := g.Scalar(sees.Graph(), dtypes.Float32, float32(masked))
	dims := sees.Shape().Dimensions
	return g.Where(sees, g.BroadcastToDims(zero, dims...), g.BroadcastToDims(none, dims...))
}

// padding returns what hides keys [S] that are not among the first lens [B],
// [B,1,1,S].
func padding(lens *g.Node, size int) *g.Node {
	b := lens.Shape().Dimensions[0]
	shape := shapes.Make(dtypes.Int32, b, 1, 1, size)
	return hidden(g.LessThan(g.Iota(lens.Graph(), shape, 3), g.BroadcastToDims(g.Reshape(lens, b, 1, 1, 1), shape.Dimensions...)))
}

// heads splits y [N,n*H*hd] into n of [B,H,T,hd], of the type of products.
func heads(y *g.Node, n, b, t, h int, dtype dtypes.DType) []*g.Node {
	hd := y.Shape().Dimensions[1] / (n * h)
	y = g.TransposeAllAxes(g.Reshape(g.ConvertDType(y, dtype), b, t, n, h, hd), 2, 0, 3, 1, 4) // [n,B,H,T,hd]
	out := make([]*g.Node, n)
	for i := range out {
		out[i] = g.Reshape(g.SliceAxis(y, 0, g.AxisRange(i, i+1)), b, h, t, hd)
	}
	return out
}

// attend returns the attention of queries q [B,H,T,hd] over keys and values
// [B,H,S,hd], [N,H*hd] float32. Scores are not scaled; to them is added what has axes
// [B,H,T,S], of which some are 1.
func attend(q, k, v *g.Node, add ...*g.Node) *g.Node {
	dims := q.Shape().Dimensions
	b, h, t, hd := dims[0], dims[1], dims[2], dims[3]
	scores := float(g.DotGeneral(q, []int{3}, []int{0, 1}, k, []int{3}, []int{0, 1})) // [B,H,T,S]
	for _, a := range add {
		scores = g.Add(scores, a)
	}
	p := g.Exp(g.Sub(scores, g.ReduceAndKeep(scores, g.ReduceMax, 3)))
	sum := g.ReduceAndKeep(p, g.ReduceSum, 3) // [B,H,T,1]
	y := float(g.DotGeneral(g.ConvertDType(p, v.DType()), []int{3}, []int{0, 1}, v, []int{2}, []int{0, 1}))
	y = g.Div(y, sum) // [B,H,T,hd], fewer numbers than p
	return g.Reshape(g.TransposeAllAxes(y, 0, 2, 1, 3), b*t, h*hd)
}

// relativeBias returns what the encoder's self-attention adds to scores,
// [1,H,T,T]. table: [NB,H]; buckets: of distances from 1-T to T-1 of a key after
// its query, int32 [2T-1].
func relativeBias(table, buckets *g.Node, t int) *g.Node {
	shape := shapes.Make(dtypes.Int32, t, t)
	gr := table.Graph()
	distance := g.AddScalar(g.Sub(g.Iota(gr, shape, 1), g.Iota(gr, shape, 0)), int32(t-1))
	return biasOf(table, buckets, g.InsertAxes(distance, 0))
}

// biasOf returns [B,H,T,S] of indices [B,T,S] into buckets.
func biasOf(table, buckets, index *g.Node) *g.Node {
	profile := g.Gather(table, g.InsertAxes(buckets, -1)) // of each distance, [M,H]
	bias := g.Gather(profile, g.InsertAxes(index, -1))    // [B,T,S,H]
	return g.TransposeAllAxes(bias, 0, 3, 1, 2)
}

// causalBias returns what the decoder's self-attention adds to scores of T queries,
// from positions starts [B], and the keys of positions before c, [B,H,T,C]. buckets:
// of distances from 0 to M-1 of a query after its key, int32 [M]; later distances
// have the bucket of the last.
func causalBias(table, buckets, starts *g.Node, t, c int) *g.Node {
	b := starts.Shape().Dimensions[0]
	shape := shapes.Make(dtypes.Int32, b, t, c)
	gr := table.Graph()
	query := g.Add(g.Iota(gr, shape, 1), g.BroadcastToDims(g.Reshape(starts, b, 1, 1), shape.Dimensions...))
	distance := g.Sub(query, g.Iota(gr, shape, 2)) // [B,T,C]
	zero := g.ZerosLike(distance)
	last := g.AddScalar(zero, int32(buckets.Shape().Dimensions[0]-1))
	bias := biasOf(table, buckets, g.Min(g.Max(distance, zero), last))
	return g.Add(bias, g.InsertAxes(hidden(g.GreaterOrEqual(distance, zero)), 1))
}

// appended returns keys or values old [B,H,C,hd] with now [B,H,T,hd] from the
// positions starts [B].
func appended(old, now, starts *g.Node) *g.Node {
	dims := old.Shape().Dimensions
	b, h, c, hd := dims[0], dims[1], dims[2], dims[3]
	t := now.Shape().Dimensions[2]
	shape := shapes.Make(dtypes.Int32, b, 1, c, 1)
	gr := old.Graph()
	at := g.Sub(g.Iota(gr, shape, 2), g.BroadcastToDims(g.Reshape(starts, b, 1, 1, 1), shape.Dimensions...)) // [B,1,C,1]
	zero := g.ZerosLike(at)
	isNew := g.LogicalAnd(g.GreaterOrEqual(at, zero), g.LessThan(at, g.AddScalar(zero, int32(t))))
	if t > 1 {
		last := g.AddScalar(zero, int32(t-1))
		row := g.Add(g.Min(g.Max(at, zero), last), g.MulScalar(g.Iota(gr, shape, 0), int32(t)))
		rows := g.Reshape(g.TransposeAllAxes(now, 0, 2, 1, 3), b*t, h*hd)
		rows = g.Gather(rows, g.Reshape(row, b*c, 1)) // [B*C,H*hd]
		now = g.TransposeAllAxes(g.Reshape(rows, b, c, h, hd), 0, 2, 1, 3)
	}
	return g.Where(g.BroadcastToDims(isNew, dims...), g.BroadcastToDims(now, dims...), old)
}
