package mixtral_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"testing"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/gomlx/compute"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// executors calls f for each backend and executor with a loaded variants/b.
func executors(t *testing.T, f func(t *testing.T, m *mixtral.Model, ex mixtral.Executor)) {
	backends(t, func(name string, b compute.Backend) {
		for _, ex := range []mixtral.Executor{mixtral.Stepped, mixtral.Whole} {
			t.Run(fmt.Sprintf("%s/%s", name, ex), func(t *testing.T) {
				f(t, load(t, checkpoints()["variants/b"], mixtral.Options{Backend: b, Executor: ex}), ex)
			})
		}
	})
}

// atLayer returns a hook that calls f at one layer.
func atLayer(layer int, f func(r *mixtral.Routing)) mixtral.Hook {
	return func(_ context.Context, r *mixtral.Routing) error {
		if r.Layer == layer {
			f(r)
		}
		return nil
	}
}

var batches = map[string][][]int32{
	"one document":      {{5, 6, 7}},
	"several documents": {{5, 6, 7}, {8, 9}, {10}, {11, 12, 13, 14}},
}

// A panic in a hook is an error with layer and stack, and the model is usable
// afterwards.
func TestHookPanic(t *testing.T) {
	boom := errors.New("boom")
	executors(t, func(t *testing.T, m *mixtral.Model, ex mixtral.Executor) {
		for name, batch := range batches {
			t.Run(name, func(t *testing.T) {
				hook := atLayer(1, func(*mixtral.Routing) { panic(boom) })
				before, err := m.Forward(t.Context(), mixtral.Request{Tokens: batch, Logits: mixtral.LastLogits})
				require.NoError(t, err)
				requests := map[string]mixtral.Request{"Observe": {Tokens: batch, Observe: hook}}
				if ex != mixtral.Whole {
					requests["Intervene"] = mixtral.Request{Tokens: batch, Intervene: hook}
				}
				for field, req := range requests {
					_, err = m.Forward(t.Context(), req)
					require.ErrorIs(t, err, boom)
					assert.ErrorContains(t, err, "mixtral: layer 1: hook: panic in "+field+": boom")
					assert.ErrorContains(t, err, "hook_test.go", "the stack")
				}
				_, err = m.Forward(t.Context(), mixtral.Request{Tokens: batch, Observe: atLayer(0, func(r *mixtral.Routing) {
					_ = r.Experts[len(r.Experts)]
				})})
				require.ErrorContains(t, err, "layer 0: hook: panic in Observe: runtime error: index out of range")
				after, err := m.Forward(t.Context(), mixtral.Request{Tokens: batch, Logits: mixtral.LastLogits})
				require.NoError(t, err)
				assert.Equal(t, before, after)
			})
		}
	})
}

// A hook that ends its goroutine, as require does in a test that fails, is an
// error too.
func TestHookGoexit(t *testing.T) {
	executors(t, func(t *testing.T, m *mixtral.Model, _ mixtral.Executor) {
		for name, batch := range batches {
			_, err := m.Forward(t.Context(), mixtral.Request{Tokens: batch, Observe: atLayer(1, func(*mixtral.Routing) { runtime.Goexit() })})
			assert.ErrorContains(t, err, "runtime.Goexit", name)
			assert.NoError(t, try(m, mixtral.Request{Tokens: batch}), name)
		}
	})
}

// Panics in the other callbacks are errors too.
func TestCallbackPanic(t *testing.T) {
	b, err := mixtral.OpenBackend("go")
	require.NoError(t, err)
	fsys := checkpoints()["variants/b"]
	_, err = mixtral.Load(t.Context(), fsys, mixtral.Options{Backend: b, Progress: func(int, int) { panic("boom") }})
	require.ErrorContains(t, err, "panic in Progress: boom")
	m := load(t, fsys, mixtral.Options{Backend: b})
	calls := 0
	ids, err := m.Generate(t.Context(), []int32{5, 6}, mixtral.GenerateOptions{MaxTokens: 4, Stop: []int32{}, Token: func(int32) error {
		if calls++; calls == 2 {
			panic("boom")
		}
		return nil
	}})
	require.ErrorContains(t, err, "panic in Token: boom")
	assert.Len(t, ids, 2)
	_, err = m.Generate(t.Context(), []int32{5, 6}, mixtral.GenerateOptions{MaxTokens: 4})
	assert.NoError(t, err)
}

func TestHookErrors(t *testing.T) {
	boom := errors.New("boom")
	executors(t, func(t *testing.T, m *mixtral.Model, ex mixtral.Executor) {
		calls := 0
		err := try(m, mixtral.Request{Tokens: batches["one document"], Observe: func(context.Context, *mixtral.Routing) error {
			calls++
			return boom
		}})
		assert.ErrorIs(t, err, boom)
		assert.EqualError(t, err, "mixtral: layer 0: hook: boom")
		assert.Equal(t, 1, calls)
		if ex == mixtral.Whole {
			return
		}
		for want, change := range map[string]func(r *mixtral.Routing){
			"document 0, position 1: the hook chose expert 6 of 6":  func(r *mixtral.Routing) { r.Experts[4] = 6 },
			"document 0, position 1: the hook chose expert -1 of 6": func(r *mixtral.Routing) { r.Experts[4] = -1 },
			"document 0, position 1: the hook chose expert ":        func(r *mixtral.Routing) { r.Experts[5] = 99 },
			"twice":               func(r *mixtral.Routing) { r.Experts[4] = r.Experts[3] },
			"to NaN; it must be":  func(r *mixtral.Routing) { r.Weights[2] = float32(math.NaN()) },
			"to +Inf; it must be": func(r *mixtral.Routing) { r.Weights[2] = float32(math.Inf(1)) },
			"to -0.25; it must be finite and not negative":  func(r *mixtral.Routing) { r.Weights[2] = -.25 },
			"8 experts and 9 weights; both must be T*K = 9": func(r *mixtral.Routing) { r.Experts = r.Experts[:8] },
			"3 experts and 9 weights; both must be T*K = 9": func(r *mixtral.Routing) {
				r.Document, r.Position, r.Experts = r.Document[:1], r.Position[:1], r.Experts[:3]
			},
		} {
			err := try(m, mixtral.Request{Tokens: batches["one document"], Intervene: atLayer(1, change)})
			assert.ErrorContains(t, err, want)
			assert.ErrorContains(t, err, "mixtral: layer 1")
		}
	})
}
