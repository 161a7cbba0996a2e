package mixtral_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/mixtral/mixtraltest"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// xlaBackend opens the XLA CPU plugin, which shows 4 devices.
func xlaBackend(t *testing.T) compute.Backend {
	t.Helper()
	plugin := os.Getenv(xlaVariable)
	if plugin == "" {
		t.Skipf("set %s to an XLA plugin", xlaVariable)
	}
	b, err := mixtral.OpenBackend("xla:" + plugin)
	require.NoError(t, err)
	return b
}

// TestParityMesh is TestParity on several devices. Of the numbers of heads, experts and
// width, some divide and some do not.
func TestParityMesh(t *testing.T) {
	b := xlaBackend(t)
	for _, c := range []struct {
		model string
		mesh  mixtral.Mesh
	}{
		{"variants/a", mixtral.Mesh{Experts: 3}}, // E 4, KV 2
		{"variants/a", mixtral.Mesh{Width: 4}},
		{"variants/b", mixtral.Mesh{Experts: 2, Width: 2}}, // E 6, KV 5, F 24
		{"variants/c", mixtral.Mesh{Width: 3}},             // KV 4, F 40
	} {
		t.Run(fmt.Sprintf("%s/%v", c.model, c.mesh), func(t *testing.T) {
			m := load(t, checkpoints()[c.model], mixtral.Options{Backend: b, Mesh: c.mesh})
			for id, ref := range references(t, c.model) {
				testParity(t, m, id, ref)
			}
		})
	}
	t.Run("mini-mixtral", func(t *testing.T) {
		m := load(t, mini.FS(), mixtral.Options{Backend: b, Mesh: mixtral.Mesh{Experts: 2, Width: 2}, Executor: mixtral.Stepped})
		testParity(t, m, "case0", references(t, "mini-mixtral")["case0"])
	})
}

// TestMesh is TestRemote on several devices.
func TestMesh(t *testing.T) {
	b := xlaBackend(t)
	goBackend, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	checkpoint := mixtraltest.Checkpoint{Experts: 5, ExpertWidth: 18, Heads: 6, KVHeads: 3, Hidden: 48}
	hook := mixtral.Chain(mixtral.Ablate(1, 3, mixtral.ZeroWeight), mixtral.Force(0, []int{4, 0}, []float32{.25, .5}))
	for _, c := range []struct {
		o    mixtral.Options
		hook mixtral.Hook
	}{
		{mixtral.Options{Mesh: mixtral.Mesh{Experts: 2, Width: 2}}, hook},
		{mixtral.Options{Mesh: mixtral.Mesh{Experts: 4}, Executor: mixtral.Whole}, nil},
		{mixtral.Options{Mesh: mixtral.Mesh{Experts: 2, Width: 2}, Quantize: mixtral.Int8}, nil},
	} {
		t.Run(fmt.Sprintf("%v/%v/%v", c.o.Mesh, c.o.Executor, c.o.Quantize), func(t *testing.T) {
			want := load(t, checkpoint.FS(), mixtral.Options{Backend: goBackend, Quantize: c.o.Quantize})
			c.o.Backend, c.o.Chunk = b, 256
			testRemote(t, want, load(t, checkpoint.FS(), c.o), c.hook)
		})
	}
}

