package neural_test

import (
	"context"
	"fmt"
	"log"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/neural"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/gomlx/compute/gobackend"
)

// documents returns traces of a router whose choice at a layer follows from the
// token's id and the layer before.
func documents() speculate.Parts {
	router := tracetest.Router{
		Header: trace.Header{Model: trace.Model{Name: "tiny", Layers: 3, Experts: 6, TopK: 1, Vocabulary: 40}},
		Rule: tracetest.Choose(func(s *tracetest.Step) []int32 {
			return []int32{s.Token % int32(6-s.Layer)}
		}),
	}
	part := func(docs int, seed uint64) speculate.Data {
		return speculate.Slice(router.Header, router.Documents(docs, 60, seed))
	}
	return speculate.Parts{Train: part(40, 1), Valid: part(10, 2), Test: part(20, 3)}
}

func ExampleTrainMLP() {
	backend, err := gobackend.New("ops_sequential")
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Finalize()
	parts := documents()
	network, err := neural.TrainMLP(context.Background(), neural.InterLayer(16), parts.Train, parts.Valid, neural.TrainOptions{
		Backend: backend, Horizons: speculate.LayersAhead(1), Tokens: 10_000, Batch: 64, Rate: .01,
	})
	if err != nil {
		log.Fatal(err)
	}
	results, err := speculate.Evaluate(context.Background(), parts.Test, speculate.EvaluateOptions{Horizons: speculate.LayersAhead(1)}, network)
	if err != nil {
		log.Fatal(err)
	}
	recall, _ := results.Recall("inter-layer", speculate.Horizon{Layers: 1})
	fmt.Printf("%.2f\n", recall)
	// Output: 1.00
}

func ExampleTrainTransformer() {
	backend, err := gobackend.New("ops_sequential")
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Finalize()
	parts := documents()
	configs := neural.TransformerConfigs(1, 32, 32, parts.Train.Header, nil)
	network, err := neural.TrainTransformer(context.Background(), configs[0], parts.Train, parts.Valid, neural.TrainOptions{
		Backend: backend, Horizons: speculate.LayersAhead(1, 2), Tokens: 20_000, Batch: 128, Rate: .01,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %.2f\n", network.Name(), network.Info().RecallK)
	// Output: routing transformer: 1.00
}

// The predictors that count, an MLP and their ensemble, on the same documents.
func ExampleCompare() {
	backend, err := gobackend.New("ops_sequential")
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Finalize()
	c, err := neural.Compare(context.Background(), documents(), neural.CompareOptions{
		Train: neural.TrainOptions{Backend: backend, Horizons: speculate.LayersAhead(1), Tokens: 10_000, Batch: 64, Rate: .01},
		MLPs:  []neural.MLPConfig{neural.InterLayer(16)},
		Only:  []string{"frequency", "token id", "inter-layer", "ensemble"},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, p := range c.Predictors {
		recall, _ := c.Results.Recall(p.Name(), speculate.Horizon{Layers: 1})
		fmt.Printf("%s %.2f\n", p.Name(), recall)
	}
	// Output:
	// frequency 0.23
	// token id 1.00
	// inter-layer 1.00
	// ensemble 1.00
}
