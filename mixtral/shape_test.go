package mixtral_test

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	synthetic "github.com/expertspec/expertspec/mixtral/internal/large"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// shapeDump is where TestShape8x22B writes its model, for testdata/shape_8x22b.py.
var shapeDump = flag.String("shape-dump", "", "folder for the model of TestShape8x22B")

// tiny8x22B has 8x22B's number of layers and its ratios: 6 heads for each of keys, F/D =
// 8/3, a head of D/H.
func tiny8x22B() fs.FS {
	fsys, _ := synthetic.Shape{Layers: 56, Hidden: 48, ExpertWidth: 128, Heads: 12, KVHeads: 2, Vocabulary: 97, Scale: .15}.Model()
	return fsys
}

// TestShape8x22B compares a model of 8x22B's ratios with transformers.
func TestShape8x22B(t *testing.T) {
	if *shapeDump != "" {
		for _, name := range []string{"config.json", "model.safetensors"} {
			data, err := fs.ReadFile(tiny8x22B(), name)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(*shapeDump, name), data, 0o600))
		}
		return
	}
	cases := references(t, "shapes/8x22b")
	backends(t, func(name string, b compute.Backend) {
		options := map[string]mixtral.Options{"auto": {Backend: b}}
		if name == "xla" { // whose graphs of 56 layers compile for minutes
			options["remote"] = mixtral.Options{Backend: remote{b}, Executor: mixtral.Stepped}
		} else {
			options["whole"] = mixtral.Options{Backend: b, Executor: mixtral.Whole}
		}
		for executor, o := range options {
			t.Run(fmt.Sprint(name, "/", executor), func(t *testing.T) {
				m := load(t, tiny8x22B(), o)
				for id, c := range cases {
					testParity(t, m, id, c)
				}
			})
		}
	})
}

// TestTrueShape8x22B decodes with layers of 8x22B's true shape on the host's cores and as
// on a GPU.
func TestTrueShape8x22B(t *testing.T) {
	layers, err := strconv.Atoi(os.Getenv(layersVariable))
	if err != nil || os.Getenv(shapeVariable) != "8x22B" || os.Getenv(xlaVariable) == "" {
		t.Skipf("needs 4 GB of memory a layer: set %s to a number of layers, %s to 8x22B and %s", layersVariable, shapeVariable, xlaVariable)
	}
	shape, err := synthetic.Named("8x22B")
	require.NoError(t, err)
	shape.Layers = layers
	fsys, _ := shape.Model()
	goBackend, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	xla, err := mixtral.OpenBackend("xla:" + os.Getenv(xlaVariable))
	require.NoError(t, err)
	var logits [2][][]float32 // of each token
	var experts [2][]int32
	for i, b := range []compute.Backend{goBackend, remote{xla}} {
		m, err := mixtral.Load(t.Context(), fsys, mixtral.Options{Backend: b, DType: dtypes.BFloat16, Quantize: mixtral.Int8, Executor: mixtral.Stepped})
		require.NoError(t, err)
		cache := m.NewCache(1)
		rec := newRecorder()
		for n := range int32(5) {
			out, err := m.Forward(t.Context(), mixtral.Request{Tokens: [][]int32{{n * 2521}}, Cache: cache, Logits: mixtral.LastLogits, Observe: rec.hook})
			require.NoError(t, err)
			logits[i] = append(logits[i], out.Logits[0])
		}
		experts[i] = rec.experts[0]
		cache.Close()
		require.NoError(t, m.Close())
		debug.FreeOSMemory()
	}
	assert.Equal(t, experts[0], experts[1])
	for n := range logits[0] {
		d := maxDiff(t, logits[0][n], logits[1][n]) / deviation(logits[0][n])
		t.Logf("token %d: largest difference %.2g of the deviation", n, d)
		assert.Less(t, d, .05, "token %d", n)
	}
}

// TestLargeBuffer writes and slices a buffer of more than 2^31 bytes: the experts of a
// layer of 8x22B in bfloat16, [E,2F,D].
func TestLargeBuffer(t *testing.T) {
	if os.Getenv(shapeVariable) != "8x22B" || os.Getenv(xlaVariable) == "" {
		t.Skipf("needs 7 GB of memory: set %s to 8x22B and %s", shapeVariable, xlaVariable)
	}
	const experts, rows, columns = 8, 2 * 16384, 6144
	b, err := mixtral.OpenBackend("xla:" + os.Getenv(xlaVariable))
	require.NoError(t, err)
	flat := make([]bfloat16.BFloat16, experts*rows*columns)
	for e := range experts {
		flat[(e+1)*rows*columns-1] = bfloat16.FromFloat32(float32(e + 1))
	}
	buffer, err := b.BufferFromFlatData(0, flat, shapes.Make(dtypes.BFloat16, experts, rows, columns))
	require.NoError(t, err)
	at := tensors.FromValue(int32(experts - 1))
	stacked, err := tensors.FromBuffer(buffer)
	require.NoError(t, err)
	last := graph.MustExecOnce(b, func(stacked, e *graph.Node) *graph.Node {
		zero := graph.ZerosLike(e)
		one := graph.DynamicSlice(stacked, []*graph.Node{e, zero, zero}, []int{1, rows, columns})
		return graph.ConvertDType(graph.Slice(one, graph.AxisRange(), graph.AxisRange(rows-1), graph.AxisRange(columns-2)), dtypes.Float32)
	}, stacked, at)
	assert.Equal(t, [][][]float32{{{0, experts}}}, last.Value())
}
