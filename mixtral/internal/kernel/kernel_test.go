package kernel

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var random = rand.New(rand.NewPCG(1, 2))

func values(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(random.NormFloat64())
	}
	return x
}

// each runs a test or benchmark at every level of this processor. GODEBUG=cpu.avx512f=off
// or cpu.all=off lowers the best.
func each[T interface{ Run(string, func(T)) bool }](t T, f func(t T)) {
	defer func() { level = best }()
	for level = range best + 1 {
		t.Run([]string{"plain", "avx2", "avx512", "avx512bf16"}[level], f)
	}
}

// rounded returns x rounded to bfloat16 if pairs.
func rounded(x []float32, pairs bool) []float32 {
	if !pairs {
		return x
	}
	y := make([]float32, len(x))
	for i, v := range x {
		b := math.Float32bits(v)
		y[i] = math.Float32frombits((b + 0x7fff + b>>16&1) &^ 0xffff)
	}
	return y
}

// fit returns n rows or panels of x, of width values, made by pair if pairs.
func fit(x []float32, n, width int, pairs bool, pair func(dst, x []float32)) []float32 {
	if !pairs {
		return x
	}
	y := make([]float32, n*width)
	for i := range n {
		pair(y[i*width:(i+1)*width], x[i*len(x)/n:(i+1)*len(x)/n])
	}
	return y
}

// forms returns one matrix in three forms, and each form's exact values.
func forms(rows, columns int) map[string]struct {
	m     Matrix
	exact []float32
} {
	w := values(rows * columns)
	half, wide := make([]uint16, len(w)), make([]float32, len(w))
	i8, back, scale := make([]int8, len(w)), make([]float32, len(w)), values(rows)
	for i, v := range w {
		half[i] = uint16(math.Float32bits(v) >> 16)
		wide[i] = math.Float32frombits(uint32(half[i]) << 16)
		i8[i] = int8(random.IntN(255) - 127)
		back[i] = float32(i8[i]) * scale[i/columns]
	}
	return map[string]struct {
		m     Matrix
		exact []float32
	}{"f32": {F32(w, rows), w}, "bf16": {BF16(half, rows), wide}, "int8": {Int8(i8, scale, false), back}, "int8 rounded": {Int8(i8, scale, true), back}}
}

// product is x W^T in float64, with the sum of the terms' magnitudes.
func product(x, w []float32, k, r, o int) (sum, size float64) {
	for i := range k {
		v := float64(x[r*k+i]) * float64(w[o*k+i])
		sum += v
		size += math.Abs(v)
	}
	return
}

func TestDots(t *testing.T) {
	each(t, func(t *testing.T) {
		for _, k := range []int{1, 2, 15, 16, 17, 31, 32, 33, 48, 95, 96, 200} {
			const n, rows = 3, 11
			x := values(n * k)
			for name, f := range forms(rows, k) {
				for _, span := range [][2]int{{0, rows}, {1, 4}, {2, 3}, {3, 10}} {
					lo, hi := span[0], span[1]
					y := make([]float32, 2*13+hi-lo)
					f.m.Dots(y, 13, fit(x, n, f.m.RowWidth(), f.m.PairRows(), PairRow), n, lo, hi)
					exact := rounded(x, f.m.PairRows())
					for r := range n {
						for o := lo; o < hi; o++ {
							want, size := product(exact, f.exact, k, r, o)
							require.InDelta(t, want, y[r*13+o-lo], 1e-6*size+1e-12, "%s k %d row %d of %d %v", name, k, r, o, span)
						}
					}
				}
			}
		}
	})
}

func pack(x []float32, n, k int) []float32 {
	p := make([]float32, (n+Lanes-1)/Lanes*k*Lanes)
	for r := range n {
		for i := range k {
			p[(r/Lanes*k+i)*Lanes+r%Lanes] = x[r*k+i]
		}
	}
	return p
}

func TestPanels(t *testing.T) {
	each(t, func(t *testing.T) {
		var s Scratch
		for _, k := range []int{1, 7, 96, block, block + 1, 2*block + 9} {
			for _, n := range []int{1, 16, 17, 40} {
				const rows = 29
				x := values(n * k)
				for name, f := range forms(rows, k) {
					for _, span := range [][2]int{{0, rows}, {3, 15}, {28, 29}} {
						lo, hi := span[0], span[1]
						p, exact := (n+Lanes-1)/Lanes, rounded(x, f.m.PairPanels())
						y, stride := f.m.Panels(&s, fit(pack(x, n, k), p, f.m.PanelWidth()*Lanes, f.m.PairPanels(), PairPanel), p, lo, hi)
						for r := range n {
							for o := lo; o < hi; o++ {
								want, size := product(exact, f.exact, k, r, o)
								got := y[(r/Lanes*stride+o-lo)*Lanes+r%Lanes]
								require.InDelta(t, want, got, 2e-6*size+1e-12, "%s k %d row %d of %d %v", name, k, r, o, span)
							}
						}
					}
				}
			}
		}
	})
}

func TestTileStrides(t *testing.T) {
	each(t, func(t *testing.T) {
		const k, xk, ws, wk = 5, 37, 1, 19
		x, w := values(2*200+k*xk+Lanes), values(TileRows*ws+k*wk)
		for _, add := range []bool{false, true} {
			y := values(2 * TileRows * Lanes)
			was := append([]float32{}, y...)
			tile := Tile{Y: y, X: x, W: w, YS: TileRows * Lanes, XS: 200, XK: xk, WS: ws, WK: wk, K: k, Add: add}
			tile.Run(true)
			for i, got := range y {
				p, o, l := i/Lanes/TileRows, i/Lanes%TileRows, i%Lanes
				want := 0.0
				if add {
					want = float64(was[i])
				}
				for j := range k {
					want += float64(w[o*ws+j*wk]) * float64(x[p*200+j*xk+l])
				}
				require.InDelta(t, want, got, 1e-5)
			}
		}
	})
}

