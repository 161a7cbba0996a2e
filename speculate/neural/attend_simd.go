//go:build goexperiment.simd && amd64

package neural

import (
	"simd/archsimd"
	"unsafe"
)

// attendHeads adds to out [heads*hd] the attention of at most 8 heads' queries
// q [heads*hd] over n rows of keys and values, stride apart. hd is a multiple of 8;
// scores has room for [n,8].
func attendHeads(q, keys, values, out, scores []float32, n, stride, hd, heads int) {
	if !vectors {
		attendPlain(q, keys, values, out, scores, n, stride, hd, heads)
		return
	}
	scores = scores[:8*n]
	scoreHeads(q[:heads*hd], keys[:(n-1)*stride+heads*hd], scores, stride, hd)
	softmaxRows(scores)
	sumHeads(values[:(n-1)*stride+heads*hd], out[:heads*hd], scores, stride, hd)
	archsimd.ClearAVXUpperBits()
}

// scoreHeads writes the product of each row's keys with q, [n,8], heads by lane. Rows
// are far apart in memory: two at a time are read.
func scoreHeads(q, keys, scores []float32, stride, hd int) {
	var sums [2][8][8]float32 // of two rows: of each head, in eight parts
	for r := 0; r < len(scores)/8; r += 2 {
		next := min(r+1, len(scores)/8-1)
		k, l := keys[r*stride:][:len(q)], keys[next*stride:][:len(q)]
		for h := 0; h*hd < len(q); h++ {
			var s, t archsimd.Float32x8
			for i := h * hd; i < (h+1)*hd; i += 8 {
				x := load(arrayAt[[8]float32](q, i))
				s, t = x.MulAdd(load(arrayAt[[8]float32](k, i)), s), x.MulAdd(load(arrayAt[[8]float32](l, i)), t)
			}
			s.Store(&sums[0][h])
			t.Store(&sums[1][h])
		}
		addLanes(&sums[0], arrayAt[[8]float32](scores, r*8))
		addLanes(&sums[1], arrayAt[[8]float32](scores, next*8))
	}
}

// addLanes writes the sum of each row of x to out.
func addLanes(x *[8][8]float32, out *[8]float32) {
	a := load(&x[0]).AddPairsGrouped(load(&x[1]))
	b := load(&x[2]).AddPairsGrouped(load(&x[3]))
	c := load(&x[4]).AddPairsGrouped(load(&x[5]))
	d := load(&x[6]).AddPairsGrouped(load(&x[7]))
	a, c = a.AddPairsGrouped(b), c.AddPairsGrouped(d)
	a.Select128FromPair(0, 2, c).Add(a.Select128FromPair(1, 3, c)).Store(out)
}

// softmaxRows turns scores [n,8] into each lane's softmax over rows.
func softmaxRows(scores []float32) {
	top := load((*[8]float32)(scores))
	for r := 8; r < len(scores); r += 8 {
		top = top.Max(load(arrayAt[[8]float32](scores, r)))
	}
	var total archsimd.Float32x8
	for r := 0; r < len(scores); r += 8 {
		p := arrayAt[[8]float32](scores, r)
		e := exp8(load(p).Sub(top))
		total = total.Add(e)
		e.Store(p)
	}
	one := archsimd.BroadcastFloat32x8(1)
	scale := one.Div(total)
	for r := 0; r < len(scores); r += 8 {
		p := arrayAt[[8]float32](scores, r)
		load(p).Mul(scale).Store(p)
	}
}

// exp8 returns e^x for x at most 0 with a relative error of about 2e-7: 2^n times
// the series of the remainder, which is within ln(2)/2 of 0.
func exp8(x archsimd.Float32x8) archsimd.Float32x8 {
	x = x.Max(archsimd.BroadcastFloat32x8(-87))
	n := x.Mul(archsimd.BroadcastFloat32x8(1.4426950408889634)).RoundToEven()
	r := n.MulAdd(archsimd.BroadcastFloat32x8(-0.693359375), x)
	r = n.MulAdd(archsimd.BroadcastFloat32x8(2.12194440e-4), r)
	p := archsimd.BroadcastFloat32x8(1. / 720)
	p = p.MulAdd(r, archsimd.BroadcastFloat32x8(1./120))
	p = p.MulAdd(r, archsimd.BroadcastFloat32x8(1./24))
	p = p.MulAdd(r, archsimd.BroadcastFloat32x8(1./6))
	p = p.MulAdd(r, archsimd.BroadcastFloat32x8(.5))
	one := archsimd.BroadcastFloat32x8(1)
	p = p.MulAdd(r, one)
	p = p.MulAdd(r, one)
	power := n.ConvertToInt32().Add(archsimd.BroadcastInt32x8(127)).ShiftAllLeft(23)
	return p.Mul(power.AsFloat32x8())
}

// sumHeads adds the rows of values, weighted by scores [n,8], to out.
func sumHeads(values, out, scores []float32, stride, hd int) {
	for i := 0; i < len(out); i += 8 {
		sum := load(arrayAt[[8]float32](out, i))
		w := unsafe.Pointer(&scores[i/hd])
		v := unsafe.Pointer(&values[i])
		for r := range len(scores) / 8 {
			sum = spread8(*(*uint32)(unsafe.Add(w, 32*r))).MulAdd(load((*[8]float32)(unsafe.Add(v, 4*stride*r))), sum)
		}
		sum.Store(arrayAt[[8]float32](out, i))
	}
}
