package trace_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSplitDocuments(t *testing.T) {
	var keys []trace.Key
	for set, n := range []int{10, 7, 3, 100} {
		for i := range n {
			keys = append(keys, trace.Key{Dataset: fmt.Sprint("set", set), Document: fmt.Sprint("doc", i)})
		}
	}
	fractions := []float64{.7, .1, .2}
	part, err := trace.SplitDocuments(keys, 5, fractions)
	require.NoError(t, err)
	sizes := map[string][]int{}
	of := map[trace.Key]int{}
	for i, k := range keys {
		if sizes[k.Dataset] == nil {
			sizes[k.Dataset] = make([]int, 3)
		}
		sizes[k.Dataset][part[i]]++
		of[k] = part[i]
	}
	want := map[string][]int{"set0": {7, 1, 2}, "set1": {5, 1, 1}, "set2": {1, 1, 1}, "set3": {70, 10, 20}}
	assert.Equal(t, want, sizes)
	rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	again, err := trace.SplitDocuments(keys, 5, fractions)
	require.NoError(t, err)
	for i, k := range keys {
		require.Equal(t, again[i], of[k])
	}
	other, err := trace.SplitDocuments(keys, 6, fractions)
	require.NoError(t, err)
	assert.NotEqual(t, again, other)
	_, err = trace.SplitDocuments(append(keys, keys[3]), 5, fractions)
	assert.Error(t, err, "a document twice is not refused")
	_, err = trace.SplitDocuments(keys, 5, []float64{.5, .4})
	assert.Error(t, err, "fractions of .9 are not refused")
}
