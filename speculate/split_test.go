package speculate

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// keys lists the documents of each part.
func keys(t *testing.T, p Parts) (all [3][]trace.Key) {
	t.Helper()
	for i, part := range []Data{p.Train, p.Valid, p.Test} {
		for doc, err := range part.All(t.Context()) {
			require.NoError(t, err)
			all[i] = append(all[i], doc.Key())
		}
		slices.SortFunc(all[i], trace.Key.Compare)
	}
	return all
}

func TestSplit(t *testing.T) {
	docs := testRouter.Documents(41, 5, 1)
	p, err := Split(t.Context(), Slice(testHeader(), docs), Fractions{Valid: .2, Test: .3}, 7)
	require.NoError(t, err)
	parts := keys(t, p)
	assert.Len(t, slices.Compact(slices.SortedFunc(slices.Values(slices.Concat(parts[:]...)), trace.Key.Compare)), 41)
	assert.Len(t, parts[1], 8)
	assert.Len(t, parts[2], 12)
	var valid []string
	for _, k := range parts[1] {
		valid = append(valid, k.Dataset+k.Document)
	}
	assert.Equal(t, []string{"adoc-004", "adoc-012", "adoc-026", "adoc-030", "bdoc-003", "bdoc-015", "bdoc-027", "bdoc-033"}, valid,
		"the split of a seed never changes")
	rand.Shuffle(len(docs), func(i, j int) { docs[i], docs[j] = docs[j], docs[i] })
	p, err = Split(t.Context(), Slice(testHeader(), docs), Fractions{Valid: .2, Test: .3}, 7)
	require.NoError(t, err)
	assert.Equal(t, parts, keys(t, p), "the split depends on the order of documents")
	p, err = Split(t.Context(), Slice(testHeader(), docs), Fractions{Valid: .2, Test: .3}, 8)
	require.NoError(t, err)
	assert.NotEqual(t, parts, keys(t, p), "the split does not depend on the seed")
	_, err = Split(t.Context(), Slice(testHeader(), append(docs, docs[0])), Fractions{.2, .2}, 1)
	assert.ErrorContains(t, err, "occurs twice")
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Split(canceled, Slice(testHeader(), docs), Fractions{.2, .2}, 1)
	assert.ErrorIs(t, err, context.Canceled)
	_, err = Split(t.Context(), Slice(testHeader(), docs[:1]), Fractions{.15, .15}, 1)
	assert.ErrorContains(t, err, "of 1 documents 1 would be for training, 0 for validation and 0 for test")
	for _, f := range []Fractions{{}, {.5, .5}, {-.1, .2}, {.2, 0}} {
		_, err = Split(t.Context(), Slice(testHeader(), docs), f, 1)
		assert.Error(t, err, f)
	}
}

// Copies of a text under other names and in other data sets go where the text
// goes, and the others where they go without copies.
func TestSplitKeepsTextsTogether(t *testing.T) {
	docs := testRouter.Documents(40, 5, 1)
	f := Fractions{Valid: .25, Test: .25}
	p, err := Split(t.Context(), Slice(testHeader(), docs), f, 3)
	require.NoError(t, err)
	want := keys(t, p)
	for i := range docs[:20] {
		for _, set := range []string{docs[i].Dataset, "z"} { // after the original's data set and name
			d := *docs[i]
			d.Dataset, d.ID = set, fmt.Sprint("x", i)
			docs = append(docs, &d)
		}
	}
	dir := tracetest.Write(t, testHeader(), docs, trace.WriterOptions{GroupTokens: 37})
	r, err := trace.Open(dir)
	require.NoError(t, err)
	p, err = Split(t.Context(), FromReader(r), f, 3)
	require.NoError(t, err)
	texts := map[string]int{}
	for i, part := range []Data{p.Train, p.Valid, p.Test} {
		var originals []trace.Key
		for doc, err := range part.All(t.Context()) {
			require.NoError(t, err)
			text := fmt.Sprint(doc.Tokens)
			if at, ok := texts[text]; ok {
				assert.Equal(t, at, i, "a text is in parts %d and %d", at, i)
			}
			texts[text] = i
			assert.NotEmpty(t, doc.Experts)
			if doc.ID[0] != 'x' {
				originals = append(originals, doc.Key())
			}
		}
		slices.SortFunc(originals, trace.Key.Compare)
		assert.Equal(t, want[i], originals)
	}
	// Documents without token ids are not taken for copies of each other.
	for _, d := range docs {
		d.Tokens = slices.Repeat([]int32{trace.NoToken}, len(d.Tokens))
	}
	p, err = Split(t.Context(), Slice(testHeader(), docs), f, 3)
	require.NoError(t, err)
	assert.NotEmpty(t, keys(t, p)[1])
}

