//go:build !goexperiment.simd || !amd64

package mixtral

// int8Sums writes sums[j*4+k], whose total is the product of row k of x [N,in] and
// row j of w [rows,in] over the first done columns. n is at most 4.
func int8Sums(sums *[4 * int8Block][4]float32, x []float32, w []int8, in, n, rows int) (done int) {
	return int8SumsPlain(sums, x, w, in, n, rows)
}
