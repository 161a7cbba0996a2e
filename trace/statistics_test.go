package trace_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/trace"
)

// TestMixtralUsage measures the routing counts of the real Mixtral 8x7B at
// three layers in five domains, as OLMoE's authors published them.
func TestMixtralUsage(t *testing.T) {
	b, err := os.ReadFile("../testdata/reference/mixtral_8x7b_routing_counts.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Counts map[string][]map[string]int64 `json:"expert_counts"`
		Cross  map[string][]map[string]int64 `json:"expert_counts_crosslayer_top1"`
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	var entropies, ginis []float64
	for _, layers := range file.Counts {
		for _, experts := range layers {
			counts := make([]int64, 8)
			for e, n := range experts {
				i, err := strconv.Atoi(e)
				if err != nil {
					t.Fatal(err)
				}
				counts[i] = n
			}
			u := trace.NewUsage(counts)
			if u.Active != 8 || math.Abs(u.Normalized-u.Entropy/3) > 1e-12 {
				t.Errorf("%+v", u)
			}
			entropies, ginis = append(entropies, u.Normalized), append(ginis, u.Gini)
		}
	}
	got := fmt.Sprintf("%.3f-%.3f %.3f-%.3f", slices.Min(entropies), slices.Max(entropies), slices.Min(ginis), slices.Max(ginis))
	if len(ginis) != 15 || got != "0.982-1.000 0.023-0.121" {
		t.Errorf("usage entropy and Gini of %d: %s", len(ginis), got)
	}
	// Mutual information of first choices, computed independently with Python.
	for domain, want := range map[string][]float64{"arxiv": {.0981, .2107}, "book": {.1178, .249}, "c4": {.0865, .1422},
		"github": {.1138, .1296}, "wikipedia": {.0528, .098}} {
		for i, pairs := range file.Cross[domain] {
			joint := make([]int64, 64)
			for key, n := range pairs {
				var a, b int
				if _, err := fmt.Sscanf(key, "(%d, %d)", &a, &b); err != nil {
					t.Fatal(err)
				}
				joint[a*8+b] = n
			}
			if mi := trace.MutualInformation(joint, 8); math.Abs(mi-want[i]) > 6e-5 {
				t.Errorf("%s, layers %d: %.4f bits, want %.4f", domain, i, mi, want[i])
			}
		}
	}
}

// randomTrace routes uniformly.
func randomTrace(docs, tokens int, h *trace.Header, seed uint64) []*trace.Document {
	rng := rand.New(rand.NewPCG(seed, 9))
	m := &h.Model
	all := make([]*trace.Document, docs)
	for i := range all {
		d := &trace.Document{Dataset: fmt.Sprint("set-", i%3), ID: fmt.Sprint(i)}
		for range tokens {
			d.Tokens = append(d.Tokens, 1)
			for range m.Layers {
				for _, e := range rng.Perm(m.Experts)[:m.TopK] {
					d.Experts = append(d.Experts, int32(e))
					d.Weights = append(d.Weights, 1/float32(m.TopK))
				}
			}
			for range len(h.LogitLayers) * m.Experts {
				d.RouterLogits = append(d.RouterLogits, 3)
			}
		}
		all[i] = d
	}
	return all
}

// TestRandomRouter demands the analytic values: 12.5 % and about 46 % repeated
// assignments, full entropy, no information between layers.
func TestRandomRouter(t *testing.T) {
	h := trace.Header{Model: trace.Model{Layers: 3, Experts: 8, TopK: 2}, LogitLayers: []int{1}}
	s, err := trace.NewStatistics(h, trace.StatisticsOptions{Segments: []int{1, 8}, CacheSizes: []int{2, 4}})
	if err != nil {
		t.Fatal(err)
	}
	const docs, tokens = 60, 500
	for _, d := range randomTrace(docs, tokens, &h, 4) {
		if err := s.Add(d); err != nil {
			t.Fatal(err)
		}
	}
	r := s.Summary()
	near := func(name string, got, want, within float64) {
		t.Helper()
		if !(math.Abs(got-want) <= within) {
			t.Errorf("%s is %.4f, want %.4f", name, got, want)
		}
	}
	if r.Documents != docs || r.Tokens != docs*tokens || len(r.Datasets) != 3 || r.Datasets[2].Tokens != 20*tokens {
		t.Errorf("%d documents, %d tokens, %d data sets", r.Documents, r.Tokens, len(r.Datasets))
	}
	for _, l := range r.Overall.Layers {
		near("first choice repeated", l.RepeatedFirst, .125, .008)
		near("first or second repeated", l.RepeatedAny, 1-30./56, .012)
		near("random first", l.RandomRepeatedFirst, .125, 0)
		near("random any", l.RandomRepeatedAny, 1-30./56, 1e-12)
		near("entropy", l.Usage.Normalized, 1, 1e-3)
		near("Gini", l.Usage.Gini, 0, .02)
		near("share", l.Share[5], .125, .005)
		near("weight", l.MeanWeights[1], .5, 1e-6)
		near("SRP of one token", l.Local[0].SRP, 1, 0)
		near("cache of K over one token", l.Local[0].Cache[0].HitRate, 1, 0)
		// Of 8 experts with c ~ Binomial(8, 1/4), the threshold 1 activates most.
		near("SRP of 8", l.Local[1].SRP, binomialSRP(8, .25), .01)
		if l.Layer == 1 {
			near("router entropy", *l.RouterEntropy, 3, 1e-9)
		} else if l.RouterEntropy != nil {
			t.Error("router entropy without logits")
		}
	}
	for _, x := range r.Transitions {
		near("mutual information", x.FirstMutualInformation, 0, 5e-3)
		near("mutual information of all", x.MutualInformation, 0, 5e-3)
	}
	near("pairs", float64(r.Coactivation[2][3][6]), docs*tokens/28., 200)
	if got := r.Positions[0]; got.From != 0 || got.To != 0 || got.Tokens != docs || r.Positions[3].From != 4 || r.Positions[3].To != 7 {
		t.Errorf("positions %+v", r.Positions[:4])
	}
}

// binomialSRP is SRP where each expert's count is Binomial(m, p), p = K/E.
func binomialSRP(m int, p float64) float64 {
	var matches, active, best float64
	for n := m; n >= 1; n-- {
		c := 1.0
		for i := range n {
			c *= float64(m-i) / float64(n-i)
		}
		q := c * math.Pow(p, float64(n)) * math.Pow(1-p, float64(m-n))
		matches += q * float64(n)
		active += q
		best = max(best, 2*matches/(active*float64(m)+p*float64(m)))
	}
	return max(best, 2*p/(1+p))
}

// TestPlantedStatistics compares everything with a direct computation from the
// definitions.
func TestPlantedStatistics(t *testing.T) {
	h := plantedHeader()
	s, err := trace.NewStatistics(h, trace.StatisticsOptions{Segments: []int{3, 7}, CacheSizes: []int{5, 3}})
	if err != nil {
		t.Fatal(err)
	}
	var docs []*trace.Document
	for i := range 17 {
		d := plantedDocument(i, plantedLen(i), h)
		docs = append(docs, d)
		if err := s.Add(d); err != nil {
			t.Fatal(err)
		}
	}
	r := s.Summary()
	m := &h.Model
	for l := range plantedL {
		got := r.Overall.Layers[l]
		var counts, first [plantedE]int64
		var pairs, same, some, weight, n float64
		var together [plantedE][plantedE]int64
		for _, d := range docs {
			for tok := range d.Len() {
				now := d.ExpertsAt(m, tok, l)
				first[now[0]]++
				weight += float64(d.WeightsAt(m, tok, l)[2])
				n++
				for _, e := range now {
					counts[e]++
					for _, f := range now {
						if e != f {
							together[e][f]++
						}
					}
				}
				if tok == 0 || d.Position(tok) != d.Position(tok-1)+1 {
					continue
				}
				last := d.ExpertsAt(m, tok-1, l)
				pairs++
				if last[0] == now[0] {
					same++
				}
				if slices.ContainsFunc(now, func(e int32) bool { return slices.Contains(last, e) }) {
					some++
				}
			}
		}
		if !slices.Equal(got.Counts, counts[:]) || !slices.Equal(got.FirstCounts, first[:]) {
			t.Errorf("layer %d: counts %v, want %v", l, got.Counts, counts)
		}
		if got.RepeatedFirst != same/pairs || got.RepeatedAny != some/pairs || math.Abs(got.MeanWeights[2]-weight/n) > 1e-9 {
			t.Errorf("layer %d: repeated %g, %g, want %g, %g", l, got.RepeatedFirst, got.RepeatedAny, same/pairs, some/pairs)
		}
		for e := range together {
			if !slices.Equal(r.Coactivation[l][e], together[e][:]) {
				t.Errorf("layer %d: expert %d with others %v, want %v", l, e, r.Coactivation[l][e], together[e])
			}
		}
		for i, size := range []int{3, 7} {
			want := bruteLocality(docs, m, l, size, []int{3, 5})
			if x := got.Local[i]; x.Segment != size || math.Abs(x.SRP-want[0]) > 1e-12 ||
				math.Abs(x.Cache[0].HitRate-want[1]) > 1e-12 || math.Abs(x.Cache[1].HitRate-want[2]) > 1e-12 {
				t.Errorf("layer %d, segments of %d: %+v, want %v", l, size, x, want)
			}
		}
	}
	for l, x := range r.Transitions {
		all, first := make([]int64, plantedE*plantedE), make([]int64, plantedE*plantedE)
		for _, d := range docs {
			for tok := range d.Len() {
				a, b := d.ExpertsAt(m, tok, l), d.ExpertsAt(m, tok, l+1)
				first[a[0]*plantedE+b[0]]++
				for _, e := range a {
					for _, f := range b {
						all[e*plantedE+f]++
					}
				}
			}
		}
		if !slices.Equal(slices.Concat(x.Counts...), all) || !slices.Equal(slices.Concat(x.FirstCounts...), first) || x.From != l {
			t.Errorf("transition from layer %d differs", l)
		}
	}
	entropy := 0.0
	for _, d := range docs {
		for tok := range d.Len() {
			entropy += bruteEntropy(d.RouterLogits[(tok*4+1)*plantedE : (tok*4+2)*plantedE])
		}
	}
	if got := *r.Overall.Layers[2].RouterEntropy; math.Abs(got-entropy/float64(r.Tokens)) > 1e-9 {
		t.Errorf("router entropy %g, want %g", got, entropy/float64(r.Tokens))
	}
}

func bruteEntropy(logits []float32) (h float64) {
	var z float64
	for _, x := range logits {
		z += math.Exp(float64(x))
	}
	for _, x := range logits {
		p := math.Exp(float64(x)) / z
		h -= p * math.Log2(p)
	}
	return h
}

// bruteLocality returns SRP and the hit rates of two caches.
func bruteLocality(docs []*trace.Document, m *trace.Model, layer, size int, caches []int) [3]float64 {
	var windows [][]int
	total := 0
	for _, d := range docs {
		for start := 0; start+size <= d.Len(); start++ {
			c := make([]int, m.Experts)
			for t := start; t < start+size; t++ {
				for _, e := range d.ExpertsAt(m, t, layer) {
					c[e]++
					total++
				}
			}
			windows = append(windows, c)
		}
	}
	var out [3]float64
	for threshold := 0; threshold <= size; threshold++ {
		matches, active := 0, 0
		for _, w := range windows {
			for _, c := range w {
				if c >= threshold {
					matches += c
					active += size
				}
			}
		}
		out[0] = max(out[0], 2*float64(matches)/float64(active+total))
	}
	for i, cache := range caches {
		hits := 0
		for _, w := range windows {
			c := slices.Sorted(slices.Values(w))
			for _, v := range c[len(c)-cache:] {
				hits += v
			}
		}
		out[1+i] = float64(hits) / float64(total)
	}
	return out
}

func TestStatisticsJSON(t *testing.T) {
	h := plantedHeader()
	s, err := trace.NewStatistics(h, trace.StatisticsOptions{MaxPairBytes: 100})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := s.Add(plantedDocument(i, 9, h)); err != nil {
			t.Fatal(err)
		}
	}
	bad := plantedDocument(1, 9, h)
	bad.Experts[5] = bad.Experts[4]
	if err := s.Add(bad); err == nil || !strings.Contains(err.Error(), "token 0, layer 1") {
		t.Error(err)
	}
	r := s.Summary()
	if !reflect.DeepEqual(r.Skipped, []string{"transitions", "coactivation"}) || r.Transitions != nil || r.Documents != 3 {
		t.Errorf("%+v", r)
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var again trace.Summary
	if err := json.Unmarshal(b, &again); err != nil || !reflect.DeepEqual(&again, r) {
		t.Error("JSON does not come back", err)
	}
	for _, name := range []string{`"entropy_normalized"`, `"repeated_first"`, `"datasets"`, `"srp"`, `"router_entropy_bits"`} {
		if !strings.Contains(string(b), name) {
			t.Errorf("no %s", name)
		}
	}
}

func BenchmarkStatistics(b *testing.B) {
	h := benchHeader(false, false)
	docs := benchDocuments(20, 512, &h)
	s, err := trace.NewStatistics(h, trace.StatisticsOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		for _, d := range docs {
			if err := s.Add(d); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(20*512*b.N)/b.Elapsed().Seconds(), "tokens/s")
}
