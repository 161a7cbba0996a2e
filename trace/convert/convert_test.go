package convert_test

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/convert"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const fixtures = "../../testdata/traces/"

// Sizes and formulas of testdata/traces/make_fixtures.py.
const (
	sizeL = 5
	sizeE = 11
	sizeK = 3
)

var lengths = []int{7, 4}

func plantedExpert(d, t, l, k int) int32 { return int32((3*d + 5*t + 2*l + 4*k) % sizeE) }

// read converts a fixture and returns the documents of the trace.
func read(t *testing.T, from, path string, o convert.Options) (*convert.Report, []*trace.Document) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "trace")
	report, err := convert.Read(t.Context(), from, path, dir, o, trace.WriterOptions{})
	require.NoError(t, err)
	r, err := trace.Open(dir)
	require.NoError(t, err)
	all, err := r.ReadAll()
	require.NoError(t, err)
	require.Len(t, all, report.Documents)
	valid, err := trace.Validate(dir, trace.ValidateOptions{
		SumToOne: !report.Header.NoWeights && from != "esft" && from != "bigmoe"})
	require.NoError(t, err)
	assert.NoError(t, valid.Err())
	return report, all
}

// TestPlanted reads planted routing from each format, written by the libraries
// that the format's programs use.
func TestPlanted(t *testing.T) {
	for _, c := range []struct {
		from, path string
		o          convert.Options
		weights    bool
		unknown    int // document without token ids, or -1
		ids        []string
	}{
		{"vllm", "vllm", convert.Options{}, false, 1, []string{"vllm/a", "vllm/b"}},
		{"vllm", "vllm.safetensors", convert.Options{Dataset: "s"}, false, 1, []string{"s/a", "s/b"}},
		{"vllm", "vllm/a.npy", convert.Options{}, false, -1, []string{"a/a"}},
		{"allenai", "allenai.jsonl", convert.Options{}, false, -1, []string{"allenai/1", "allenai/2"}},
		{"transformers", "transformers.safetensors", convert.Options{TopK: sizeK}, true, -1, []string{"transformers/0", "transformers/1"}},
		{"specmoe", "specmoe-2.pkl", convert.Options{}, true, -1, []string{"squad/squad_0", "squad/squad_1"}},
		{"specmoe", "specmoe-4.pkl", convert.Options{Name: "m"}, true, -1, []string{"squad/squad_0", "squad/squad_1"}},
	} {
		t.Run(c.from+" "+c.path, func(t *testing.T) {
			report, docs := read(t, c.from, fixtures+c.path, c.o)
			m := report.Header.Model
			require.Equal(t, sizeL, m.Layers)
			require.Equal(t, sizeE, m.Experts)
			require.Equal(t, sizeK, m.TopK)
			require.Empty(t, report.Omitted)
			require.Len(t, docs, len(c.ids))
			assert.Equal(t, cmp.Or(c.o.Name, "unknown"), m.Name)
			// The softmax of logits 3, 2, 1.
			z := math.Exp(0) + math.Exp(-1) + math.Exp(-2)
			for i, d := range docs {
				assert.Equal(t, c.ids[i], d.Dataset+"/"+d.ID)
				assert.Equal(t, lengths[i], d.Len())
				require.Nil(t, d.Positions)
				assert.Nil(t, d.Phases)
				for tok := range d.Tokens {
					want := int32((i*37 + tok*11) % 1000)
					if i == c.unknown {
						want = trace.NoToken
					}
					assert.Equal(t, want, d.Tokens[tok], "document %d, token %d", i, tok)
					for l := range sizeL {
						for k, e := range d.ExpertsAt(&m, tok, l) {
							require.Equal(t, plantedExpert(i, tok, l, k), e)
							if !c.weights {
								continue
							}
							assert.InDelta(t, math.Exp(-float64(k))/z, float64(d.WeightsAt(&m, tok, l)[k]), 1e-6)
						}
					}
				}
				assert.Equal(t, c.weights, d.Weights != nil)
				if c.from == "transformers" {
					assert.Equal(t, float32(2), d.RouterLogits[(2*sizeL+3)*sizeE+int(plantedExpert(i, 2, 3, 1))])
				} else {
					assert.Nil(t, d.RouterLogits)
				}
			}
		})
	}
}

