package pq

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	foreigndelta "github.com/parquet-go/parquet-go/encoding/delta"
	"github.com/parquet-go/parquet-go/encoding/rle"
)

func TestHybridPacked(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for width := uint(1); width <= 32; width++ {
		for _, n := range []int{1, 7, 8, 9, 100, 1003} {
			want := make([]uint32, n)
			for i := range want {
				want[i] = uint32(rng.Uint64() & (1<<width - 1))
			}
			h, err := newHybrid(appendPacked(nil, want, width), width)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]uint32, n)
			// In pieces, and with some values skipped.
			for i := 0; i < n; {
				k := min(n-i, 1+rng.IntN(20))
				if rng.IntN(3) == 0 {
					copy(got[i:i+k], want[i:i+k])
					err = h.skip(k)
				} else {
					err = h.read(got[i : i+k])
				}
				if err != nil {
					t.Fatal(err)
				}
				i += k
			}
			if !slices.Equal(got, want) {
				t.Fatalf("width %d, %d values: %v, want %v", width, n, got, want)
			}
			if err := h.read(make([]uint32, 9)); err == nil {
				t.Errorf("width %d: reading past the end succeeds", width)
			}
		}
	}
}

// TestHybridForeign reads what parquet-go's encoder wrote.
func TestHybridForeign(t *testing.T) {
	want := make([]int32, 0, 3000)
	for i := range 1000 {
		want = append(want, int32(i%7), int32(i/300), 3)
	}
	b, err := (&rle.Encoding{BitWidth: 3}).EncodeInt32(nil, want)
	if err != nil {
		t.Fatal(err)
	}
	h, err := newHybrid(b, 3)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]uint32, len(want))
	if err := h.read(got); err != nil {
		t.Fatal(err)
	}
	for i, v := range want {
		if got[i] != uint32(v) {
			t.Fatalf("value %d is %d, want %d", i, got[i], v)
		}
	}
}

func TestRuns(t *testing.T) {
	b := appendRun(nil, 300, 5, 9)
	b = appendPacked(b, []uint32{1, 2, 3, 4, 5, 6, 7, 511}, 9)
	b = appendRun(b, 0, 1000, 9)
	h, err := newHybrid(b, 9)
	if err != nil {
		t.Fatal(err)
	}
	var got []uint32
	for len(got) < 5+8+1000 {
		v, n, err := h.run(400)
		if err != nil || n > 400 {
			t.Fatal(n, err)
		}
		got = append(got, slices.Repeat([]uint32{v}, n)...)
	}
	want := append(slices.Repeat([]uint32{300}, 5), 1, 2, 3, 4, 5, 6, 7, 511)
	if !slices.Equal(got, append(want, make([]uint32, 1000)...)) {
		t.Error(got)
	}
}

func TestDelta(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	count := func(n int, f func(i int) int32) []int32 {
		v := make([]int32, n)
		for i := range v {
			v[i] = f(i)
		}
		return v
	}
	for name, want := range map[string][]int32{
		"empty":    {},
		"one":      {-7},
		"counter":  count(1000, func(i int) int32 { return int32(i) }),
		"restarts": count(1000, func(i int) int32 { return int32(i % 129) }),
		"random":   count(777, func(int) int32 { return int32(rng.Uint32()) }),
		"extremes": {math.MinInt32, math.MaxInt32, math.MinInt32, 0, math.MaxInt32},
	} {
		b := appendDelta(nil, want)
		d, err := newDelta(b)
		if err != nil {
			t.Fatal(name, err)
		}
		for i, w := range want {
			if v, err := d.read(); err != nil || int32(v) != w {
				t.Fatalf("%s: value %d is %d, want %d (%v)", name, i, v, w, err)
			}
		}
		if _, err := d.read(); err == nil {
			t.Errorf("%s: reading past the end succeeds", name)
		}
		foreign, err := new(foreigndelta.BinaryPackedEncoding).DecodeInt32(nil, b)
		if err != nil || !slices.Equal(foreign, want) {
			t.Errorf("%s: parquet-go decodes %v, %v", name, foreign, err)
		}
		if b, err = new(foreigndelta.BinaryPackedEncoding).EncodeInt32(nil, want); err != nil {
			t.Fatal(err)
		}
		if d, err = newDelta(b); err != nil {
			t.Fatal(name, err)
		}
		for i, w := range want {
			if v, err := d.read(); err != nil || int32(v) != w {
				t.Fatalf("%s, foreign: value %d is %d, want %d (%v)", name, i, v, w, err)
			}
		}
	}
	if n := len(appendDelta(nil, count(8192, func(i int) int32 { return int32(i) }))); n > 500 {
		t.Errorf("a counter of 8192 takes %d bytes", n)
	}
}
