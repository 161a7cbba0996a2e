package neural

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/gomlx/compute"
	"github.com/stretchr/testify/require"
)

// miniHeader returns the header of a trace of the embedded model's shape with router
// logits and router inputs of all layers.
func miniHeader() trace.Header {
	h := trace.Header{Model: trace.Model{Name: "mini", Layers: 16, Experts: 8, TopK: 2, Hidden: 96, Vocabulary: 4096}}
	for l := range h.Model.Layers {
		h.LogitLayers, h.InputLayers = append(h.LogitLayers, l), append(h.InputLayers, l)
	}
	return h
}

// miniDocuments returns documents of the embedded model's shape, which share random
// values, and random gates.
func miniDocuments(docs, tokens int) (speculate.Data, *speculate.Gates) {
	h := miniHeader()
	m := h.Model
	rng := rand.New(rand.NewPCG(1, 2))
	normal := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		return x
	}
	d := trace.Document{Dataset: "random", RouterLogits: normal(tokens * m.Layers * m.Experts), RouterInput: normal(tokens * m.Layers * m.Hidden)}
	for range tokens {
		d.Tokens = append(d.Tokens, int32(rng.IntN(m.Vocabulary)))
	}
	for range tokens * m.Layers {
		e := rng.IntN(m.Experts)
		d.Experts = append(d.Experts, int32(e), int32((e+1+rng.IntN(m.Experts-1))%m.Experts))
		d.Weights = append(d.Weights, .75, .25)
	}
	all := make([]*trace.Document, docs)
	for i := range all {
		c := d
		c.ID = fmt.Sprint(i)
		all[i] = &c
	}
	return speculate.Slice(h, all), &speculate.Gates{Layers: m.Layers, Experts: m.Experts, Hidden: m.Hidden, Weights: normal(m.Layers * m.Experts * m.Hidden)}
}

// BenchmarkTrainTransformer measures the training of transformers of 4 blocks and
// width 256 on documents of the embedded model's shape, in thousand tokens a second,
// and the seconds until the first step is done, in which documents are copied and
// graphs compiled. testdata/train_transformer.py is the same in PyTorch. With
// EXPERTSPEC_BENCH_DOCS=N there are N documents; with EXPERTSPEC_BENCH_DEVICES=N, N
// devices and N times as many tokens in a step.
func BenchmarkTrainTransformer(b *testing.B) {
	plugin := os.Getenv("EXPERTSPEC_TEST_XLA")
	if plugin == "" {
		b.Skip("EXPERTSPEC_TEST_XLA is not set")
	}
	docs, devices := 256, 1
	for name, n := range map[string]*int{"EXPERTSPEC_BENCH_DOCS": &docs, "EXPERTSPEC_BENCH_DEVICES": &devices} {
		if text := os.Getenv(name); text != "" {
			var err error
			*n, err = strconv.Atoi(text)
			require.NoError(b, err)
		}
	}
	data, gates := miniDocuments(docs, 512)
	backend, err := mixtral.OpenBackend("xla:" + plugin)
	require.NoError(b, err)
	defer backend.Finalize()
	if backend.HasSharedBuffers() {
		b.Skip("the plugin is a CPU's, on which this takes half an hour")
	}
	for _, c := range []TransformerConfig{hiddenTransformer(4, 256, 512), logitTransformer(4, 256, 512), routingTransformer(4, 256, 512)} {
		for _, kind := range []string{"transferred-float32", "transferred-16", "held-float32", "held-bfloat16"} {
			for _, batch := range []int{8192, 16384} {
				b.Run(fmt.Sprintf("%s/%s/%d", c.Name, kind, batch), func(b *testing.B) { trainShape(b, backend, c, kind, batch*devices, devices, data, gates) })
			}
		}
	}
}

func trainShape(b *testing.B, backend compute.Backend, c TransformerConfig, kind string, batch, devices int, data speculate.Data, gates *speculate.Gates) {
	began := time.Now()
	o := TrainOptions{Backend: backend, Horizons: speculate.LayersAhead(1, 2, 4), Tokens: 1 << 40, Batch: batch, Devices: devices, Gates: gates, Float32: kind == "held-float32", DeviceBytes: 64 << 30}.withDefaults()
	if kind[0] == 't' {
		o.DeviceBytes, o.brief = 0, kind == "transferred-16"
	}
	j, err := newTransformerJob(b.Context(), c, data, data, o)
	require.NoError(b, err)
	defer j.close()
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	copied := time.Since(began)
	ready := j.loop.ahead(ctx, &wg)
	step := func() {
		f := <-ready
		_, err := j.loop.one(0, f.inputs)
		require.NoError(b, errors.Join(f.err, err))
		j.loop.Done++
	}
	step()
	first := time.Since(began) - copied
	for range 5 {
		step()
	}
	steps := 0
	for b.Loop() {
		step()
		steps++
	}
	b.ReportMetric(float64(steps*batch)/b.Elapsed().Seconds()/1000, "ktokens/s")
	b.ReportMetric(copied.Seconds(), "copy-s")
	b.ReportMetric(first.Seconds(), "compile-s")
}
