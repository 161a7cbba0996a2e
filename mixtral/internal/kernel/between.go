package kernel

import "math"

// What is between a transformer's products, on panels or on rows of them.

// Softmax replaces scores [S,16] by e^(score - the lane's largest) and returns the
// lanes' sums, by which to divide. No score may be infinite or NaN.
func Softmax(scores []float32) (sum [Lanes]float32) {
	n := len(scores) / Lanes
	if n == 0 {
		return
	}
	top := [Lanes]float32(scores)
	for i := maxPanel(&scores[0], n, &top[0]) * Lanes; i < n*Lanes; i++ {
		top[i%Lanes] = largest(top[i%Lanes], scores[i])
	}
	for i := expPanel(&scores[0], n, &top[0], &sum[0]) * Lanes; i < n*Lanes; i++ {
		v := exp(scores[i] - top[i%Lanes])
		scores[i] = v
		sum[i%Lanes] += v
	}
	return
}

// SoftmaxRow is Softmax of one row of scores [S].
func SoftmaxRow(scores []float32) (sum float32) {
	if len(scores) == 0 {
		return 0
	}
	n := 0
	top, sums := scores[0], [Lanes]float32{}
	if len(scores) >= Lanes {
		tops := [Lanes]float32(scores)
		n = maxPanel(&scores[0], len(scores)/Lanes, &tops[0])
		for _, v := range tops {
			top = largest(top, v)
		}
	}
	for _, v := range scores[n*Lanes:] {
		top = largest(top, v)
	}
	if n > 0 {
		tops := [Lanes]float32{top, top, top, top, top, top, top, top, top, top, top, top, top, top, top, top}
		expPanel(&scores[0], n, &tops[0], &sums[0])
	}
	for i, v := range scores[n*Lanes:] {
		v = exp(v - top)
		scores[n*Lanes+i] = v
		sum += v
	}
	for _, v := range sums {
		sum += v
	}
	return sum
}

// largest returns the larger of a and b. The built-in max takes three times as
// long, since it orders NaN and signed zeros.
func largest(a, b float32) float32 {
	if b > a {
		return b
	}
	return a
}

// SwiGLU writes silu(gate)*up to y, all of one length.
func SwiGLU(y, gate, up []float32) {
	if len(y) == 0 {
		return
	}
	_, _ = gate[len(y)-1], up[len(y)-1]
	for i := swiglu(&y[0], &gate[0], &up[0], len(y)); i < len(y); i++ {
		g := gate[i]
		y[i] = g / (1 + exp(-g)) * up[i]
	}
}

// Rotate writes lo*cos - hi*sin to a and hi*cos + lo*sin to b, all of one length.
func Rotate(a, b, lo, hi, cos, sin []float32) {
	n := len(a)
	if n == 0 {
		return
	}
	_, _, _, _, _ = b[n-1], lo[n-1], hi[n-1], cos[n-1], sin[n-1]
	done := 0
	if n >= Lanes {
		done = rotate(&a[0], &b[0], &lo[0], &hi[0], &cos[0], &sin[0], n/Lanes) * Lanes
	}
	for i := done; i < n; i++ {
		x, y := lo[i], hi[i]
		a[i], b[i] = x*cos[i]-y*sin[i], y*cos[i]+x*sin[i]
	}
}

// NormPanel writes x / sqrt(mean(x^2) + eps) * w to y, for a panel x [D,16].
func NormPanel(y, x, w []float32, eps float64) {
	n := len(w)
	_, _ = y[n*Lanes-1], x[n*Lanes-1]
	var sum [Lanes]float32
	for i := squares(&x[0], n, &sum[0]) * Lanes; i < n*Lanes; i++ {
		sum[i%Lanes] += x[i] * x[i]
	}
	for i, s := range sum {
		sum[i] = inverse(s, n, eps)
	}
	for i := scalePanel(&y[0], &x[0], &w[0], &sum[0], n) * Lanes; i < n*Lanes; i++ {
		y[i] = x[i] * sum[i%Lanes] * w[i/Lanes]
	}
}

// Norm writes x / sqrt(mean(x^2) + eps) * w to y, for a row x [D].
func Norm(y, x, w []float32, eps float64) {
	var parts [Lanes]float32
	done := 0
	if len(x) >= Lanes {
		done = squares(&x[0], len(x)/Lanes, &parts[0]) * Lanes
	}
	var sum float32
	for _, v := range x[done:] {
		sum += v * v
	}
	for _, v := range parts {
		sum += v
	}
	r := inverse(sum, len(x), eps)
	y, w = y[:len(x)], w[:len(x)]
	for i, v := range x {
		y[i] = v * r * w[i]
	}
}

func inverse(squares float32, n int, eps float64) float32 {
	return float32(1 / math.Sqrt(float64(squares)/float64(n)+eps))
}

// exp returns e^x within 2 units in the last place for -87 <= x <= 88; below that 0,
// above +Inf. Cephes' expf (S. Moshier): x = n ln 2 + g, e^g by a polynomial.
func exp(x float32) float32 {
	const (
		log2e = 1.44269504088896341
		ln2Hi = 0.693359375
		ln2Lo = -2.12194440e-4
	)
	switch {
	case x < -87:
		return 0
	case x > 88:
		return float32(math.Inf(1))
	}
	n := int32(x*log2e+128.5) - 128 // round to nearest; x*log2e > -126
	z := float32(n)
	g := x - z*ln2Hi - z*ln2Lo
	p := ((((1.9875691500e-4*g+1.3981999507e-3)*g+8.3334519073e-3)*g+4.1665795894e-2)*g+1.6666665459e-1)*g + 5.0000001201e-1
	return (p*(g*g) + g + 1) * math.Float32frombits(uint32(n+127)<<23)
}
