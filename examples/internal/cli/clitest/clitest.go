// Package clitest runs example programs in tests.
package clitest

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
)

// Run starts p with arguments and empty standard input.
func Run(t *testing.T, p cli.Program, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	return RunInput(t, p, "", args...)
}

// RunInput starts p with arguments and the given standard input.
func RunInput(t *testing.T, p cli.Program, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = p.Start(t.Context(), args, cli.Streams{In: strings.NewReader(stdin), Out: &out, Err: &errs})
	return status, out.String(), errs.String()
}

// Stacks returns the folder of a trace of n documents of a model with an encoder of 2
// layers and a decoder of 3, whose layers choose experts e, e+1 and so on of 6, with
// dropped tokens and router logits. Of each document's tokens 9 are the encoder's, and
// 8 to 11 the decoder's.
func Stacks(t *testing.T, n int) (dir string) {
	h := trace.Header{Model: trace.Model{Name: "stacks", Layers: 5, Experts: 6, TopK: 1, Vocabulary: 96,
		Stacks: []trace.Stack{{Name: trace.Encoder, Layers: 2, Blocks: []int{1, 3}}, {Name: trace.Decoder, Layers: 3, Blocks: []int{1, 3, 5}}}}, Dropped: true}
	h.LogitLayers = h.Model.AllLayers()
	r := tracetest.Router{Header: h, Prompt: 9, Capacity: 3, Rule: tracetest.Choose(func(s *tracetest.Step) []int32 {
		return []int32{(s.Token + int32(s.Layer)) % 6}
	})}
	return tracetest.Write(t, h, r.Documents(n, 17, 1), trace.WriterOptions{})
}

// Wheel returns n documents of the data sets in turn, and the folder of a trace of
// them, whose 3 layers choose experts e, e+1 and e+2 of 4. No two documents have
// the same token ids.
func Wheel(t *testing.T, n int, datasets ...string) (h trace.Header, docs []*trace.Document, dir string) {
	h.Model = trace.Model{Name: "wheel", Layers: 3, Stacks: []trace.Stack{{Name: "decoder", Layers: 3}}, Experts: 4, TopK: 1, Vocabulary: 200}
	r := tracetest.Router{Header: h, Rule: tracetest.Choose(func(s *tracetest.Step) []int32 {
		return []int32{(s.Token + int32(s.Layer)) % 4}
	})}
	for i := range n {
		ids := make([]int32, 9)
		for p := range ids {
			ids[p] = int32(4*i + (i*7+p*p)%4)
		}
		docs = append(docs, r.Document(datasets[i%len(datasets)], fmt.Sprint(i), ids))
	}
	return h, docs, tracetest.Write(t, h, docs, trace.WriterOptions{})
}
