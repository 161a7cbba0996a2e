//go:build !amd64

package kernel

import "runtime"

// There is no assembly for this processor.
const best = plain

// Pause yields the processor, for a loop that waits for memory to change.
func Pause() { runtime.Gosched() }

func dotsF32(y, x, w *float32, ws, k int) int                         { return 0 }
func dotsBF16(y, x *float32, w *uint16, ws, k int) int                { return 0 }
func dotsI8(y, x *float32, w *int8, ws, k int) int                    { return 0 }
func widenBF16(dst *float32, src *uint16, n int) int                  { return 0 }
func widenI8(dst *float32, src *int8, scale float32, n int) int       { return 0 }
func expPanel(x *float32, n int, top, sum *float32) int               { return 0 }
func maxPanel(x *float32, n int, top *float32) int                    { return 0 }
func swiglu(y, gate, up *float32, n int) int                          { return 0 }
func rotate(a, b, lo, hi, cos, sin *float32, n int) int               { return 0 }
func squares(x *float32, n int, sum *float32) int                     { return 0 }
func scalePanel(y, x, w, r *float32, n int) int                       { return 0 }
func tile2(y, x, w *float32, ys, xs, xk, ws, wk, k int, add bool)     { panic("unreachable") }
func tile1(y, x, w *float32, xk, ws, wk, k int, add bool)             { panic("unreachable") }
func pairTile2(y, x, w *float32, ys, xs, xk, ws, wk, k int, add bool) { panic("unreachable") }
func pairTile1(y, x, w *float32, xk, ws, wk, k int, add bool)         { panic("unreachable") }
func dotsPairs(y *float32, x, w *uint16, ws, k int)                   { panic("unreachable") }
func bytesBF16(dst *uint16, src *int8, n int)                         { panic("unreachable") }
func roundRow(dst *uint16, src *float32, n int)                       { panic("unreachable") }
func pairPanel(dst, src *float32, n int)                              { panic("unreachable") }
