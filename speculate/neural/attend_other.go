//go:build !(goexperiment.simd && amd64)

package neural

// attendHeads adds to out [heads*hd] the attention of at most 8 heads' queries
// q [heads*hd] over n rows of keys and values, stride apart; scores
// has room for n.
func attendHeads(q, keys, values, out, scores []float32, n, stride, hd, heads int) {
	attendPlain(q, keys, values, out, scores, n, stride, hd, heads)
}
