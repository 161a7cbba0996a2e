package mixtraltest_test

import (
	"context"
	"fmt"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mixtraltest"
)

// The router of a tiny model follows a rule, and a test of a hook knows what it
// must see.
func Example() {
	checkpoint := mixtraltest.Checkpoint{Layers: 3, Experts: 4, TopK: 1,
		Route: func(layer int, token int32) []int32 { return []int32{(token + int32(layer)) % 4} }}
	backend, err := mixtral.OpenBackend("go:ops_sequential")
	check(err)
	defer backend.Finalize()
	model, err := mixtral.Load(context.Background(), checkpoint.FS(), mixtral.Options{Backend: backend})
	check(err)
	defer model.Close()
	_, err = model.Forward(context.Background(), mixtral.Request{
		Tokens: [][]int32{{1, 20, 33, 47}},
		Observe: func(_ context.Context, r *mixtral.Routing) error {
			fmt.Println("layer", r.Layer, "experts", r.Experts)
			return nil
		},
	})
	check(err)
	// Output:
	// layer 0 experts [1 0 1 3]
	// layer 1 experts [2 1 2 0]
	// layer 2 experts [3 2 3 1]
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
