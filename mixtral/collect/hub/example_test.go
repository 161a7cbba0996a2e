package hub_test

import (
	"context"
	"fmt"
	"log"

	"github.com/expertspec/expertspec/mixtral/collect/hub"
)

// The questions of gsm8k are downloaded, unless they are in the cache.
func ExampleClient_Source() {
	ctx := context.Background()
	c := &hub.Client{Cache: "/root/.cache/huggingface/hub", Download: true}
	source, err := c.Source(ctx, "gsm8k") // for collect.Run
	if err != nil {
		log.Fatal(err)
	}
	for d, err := range source.Documents(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d.ID, d.Text)
	}
}
