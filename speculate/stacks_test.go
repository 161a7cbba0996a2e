package speculate

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A model of an encoder and a decoder; every axis has a length of its own.
const (
	sEnc, sL, sE, sD, sV = 3, 7, 18, 5, 29
)

var stacksRouter, stacksGates = func() (*tracetest.Router, *Gates) {
	h := trace.Header{Model: trace.Model{Name: "stacks", Layers: sL, Experts: sE, TopK: 1, Hidden: sD, Vocabulary: sV,
		Stacks: []trace.Stack{{Name: trace.Encoder, Layers: sEnc}, {Name: trace.Decoder, Layers: sL - sEnc}}}, Dropped: true}
	h.LogitLayers, h.InputLayers = h.Model.AllLayers(), h.Model.AllLayers()
	rule, gates := tracetest.Linear(h.Model, 3)
	return &tracetest.Router{Header: h, Rule: rule, Prompt: 17, Capacity: 2}, &Gates{Layers: sL, Experts: sE, Hidden: sD, Weights: gates}
}()

// stacksDocs returns n documents, one of an encoder alone and one of a decoder alone
// among them.
func stacksDocs(n, tokens int, seed uint64) []*trace.Document {
	docs := stacksRouter.Documents(n, tokens, seed)
	h := &stacksRouter.Header
	docs[0] = firstTokens(h, docs[0], docs[0].Encoded())
	if n > 1 {
		docs[1] = stackOf(docs[1], false)
	}
	return docs
}

// stackOf is the part of a document that one stack computes, in the model of both.
func stackOf(d *trace.Document, encoder bool) *trace.Document {
	from, to := d.Encoded(), d.Len()
	if encoder {
		from, to = 0, from
	}
	p := *d
	p.Tokens, p.Phases, p.Positions = d.Tokens[from:to], nil, nil
	if encoder {
		p.Phases = d.Phases[from:to]
	}
	p.Experts, p.Weights, p.Dropped = d.Experts[from*sL:to*sL], d.Weights[from*sL:to*sL], d.Dropped[from*sL:to*sL]
	p.RouterLogits, p.RouterInput = d.RouterLogits[from*sL*sE:to*sL*sE], d.RouterInput[from*sL*sD:to*sL*sD]
	return &p
}

var fitStacks = sync.OnceValues(func() ([]Predictor, error) {
	ctx, o := context.Background(), EvaluateOptions{Horizons: testHorizons}
	h := stacksRouter.Header
	ps, err := Baselines(ShapeOf(h.Model), stacksGates)
	if err != nil {
		return nil, err
	}
	if err := Fit(ctx, Slice(h, stacksDocs(30, 40, 1)), testHorizons, ps...); err != nil {
		return nil, err
	}
	valid := Slice(h, stacksDocs(12, 40, 2))
	if ps, err = Calibrate(ctx, valid, o, ps...); err != nil {
		return nil, err
	}
	en, err := FitEnsemble(ctx, "ensemble", valid, o, ps[:len(ps)-1]...)
	if err != nil {
		return nil, err
	}
	return append(ps, en.Calibrated()), nil
})

// Every predictor depends on nothing but its view in both stacks, and answers about
// the decoder step by step as it does for a whole document.
func TestStacksAreCausal(t *testing.T) {
	ps, err := fitStacks()
	require.NoError(t, err)
	h := stacksRouter.Header
	whole := stacksRouter.Documents(1, 28, 9)[0]
	for _, doc := range []*trace.Document{whole, stackOf(whole, true), stackOf(whole, false)} {
		for _, p := range ps {
			if p == (Oracle{}) {
				continue
			}
			assert.NoError(t, CheckCausality(p, h, doc, testHorizons), p.Name())
			assert.NoError(t, CheckStepwise(p, h, doc, testHorizons), p.Name())
		}
	}
}

func stacksSingle(f func(v View) float32) func([]View, []float32) {
	return func(views []View, out []float32) {
		for i, v := range views {
			out[i*sE] = f(v)
		}
	}
}

// expert reads past the view.
func expert(v View, t, l int) float32 {
	return float32(v.seq.experts[min(max(t, 0), v.seq.n-1)*sL+l]) / 100
}

