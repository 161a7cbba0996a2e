package trace_test

import (
	"math"
	"os"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestValidateDocument breaks a document in one place at a time.
func TestValidateDocument(t *testing.T) {
	h := plantedHeader()
	d := plantedDocument(1, 9, h)
	require.NoError(t, d.Validate(&h))
	at := (4*plantedL+3)*plantedK + 1 // token 4, layer 3, second choice
	for name, c := range map[string]struct {
		breaks func(d *trace.Document)
		want   string
	}{
		"expert of 11":       {func(d *trace.Document) { d.Experts[at] = 11 }, "token 4, layer 3: expert 11 of 11"},
		"expert twice":       {func(d *trace.Document) { d.Experts[at] = d.Experts[at-1] }, "token 4, layer 3: expert"},
		"expert below":       {func(d *trace.Document) { d.Experts[at] = -2 }, "token 4, layer 3: expert -2"},
		"gap":                {func(d *trace.Document) { d.Experts[at] = trace.NoExpert }, "token 4, layer 3: expert"},
		"weight NaN":         {func(d *trace.Document) { d.Weights[at] = float32(math.NaN()) }, "token 4, layer 3: weight NaN of choice 1"},
		"weight below 0":     {func(d *trace.Document) { d.Weights[at] = -.1 }, "token 4, layer 3: weight -0.1"},
		"weights short":      {func(d *trace.Document) { d.Weights = d.Weights[1:] }, "Weights holds 134 values, expected 135"},
		"token beyond":       {func(d *trace.Document) { d.Tokens[2] = plantedV }, "token 2: id 1000 in a vocabulary of 1000"},
		"tokens missing":     {func(d *trace.Document) { d.Tokens = nil }, "no tokens"},
		"position twice":     {func(d *trace.Document) { d.Positions = []int32{0, 1, 2, 3, 3, 5, 6, 7, 8} }, "token 4: position 3 after 3"},
		"phase":              {func(d *trace.Document) { d.Phases[5] = "later" }, `token 5: phase "later"`},
		"logit NaN":          {func(d *trace.Document) { d.RouterLogits[2*4*plantedE+plantedE+3] = float32(math.NaN()) }, "token 2, layer 2: router logit 3 is NaN"},
		"input Inf":          {func(d *trace.Document) { d.RouterInput[3*2*plantedD+plantedD+6] = float32(math.Inf(1)) }, "token 3, layer 4: router input 6 is +Inf"},
		"logits of one less": {func(d *trace.Document) { d.RouterLogits = d.RouterLogits[plantedE:] }, "RouterLogits"},
		"name":               {func(d *trace.Document) { d.ID = "\xff" }, "not UTF-8"},
	} {
		d := plantedDocument(1, 9, h)
		c.breaks(d)
		err := d.Validate(&h)
		require.ErrorContains(t, err, c.want, name)
		assert.Contains(t, err.Error(), `data set "set-0"`, name)
	}
	d.Weights[at] += .25
	assert.NoError(t, d.Validate(&h))
}

func TestStackTopK(t *testing.T) {
	h := trace.Header{Model: trace.Model{Layers: 3, Experts: 4, TopK: 2, Stacks: []trace.Stack{
		{Name: "encoder", Layers: 2, TopK: 1}, {Name: "decoder", Layers: 1, Blocks: []int{3}}}}}
	d := trace.Document{ID: "x", Tokens: []int32{5, 6}, Phases: []trace.Phase{trace.Encode, trace.Prefill},
		Experts: []int32{3, -1, 0, -1, -1, -1, -1, -1, -1, -1, 1, 2}, Weights: []float32{1, 0, 1, 0, 0, 0, 0, 0, 0, 0, .5, .5}}
	assert.NoError(t, d.Validate(&h))
	d.Experts[1] = 2
	err := d.Validate(&h)
	assert.ErrorContains(t, err, "layer 0: 2 experts with top-k 1")
}

func TestHeaderValidate(t *testing.T) {
	for name, breaks := range map[string]func(h *trace.Header){
		"no layers":   func(h *trace.Header) { h.Model.Layers = 0 },
		"no experts":  func(h *trace.Header) { h.Model.Experts = 0 },
		"top-k":       func(h *trace.Header) { h.Model.TopK = 12 },
		"stacks":      func(h *trace.Header) { h.Model.Stacks[0].Layers = 4 },
		"blocks":      func(h *trace.Header) { h.Model.Stacks[0].Blocks = []int{1, 2, 3, 3, 4} },
		"few blocks":  func(h *trace.Header) { h.Model.Stacks[0].Blocks = []int{1} },
		"logit layer": func(h *trace.Header) { h.LogitLayers = []int{5} },
		"unordered":   func(h *trace.Header) { h.InputLayers = []int{2, 1} },
		"no hidden":   func(h *trace.Header) { h.Model.Hidden = 0 },
		"shards":      func(h *trace.Header) { h.Source.Shards = trace.MaxShards + 1 },
		"absurd":      func(h *trace.Header) { h.Model.Layers = 1 << 40 },
	} {
		h := plantedHeader()
		breaks(&h)
		assert.Error(t, h.Validate(), name)
		_, err := trace.Create(t.TempDir(), h, trace.WriterOptions{})
		assert.Error(t, err, name)
	}
}

// TestValidate finds a document that two shards hold.
func TestValidate(t *testing.T) {
	dir := t.TempDir()
	h := plantedHeader()
	writePlanted(t, dir, 5, h, trace.WriterOptions{Prefix: "a", GroupTokens: 10})
	report, err := trace.Validate(dir, trace.ValidateOptions{})
	require.NoError(t, err)
	require.NoError(t, report.Err())
	require.Equal(t, 5, report.Documents)
	require.Equal(t, 1, report.Shards)
	w, err := trace.Create(dir, h, trace.WriterOptions{Prefix: "b"})
	require.NoError(t, err)
	for _, doc := range []int{7, 3} {
		require.NoError(t, w.Write(plantedDocument(doc, 6, h)))
	}
	require.NoError(t, w.Close())
	report, err = trace.Validate(dir, trace.ValidateOptions{})
	require.NoError(t, err)
	require.Equal(t, 1, report.Count)
	p := report.Problems[0]
	assert.True(t, strings.HasSuffix(p.File, "b-00000.parquet"), p)
	assert.Equal(t, 0, p.RowGroup)
	assert.Equal(t, int64(6), p.Row)
	assert.Contains(t, p.Error(), `"doc-003"`)
	assert.Contains(t, p.Error(), "a-00000.parquet")
	report, err = trace.ValidateFS(os.DirFS(dir), trace.ValidateOptions{SumToOne: true})
	require.NoError(t, err)
	assert.Equal(t, 7, report.Documents)
	assert.Equal(t, 1+7, report.Count) // planted weights do not add up to 1
	assert.ErrorContains(t, report.Err(), "weights add up to")
}

// TestWriteRefuses checks that a bad document is omitted and the rest is
// written.
func TestWriteRefuses(t *testing.T) {
	dir := t.TempDir()
	h := plantedHeader()
	w, err := trace.Create(dir, h, trace.WriterOptions{Float: trace.Float16})
	require.NoError(t, err)
	bad := plantedDocument(1, 6, h)
	bad.Experts[7] = 99
	big := plantedDocument(1, 6, h)
	big.RouterLogits[3] = 70000
	for _, d := range []*trace.Document{bad, big} {
		err := w.Write(d)
		assert.ErrorContains(t, err, "doc-001")
	}
	assert.NoError(t, w.Write(plantedDocument(2, 6, h)))
	assert.NoError(t, w.Close())
	assert.Error(t, w.Write(plantedDocument(3, 6, h)), "a closed writer writes")
	report, err := trace.Validate(dir, trace.ValidateOptions{})
	require.NoError(t, err)
	require.NoError(t, report.Err())
	assert.Equal(t, 1, report.Documents)
}

// TestValidateTwice finds a document that is in two shards, and says where.
func TestValidateTwice(t *testing.T) {
	dir := t.TempDir()
	for _, prefix := range []string{"a", "b"} {
		w, err := trace.Create(dir, plantedHeader(), trace.WriterOptions{Prefix: prefix})
		require.NoError(t, err)
		require.NoError(t, w.Write(plantedDocument(len(prefix), 9, plantedHeader())))
		require.NoError(t, w.Write(plantedDocument(int(prefix[0]), 7, plantedHeader())))
		require.NoError(t, w.Close())
	}
	r, err := trace.Validate(dir, trace.ValidateOptions{})
	require.NoError(t, err)
	assert.Equal(t, 1, r.Count)
	assert.ErrorContains(t, r.Err(), "b-00000.parquet: row group 0, row 0: document \"doc-001\" of data set \"set-0\" is also at "+dir+"/a-00000.parquet, row group 0, row 0")
}
