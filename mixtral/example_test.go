package mixtral_test

import (
	"context"
	"fmt"
	"log"
	"math"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
	"github.com/expertspec/expertspec/trace"
	"github.com/gomlx/compute/dtypes"
)

// Run the embedded model on a text and look at every routing decision.
func Example() {
	ctx := context.Background()
	backend, err := mixtral.OpenBackend("go")
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Finalize()
	model, err := mixtral.Load(ctx, mini.FS(), mixtral.Options{Backend: backend})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	tok, err := tokenizer.Load(mini.FS(), "tokenizer.json")
	if err != nil {
		log.Fatal(err)
	}
	ids := tok.Encode("Call me Ishmael.", true)
	pieces := tok.Pieces(ids)
	k := model.Config().TopK
	_, err = model.Forward(ctx, mixtral.Request{
		Tokens: [][]int32{ids},
		Observe: func(_ context.Context, r *mixtral.Routing) error {
			if r.Layer == 7 {
				for t := range r.Position {
					fmt.Printf("%-8q experts %v weights %.2f\n", pieces[t], r.Experts[t*k:][:k], r.Weights[t*k:][:k])
				}
			}
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// "<s>"    experts [4 6] weights [0.75 0.25]
	// " C"     experts [2 7] weights [0.56 0.44]
	// "all"    experts [3 5] weights [0.91 0.09]
	// " me"    experts [2 1] weights [0.57 0.43]
	// " I"     experts [7 2] weights [0.65 0.35]
	// "sh"     experts [2 3] weights [0.83 0.17]
	// "ma"     experts [3 7] weights [0.51 0.49]
	// "el"     experts [3 7] weights [0.63 0.37]
	// "."      experts [2 6] weights [0.59 0.41]
}

// Continue a text, printing it as it grows.
func ExampleModel_Generate() {
	ctx := context.Background()
	backend, err := mixtral.OpenBackend("go")
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Finalize()
	model, err := mixtral.Load(ctx, mini.FS(), mixtral.Options{Backend: backend})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	tok, err := tokenizer.Load(mini.FS(), "tokenizer.json")
	if err != nil {
		log.Fatal(err)
	}
	stream := tok.NewStream(true)
	_, err = model.Generate(ctx, tok.Encode("Question: Tom has 3 apples and buys 2 more. How many", true), mixtral.GenerateOptions{
		MaxTokens: 12,
		Token: func(id int32) error {
			text, err := stream.Push(id)
			fmt.Print(text)
			return err
		},
	})
	fmt.Println(stream.Flush())
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// apples does Tom have?
	// Answer: Tom has
}

// Ablate an expert in each of the three ways, and look at the next-token logits.
func ExampleAblate() {
	ctx := context.Background()
	backend, err := mixtral.OpenBackend("go")
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Finalize()
	model, err := mixtral.Load(ctx, mini.FS(), mixtral.Options{Backend: backend})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	logit := func(intervene mixtral.Hook) float32 {
		out, err := model.Forward(ctx, mixtral.Request{
			Tokens: [][]int32{{1, 400, 900, 1300}}, Logits: mixtral.LastLogits, Intervene: intervene,
		})
		if err != nil {
			log.Fatal(err)
		}
		return out.Logits[0][5]
	}
	fmt.Printf("as it is:                %.2f\n", logit(nil))
	fmt.Printf("expert 7 without weight: %.2f\n", logit(mixtral.Ablate(5, 7, mixtral.ZeroWeight)))
	fmt.Printf("the other renormalized:  %.2f\n", logit(mixtral.Ablate(5, 7, mixtral.Renormalize)))
	fmt.Printf("next best in its place:  %.2f\n", logit(mixtral.Ablate(5, 7, mixtral.NextBest)))
	fmt.Printf("at two layers:           %.2f\n", logit(mixtral.Chain(mixtral.MaskExperts(5, 7, 3), mixtral.Force(6, []int{0, 1}, nil))))
	// Output:
	// as it is:                -7.53
	// expert 7 without weight: -8.01
	// the other renormalized:  -7.81
	// next best in its place:  -7.99
	// at two layers:           -7.82
}

// Change routing by a hook of one's own: round weights to eighths.
func ExampleHook() {
	round := func(_ context.Context, r *mixtral.Routing) error {
		for i, w := range r.Weights {
			r.Weights[i] = float32(math.Round(float64(w)*8)) / 8
		}
		return nil
	}
	r := &mixtral.Routing{Experts: []int32{4, 6}, Weights: []float32{.7, .3}} // of one token
	if err := round(context.Background(), r); err != nil {
		log.Fatal(err)
	}
	fmt.Println(r.Weights)
	// Output:
	// [0.75 0.25]
}

// Record what a model routes while it generates. Each segment could be given to
// a speculate.Session, written to a trace, or joined.
func ExampleRecorder() {
	ctx := context.Background()
	backend, err := mixtral.OpenBackend("go")
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Finalize()
	model, err := mixtral.Load(ctx, mini.FS(), mixtral.Options{Backend: backend})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	header := trace.Header{Model: model.Config().TraceModel("mini")}
	recorder, err := mixtral.NewRecorder(header)
	if err != nil {
		log.Fatal(err)
	}
	_, err = model.Generate(ctx, []int32{1, 400, 900, 1300}, mixtral.GenerateOptions{
		MaxTokens: 3,
		Observe:   recorder.Observe,
		Token: func(int32) error {
			d := recorder.Take(0) // what was computed since the last token
			last := d.Len() - 1
			fmt.Printf("%d tokens, the last in %s, experts of its layer 5: %v\n", d.Len(), d.Phase(last), d.ExpertsAt(&header.Model, last, 5))
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// 4 tokens, the last in prefill, experts of its layer 5: [7 3]
	// 1 tokens, the last in decode, experts of its layer 5: [5 2]
	// 1 tokens, the last in decode, experts of its layer 5: [7 1]
}

// A mesh of 2 groups of experts on 4 devices each, as the flag -devices 2x4 makes it.
func ExampleMesh() {
	var mesh mixtral.Mesh
	if err := mesh.UnmarshalText([]byte("2x4")); err != nil {
		log.Fatal(err)
	}
	fmt.Println(mesh.Experts, mesh.Width, mesh.Devices())
	// Output: 2 4 8
}

// Ask what a model would need on a GPU, before anything is loaded.
func ExampleCheckpoint_Plan() {
	checkpoint, err := mixtral.OpenCheckpoint(mini.FS())
	if err != nil {
		log.Fatal(err)
	}
	defer checkpoint.Close()
	plan, err := checkpoint.Plan(mixtral.PlanOptions{
		Options: mixtral.Options{DType: dtypes.BFloat16, Quantize: mixtral.Int8}, Kind: "xla:cuda",
		Documents: 4, Tokens: 500, Generated: 12,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(plan.Total().Parameters, "parameters; bytes of experts", plan.Experts.Device, "attention", plan.Attention.Device, "cache", plan.Cache.Device)
	fmt.Println(plan.Check(9e6))
	// Output:
	// 8272992 parameters; bytes of experts 7323648 attention 409600 cache 4718592
	// the weights need 9367936 bytes of memory, there are 9000000: embedding and head 1572864, attention 409600, routers and norms 61824, experts 7323648
}
