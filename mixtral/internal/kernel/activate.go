package kernel

import "math"

// Activate replaces x by an activation of it: relu, gelu, gelu_new (gelu by tanh) or
// silu, as transformers names them. It panics for another.
func Activate(name string, x []float32) {
	switch name {
	case "relu":
		for i, v := range x {
			// Without a branch: the sign bit, spread, clears the value.
			bits := math.Float32bits(v)
			x[i] = math.Float32frombits(bits &^ uint32(int32(bits)>>31))
		}
	case "gelu":
		for i, v := range x {
			x[i] = float32(.5 * float64(v) * (1 + math.Erf(float64(v)*(1/math.Sqrt2))))
		}
	case "gelu_new":
		const c = 0.79788456080286535588 // sqrt(2/pi)
		for i, v := range x {
			u := c * (v + 0.044715*v*v*v)
			// .5*(1+tanh(u)) = 1/(1+e^(-2u))
			x[i] = v / (1 + exp(-2*u))
		}
	case "silu":
		for i, v := range x {
			x[i] = v / (1 + exp(-v))
		}
	default:
		panic("kernel: no activation " + name)
	}
}
