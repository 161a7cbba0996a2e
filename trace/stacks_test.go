package trace_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/expertspec/expertspec/trace"
)

// stacksHeader is that of a model with an encoder of 2 layers and a decoder of 3,
// and recorded drops.
func stacksHeader() trace.Header {
	return trace.Header{
		Model: trace.Model{Name: "stacks", Layers: 5, Experts: 7, TopK: 1, Hidden: 3, Vocabulary: 99, Stacks: []trace.Stack{
			{Name: trace.Encoder, Layers: 2, Blocks: []int{1, 3}}, {Name: trace.Decoder, Layers: 3, Blocks: []int{1, 4, 7}}}},
		LogitLayers: []int{1, 2}, InputLayers: []int{4}, Dropped: true,
	}
}

// stacksDocument is encoded tokens of an encoder and then decoded ones.
func stacksDocument(doc, encoded, decoded int) *trace.Document {
	h := stacksHeader()
	m := &h.Model
	d := &trace.Document{Dataset: "set", ID: string(rune('a' + doc))}
	for t := range encoded + decoded {
		phase := trace.Encode
		if t >= encoded {
			phase = trace.Decode
		}
		d.Phases = append(d.Phases, phase)
		d.Tokens = append(d.Tokens, int32((doc+7*t)%99))
		for l := range m.Layers {
			e, w, routes := trace.NoExpert, float32(0), (t < encoded) == (l < 2)
			if routes {
				e, w = int32((doc+3*t+5*l)%7), float32(1+(t+l)%4)/8
			}
			d.Experts, d.Weights = append(d.Experts, e), append(d.Weights, w)
			d.Dropped = append(d.Dropped, routes && (doc+t+2*l)%3 == 0)
		}
		for x := range 2 * 7 {
			d.RouterLogits = append(d.RouterLogits, float32((doc+t+x)%5))
		}
		d.RouterInput = append(d.RouterInput, float32(t), float32(doc), 0)
	}
	return d
}

// writeStacks writes nine documents and returns them.
func writeStacks(t *testing.T, dir string, opts trace.WriterOptions) []*trace.Document {
	t.Helper()
	w, err := trace.Create(dir, stacksHeader(), opts)
	require.NoError(t, err)
	var docs []*trace.Document
	for i := range 9 {
		docs = append(docs, stacksDocument(i, 3+i, 1+i%4))
		require.NoError(t, w.Write(docs[i]))
	}
	require.NoError(t, w.Close())
	return docs
}

// TestStacksRewritten reads the trace of writeStacks as pyarrow, polars and DuckDB
// wrote it anew (testdata/read_trace.py): booleans in other encodings.
func TestStacksRewritten(t *testing.T) {
	paths, err := filepath.Glob("../testdata/traces/rewritten-stacks/*.parquet")
	require.NoError(t, err)
	require.Len(t, paths, 4)
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			r, err := trace.Open(path)
			require.NoError(t, err)
			assert.Equal(t, stacksHeader(), r.Header())
			all, err := r.ReadAll()
			require.NoError(t, err)
			require.Len(t, all, 9)
			for i, d := range all {
				assert.Equal(t, stacksDocument(i, 3+i, 1+i%4), d)
			}
			some, err := r.Select(trace.Filter{Documents: []string{"h"}}).ReadAll()
			require.NoError(t, err)
			assert.Equal(t, all[7:8], some)
		})
	}
}