// Predictors that know more than they may in an encoder, or of it. The first four are
// causal over positions, as in a decoder.
func TestCheckCausalityFindsCheatsOfEncoders(t *testing.T) {
	var owner int
	encoder := func(f func(v View) float32) func([]View, []float32) {
		return stacksSingle(func(v View) float32 {
			if v.Layer() >= sEnc {
				return 0
			}
			return f(v)
		})
	}
	for _, p := range []*predict{
		{"an earlier token at the layer", encoder(func(v View) float32 { return expert(v, v.t-1, v.l) })},
		{"the first token at the last layer", encoder(func(v View) float32 { return expert(v, 0, sEnc-1) })},
		{"the router input of an earlier token at the layer", encoder(func(v View) float32 {
			return sum(v.seq.inputs[(max(v.t-1, 0)*sL+v.l)*sD:][:sD])
		})},
		{"the router logits of an earlier token at the layer", encoder(func(v View) float32 {
			return sum(v.seq.logits[(max(v.t-1, 0)*sL+v.l)*sE:][:sE])
		})},
		{"the token itself at the layer", encoder(func(v View) float32 { return expert(v, v.t, v.l) })},
		{"a later token at the layer", encoder(func(v View) float32 { return expert(v, min(v.t+1, v.seq.enc-1), v.l) })},
		{"the decoder's first id", encoder(func(v View) float32 { return float32(v.seq.tokens[v.seq.enc]) / 100 })},
		{"the decoder's routing", encoder(func(v View) float32 { return expert(v, v.seq.n-1, sL-1) })},
		{"rows filled by a question about the decoder", stacksSingle(func(v View) float32 {
			first, rows := v.Memory(&owner, 1, func(begin []View, first int, rows []float32) {
				for _, b := range begin {
					rows[b.Token()-first] = sum(v.Experts(b.Token(), sEnc-1))
				}
			})
			return sum(rows[min(v.Token()-first, len(rows)):]) / 100
		})},
		{"a later token of the decoder", stacksSingle(func(v View) float32 {
			if v.Layer() < sEnc {
				return 0
			}
			return expert(v, v.t+1, sEnc)
		})},
	} {
		t.Run(p.name, func(t *testing.T) {
			err := CheckCausality(p, stacksRouter.Header, stacksRouter.Documents(1, 40, 9)[0], testHorizons)
			require.ErrorContains(t, err, "depends on what comes later")
		})
	}
}

// What an encoder may read: all ids, before and after, and all tokens at the layers
// below; and the decoder all of the encoder.
func TestCheckCausalityPassesHonestEncoders(t *testing.T) {
	var owner int
	p := &readsAll{&predict{"honest", stacksSingle(func(v View) float32 {
		from, to := v.Tokens()
		x := float32(0)
		for t := from; t < to; t++ {
			if id, ok := v.ID(t); ok {
				x += float32(id * int32(t+1))
			}
			for l := range sL {
				x += sum(v.Experts(t, l)) + sum(v.Weights(t, l)) + sum(v.Logits(t, l)) + sum(v.Input(t, l))
			}
		}
		first, rows := v.Memory(&owner, 2, func(begin []View, first int, rows []float32) {
			for _, b := range begin {
				id, _ := b.ID(b.Token())
				from, to := b.Tokens()
				rows[2*(b.Token()-first)] = float32(id)
				for t := from; t < to; t++ {
					rows[2*(b.Token()-first)+1] += sum(b.Experts(t, 0)) + sum(b.Experts(t, sL-1))
				}
			}
		})
		if v.Horizon() == (Horizon{}) {
			to-- // its id is unknown
		}
		assert.Equal(t, 2*(to-first), len(rows))
		return x/1e4 + sum(rows)
	})}}
	for _, doc := range stacksRouter.Documents(2, 30, 9) {
		assert.NoError(t, CheckCausality(p, stacksRouter.Header, doc, testHorizons))
		assert.NoError(t, CheckStepwise(p, stacksRouter.Header, doc, testHorizons))
	}
}

// readsAll is a predictor that reads all that is recorded.
type readsAll struct{ *predict }

func (readsAll) Requires() Requirements {
	return Requirements{TokenIDs: true, Weights: true, Logits: true, Inputs: true, History: -1}
}

