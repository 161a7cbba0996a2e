package kernel

import "golang.org/x/sys/cpu"

var vectors = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512DQ

// pairs tells that the processor multiplies pairs of bfloat16 (AVX512_BF16).
var pairs = vectors && cpu.X86.HasAVX512BF16

// The functions below are in avx512_amd64.s and avx512bf16_amd64.s. Strides are in
// bytes.

// Pause waits some 20 ns, for a loop that waits for memory to change.
func Pause()

//go:noescape
func tile2(y, x, w *float32, ys, xs, xk, ws, wk, k int, add bool)

//go:noescape
func tile1(y, x, w *float32, xk, ws, wk, k int, add bool)

//go:noescape
func dotsF32(y, x, w *float32, ws, k int)

//go:noescape
func dotsBF16(y, x *float32, w *uint16, ws, k int)

//go:noescape
func dotsI8(y, x *float32, w *int8, ws, k int)

//go:noescape
func widenBF16(dst *float32, src *uint16, n int)

//go:noescape
func widenI8(dst *float32, src *int8, scale float32, n int)

//go:noescape
func expPanel(x *float32, n int, top, sum *float32)

//go:noescape
func maxPanel(x *float32, n int, top *float32)

//go:noescape
func swiglu(y, gate, up *float32, n int)

//go:noescape
func rotate(a, b, lo, hi, cos, sin *float32, n int)

//go:noescape
func squares(x *float32, n int, sum *float32)

//go:noescape
func scalePanel(y, x, w, r *float32, n int)

//go:noescape
func pairTile2(y, x, w *float32, ys, xs, xk, ws, wk, k int, add bool)

//go:noescape
func pairTile1(y, x, w *float32, xk, ws, wk, k int, add bool)

//go:noescape
func dotsPairs(y *float32, x, w *uint16, ws, k int)

//go:noescape
func bytesBF16(dst *uint16, src *int8, n int)

//go:noescape
func roundRow(dst *uint16, src *float32, n int)

//go:noescape
func pairPanel(dst, src *float32, n int)