// TestStacksRoundTrip writes a document of two stacks with drops and reads it
// back, whole row groups and documents in parts.
func TestStacksRoundTrip(t *testing.T) {
	h := stacksHeader()
	for name, opts := range map[string]trace.WriterOptions{"one": {}, "small groups": {GroupTokens: 9}, "float16": {Float: trace.Float16}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			want := writeStacks(t, dir, opts)
			r, err := trace.Open(dir)
			require.NoError(t, err)
			assert.Equal(t, h, r.Header())
			all, err := r.ReadAll()
			require.NoError(t, err)
			assert.Equal(t, want, all)
			report, err := trace.Validate(dir, trace.ValidateOptions{})
			require.NoError(t, err)
			require.NoError(t, report.Err())
			require.NoError(t, trace.VerifyShard(r.Paths()[0]))
			some, err := r.Select(trace.Filter{Documents: []string{"c", "h"}}).ReadAll()
			require.NoError(t, err)
			assert.Equal(t, []*trace.Document{want[2], want[7]}, some)
			tokens := r.Select(trace.Filter{TokensOnly: true})
			assert.False(t, tokens.Header().Dropped)
			some, err = tokens.ReadAll()
			require.NoError(t, err)
			assert.Nil(t, some[0].Dropped)
		})
	}
}

// TestStacksValidate breaks a document in one place at a time.
func TestStacksValidate(t *testing.T) {
	h := stacksHeader()
	d := stacksDocument(0, 4, 3)
	require.NoError(t, d.Validate(&h))
	assert.Equal(t, 4, d.Encoded())
	assert.True(t, d.DroppedAt(&h.Model, 3, 0))
	assert.False(t, d.DroppedAt(&h.Model, 3, 1))
	for want, breaks := range map[string]func(d *trace.Document){
		`token 1, layer 3: expert 4 of stack "decoder" for a token of phase "encode"`: func(d *trace.Document) { d.Experts[1*5+3] = 4 },
		`token 5, layer 1: expert 6 of stack "encoder" for a token of phase "decode"`: func(d *trace.Document) { d.Experts[5*5+1] = 6 },
		`token 5, layer 0: expert 1 of stack "encoder" for a token of phase "prefill"`: func(d *trace.Document) {
			d.Phases[5], d.Experts[5*5] = trace.Prefill, 1
		},
		`token 5: phase "encode" after "decode"`:               func(d *trace.Document) { d.Phases[5] = trace.Encode },
		"token 2, layer 4: dropped without an expert":          func(d *trace.Document) { d.Dropped[2*5+4] = true },
		"Dropped holds 34 values, expected 35 for 7 tokens":    func(d *trace.Document) { d.Dropped = d.Dropped[1:] },
		"token 0, layer 4: weight 0.25 of choice 0":            func(d *trace.Document) { d.Weights[4] = .25 },
		"Dropped holds 0 values, expected 35 for 7 tokens":     func(d *trace.Document) { d.Dropped = nil },
		`token 0, layer 0: expert 0 of stack "encoder" for a `: func(d *trace.Document) { d.Phases = nil },
	} {
		d := stacksDocument(0, 4, 3)
		breaks(d)
		err := d.Validate(&h)
		require.ErrorContains(t, err, want)
		assert.Contains(t, err.Error(), `document "a" of data set "set"`)
	}
	// An encoder by itself, and a decoder by itself, whose tokens may be prefilled.
	require.NoError(t, stacksDocument(0, 4, 0).Validate(&h))
	d = stacksDocument(0, 0, 3)
	d.Phases = nil
	require.NoError(t, d.Validate(&h))
	h.Dropped = false
	require.ErrorContains(t, d.Validate(&h), "Dropped holds 15 values, expected 0")
	h = plantedHeader()
	d = plantedDocument(1, 9, h)
	d.Phases[0] = trace.Encode
	require.ErrorContains(t, d.Validate(&h), `token 0: phase "encode" in a model without a stack "encoder"`)
}

func TestStackOf(t *testing.T) {
	h := stacksHeader()
	m := &h.Model
	require.NoError(t, m.Validate())
	for l, want := range []int{0, 0, 2, 2, 2} {
		s, first := m.StackOf(l)
		assert.Equal(t, want, first, l)
		assert.Equal(t, m.Stacks[min(1, l/2)], s, l)
		assert.Equal(t, l < 2, m.Routes(trace.Encode, l))
		assert.Equal(t, l >= 2, m.Routes(trace.Decode, l))
		assert.Equal(t, l >= 2, m.Routes(trace.Prefill, l))
	}
	assert.Panics(t, func() { m.StackOf(5) })
	s, first := (&trace.Model{Layers: 3}).StackOf(2)
	assert.Equal(t, trace.Stack{Name: trace.Decoder, Layers: 3}, s)
	assert.Zero(t, first)
	assert.True(t, (&trace.Model{Layers: 3}).Routes(trace.Prefill, 0))
	slices.Reverse(m.Stacks)
	assert.ErrorContains(t, m.Validate(), `stack 1 is "encoder", which must be the first`)
}

