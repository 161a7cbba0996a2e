package mixtral

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"github.com/expertspec/expertspec/mixtral/mixtraltest"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/gomlx/compute/dtypes"
	"github.com/stretchr/testify/require"
)

func BenchmarkCheckpointRead(b *testing.B) {
	const rows = 1 << 17
	for _, stored := range []safetensors.DType{safetensors.BF16, safetensors.F32, safetensors.F16} {
		f := newFake()
		f.config["vocab_size"] = rows
		f.config["tie_word_embeddings"] = true
		delete(f.tensors, headName)
		raw := bytes.Repeat([]byte{0x12, 0x3c}, rows*12*stored.Size()/2)
		f.tensors[embedName] = &mixtraltest.Tensor{DType: stored, Shape: []int{rows, 12}, Data: raw}
		c, err := OpenCheckpoint(f.FS())
		require.NoError(b, err)
		for _, dtype := range []dtypes.DType{dtypes.BFloat16, dtypes.Float32} {
			b.Run(fmt.Sprintf("%s-%s", stored, dtype), func(b *testing.B) {
				dst := make([]byte, rows*12*dtype.Size())
				b.SetBytes(int64(len(raw)))
				for b.Loop() {
					require.NoError(b, c.Read(embedName, dtype, dst))
				}
			})
		}
	}
}

func ExampleOpenCheckpoint() {
	c, err := OpenCheckpoint(os.DirFS("../testdata/variants/b"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	config := c.Config()
	name := "model.layers.1.block_sparse_moe.gate.weight"
	shape, err := c.Shape(name) // [E,D]
	if err != nil {
		fmt.Println(err)
		return
	}
	router := make([]byte, shape[0]*shape[1]*4)
	if err := c.Read(name, dtypes.Float32, router); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d layers of %d experts, %d per token; router %v\n", config.Layers, config.Experts, config.TopK, shape)
	// Output:
	// 2 layers of 6 experts, 3 per token; router [6 40]
}
