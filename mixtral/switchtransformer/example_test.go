package switchtransformer_test

import (
	"context"
	"fmt"
	"log"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/switchtransformer"
	"github.com/expertspec/expertspec/mixtral/switchtransformer/mini"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
)

// Answer a text with the embedded model and look at the routing of both stacks.
func Example() {
	ctx := context.Background()
	backend, err := mixtral.OpenBackend("go")
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Finalize()
	model, err := switchtransformer.Load(ctx, mini.FS(), switchtransformer.Options{Backend: backend})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	tok, err := tokenizer.Load(mini.FS(), "tokenizer.json")
	if err != nil {
		log.Fatal(err)
	}
	text := tok.Encode("It was the best of times,", true)
	pieces := tok.Pieces(text)
	answer, err := model.Generate(ctx, text, switchtransformer.GenerateOptions{
		MaxTokens: 6,
		Observe: func(_ context.Context, r *switchtransformer.Routing) error {
			if r.Layer != 2 {
				return nil
			}
			for t, e := range r.Experts {
				if r.Stack == switchtransformer.Encoder {
					fmt.Printf("%-8q expert %2d weight %.2f\n", pieces[t], e, r.Weights[t])
				} else {
					fmt.Printf("decoder, position %d: expert %2d\n", r.Position[t], e)
				}
			}
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%q\n", tok.Pieces(answer))
	// Output:
	// " It"    expert 16 weight 0.07
	// " was"   expert 28 weight 0.09
	// " the"   expert  7 weight 0.24
	// " best"  expert  2 weight 0.08
	// " of"    expert  6 weight 0.06
	// " tim"   expert  2 weight 0.08
	// "es,"    expert  8 weight 0.09
	// "</s>"   expert 20 weight 0.26
	// decoder, position 0: expert  8
	// decoder, position 1: expert  1
	// decoder, position 2: expert 20
	// decoder, position 3: expert 16
	// decoder, position 4: expert 16
	// decoder, position 5: expert 29
	// [" the" " " "1" "8" "th" " of"]
}

// Compute a decoder over texts in batches: capacity is per sequence, and the logits are
// those of the last position.
func ExampleModel_Forward() {
	ctx := context.Background()
	backend, err := mixtral.OpenBackend("go")
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Finalize()
	model, err := switchtransformer.Load(ctx, mini.FS(), switchtransformer.Options{Backend: backend})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	start := int32(model.Config().DecoderStart)
	out, err := model.Forward(ctx, switchtransformer.Request{
		Tokens:        [][]int32{{300, 301, 2}, {999, 2}},
		DecoderTokens: [][]int32{{start}, {start, 17}},
		Logits:        switchtransformer.LastLogits,
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, logits := range out.Logits {
		fmt.Println(len(logits), "logits")
	}
	// Output:
	// 4128 logits
	// 4128 logits
}
