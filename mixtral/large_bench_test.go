package mixtral_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"math/bits"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/trace"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// layersVariable is the number of layers of BenchmarkLarge's model.
const layersVariable = "EXPERTSPEC_BENCH_LAYERS"

// pattern is a file that begins with head and continues with repetitions of data,
// and between loud[0] and loud[1] after head, with repetitions of large.
type pattern struct {
	name        string
	head        []byte
	size        int64
	data, large []byte
	loud        [2]int64
	at          int64
}

func (p *pattern) ReadAt(dst []byte, offset int64) (int, error) {
	n := 0
	if offset < int64(len(p.head)) {
		n = copy(dst, p.head[offset:])
	}
	for n < len(dst) && offset+int64(n) < p.size {
		at := offset + int64(n) - int64(len(p.head))
		data, end := p.data, p.size-offset
		switch {
		case at < p.loud[0]:
			end = min(end, p.loud[0]-at+int64(n))
		case at < p.loud[1]:
			data, end = p.large, min(end, p.loud[1]-at+int64(n))
		}
		n += copy(dst[n:min(int64(len(dst)), end)], data[at%int64(len(data)):])
	}
	if n < len(dst) {
		return n, io.EOF
	}
	return n, nil
}

func (p *pattern) Read(dst []byte) (int, error) {
	n, err := p.ReadAt(dst, p.at)
	p.at += int64(n)
	return n, err
}

func (p *pattern) Close() error               { return nil }
func (p *pattern) Stat() (fs.FileInfo, error) { return p, nil }
func (p *pattern) Name() string               { return p.name }
func (p *pattern) Size() int64                { return p.size }
func (p *pattern) Mode() fs.FileMode          { return 0o444 }
func (p *pattern) ModTime() time.Time         { return time.Time{} }
func (p *pattern) IsDir() bool                { return p.name == "." }
func (p *pattern) Sys() any                   { return nil }

type patterns map[string]*pattern

func (s patterns) Open(name string) (fs.File, error) {
	p, ok := s[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	file := *p
	return &file, nil
}

// largeVocabulary is that of Mixtral 8x7B.
const largeVocabulary = 32000

// largeModel returns layers of Mixtral 8x7B's shape in bfloat16, whose weights are
// repeated random patterns. Embeddings are large, so that tokens remain different
// and choose different experts, as in a trained model. size is that of the weights
// in bytes.
func largeModel(layers int) (fsys fs.FS, size int64) {
	const d, f, kv = 4096, 14336, 1024
	config, _ := json.Marshal(map[string]any{"architectures": []string{"MixtralForCausalLM"}, "model_type": "mixtral",
		"hidden_act": "silu", "hidden_size": d, "intermediate_size": f, "num_attention_heads": 32, "num_key_value_heads": 8,
		"num_hidden_layers": layers, "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": largeVocabulary,
		"rms_norm_eps": 1e-5, "rope_theta": 1e6, "max_position_embeddings": 32768, "torch_dtype": "bfloat16",
		"tie_word_embeddings": false, "sliding_window": nil})
	shapes := map[string][]int{"model.embed_tokens.weight": {largeVocabulary, d}, "model.norm.weight": {d}, "lm_head.weight": {largeVocabulary, d}}
	for l := range layers {
		p := fmt.Sprintf("model.layers.%d.", l)
		shapes[p+"input_layernorm.weight"], shapes[p+"post_attention_layernorm.weight"] = []int{d}, []int{d}
		shapes[p+"self_attn.q_proj.weight"], shapes[p+"self_attn.o_proj.weight"] = []int{d, d}, []int{d, d}
		shapes[p+"self_attn.k_proj.weight"], shapes[p+"self_attn.v_proj.weight"] = []int{kv, d}, []int{kv, d}
		shapes[p+"block_sparse_moe.gate.weight"] = []int{8, d}
		for e := range 8 {
			q := fmt.Sprintf("%sblock_sparse_moe.experts.%d.", p, e)
			shapes[q+"w1.weight"], shapes[q+"w3.weight"], shapes[q+"w2.weight"] = []int{f, d}, []int{f, d}, []int{d, f}
		}
	}
	header := map[string]any{}
	var loud [2]int64
	for _, name := range slices.Sorted(maps.Keys(shapes)) {
		bytes := int64(2)
		for _, n := range shapes[name] {
			bytes *= int64(n)
		}
		header[name] = map[string]any{"dtype": "BF16", "shape": shapes[name], "data_offsets": []int64{size, size + bytes}}
		if name == "model.embed_tokens.weight" {
			loud = [2]int64{size, size + bytes}
		}
		size += bytes
	}
	text, _ := json.Marshal(header)
	head := append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)
	r := rand.New(rand.NewPCG(1, 2))
	normal := func(scale float64) []byte {
		data := make([]byte, 2*1000003)
		for i := 0; i < len(data); i += 2 {
			binary.LittleEndian.PutUint16(data[i:], uint16(math.Float32bits(float32(r.NormFloat64()*scale))>>16))
		}
		return data
	}
	return patterns{
		".":           {name: "."},
		"config.json": {name: "config.json", head: config, size: int64(len(config)), data: []byte{0}},
		"model.safetensors": {name: "model.safetensors", head: head, size: int64(len(head)) + size,
			data: normal(.02), large: normal(1), loud: loud},
	}, size
}

