package speculate_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"testing"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A model of L=3 layers, E=4 experts and K=1, whose layer l chooses expert id+l
// modulo E for a token of that id.
var wheel = tracetest.Router{
	Header: trace.Header{Model: trace.Model{Name: "wheel", Layers: 3, Stacks: []trace.Stack{{Name: "decoder", Layers: 3}}, Experts: 4, TopK: 1, Vocabulary: 16}},
	Rule:   tracetest.Choose(func(s *tracetest.Step) []int32 { return []int32{(s.Token + int32(s.Layer)) % 4} }),
}

func Example() {
	ctx := context.Background()
	data := speculate.Slice(wheel.Header, wheel.Documents(60, 8, 1)) // or speculate.FromReader
	parts, err := speculate.Split(ctx, data, speculate.Fractions{Valid: .2, Test: .4}, 1)
	if err != nil {
		log.Fatal(err)
	}
	horizons := append(speculate.LayersAhead(1, 2), speculate.Horizon{}) // and one token ahead
	ps := []speculate.Predictor{&speculate.Transition{}, &speculate.TokenID{}, speculate.Oracle{}}
	if err := speculate.Fit(ctx, parts.Train, horizons, ps...); err != nil {
		log.Fatal(err)
	}
	results, err := speculate.Evaluate(ctx, parts.Test, speculate.EvaluateOptions{Horizons: horizons, Resamples: -1}, ps...)
	if err != nil {
		log.Fatal(err)
	}
	if err := results.WriteTable(os.Stdout); err != nil {
		log.Fatal(err)
	}
	// Output:
	// recall@1    h=1    h=2    token
	// transition  1.000  1.000  0.245
	// token id    1.000  1.000  -
	// oracle      1.000  1.000  1.000
	// 24 documents, 220 tokens
	// warning: fewer than 20 test documents in: a (12), b (12); their own figures are weak
}

// A session receives the prompt, and then predicts while the model decodes.
func ExampleSession() {
	docs := wheel.Documents(30, 8, 1)
	p := &speculate.Transition{}
	ahead := speculate.LayersAhead(1)
	if err := speculate.Fit(context.Background(), speculate.Slice(wheel.Header, docs), ahead, p); err != nil {
		log.Fatal(err)
	}
	s, err := speculate.NewSession(p, wheel.Header)
	if err != nil {
		log.Fatal(err)
	}
	prompt := docs[0] // for example from mixtral.Recorder
	if err := s.Append(prompt); err != nil {
		log.Fatal(err)
	}
	if err := s.Begin(7); err != nil { // the id of the next token
		log.Fatal(err)
	}
	if err := s.Observe(speculate.Routing{Experts: []int32{3}}); err != nil { // its layer 0
		log.Fatal(err)
	}
	next, err := s.Predict(1, ahead[0])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("layer 1 will choose expert", next.Experts[0])
	// Output: layer 1 will choose expert 0
}

// byID is a predictor of one's own. It knows how wheel routes.
type byID struct{}

func (byID) Name() string                      { return "by id" }
func (byID) Requires() speculate.Requirements  { return speculate.Requirements{TokenIDs: true} }
func (byID) Supports(h speculate.Horizon) bool { return h.Layers > 0 || h.KnownID }
func (byID) Predict(views []speculate.View, out []float32) error {
	clear(out)
	for i, v := range views {
		if id, ok := v.ID(v.Token()); ok {
			out[i*v.Shape().Experts+(int(id)+v.Layer())%v.Shape().Experts] = 1
		}
	}
	return nil
}

// A test of it on a small trace: it knows nothing of the future, and is right.
func TestOwnPredictor(t *testing.T) {
	docs, horizons := wheel.Documents(20, 8, 1), []speculate.Horizon{{Layers: 1}, {KnownID: true}}
	assert.NoError(t, speculate.CheckCausality(byID{}, wheel.Header, docs[0], horizons))
	r, err := speculate.Evaluate(t.Context(), speculate.Slice(wheel.Header, docs), speculate.EvaluateOptions{Horizons: horizons}, byID{})
	require.NoError(t, err)
	recall, _ := r.Recall("by id", horizons[0])
	assert.Equal(t, 1., recall)
}
