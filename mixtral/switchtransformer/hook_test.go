package switchtransformer_test

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/expertspec/expertspec/mixtral/switchtransformer"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An intervention's choice is what runs, and what counts for capacity.
func TestIntervene(t *testing.T) {
	onHost(t, func(name string, o switchtransformer.Options) {
		m := load(t, variant("a"), o) // capacity 5, E 4
		text, decoder := [][]int32{someTokens(9, 101, 2)}, [][]int32{someTokens(8, 101, 3)}
		run := func(intervene switchtransformer.Hook) (recorder, []float32) {
			var seen recorder
			out, err := m.Forward(context.Background(), switchtransformer.Request{
				Tokens: text, DecoderTokens: decoder, Logits: switchtransformer.AllLogits, Intervene: intervene, Observe: seen.hook, RouterInput: true})
			require.NoError(t, err, name)
			return seen, out.Logits[0]
		}
		before, want := run(nil)
		forced, got := run(func(_ context.Context, r *switchtransformer.Routing) error {
			if r.Stack == switchtransformer.Encoder && r.Layer == 0 {
				for i := range r.Experts {
					r.Experts[i], r.Weights[i] = 2, .5
				}
			}
			return nil
		})
		assert.NotEqual(t, want, got, name)
		first := forced[0][0]
		assert.Equal(t, []bool{false, false, false, false, false, true, true, true, true}, first.dropped, name)
		assert.Equal(t, before[0][0].logits, first.logits, name)
		assert.Equal(t, before[0][0].input, first.input, name)
		require.Len(t, first.input, 9*32)
		for i, e := range first.experts {
			assert.Equal(t, int32(2), e)
			assert.Equal(t, float32(.5), first.weights[i])
		}
		// A weight of 0 is not computed, as if the expert were full.
		zero := func(_ context.Context, r *switchtransformer.Routing) error {
			if r.Stack == switchtransformer.Decoder {
				clear(r.Weights)
			}
			return nil
		}
		_, a := run(zero)
		_, b := run(func(ctx context.Context, r *switchtransformer.Routing) error {
			if r.Stack == switchtransformer.Decoder {
				for i := range r.Experts {
					r.Experts[i] = int32(i % 4)
				}
			}
			return zero(ctx, r)
		})
		near(t, a, b, 0, name)
		assert.NotEqual(t, want, a)
	})
}

// Changes by Observe have no effect.
func TestObserveChangesNothing(t *testing.T) {
	m := onGo(t, variant("b"))
	req := switchtransformer.Request{Tokens: [][]int32{someTokens(9, 67, 2)}, DecoderTokens: [][]int32{someTokens(3, 67, 3)}, Logits: switchtransformer.AllLogits}
	want, err := m.Forward(context.Background(), req)
	require.NoError(t, err)
	req.Observe = func(_ context.Context, r *switchtransformer.Routing) error {
		clear(r.Weights)
		for i := range r.Experts {
			r.Experts[i], r.Dropped[i] = 0, true
		}
		return nil
	}
	got, err := m.Forward(context.Background(), req)
	require.NoError(t, err)
	assert.Equal(t, want, got)
}

func TestHookErrors(t *testing.T) {
	m := onGo(t, variant("a"))
	failure := errors.New("mine")
	for _, c := range []struct {
		name string
		hook func(r *switchtransformer.Routing) error
		want string
	}{
		{"error", func(*switchtransformer.Routing) error { return failure }, "encoder layer 0: hook: mine"},
		{"panic", func(*switchtransformer.Routing) error { panic("help") }, "encoder layer 0: hook: panic in Intervene: help"},
		{"expert", func(r *switchtransformer.Routing) error { r.Experts[1] = 4; return nil }, "encoder layer 0, document 0, position 1: the hook chose expert 4 of 4"},
		{"negative", func(r *switchtransformer.Routing) error { r.Experts[0] = -1; return nil }, "the hook chose expert -1 of 4"},
		{"weight", func(r *switchtransformer.Routing) error { r.Weights[2] = float32(math.NaN()); return nil }, "position 2: the hook set the weight of expert"},
		{"fewer", func(r *switchtransformer.Routing) error { r.Experts = r.Experts[:2]; return nil }, "after the hook there are 2 experts and 3 weights; both must be T = 3"},
	} {
		for _, docs := range []int{1, 3} { // without goroutines, and with
			var texts [][]int32
			for range docs {
				texts = append(texts, []int32{5, 6, 7})
			}
			_, err := m.Forward(context.Background(), switchtransformer.Request{Tokens: texts,
				Intervene: func(_ context.Context, r *switchtransformer.Routing) error {
					if r.Document[0] != 0 {
						return nil
					}
					return c.hook(r)
				}})
			assert.ErrorContains(t, err, c.want, c.name)
			assert.ErrorContains(t, err, "switchtransformer: ", c.name)
		}
	}
	_, err := m.Forward(context.Background(), switchtransformer.Request{Tokens: [][]int32{{5}}, Observe: func(context.Context, *switchtransformer.Routing) error { return failure }})
	assert.ErrorIs(t, err, failure)
}
