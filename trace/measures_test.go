package trace

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMeasures(t *testing.T) {
	assert.Equal(t, 2., Entropy([]int{5, 5, 5, 5}))
	assert.Equal(t, 1.5, Entropy([]float32{.25, .25, .5}))
	assert.Zero(t, Entropy([]float64{0, 0}))
	assert.Equal(t, .5, normalizedEntropy([]int64{3, 3, 0, 0}))
	assert.Zero(t, gini([]int64{3, 3, 3, 3}))
	assert.Equal(t, .75, gini([]int64{0, 8, 0, 0}))
	assert.Zero(t, cv([]int64{2, 2, 2}))
	assert.Equal(t, 2., cv([]int64{0, 0, 0, 0, 5}))
	assert.Equal(t, 1., mutualInformation([]int64{6, 0, 0, 6}, 2))
	assert.Zero(t, mutualInformation([]int64{1, 2, 2, 4}, 2))
	assert.Equal(t, .125, randomRepeat(8, 1))
	assert.InDelta(t, .464, randomRepeat(8, 2), .0005) // Table 5 of the Mixtral paper
	assert.InDelta(t, 2, softmaxEntropy([]float32{7, 7, 7, 7}), 1e-12)
}

// TestMixtralUsage measures the routing counts of the real Mixtral 8x7B at
// three layers in five domains, as OLMoE's authors published them.
func TestMixtralUsage(t *testing.T) {
	b, err := os.ReadFile("../testdata/reference/mixtral_8x7b_routing_counts.json")
	require.NoError(t, err)
	var file struct {
		Counts map[string][]map[string]int64 `json:"expert_counts"`
		Cross  map[string][]map[string]int64 `json:"expert_counts_crosslayer_top1"`
	}
	require.NoError(t, json.Unmarshal(b, &file))
	var entropies, ginis []float64
	for _, layers := range file.Counts {
		for _, experts := range layers {
			counts := make([]int64, 8)
			for e, n := range experts {
				i, err := strconv.Atoi(e)
				require.NoError(t, err)
				counts[i] = n
			}
			u := newUsage(counts)
			assert.Equal(t, 8, u.Active)
			assert.InDelta(t, u.Entropy/3, u.Normalized, 1e-12)
			entropies, ginis = append(entropies, u.Normalized), append(ginis, u.Gini)
		}
	}
	got := fmt.Sprintf("%.3f-%.3f %.3f-%.3f", slices.Min(entropies), slices.Max(entropies), slices.Min(ginis), slices.Max(ginis))
	require.Len(t, ginis, 15)
	assert.Equal(t, "0.982-1.000 0.023-0.121", got)
	// Mutual information of first choices, computed independently with Python.
	for domain, want := range map[string][]float64{"arxiv": {.0981, .2107}, "book": {.1178, .249}, "c4": {.0865, .1422},
		"github": {.1138, .1296}, "wikipedia": {.0528, .098}} {
		for i, pairs := range file.Cross[domain] {
			joint := make([]int64, 64)
			for key, n := range pairs {
				var a, b int
				_, err := fmt.Sscanf(key, "(%d, %d)", &a, &b)
				require.NoError(t, err)
				joint[a*8+b] = n
			}
			assert.InDelta(t, want[i], mutualInformation(joint, 8), 6e-5, "%s, layers %d", domain, i)
		}
	}
}