func TestSoftmax(t *testing.T) {
	each(t, func(t *testing.T) {
		for _, n := range []int{1, 2, 3, 50} {
			x := values(n * Lanes)
			for i := range x {
				x[i] *= 20
			}
			x[5], x[6] = -1e30, 300
			y := append([]float32{}, x...)
			sum := Softmax(y)
			for l := range Lanes {
				top, total := x[l], 0.0
				for i := l; i < len(x); i += Lanes {
					top = max(top, x[i])
				}
				for i := l; i < len(x); i += Lanes {
					want := math.Exp(float64(x[i] - top))
					total += want
					require.InDelta(t, want, y[i], 3e-7*want+1e-37)
				}
				require.InDelta(t, total, sum[l], 1e-5*total)
			}
		}
	})
}

func TestSoftmaxRow(t *testing.T) {
	each(t, func(t *testing.T) {
		for _, n := range []int{1, 15, 16, 17, 100} {
			x := values(n)
			x[n-1] = 9
			y := append([]float32{}, x...)
			total := 0.0
			sum := SoftmaxRow(y)
			for i := range x {
				want := math.Exp(float64(x[i] - 9))
				total += want
				require.InDelta(t, want, y[i], 3e-7*want)
			}
			require.InDelta(t, total, sum, 1e-5*total)
		}
	})
}

func TestSwiGLU(t *testing.T) {
	each(t, func(t *testing.T) {
		for _, n := range []int{1, 15, 16, 17, 40} {
			gate, up, y := values(n), values(n), make([]float32, n+1)
			gate[0] = -1e30
			for i := 1; i < n; i++ {
				gate[i] *= 30
			}
			SwiGLU(y[:n], gate, up)
			for i := range n {
				g := float64(gate[i])
				want := g / (1 + math.Exp(-g)) * float64(up[i])
				require.InDelta(t, want, y[i], 1e-6*math.Abs(want)+1e-30)
			}
			assert.Zero(t, y[n])
		}
	})
}

func TestRotate(t *testing.T) {
	each(t, func(t *testing.T) {
		for _, n := range []int{1, 16, 19, 48} {
			lo, hi, cos, sin := values(n), values(n), values(n), values(n)
			a, b := make([]float32, n), make([]float32, n)
			Rotate(a, b, lo, hi, cos, sin)
			for i := range n {
				require.InDelta(t, lo[i]*cos[i]-hi[i]*sin[i], a[i], 1e-5)
				require.InDelta(t, hi[i]*cos[i]+lo[i]*sin[i], b[i], 1e-5)
			}
		}
	})
}

func TestNorm(t *testing.T) {
	each(t, func(t *testing.T) {
		const eps = 1e-3
		for _, d := range []int{3, 16, 21, 96} {
			x, w := values(Lanes*d), values(d)
			panel := make([]float32, len(x))
			NormPanel(panel, pack(x, Lanes, d), w, eps)
			for r := range Lanes {
				row, y := x[r*d:][:d], make([]float32, d)
				Norm(y, row, w, eps)
				sum := 0.0
				for _, v := range row {
					sum += float64(v) * float64(v)
				}
				for i := range d {
					want := float64(row[i]) / math.Sqrt(sum/float64(d)+eps) * float64(w[i])
					require.InDelta(t, want, y[i], 1e-5)
					require.InDelta(t, want, panel[i*Lanes+r], 1e-5)
				}
			}
		}
	})
}

func TestOutOfRange(t *testing.T) {
	m := F32(values(12), 3)
	assert.Panics(t, func() { m.Dots(make([]float32, 9), 3, values(4), 1, 0, 4) })
	assert.Panics(t, func() { m.Dots(make([]float32, 2), 3, values(4), 1, 0, 3) })
	assert.Panics(t, func() { m.Dots(make([]float32, 9), 3, values(7), 2, 0, 3) })
	assert.Panics(t, func() { m.Panels(new(Scratch), values(4), 1, 0, 3) })
}

func BenchmarkPanels(b *testing.B) {
	each(b, func(b *testing.B) {
		for name, f := range forms(BlockRows, 4096) {
			b.Run(name, func(b *testing.B) {
				const p = 8
				var s Scratch
				x := values(p * Lanes * 4096)
				for b.Loop() {
					f.m.Panels(&s, x[:p*Lanes*f.m.PanelWidth()], p, 0, BlockRows)
				}
				b.ReportMetric(float64(b.N)*2*p*Lanes*4096*BlockRows/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	})
}

// BenchmarkDots reads more weights than the caches hold.
func BenchmarkDots(b *testing.B) {
	const rows, columns = 1 << 15, 4096
	all := forms(rows, columns)
	each(b, func(b *testing.B) {
		for name, f := range all {
			b.Run(name, func(b *testing.B) {
				x, y := values(columns), make([]float32, rows)
				for b.Loop() {
					f.m.Dots(y, rows, x[:f.m.RowWidth()], 1, 0, rows)
				}
				b.ReportMetric(float64(b.N)*float64(rows*f.m.Bytes())/b.Elapsed().Seconds()/1e9, "GB/s")
			})
		}
	})
}