// TestStacksView lists what a view shows, token by token and layer by layer.
func TestStacksView(t *testing.T) {
	doc := stacksRouter.Documents(1, 40, 4)[0]
	enc := doc.Encoded()
	require.Equal(t, 17, enc)
	views, err := NewViews(stacksRouter.Header, doc)
	require.NoError(t, err)
	for _, c := range []struct {
		t, l  int
		h     Horizon
		known func(t, l int) bool
		ids   int
	}{
		{6, 2, Horizon{Layers: 1}, func(t, l int) bool { return t < enc && l < 2 }, enc},
		{0, 2, Horizon{Layers: 2}, func(t, l int) bool { return t < enc && l < 1 }, enc},
		{6, 1, Horizon{KnownID: true}, func(int, int) bool { return false }, enc},
		{6, 1, Horizon{}, func(int, int) bool { return false }, 0},
		{20, 5, Horizon{Layers: 1}, func(t, l int) bool {
			return t < enc && l < sEnc || t >= enc && l >= sEnc && (t < 20 || t == 20 && l < 5)
		}, 21},
		{20, 5, Horizon{}, func(t, l int) bool { return t < enc && l < sEnc || t >= enc && l >= sEnc && t < 20 }, 20},
		{enc, 6, Horizon{KnownID: true}, func(t, l int) bool { return t < enc && l < sEnc }, enc + 1},
	} {
		v := views.At(c.t, c.l, c.h)
		name := fmt.Sprintf("token %d, layer %d at %v", c.t, c.l, c.h)
		assert.Equal(t, c.t < enc, v.Order() == LayerByLayer, name)
		_, to := v.Tokens()
		assert.Equal(t, max(c.t+1, min(enc, enc*(enc-c.t))), to, name)
		for tok := range doc.Len() {
			for l := range sL {
				at := tok*sL + l
				require.Equal(t, c.known(tok, l), v.Visible(tok, l), "%s: token %d, layer %d", name, tok, l)
				if !c.known(tok, l) {
					require.Nil(t, v.Experts(tok, l))
					require.Nil(t, v.Weights(tok, l))
					require.Nil(t, v.Logits(tok, l))
					require.Nil(t, v.Input(tok, l))
					continue
				}
				require.Equal(t, doc.Experts[at:at+1], v.Experts(tok, l))
				require.Equal(t, doc.Weights[at:at+1], v.Weights(tok, l))
				require.Equal(t, doc.RouterLogits[at*sE:(at+1)*sE], v.Logits(tok, l))
				require.Equal(t, doc.RouterInput[at*sD:(at+1)*sD], v.Input(tok, l))
			}
			_, known := v.ID(tok)
			require.Equal(t, tok < c.ids, known, "%s: id of token %d", name, tok)
		}
	}
	s := ShapeOf(stacksRouter.Header.Model)
	assert.Equal(t, []int{1, 2, 4, 5, 6}, s.Targets(Horizon{Layers: 1}))
	assert.Equal(t, []int{6}, s.Targets(Horizon{Layers: 3}))
	assert.Equal(t, []int{3, 4, 5, 6}, s.Targets(Horizon{}))
	assert.Equal(t, []int{0, 1, 2, 3, 4, 5, 6}, s.Targets(Horizon{KnownID: true}))
	assert.Equal(t, 4, s.Depth())
	assert.Error(t, Horizon{Layers: 4}.Validate(s.Depth()))
}

// alone is one stack's part of documents as a trace of its own, of one stack.
func alone(docs []*trace.Document, encoder bool) Data {
	h := stacksRouter.Header
	first, layers := sEnc, sL-sEnc
	if encoder {
		first, layers = 0, sEnc
	}
	h.Model.Layers, h.Model.Stacks = layers, nil
	h.LogitLayers, h.InputLayers = h.Model.AllLayers(), h.Model.AllLayers()
	var parts []*trace.Document
	for _, d := range docs {
		p := stackOf(d, encoder)
		one := &trace.Document{Dataset: d.Dataset, ID: d.ID, Tokens: p.Tokens}
		for t := range p.Tokens {
			from, to := t*sL+first, t*sL+first+layers
			one.Experts, one.Weights = append(one.Experts, p.Experts[from:to]...), append(one.Weights, p.Weights[from:to]...)
			one.Dropped = append(one.Dropped, p.Dropped[from:to]...)
			one.RouterLogits = append(one.RouterLogits, p.RouterLogits[from*sE:to*sE]...)
			one.RouterInput = append(one.RouterInput, p.RouterInput[from*sD:to*sD]...)
		}
		if one.Len() > 0 {
			parts = append(parts, one)
		}
	}
	return Slice(h, parts)
}