// TestBigMoE compares a part of a real trace with its rows.
func TestBigMoE(t *testing.T) {
	path := fixtures + "bigmoeonedge/gptoss-cut.route.csv"
	report, docs := read(t, "bigmoe", path, convert.Options{})
	m := report.Header.Model
	require.Equal(t, "gpt-oss-120b-Q4_K_M.gguf", m.Name)
	require.Equal(t, 36, m.Layers)
	require.Equal(t, 128, m.Experts)
	require.Equal(t, 2, m.TopK)
	require.Len(t, docs, 1)
	d := docs[0]
	assert.Equal(t, []int32{0, 1, 83, 84, 85, 148}, d.Positions)
	assert.Equal(t, trace.Prefill, d.Phase(3))
	assert.Equal(t, trace.Decode, d.Phase(4))
	row := 0
	for _, r := range rows(t, path) {
		step, layer, slot := atoi(t, r[2]), atoi(t, r[3]), atoi(t, r[4])
		tok := slices.Index(d.Positions, int32(step))
		w, err := strconv.ParseFloat(r[6], 32)
		require.NoError(t, err)
		assert.Equal(t, atoi(t, r[5]), int(d.ExpertsAt(&m, tok, layer)[slot]), "step %d, layer %d, slot %d", step, layer, slot)
		assert.Equal(t, float32(w), d.WeightsAt(&m, tok, layer)[slot], "step %d, layer %d, slot %d", step, layer, slot)
		row++
	}
	// Prompt tokens but the last skip the last layer.
	missing := 0
	for _, e := range d.Experts {
		if e == trace.NoExpert {
			missing++
		}
	}
	assert.Equal(t, len(d.Experts), row+missing)
	assert.Equal(t, 2*3, missing)
	assert.Equal(t, trace.NoExpert, d.ExpertsAt(&m, 2, 35)[0])

	back := filepath.Join(t.TempDir(), "back.csv")
	write(t, "bigmoe", docs, report.Header, back)
	got, want := rows(t, back), rows(t, path)
	key := func(r []string) string { return strings.Join(r[:7], ",") }
	byKey := func(a, b []string) int { return strings.Compare(key(a), key(b)) }
	slices.SortFunc(got, byKey)
	slices.SortFunc(want, byKey)
	assert.True(t, slices.EqualFunc(got, want, func(a, b []string) bool { return key(a) == key(b) }), "rows do not come back")
	a, b := comments(t, path), comments(t, back)
	assert.Equal(t, a, b)
}

func rows(t *testing.T, path string) (rows [][]string) {
	scan(t, path, func(line string) {
		if line[0] != '#' && line[0] != 't' {
			rows = append(rows, strings.Split(line, ","))
		}
	})
	return rows
}

func comments(t *testing.T, path string) (lines []string) {
	scan(t, path, func(line string) {
		if line[0] == '#' {
			lines = append(lines, line)
		}
	})
	return lines
}

func scan(t *testing.T, path string, f func(line string)) {
	t.Helper()
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	s := bufio.NewScanner(file)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		f(s.Text())
	}
	require.NoError(t, s.Err())
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	v, err := strconv.Atoi(s)
	require.NoError(t, err)
	return v
}

// write stores documents as a trace and converts that.
func write(t *testing.T, to string, docs []*trace.Document, h trace.Header, out string) *convert.Report {
	t.Helper()
	dir := tracetest.Write(t, h, docs, trace.WriterOptions{})
	report, err := convert.Write(t.Context(), to, dir, out)
	require.NoError(t, err)
	_, err = convert.Write(t.Context(), to, dir, out)
	assert.Error(t, err, "writing over the last conversion succeeds")
	return report
}

// TestESFT compares a part of a real trace with its files, both ways.
func TestESFT(t *testing.T) {
	path := fixtures + "esft/intent"
	report, docs := read(t, "esft", path, convert.Options{})
	m := report.Header.Model
	require.Equal(t, 3, m.Layers)
	require.Equal(t, 6, m.TopK)
	require.Equal(t, 64, m.Experts)
	require.Len(t, docs, 4)
	require.Equal(t, []int{1, 2, 26}, m.Stacks[0].Blocks)
	check := func(folder string) {
		t.Helper()
		for l, block := range m.Stacks[0].Blocks {
			n := 0
			scan(t, filepath.Join(folder, fmt.Sprintf("expert_weights_%d.txt", block)), func(line string) {
				left, right, ok := strings.Cut(line, "\t\t")
				ids, weights := strings.Split(left, "\t"), strings.Split(right, "\t")
				d := docs[n]
				require.True(t, ok, "line %d of layer %d", n+1, block)
				require.Len(t, ids, 6*d.Len(), "line %d of layer %d", n+1, block)
				require.Len(t, weights, 6*d.Len(), "line %d of layer %d", n+1, block)
				for i := range ids {
					tok := i / 6
					k := slices.Index(d.ExpertsAt(&m, tok, l), int32(atoi(t, ids[i])))
					w, err := strconv.ParseFloat(weights[i], 32)
					require.NoError(t, err, "line %d of layer %d: token %d", n+1, block, tok)
					require.GreaterOrEqual(t, k, 0, "line %d of layer %d: token %d", n+1, block, tok)
					require.Equal(t, float32(w), d.WeightsAt(&m, tok, l)[k], "line %d of layer %d: token %d", n+1, block, tok)
				}
				n++
			})
			assert.Equal(t, len(docs), n)
		}
	}
	check(path)
	for _, d := range docs {
		for i := 0; i < len(d.Weights); i += 6 {
			require.True(t, slices.IsSortedFunc(d.Weights[i:i+6], func(a, b float32) int { return int(1e6 * (b - a)) }), "weights %v do not fall", d.Weights[i:i+6])
		}
	}
	back := filepath.Join(t.TempDir(), "intent")
	write(t, "esft", docs, report.Header, back)
	check(back)
	_, again := read(t, "esft", back, convert.Options{})
	assert.Equal(t, docs, again)
}

