package mini_test

import (
	"fmt"

	"github.com/expertspec/expertspec/mixtral/switchtransformer"
	"github.com/expertspec/expertspec/mixtral/switchtransformer/mini"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
)

func Example() {
	model, err := switchtransformer.OpenCheckpoint(mini.FS())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer model.Close()
	c := model.Config()
	fmt.Printf("%d experts of capacity %d in blocks %v and %v\n",
		c.Experts, c.Capacity, c.MoEBlocks(switchtransformer.Encoder), c.MoEBlocks(switchtransformer.Decoder))

	tok, err := tokenizer.Load(mini.FS(), "tokenizer.json")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(tok.Encode("Call me <extra_id_0>.", true))
	// Output:
	// 32 experts of capacity 48 in blocks [1 3 5 7] and [1 3 5 7]
	// [997 1005 1178 369 4096 4014 2]
}