// TestStacksStatistics compares the figures of a layer with those of the layer's
// stack alone, in a model of one stack.
func TestStacksStatistics(t *testing.T) {
	h := stacksHeader()
	o := trace.StatisticsOptions{Segments: []int{2, 3}, CacheSizes: []int{1, 2}}
	both, err := trace.NewStatistics(h, o)
	require.NoError(t, err)
	alone := make([]*trace.Statistics, 2) // by stack
	for i := range alone {
		one := trace.Header{Model: trace.Model{Layers: 2 + i, Experts: 7, TopK: 1}, Dropped: true, LogitLayers: []int{1 - i}}
		alone[i], err = trace.NewStatistics(one, o)
		require.NoError(t, err)
	}
	for i := range 9 {
		encoded, n := 3+i, 4+i+i%4
		d := stacksDocument(i, encoded, n-encoded)
		for j := range d.RouterLogits { // of other layers too, which must not count
			d.RouterLogits[j] += float32(j%11) / 4
		}
		require.NoError(t, both.Add(d))
		for s, r := range [][3]int{{0, encoded, 0}, {encoded, n, 2}} {
			part := &trace.Document{Dataset: d.Dataset, ID: d.ID, Tokens: d.Tokens[r[0]:r[1]]}
			for tok := r[0]; tok < r[1]; tok++ {
				part.Positions = append(part.Positions, int32(tok))
				for l := r[2]; l < r[2]+2+s; l++ {
					part.Experts = append(part.Experts, d.ExpertsAt(&h.Model, tok, l)...)
					part.Weights = append(part.Weights, d.WeightsAt(&h.Model, tok, l)...)
					part.Dropped = append(part.Dropped, d.DroppedAt(&h.Model, tok, l))
				}
				part.RouterLogits = append(part.RouterLogits, d.RouterLogits[(tok*2+s)*7:][:7]...)
			}
			require.NoError(t, alone[s].Add(part))
		}
	}
	got, encoder, decoder := both.Summary(), alone[0].Summary(), alone[1].Summary()
	for i := range decoder.Overall.Layers {
		decoder.Overall.Layers[i].Layer += 2
	}
	for i := range decoder.Transitions {
		decoder.Transitions[i].From += 2
	}
	assert.Equal(t, slices.Concat(encoder.Overall.Layers, decoder.Overall.Layers), got.Overall.Layers)
	assert.Equal(t, slices.Concat(encoder.Transitions, decoder.Transitions), got.Transitions)
	assert.Equal(t, slices.Concat(encoder.Coactivation, decoder.Coactivation), got.Coactivation)
	assert.Equal(t, encoder.Tokens+decoder.Tokens, got.Tokens)
	assert.Len(t, got.Transitions, 3)
	for _, l := range got.Overall.Layers {
		require.NotNil(t, l.Dropped)
		assert.InDelta(t, 1./3, *l.Dropped, .12)
		assert.Equal(t, l.Layer == 1 || l.Layer == 2, l.RouterEntropy != nil)
		assert.Positive(t, l.Local[0].Windows)
	}
	// Without recorded drops, and with experts in the other stack.
	h.Dropped = false
	s, err := trace.NewStatistics(h, o)
	require.NoError(t, err)
	d := stacksDocument(0, 4, 3)
	d.Dropped = nil
	require.NoError(t, s.Add(d))
	assert.Nil(t, s.Summary().Overall.Layers[0].Dropped)
	d.Experts[3] = 1
	assert.ErrorContains(t, s.Add(d), `token 0, layer 3: experts for a token of phase "encode"`)
}
