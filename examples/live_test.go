// Package examples_test holds examples that join packages which do not import
// each other.
package examples_test

import (
	"context"
	"fmt"
	"log"
	"slices"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// Predict routing while a model generates: a predictor is fitted to a batch of
// recorded documents; then the prompt is appended to a session at once, and each
// generated token layer by layer, before the layer's experts run.
func Example_live() {
	ctx := context.Background()
	backend, err := mixtral.OpenBackend("go")
	check(err)
	defer backend.Finalize()
	model, err := mixtral.Load(ctx, mini.FS(), mixtral.Options{Backend: backend})
	check(err)
	defer model.Close()
	tok, err := tokenizer.Load(mini.FS(), "tokenizer.json")
	check(err)
	header := trace.Header{Model: model.Config().TraceModel("mini")}
	recorder, err := mixtral.NewRecorder(header)
	check(err)

	var batch [][]int32
	for _, text := range []string{"Call me Ishmael. Some years ago, I went to sea.", "Question: Tom has 3 apples and eats 2. How many are left?"} {
		batch = append(batch, tok.Encode(text, true))
	}
	_, err = model.Forward(ctx, mixtral.Request{Tokens: batch, Observe: recorder.Observe})
	check(err)
	var docs []*trace.Document
	for i := range batch {
		d := recorder.Take(i)
		d.Dataset, d.ID = "example", fmt.Sprint(i)
		docs = append(docs, d)
	}
	p := &speculate.Transition{}
	ahead := speculate.LayersAhead(1)
	check(speculate.Fit(ctx, speculate.Slice(header, docs), ahead, p))

	session, err := speculate.NewSession(p, header)
	check(err)
	var predicted []int32 // of the next layer
	hits, asked := 0, 0
	observe := func(ctx context.Context, r *mixtral.Routing) error {
		if r.Phase[0] == trace.Prefill { // all tokens at layer 0, then all at layer 1, ...
			if err := recorder.Observe(ctx, r); err != nil {
				return err
			}
			if doc := recorder.Take(0); doc != nil { // complete after the last layer
				return session.Append(doc)
			}
			return nil
		}
		if r.Layer == 0 {
			if err := session.Begin(r.Token[0]); err != nil {
				return err
			}
		} else {
			asked++
			if slices.Contains(r.Experts, predicted[0]) {
				hits++
			}
		}
		if err := session.Observe(speculate.Routing{Experts: r.Experts, Weights: r.Weights}); err != nil {
			return err
		}
		if r.Layer+1 == r.Layers {
			return nil
		}
		next, err := session.Predict(r.Layer+1, ahead[0])
		predicted = next.Experts
		return err
	}
	prompt := tok.Encode("Question: Ann has 4 pears and buys 3. How many does she have?", true)
	_, err = model.Generate(ctx, prompt, mixtral.GenerateOptions{MaxTokens: 9, Stop: []int32{}, Observe: observe})
	check(err)
	fmt.Printf("%d of %d layers select the expert that was predicted first\n", hits, asked)
	// Output:
	// 76 of 120 layers select the expert that was predicted first
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
