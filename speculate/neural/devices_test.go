package neural

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/speculate"
	"github.com/gomlx/compute"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// devices returns an XLA backend of at least four devices.
func devices(t *testing.T) compute.Backend {
	t.Helper()
	plugin := os.Getenv("EXPERTSPEC_TEST_XLA")
	if plugin == "" {
		t.Skip("EXPERTSPEC_TEST_XLA is not set")
	}
	b, err := mixtral.OpenBackend("xla:" + plugin)
	require.NoError(t, err)
	t.Cleanup(b.Finalize)
	if b.NumDevices() < 4 {
		t.Skipf("the plugin has %d devices", b.NumDevices())
	}
	return b
}

// near compares trained networks of the same options but devices. They were equal up
// to 6e-6.
func near(t *testing.T, a, b Info, want, got map[string][]float32) {
	t.Helper()
	assert.InEpsilon(t, a.Loss, b.Loss, 1e-5)
	assert.Equal(t, a.Tokens, b.Tokens)
	require.Len(t, got, len(want))
	for name, x := range want {
		for i, v := range x {
			require.InDelta(t, v, got[name][i], 1e-4, "%s %d", name, i)
		}
	}
}

// Training on several devices has the result of one, up to rounding, and all devices
// hold the same state.
func TestDevices(t *testing.T) {
	b := devices(t)
	ps, g := parts(t)
	o := TrainOptions{Backend: b, Horizons: speculate.LayersAhead(1, 3), Seed: 4, Tokens: 960, Batch: 60, ValidTokens: 240, Gates: g}
	var want *MLP
	for _, n := range []int{1, 2, 4} { // 60, 30 and 15 tokens on each
		o.Devices = n
		j, err := newMLPJob(context.Background(), HiddenState(16), ps.Train, ps.Valid, o.withDefaults())
		require.NoError(t, err)
		defer j.close()
		require.NoError(t, j.loop.run(context.Background()))
		of := func(device, i int) []float32 {
			x, err := tensors.CopyFlatData[float32](part(j.loop.state, device, n)[i])
			require.NoError(t, err)
			return x
		}
		for d := range n {
			for i := range 3 * len(j.params) {
				require.Equal(t, of(0, i), of(d, i), "device %d, array %d", d, i)
			}
		}
		got := j.trained()
		if want == nil {
			want = got
		}
		near(t, want.info, got.info, want.weights, got.weights)
	}
	for _, c := range []struct {
		batch, devices int
		says           string
	}{
		{64, 3, "neural: batch 64; must be a multiple of accumulate 1 times 3 devices"},
		{64, -1, "-1 devices"},
		{1 << 10, 1 << 10, "neural: 1024 devices; backend xla has 4"},
	} {
		o := TrainOptions{Backend: b, Horizons: speculate.LayersAhead(1), Batch: c.batch, Devices: c.devices}
		_, err := TrainMLP(context.Background(), InterLayer(8), ps.Train, ps.Valid, o)
		assert.ErrorContains(t, err, c.says)
	}
}

// The documents that a transformer is trained on are on each device, and a training on
// several resumes.
func TestDevicesHoldDocuments(t *testing.T) {
	b := devices(t)
	docs, g := plant(12, 37, 1)
	data, valid := speculate.Slice(header(), halved(uneven(docs))), speculate.Slice(header(), docs[:3])
	// One passage of 16 and fewer tokens at a time on each of three devices.
	o := TrainOptions{Backend: b, Horizons: []speculate.Horizon{{Layers: 1}, unknown}, Seed: 3, Tokens: 960, Batch: 96, Accumulate: 2, devicePart: 100, Checks: 4, Patience: 4, Gates: g}
	one, err := TrainTransformer(context.Background(), tiny(true), data, valid, o)
	require.NoError(t, err)
	o.Devices, o.DeviceBytes = 3, 1<<20
	three, err := TrainTransformer(context.Background(), tiny(true), data, valid, o)
	require.NoError(t, err)
	near(t, one.info, three.info, one.weights, three.weights)

	ctx, cancel := context.WithCancel(context.Background())
	o.Resume = filepath.Join(t.TempDir(), "state")
	o.Progress = func(Progress) { cancel() }
	_, err = TrainTransformer(ctx, tiny(true), data, valid, o)
	require.ErrorIs(t, err, context.Canceled)
	o.Progress, o.Devices = nil, 1
	_, err = TrainTransformer(context.Background(), tiny(true), data, valid, o)
	require.ErrorContains(t, err, "differs in devices")
	o.Devices = 3
	resumed, err := TrainTransformer(context.Background(), tiny(true), data, valid, o)
	require.NoError(t, err)
	assert.Equal(t, three.info.Loss, resumed.info.Loss)
	for name, x := range three.weights {
		require.Equal(t, x, resumed.weights[name], name)
	}
}

// Batches that are transferred in 16 bits, as to an accelerator, are of each device.
func TestDevicesBrief(t *testing.T) {
	b := devices(t)
	docs, _ := plant(12, 37, 1)
	data := speculate.Slice(header(), uneven(docs))
	var losses []float64
	for _, n := range []int{1, 3} {
		o := TrainOptions{Backend: b, Horizons: speculate.LayersAhead(1), Seed: 3, Tokens: 480, Batch: 96, Checks: 1, Devices: n}.withDefaults()
		o.brief, o.Float32 = true, true
		j, err := newTransformerJob(context.Background(), tiny(false), data, data, o)
		require.NoError(t, err)
		defer j.close()
		require.NoError(t, j.loop.run(context.Background()))
		losses = append(losses, j.trained().info.Loss)
	}
	assert.InEpsilon(t, losses[0], losses[1], 1e-5)
}