// TestStacksEvaluate expects the figures of each stack by itself: those of a trace of
// that stack alone. In an encoder, previous tokens do not help at any horizon.
func TestStacksEvaluate(t *testing.T) {
	ctx := t.Context()
	h := stacksRouter.Header
	train, test := stacksDocs(24, 36, 5), stacksDocs(9, 36, 6)
	run := func(train, test Data, gates *Gates, hs []Horizon) *Results {
		ps, err := Baselines(ShapeOf(train.Header.Model), gates)
		require.NoError(t, err)
		require.NoError(t, Fit(ctx, train, hs, ps...))
		r, err := Evaluate(ctx, test, EvaluateOptions{Horizons: hs, Resamples: -1}, ps...)
		require.NoError(t, err)
		return r
	}
	hs := append(LayersAhead(1, 2), Horizon{}, Horizon{KnownID: true})
	both := run(Slice(h, train), Slice(h, test), stacksGates, hs)
	compared := 0
	for i, encoder := range []bool{false, true} {
		first, stack, layers := sEnc, trace.Decoder, sL-sEnc
		if encoder {
			first, stack, layers = 0, trace.Encoder, sEnc
		}
		gates := &Gates{Layers: layers, Experts: sE, Hidden: sD, Weights: stacksGates.Weights[first*sE*sD:][:layers*sE*sD]}
		one := run(alone(train, encoder), alone(test, encoder), gates, hs)
		for _, x := range one.Rows {
			if x.By != "layer" || encoder && (x.Horizon.Layers == 0 || x.Predictor == "previous token") {
				continue
			}
			var l int
			fmt.Sscan(x.Key, &l)
			rows := slices.DeleteFunc(both.Find(x.Predictor, x.Horizon, "layer"), func(r Row) bool { return r.Key != fmt.Sprint(l+first) })
			require.Len(t, rows, 1)
			assert.Equal(t, x.Metrics, rows[0].Metrics, "%s at %v, layer %d", x.Predictor, x.Horizon, l+first)
			assert.Equal(t, stack, rows[0].Stack)
			assert.Positive(t, rows[0].Pairs)
			compared++
		}
		phase := []trace.Phase{trace.Decode, trace.Encode}[i]
		for _, p := range []string{"frequency", "transition", "gate reuse"} {
			x := slices.DeleteFunc(both.Find(p, hs[0], "phase"), func(r Row) bool { return r.Key != string(phase) })
			require.Len(t, x, 1)
			want := int64(0)
			for _, l := range both.Find(p, hs[0], "layer") {
				if l.Stack == stack {
					want += l.Pairs
				}
			}
			if !encoder { // and one document of which all tokens were prefilled
				want -= int64(test[1].Len() * (layers - 1))
			}
			assert.Equal(t, want, x[0].Pairs)
		}
	}
	assert.Greater(t, compared, 60)
	for _, p := range []string{"previous token", "transition", "path of three"} {
		for _, x := range both.Find(p, Horizon{KnownID: true}, "layer") {
			for _, f := range both.Find("frequency", Horizon{KnownID: true}, "layer") {
				if x.Key == f.Key && x.Stack == trace.Encoder {
					assert.Equal(t, f.Metrics, x.Metrics, p)
				}
			}
		}
	}
	for _, x := range both.Find("frequency", Horizon{}, "layer") {
		assert.Equal(t, trace.Decoder, x.Stack)
	}
}

// TestStacksSaved loads predictors of two stacks, which answer as before, and not
// about a model of one.
func TestStacksSaved(t *testing.T) {
	ps, err := fitStacks()
	require.NoError(t, err)
	dir, ctx := t.TempDir(), t.Context()
	require.NoError(t, SaveAll(dir, &Set{Predictors: ps}))
	set, err := LoadAll(os.DirFS(dir), stacksGates, nil)
	require.NoError(t, err)
	data, o := Slice(stacksRouter.Header, stacksDocs(4, 40, 7)), EvaluateOptions{Horizons: testHorizons, Resamples: -1}
	want, err := Evaluate(ctx, data, o, slices.DeleteFunc(slices.Clone(ps), func(p Predictor) bool { return p == Oracle{} })...)
	require.NoError(t, err)
	got, err := Evaluate(ctx, data, o, set.Predictors...)
	require.NoError(t, err)
	assert.Equal(t, want.Rows, got.Rows)
	h := stacksRouter.Header
	h.Model.Stacks = nil
	docs := stacksDocs(2, 40, 7)[1:]
	_, err = Evaluate(ctx, Slice(h, docs), o, ps[0])
	assert.ErrorContains(t, err, "fitted for an encoder of 3 of L=7 layers, got one of 0 of L=7")
	costs, err := MeasureCosts(ctx, data, testHorizons, nil, ps[:1]...)
	require.NoError(t, err)
	assert.Positive(t, costs["frequency"].Microseconds)
}