// TestRoundTrip writes a trace in each format and reads it back.
func TestRoundTrip(t *testing.T) {
	m := trace.Model{Name: "m", Layers: 3, Experts: 7, TopK: 2}
	router := tracetest.Router{Header: trace.Header{Model: m, LogitLayers: m.AllLayers()}, Rule: tracetest.Random(5)}
	docs := router.Documents(19, 5, 6)
	for _, c := range []struct{ to, name string }{{"vllm", "set"}, {"vllm", "set.safetensors"}, {"allenai", "set.jsonl"}, {"transformers", "set"}} {
		t.Run(c.to+" "+c.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), c.name)
			report := write(t, c.to, docs, router.Header, out)
			assert.Equal(t, len(docs), report.Documents)
			require.Empty(t, report.Omitted)
			assert.NotEmpty(t, report.Notes)
			var want []*trace.Document
			for i, d := range docs {
				copied := *d
				if c.to != "transformers" {
					copied.Weights, copied.RouterLogits = nil, nil
				}
				if c.to == "allenai" {
					copied.Dataset, copied.ID = "set", strconv.Itoa(i+1)
				}
				want = append(want, &copied)
			}
			_, again := read(t, c.to, out, convert.Options{Experts: 7})
			byName := func(a, b *trace.Document) int { return a.Key().Compare(b.Key()) }
			slices.SortFunc(want, byName)
			slices.SortFunc(again, byName)
			require.Len(t, again, len(want))
			for i := range want {
				for j := range want[i].Weights {
					assert.InDelta(t, want[i].Weights[j], again[i].Weights[j], 1e-6)
				}
				again[i].Weights = want[i].Weights
				assert.Equal(t, want[i], again[i])
			}
		})
	}
}

// TestCannotHold checks that what a format cannot hold is refused or named.
func TestCannotHold(t *testing.T) {
	h := trace.Header{Model: trace.Model{Name: "m", Layers: 1, Experts: 4, TopK: 2}, NoWeights: true}
	docs := []*trace.Document{
		{ID: "gap", Tokens: []int32{1}, Experts: []int32{2, trace.NoExpert}},
		{ID: "whole", Tokens: []int32{1}, Experts: []int32{2, 3}},
		{ID: "no ids", Tokens: []int32{trace.NoToken}, Experts: []int32{2, 3}},
	}
	report := write(t, "allenai", docs, h, filepath.Join(t.TempDir(), "x.jsonl"))
	assert.Equal(t, 1, report.Documents)
	require.Len(t, report.Omitted, 2)
	assert.Contains(t, report.Omitted[0].Error(), `"gap"`)
	dir := tracetest.Write(t, h, docs, trace.WriterOptions{})
	for _, to := range []string{"esft", "bigmoe", "transformers", "specmoe", "none"} {
		_, err := convert.Write(t.Context(), to, dir, filepath.Join(t.TempDir(), "x"))
		assert.Error(t, err, "%s takes a trace without weights and logits", to)
	}
}

// TestCancelled checks that a cancelled conversion leaves no trace, also where
// shards were finished.
func TestCancelled(t *testing.T) {
	lines := filepath.Join(t.TempDir(), "x.jsonl")
	require.NoError(t, os.WriteFile(lines, []byte(strings.Repeat(good, 40000)), 0o600))
	for _, shards := range []int{0, 2} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if shards == 0 {
			cancel()
		}
		dir, finished := t.TempDir(), 0
		w := trace.WriterOptions{ShardBytes: 1, GroupTokens: 1, OnShard: func(string, int) {
			if finished++; finished == shards {
				cancel()
			}
		}}
		_, err := convert.Read(ctx, "allenai", lines, dir, convert.Options{}, w)
		assert.ErrorIs(t, err, context.Canceled)
		assert.Equal(t, shards, finished)
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		assert.Empty(t, entries)
	}
}