func TestHoldOut(t *testing.T) {
	d := testData(6, 3, 1)
	all := Parts{Train: d, Valid: d, Test: d}
	for i, part := range keys(t, all.HoldOut("a")) {
		assert.Len(t, part, 3)
		for _, k := range part {
			assert.Equal(t, []string{"b", "b", "a"}[i], k.Dataset)
		}
	}
	sets, err := d.Datasets(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"a", "b"}, sets)
}

func TestFractionsText(t *testing.T) {
	for text, want := range map[string]Fractions{".15,.2": {.15, .2}, "": {}} {
		var f Fractions
		require.NoError(t, f.UnmarshalText([]byte(text)))
		assert.Equal(t, want, f)
		again, err := f.MarshalText()
		require.NoError(t, err)
		assert.Equal(t, text, string(again))
	}
	for _, text := range []string{".5", "a,b", ".5,.5", "NaN,.1", "0,.1", "1e-400,.1", ".1,.2,.3"} {
		assert.Error(t, new(Fractions).UnmarshalText([]byte(text)), text)
	}
}

// Predictors remember what they were fitted on, through a file.
func TestProvenance(t *testing.T) {
	docs := testRouter.Documents(40, 5, 1)
	ctx, f, d := t.Context(), Fractions{Valid: .25, Test: .25}, Slice(testHeader(), docs)
	parts, err := Split(ctx, d, f, 1<<63)
	require.NoError(t, err)
	p, err := NewProvenance(ctx, parts)
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, SaveAll(dir, &Set{Predictors: fitted(t)[:1], Provenance: p}))
	set, err := LoadAll(os.DirFS(dir), nil, nil)
	require.NoError(t, err)
	require.Equal(t, p, set.Provenance)
	p = set.Provenance

	check := func(parts Parts) string {
		t.Helper()
		warning, err := p.Check(ctx, parts)
		require.NoError(t, err)
		return warning
	}
	split := func(f Fractions, seed uint64) Parts {
		t.Helper()
		parts, err := Split(ctx, d, f, seed)
		require.NoError(t, err)
		return parts
	}
	assert.Empty(t, check(split(f, 1<<63)))
	assert.Contains(t, check(Parts{Test: d}), "of 40 documents to evaluate on, the predictors were fitted on 20 and calibrated on 10")
	_, err = p.Check(ctx, split(f, 2))
	assert.ErrorContains(t, err, "by .25,.25 with seed 9223372036854775808; got .25,.25 with seed 2")
	_, err = p.Check(ctx, split(Fractions{.25, .3}, 1<<63))
	assert.ErrorContains(t, err, "got .25,.3 with seed 9223372036854775808")

	// Another trace, with the same texts under other names.
	for i, doc := range docs {
		doc := *doc
		doc.Dataset, doc.ID = "other", fmt.Sprint(i)
		docs[i] = &doc
	}
	d = Slice(testHeader(), docs)
	assert.Contains(t, check(Parts{Test: d}), "fitted on 20 and calibrated on 10")
	// Other texts.
	d = Slice(testHeader(), testRouter.Documents(10, 6, 2))
	for doc := range d.Documents() {
		doc.Dataset = "new"
	}
	assert.Empty(t, check(split(f, 5)))

	// An earlier training.
	earlier, err := NewProvenance(ctx, Parts{Train: d, Valid: Slice(testHeader(), nil)})
	require.NoError(t, err)
	p.Add(earlier)
	p.Add(nil)
	assert.Contains(t, check(Parts{Test: d}), "fitted on 10 and")
	warning, err := (*Provenance)(nil).Check(ctx, Parts{Test: d})
	require.NoError(t, err)
	assert.Contains(t, warning, "do not record")
	assert.Error(t, json.Unmarshal([]byte(`{"train":{"names":"AAAA"}}`), new(Provenance)))
}
