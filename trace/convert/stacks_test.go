package convert_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/convert"
	"github.com/expertspec/expertspec/trace/tracetest"
)

// TestStacks writes a trace of an encoder and a decoder in each format: those
// that hold tokens without experts keep the choices, and name what they do not
// keep; others are an error, and leave nothing.
func TestStacks(t *testing.T) {
	h := trace.Header{Model: trace.Model{Name: "m", Layers: 5, Experts: 6, TopK: 1, Vocabulary: 50, Stacks: []trace.Stack{
		{Name: trace.Encoder, Layers: 2}, {Name: trace.Decoder, Layers: 3}}}, Dropped: true}
	r := tracetest.Router{Header: h, Rule: tracetest.Random(1), Capacity: 2}
	docs := r.Documents(3, 9, 1)
	for _, d := range docs {
		d.Dataset = "a" // in order by name too
	}
	dir := tracetest.Write(t, h, docs, trace.WriterOptions{})
	names, _ := convert.Formats()
	held := 0
	for _, to := range names {
		out := filepath.Join(t.TempDir(), "out")
		report, err := convert.Write(t.Context(), to, dir, out)
		if to == "specmoe" { // read only
			assert.Error(t, err)
			continue
		}
		if err != nil {
			assert.ErrorContains(t, err, dir+`: format "`+to+`" cannot hold a model of an encoder and a decoder`)
			assert.NoFileExists(t, out)
			assert.NoDirExists(t, out)
			continue
		}
		held++
		assert.Contains(t, report.Notes, "not kept: which layers and tokens are the encoder's")
		assert.Contains(t, report.Notes, "not kept: dropped tokens")
		_, back := read(t, to, out, convert.Options{Experts: 6})
		require.Len(t, back, len(docs), to)
		for i, d := range back {
			assert.Equal(t, docs[i].Experts, d.Experts, to)
			assert.Zero(t, d.Encoded())
		}
	}
	assert.Equal(t, 2, held)
}
