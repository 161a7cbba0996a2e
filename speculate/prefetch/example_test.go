package prefetch_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
)

// A wheel of L=3 layers, E=5 experts, K=1: a token's expert moves on by one from
// layer to layer.
func wheel(documents int) speculate.Data {
	h := trace.Header{Model: trace.Model{Name: "wheel", Layers: 3, Experts: 5, TopK: 1}, NoWeights: true}
	var docs []*trace.Document
	for i := range documents {
		d := &trace.Document{Dataset: "made up", ID: fmt.Sprint(i)}
		for t := range 10 {
			e := int32(i + 2*t)
			d.Tokens = append(d.Tokens, trace.NoToken)
			d.Experts = append(d.Experts, e%5, (e+1)%5, (e+2)%5)
		}
		docs = append(docs, d)
	}
	return speculate.Slice(h, docs)
}

func Example() {
	ctx := context.Background()
	data := wheel(7)
	p := &speculate.Transition{}
	horizon := speculate.Horizon{Layers: 1}
	if err := speculate.Fit(ctx, data, []speculate.Horizon{horizon}, p); err != nil {
		log.Fatal(err)
	}
	cfg := prefetch.Config{Capacity: 6, Policy: prefetch.LRU, Load: 2 * time.Millisecond, Compute: 2 * time.Millisecond}
	without, err := prefetch.Simulate(ctx, data, cfg)
	if err != nil {
		log.Fatal(err)
	}
	cfg.Predictor, cfg.Horizon, cfg.Prefetch = p, horizon, 1
	with, err := prefetch.Simulate(ctx, data, cfg)
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range []*prefetch.Result{without, with} {
		fmt.Printf("hits %.0f %%, %.1f transfers and %.1f ms stall a token, %.0f tokens/s\n",
			100*r.HitRate, r.TransfersPerToken, 1000*r.StallPerToken, r.TokensPerSecond)
	}
	// Output:
	// hits 0 %, 3.0 transfers and 6.0 ms stall a token, 83 tokens/s
	// hits 67 %, 3.0 transfers and 2.0 ms stall a token, 125 tokens/s
}

func ExampleMostFrequent() {
	h := trace.Header{Model: trace.Model{Layers: 2, Experts: 4, TopK: 1}, NoWeights: true}
	doc := &trace.Document{Tokens: make([]int32, 4), Experts: []int32{2, 0, 1, 0, 2, 3, 2, 0}}
	ids, err := prefetch.MostFrequent(context.Background(), speculate.Slice(h, []*trace.Document{doc}))
	if err != nil {
		log.Fatal(err)
	}
	for _, id := range ids[:4] {
		fmt.Printf("layer %d expert %d\n", id/4, id%4)
	}
	// Output:
	// layer 0 expert 2
	// layer 1 expert 0
	// layer 0 expert 1
	// layer 1 expert 3
}
