package pq

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	foreigndelta "github.com/parquet-go/parquet-go/encoding/delta"
	"github.com/parquet-go/parquet-go/encoding/rle"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
			require.NoError(t, err)
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
				require.NoError(t, err)
				i += k
			}
			require.Equal(t, want, got, "width %d, %d values: %v, expected %v", width, n, got, want)
			assert.Error(t, h.read(make([]uint32, 9)), "width %d: reading past the end succeeds", width)
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
	require.NoError(t, err)
	h, err := newHybrid(b, 3)
	require.NoError(t, err)
	got := make([]uint32, len(want))
	require.NoError(t, h.read(got))
	for i, v := range want {
		require.Equal(t, uint32(v), got[i])
	}
}

func TestRuns(t *testing.T) {
	b := appendRun(nil, 300, 5, 9)
	b = appendPacked(b, []uint32{1, 2, 3, 4, 5, 6, 7, 511}, 9)
	b = appendRun(b, 0, 1000, 9)
	h, err := newHybrid(b, 9)
	require.NoError(t, err)
	var got []uint32
	for len(got) < 5+8+1000 {
		v, n, err := h.run(400)
		require.NoError(t, err)
		require.LessOrEqual(t, n, 400)
		got = append(got, slices.Repeat([]uint32{v}, n)...)
	}
	want := append(slices.Repeat([]uint32{300}, 5), 1, 2, 3, 4, 5, 6, 7, 511)
	assert.Equal(t, append(want, make([]uint32, 1000)...), got)
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
		require.NoError(t, err)
		for i, w := range want {
			v, err := d.read()
			require.NoError(t, err, "%s, value %d", name, i)
			require.Equal(t, w, int32(v), "%s, value %d", name, i)
		}
		_, err = d.read()
		assert.Error(t, err, "%s: past the end", name)
		foreign, err := new(foreigndelta.BinaryPackedEncoding).DecodeInt32(nil, b)
		require.NoError(t, err, name)
		assert.True(t, slices.Equal(want, foreign), "%s: parquet-go decodes %v", name, foreign)
		b, err = new(foreigndelta.BinaryPackedEncoding).EncodeInt32(nil, want)
		require.NoError(t, err)
		d, err = newDelta(b)
		require.NoError(t, err)
		for i, w := range want {
			v, err := d.read()
			require.NoError(t, err, "%s, foreign, value %d", name, i)
			require.Equal(t, w, int32(v), "%s, foreign, value %d", name, i)
		}
	}
	n := len(appendDelta(nil, count(8192, func(i int) int32 { return int32(i) })))
	assert.LessOrEqual(t, n, 500)
}
