package comparison

import (
	"context"
	"slices"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
)

// CachePoint is the hit rate of a cache that all layers of a stack share, empty at the
// start of each text, while its tokens are computed one at a time.
type CachePoint struct {
	Policy  prefetch.Policy `json:"policy"`
	Bytes   int64           `json:"bytes,omitempty"` // its size; 0: unknown
	Experts int             `json:"experts"`         // those that fit
	HitRate Value           `json:"hit_rate"`
}

// policies are those compared.
var policies = []prefetch.Policy{prefetch.LRU, prefetch.DecayedLFU, prefetch.OPT}

// caches returns the hit rates at the given capacities in experts, which it sorts.
func caches(ctx context.Context, data speculate.Data, capacities []int) ([]CachePoint, error) {
	slices.Sort(capacities)
	capacities = slices.Compact(capacities)
	if len(capacities) == 0 {
		return nil, nil
	}
	n := len(policies) * len(capacities)
	var docs [][]float64 // hits [policies,capacities], requests
	for doc, err := range data.All(ctx) {
		if err != nil {
			return nil, err
		}
		x := make([]float64, 0, n+1)
		var requests int64
		for _, p := range policies {
			points, err := prefetch.HitRates(ctx, speculate.Slice(data.Header, []*trace.Document{doc}), prefetch.Config{Policy: p}, capacities)
			if err != nil {
				return nil, err
			}
			for _, q := range points {
				x, requests = append(x, float64(q.Total.Hits)), q.Total.Requests
			}
		}
		docs = append(docs, append(x, float64(requests)))
	}
	total := make([]float64, n+1)
	for _, x := range docs {
		for i, v := range x {
			total[i] += v
		}
	}
	var j jackknife
	rates := make([]float64, n)
	for _, x := range docs {
		for i := range rates {
			rates[i] = (total[i] - x[i]) / (total[n] - x[n])
		}
		j.add(rates)
	}
	var out []CachePoint
	for i := range n {
		out = append(out, CachePoint{Policy: policies[i/len(capacities)], Experts: capacities[i%len(capacities)], HitRate: j.value(i, total[i]/total[n], 0, 1)})
	}
	return out, nil
}