// BenchmarkLarge loads some layers of Mixtral 8x7B's shape in bfloat16, or int8,
// through XLA, decodes one document, with all layers as one graph and stepped, and
// prefills. The metrics are medians.
func BenchmarkLarge(b *testing.B) {
	layers, err := strconv.Atoi(os.Getenv(layersVariable))
	plugin := os.Getenv(xlaVariable)
	if err != nil || plugin == "" {
		b.Skipf("set %s to a number of layers and %s to an XLA plugin", layersVariable, xlaVariable)
	}
	be, err := mixtral.OpenBackend("xla:" + plugin)
	require.NoError(b, err)
	o := mixtral.Options{Backend: be, DType: dtypes.BFloat16}
	if os.Getenv(int8Variable) != "" {
		o.Quantize = mixtral.Int8
	}
	fsys, size := largeModel(layers)
	start := time.Now()
	m := load(b, fsys, o)
	seconds := time.Since(start).Seconds()
	b.Run("load", func(b *testing.B) {
		for b.Loop() { // measured above
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(size)/1e9/seconds, "GB/s")
	})
	ctx := context.Background()
	hook := func(context.Context, *mixtral.Routing) error { return nil }
	median := func(b *testing.B, tokens int, run func()) {
		for range 3 { // compile
			run()
		}
		var times []float64
		for b.Loop() {
			start := time.Now()
			run()
			times = append(times, time.Since(start).Seconds()*1e3)
		}
		slices.Sort(times)
		ms := times[len(times)/2]
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(ms/float64(layers), "ms/layer")
		b.ReportMetric(times[0]/float64(layers), "best-ms/layer")
		b.ReportMetric(float64(tokens)*1e3/ms, "tokens/s")
	}
	forward := func(b *testing.B, req mixtral.Request) {
		_, err := m.Forward(ctx, req)
		require.NoError(b, err)
	}
	for _, decode := range []struct {
		name               string
		observe, intervene mixtral.Hook
	}{{"decode", nil, nil}, {"decode-observed", hook, nil}, {"decode-stepped", nil, hook}} {
		b.Run(decode.name, func(b *testing.B) {
			cache := m.NewCache(1)
			defer cache.Close()
			forward(b, mixtral.Request{Tokens: [][]int32{large(128)}, Cache: cache})
			median(b, 1, func() {
				forward(b, mixtral.Request{Tokens: [][]int32{large(1)}, Cache: cache, Logits: mixtral.LastLogits,
					Observe: decode.observe, Intervene: decode.intervene})
			})
		})
	}
	for _, batch := range [][2]int{{1, 128}, {1, 512}, {8, 512}} {
		for _, observe := range []mixtral.Hook{nil, hook} {
			name := fmt.Sprintf("prefill-%dx%d", batch[0], batch[1])
			if observe != nil {
				name += "-observed"
			}
			b.Run(name, func(b *testing.B) {
				tokens := make([][]int32, batch[0])
				for i := range tokens {
					tokens[i] = large(batch[1])
				}
				median(b, batch[0]*batch[1], func() {
					forward(b, mixtral.Request{Tokens: tokens, Logits: mixtral.LastLogits, Observe: observe})
				})
			})
		}
	}
	b.Run("collect", func(b *testing.B) { collectLarge(b, m, true) })
	b.Run("collect-bare", func(b *testing.B) { collectLarge(b, m, false) })
}

// collectLarge computes 64 documents of 64 to 512 tokens as package collect does: in
// batches of similar length, two at a time. It records them or does not observe.
func collectLarge(b *testing.B, m *mixtral.Model, record bool) {
	docs := make([][]int32, 64)
	total := 0
	for i := range docs {
		docs[i] = large(64 + 448*i/(len(docs)-1))
		total += len(docs[i])
	}
	var batches [][][]int32
	from := 0
	for i := range docs {
		size := 1 << bits.Len(uint(len(docs[i])-1))
		if i > from && (size != 1<<bits.Len(uint(len(docs[from])-1)) || (i-from+1)*size > 4096) {
			batches = append(batches, docs[from:i])
			from = i
		}
	}
	batches = append(batches, docs[from:])
	run := func() {
		var g errgroup.Group
		g.SetLimit(2)
		for _, batch := range batches {
			g.Go(func() error {
				rec, err := mixtral.NewRecorder(trace.Header{Model: m.Config().TraceModel("mixtral")})
				require.NoError(b, err)
				req := mixtral.Request{Tokens: batch, Logits: mixtral.LastLogits}
				if record {
					req = mixtral.Request{Tokens: batch, Observe: rec.Observe}
				}
				_, err = m.Forward(context.Background(), req)
				return err
			})
		}
		require.NoError(b, g.Wait())
	}
	run()
	run()
	for b.Loop() {
		run()
	}
	b.ReportMetric(float64(total)*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}

var largeRandom = rand.New(rand.NewPCG(3, 4))

// large returns n random ids of largeModel's vocabulary.
func large(n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = largeRandom.Int32N(largeVocabulary)
	}
	return ids
}