// Requests at once do not wait for each other's devices, and Close for both.
func TestMeshConcurrent(t *testing.T) {
	m := load(t, mixtraltest.Checkpoint{}.FS(), mixtral.Options{Backend: xlaBackend(t), Mesh: mixtral.Mesh{Width: 4}})
	var g errgroup.Group
	for i := range 4 {
		g.Go(func() error {
			for range 5 {
				if _, err := m.Generate(context.Background(), []int32{1, int32(5 + i)}, mixtral.GenerateOptions{MaxTokens: 3, Stop: []int32{}}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	require.NoError(t, m.Close())
	_, err := m.Forward(context.Background(), mixtral.Request{Tokens: [][]int32{{1}}})
	assert.ErrorContains(t, err, "closed")
}

// counted counts the bytes that each device receives.
type counted struct {
	compute.Backend
	bytes []int
}

func (c *counted) BufferFromFlatData(device compute.DeviceNum, flat any, shape shapes.Shape) (compute.Buffer, error) {
	c.bytes[device] += int(shape.ByteSize())
	return c.Backend.BufferFromFlatData(device, flat, shape)
}

// A device receives its own part, of E 5, F 18, D 48 and 6 heads over 3, in 2 layers.
func TestMeshMemory(t *testing.T) {
	b := xlaBackend(t)
	checkpoint := mixtraltest.Checkpoint{Experts: 5, ExpertWidth: 18, Heads: 6, KVHeads: 3, Hidden: 48}
	const whole, layer = 2*64*48 + 48, 2*48 + 5*48 // on each device
	attention := func(heads, kv int) int { return (heads+2*kv)*8*48 + 48*heads*8 }
	for _, c := range []struct {
		mesh mixtral.Mesh
		want int
	}{
		{mixtral.Mesh{Width: 3}, 4 * (whole + 2*(layer+attention(2, 1)+5*3*6*48))},
		{mixtral.Mesh{Experts: 2}, 4 * (whole + 2*(layer+attention(4, 2)+3*3*18*48+1))},
		{mixtral.Mesh{Experts: 2, Width: 2}, 4 * (whole + 2*(layer+attention(2, 1)+3*3*9*48+1))},
	} {
		counts := &counted{b, make([]int, 4)}
		load(t, checkpoint.FS(), mixtral.Options{Backend: counts, Mesh: c.mesh, DType: dtypes.Float32})
		for device, bytes := range counts.bytes {
			want := c.want
			if device >= c.mesh.Devices() {
				want = 0
			}
			assert.Equal(t, want, bytes, "%v: device %d", c.mesh, device)
		}
	}
}

func TestMeshErrors(t *testing.T) {
	goBackend, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	for text, want := range map[string]mixtral.Mesh{"1": {Experts: 1, Width: 1}, "4": {Experts: 1, Width: 4}, "2x3": {Experts: 2, Width: 3}} {
		var mesh mixtral.Mesh
		require.NoError(t, mesh.UnmarshalText([]byte(text)))
		assert.Equal(t, want, mesh)
	}
	for _, text := range []string{"", "0", "-1", "x", "2x", "2x0", "2x2x2", "two"} {
		assert.ErrorContains(t, new(mixtral.Mesh).UnmarshalText([]byte(text)), "devices", text)
	}
	check := func(o mixtral.Options, want string) {
		t.Helper()
		_, err := mixtral.Load(context.Background(), mixtraltest.Checkpoint{}.FS(), o)
		assert.ErrorContains(t, err, want)
	}
	check(mixtral.Options{Backend: goBackend, Mesh: mixtral.Mesh{Width: 2}}, "2 devices require an XLA backend, not go")
	check(mixtral.Options{Backend: goBackend, Mesh: mixtral.Mesh{Experts: -1}}, "Options.Mesh is -1 x 0")
	b := xlaBackend(t)
	check(mixtral.Options{Backend: b, Mesh: mixtral.Mesh{Width: 5}}, "requires 5 devices, the backend has 4")
	check(mixtral.Options{Backend: b, Mesh: mixtral.Mesh{Experts: 1 << 32, Width: 1 << 32}}, "the backend has 4")
	check(mixtral.Options{Backend: counting{b}, Mesh: mixtral.Mesh{Experts: 5}}, "5 groups cannot share the 4 experts")
	check(mixtral.Options{Backend: counting{b}, Mesh: mixtral.Mesh{Width: 17}}, "17 devices cannot share the width of an expert, 16")
	check(mixtral.Options{Backend: b, Mesh: mixtral.Mesh{Width: 2}, Experts: noStore{}}, "Options.Experts requires one device")
}

// counting is a backend that claims to have many devices.
type counting struct{ compute.Backend }

func (counting) NumDevices() int { return 99 }

type noStore struct{ mixtral.ExpertStore }