func TestStacksSession(t *testing.T) {
	ps, err := fitStacks()
	require.NoError(t, err)
	s, err := NewSession(ps[2], stacksRouter.Header)
	require.NoError(t, err)
	doc := stacksRouter.Documents(1, 40, 7)[0]
	require.NoError(t, s.Append(doc))
	_, err = s.Predict(2, Horizon{})
	assert.ErrorContains(t, err, "layer 2 at token; must be 3 to 6")
	_, err = s.Predict(3, Horizon{Layers: 1})
	assert.ErrorContains(t, err, "must be 4 to 6")
	_, err = s.Predict(3, Horizon{})
	assert.NoError(t, err)
	assert.ErrorContains(t, s.Append(doc), "17 tokens of an encoder after 40 tokens")
	s, err = NewSession(ps[2], stacksRouter.Header)
	require.NoError(t, err)
	require.NoError(t, s.Append(stackOf(doc, true)))
	_, err = s.Predict(3, Horizon{KnownID: true})
	assert.ErrorContains(t, err, "no token has begun")
	require.NoError(t, s.Begin(4))
	require.NoError(t, s.Observe(Routing{Experts: []int32{3}}))
	_, err = s.Predict(4, Horizon{Layers: 1})
	assert.NoError(t, err)
	_, err = s.Predict(5, Horizon{Layers: 1})
	assert.ErrorContains(t, err, "have been observed")
}

// only answers about the decoder.
type onlyDecoder struct{ Predictor }

func (onlyDecoder) SupportsLayer(s Shape, _ Horizon, layer int) bool { return layer >= s.Encoder }

// TestPartial evaluates, calibrates and mixes a predictor of the decoder only.
func TestPartial(t *testing.T) {
	ctx, o := t.Context(), EvaluateOptions{Horizons: testHorizons, Resamples: -1}
	ps, err := fitStacks()
	require.NoError(t, err)
	data := Slice(stacksRouter.Header, stacksDocs(6, 40, 8))
	some := &predict{"partial", func(views []View, out []float32) {
		for _, v := range views {
			assert.GreaterOrEqual(t, v.Layer(), sEnc)
		}
		for i := range out {
			out[i] = .1
		}
	}}
	p, err := Calibrate(ctx, data, o, onlyDecoder{some}, ps[2])
	require.NoError(t, err)
	en, err := FitEnsemble(ctx, "ensemble", data, o, p...)
	require.NoError(t, err)
	r, err := Evaluate(ctx, data, o, p[0], p[1], en)
	require.NoError(t, err)
	for _, name := range []string{"function", "transition"} {
		layers := map[string]bool{}
		for _, x := range r.Find(name, testHorizons[0], "layer") {
			layers[x.Stack] = true
		}
		assert.Equal(t, name == "transition", layers[trace.Encoder], name)
		assert.True(t, layers[trace.Decoder], name)
	}
	require.NoError(t, CheckCausality(p[0], stacksRouter.Header, stacksDocs(3, 40, 8)[2], testHorizons))
}

// TestBudgets compares the recall at shares of the experts with its definition.
func TestBudgets(t *testing.T) {
	var a tally
	order := make([]int32, sE)
	for i := range order {
		order[i] = int32((i*5 + 2) % sE)
	}
	scores := make([]float32, sE)
	want := map[int]float64{}
	for i := range 40 {
		actual := []int32{int32(i * 7 % sE), int32((i*7 + 1 + i%3) % sE)}
		a.observe(scores, order, actual)
		for _, k := range []int{2, 3, 5, 9} {
			for _, e := range order[:k] {
				if slices.Contains(actual, e) {
					want[k] += 1. / 2 / 40
				}
			}
		}
	}
	m := a.metrics(sE)
	require.Len(t, m.Budgets, 4)
	for k, v := range want {
		got, ok := m.RecallAt(k)
		assert.True(t, ok)
		assert.InDelta(t, v, got, 1e-12, k)
	}
	_, ok := m.RecallAt(10)
	assert.False(t, ok)
	assert.Empty(t, budgets(16))
	var b tally
	b.add(&a)
	assert.Equal(t, a, b)
}
