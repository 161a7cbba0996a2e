package predictors_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/mixtral/mini/predictors"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// mostBytes is what the package may add to a program.
const mostBytes = 6_000_000

func TestSize(t *testing.T) {
	info, err := os.Stat("predictors.zip")
	require.NoError(t, err)
	assert.LessOrEqual(t, info.Size(), int64(mostBytes))
}

func load(t *testing.T) *speculate.Set {
	set, err := predictors.Load()
	require.NoError(t, err)
	return set
}

// texts returns the embedded model's texts as token ids, at most n each.
func texts(t *testing.T, n int) (docs []*trace.Document) {
	tok, err := tokenizer.Load(mini.FS(), "tokenizer.json")
	require.NoError(t, err)
	all, err := mini.Documents()
	require.NoError(t, err)
	for _, d := range all {
		ids := tok.Encode(d.Text, true)
		docs = append(docs, &trace.Document{Dataset: d.Domain, ID: d.ID, Tokens: ids[:min(len(ids), n)]})
	}
	return docs
}

// recorded returns the model's routing of a text of each domain.
func recorded(t *testing.T, n int) speculate.Data {
	ctx := context.Background()
	backend, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	t.Cleanup(backend.Finalize)
	model, err := mixtral.Load(ctx, mini.FS(), mixtral.Options{Backend: backend})
	require.NoError(t, err)
	defer model.Close()
	h := trace.Header{Model: model.Config().TraceModel("mini-mixtral")}
	for l := range h.Model.Layers {
		h.LogitLayers, h.InputLayers = append(h.LogitLayers, l), append(h.InputLayers, l)
	}
	recorder, err := mixtral.NewRecorder(h)
	require.NoError(t, err)
	var docs []*trace.Document
	domain := ""
	for _, d := range texts(t, n) {
		if d.Dataset == domain {
			continue
		}
		domain = d.Dataset
		_, err := model.Forward(ctx, mixtral.Request{Tokens: [][]int32{d.Tokens}, Observe: recorder.Observe, RouterInput: true, Logits: mixtral.LastLogits})
		require.NoError(t, err)
		doc := recorder.Take(0)
		doc.Dataset, doc.ID = d.Dataset, d.ID
		docs = append(docs, doc)
	}
	require.Len(t, docs, 10)
	return speculate.Slice(h, docs)
}

// Recall on texts that no predictor has seen is about that of all test documents,
// which BENCHMARKS.md lists; and predictions are causal.
func TestRecall(t *testing.T) {
	set, data := load(t), recorded(t, 96)
	hs := speculate.LayersAhead(1, 2, 4)
	r, err := speculate.Evaluate(context.Background(), data, speculate.EvaluateOptions{Horizons: hs}, set.Predictors...)
	require.NoError(t, err)
	want := map[string][]float64{
		"routing transformer":      {.86, .85, .84},
		"router-logit transformer": {.86, .85, .84},
		"hidden transformer":       {.93, .91, .88},
	}
	require.Len(t, set.Predictors, len(want))
	for name, least := range want {
		for i, h := range hs {
			x, ok := r.Recall(name, h)
			require.True(t, ok, "%s at %v", name, h)
			assert.Greater(t, x, least[i], "%s at %v", name, h)
		}
	}
	for doc, err := range data.Documents() {
		require.NoError(t, err)
		for _, p := range set.Predictors {
			assert.NoError(t, speculate.CheckCausality(p, data.Header, doc, hs[:1]), p.Name())
		}
		break
	}
}

// No predictor was fitted or calibrated on a text of the embedded model, but for the
// one that package predictors names. The check finds those that they were calibrated on.
func TestUnseen(t *testing.T) {
	set := load(t)
	require.NotNil(t, set.Provenance)
	for _, n := range []int{128, 512} {
		docs := texts(t, n)
		docs = slices.DeleteFunc(docs, func(d *trace.Document) bool { return d.ID == "reasoning/00016" })
		require.Len(t, docs, 835)
		warning, err := set.Provenance.Check(context.Background(), speculate.Parts{Test: speculate.Slice(trace.Header{}, docs)})
		require.NoError(t, err)
		assert.Empty(t, warning, "%d tokens", n)
	}
	warning, err := set.Provenance.Check(context.Background(), speculate.Parts{Test: speculate.Slice(trace.Header{}, valid(t))})
	require.NoError(t, err)
	assert.Equal(t, "of 534 documents to evaluate on, the predictors were fitted on 0 and calibrated on 280", warning)
}

// valid returns the validation texts as token ids.
func valid(t *testing.T) (docs []*trace.Document) {
	packed, err := os.ReadFile("../../../testdata/corpus/valid.jsonl.zst")
	require.NoError(t, err)
	r, err := zstd.NewReader(nil)
	require.NoError(t, err)
	defer r.Close()
	text, err := r.DecodeAll(packed, nil)
	require.NoError(t, err)
	tok, err := tokenizer.Load(mini.FS(), "tokenizer.json")
	require.NoError(t, err)
	for dec := json.NewDecoder(bytes.NewReader(text)); dec.More(); {
		var d mini.Document
		require.NoError(t, dec.Decode(&d))
		ids := tok.Encode(d.Text, true)
		docs = append(docs, &trace.Document{Dataset: d.Domain, ID: d.ID, Tokens: ids[:min(len(ids), 512)]})
	}
	return docs
}
