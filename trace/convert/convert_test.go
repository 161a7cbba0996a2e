package convert_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/convert"
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
	report, err := convert.Read(context.Background(), from, path, dir, o, trace.WriterOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := trace.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	all, err := r.ReadAll()
	if err != nil || len(all) != report.Documents {
		t.Fatalf("%d documents, %d reported, %v", len(all), report.Documents, err)
	}
	valid, err := trace.Validate(dir, trace.ValidateOptions{
		SumToOne: !report.Header.NoWeights && from != "esft" && from != "bigmoe"})
	if err != nil || valid.Err() != nil {
		t.Errorf("%v %v", err, valid.Err())
	}
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
			if m.Layers != sizeL || m.Experts != sizeE || m.TopK != sizeK || len(report.LeftOut) > 0 || len(docs) != len(c.ids) {
				t.Fatalf("%+v, %d documents, left out %v", m, len(docs), report.LeftOut)
			}
			if want := c.o.Name; want != "" && m.Name != want {
				t.Errorf("model %q", m.Name)
			}
			// The softmax of logits 3, 2, 1.
			z := math.Exp(0) + math.Exp(-1) + math.Exp(-2)
			for i, d := range docs {
				if id := d.Dataset + "/" + d.ID; id != c.ids[i] || d.Len() != lengths[i] || d.Positions != nil || d.Phases != nil {
					t.Errorf("document %s of %d tokens, want %s", id, d.Len(), c.ids[i])
				}
				for tok := range d.Tokens {
					want := int32((i*37 + tok*11) % 1000)
					if i == c.unknown {
						want = trace.NoToken
					}
					if d.Tokens[tok] != want {
						t.Errorf("document %d, token %d is %d, want %d", i, tok, d.Tokens[tok], want)
					}
					for l := range sizeL {
						for k, e := range d.ExpertsAt(&m, tok, l) {
							if e != plantedExpert(i, tok, l, k) {
								t.Fatalf("document %d, token %d, layer %d: expert %d of choice %d, want %d", i, tok, l, e, k, plantedExpert(i, tok, l, k))
							}
							if !c.weights {
								continue
							}
							if w := d.WeightsAt(&m, tok, l)[k]; math.Abs(float64(w)-math.Exp(-float64(k))/z) > 1e-6 {
								t.Errorf("weight %g of choice %d", w, k)
							}
						}
					}
				}
				if d.Weights == nil == c.weights || (c.from == "transformers") != (d.RouterLogits != nil) {
					t.Errorf("weights %v, logits %v", d.Weights == nil, d.RouterLogits == nil)
				}
				if c.from == "transformers" && d.RouterLogits[(2*sizeL+3)*sizeE+int(plantedExpert(i, 2, 3, 1))] != 2 {
					t.Error("logits are not where they belong")
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
	if m.Name != "gpt-oss-120b-Q4_K_M.gguf" || m.Layers != 36 || m.Experts != 128 || m.TopK != 2 || len(docs) != 1 {
		t.Fatalf("%+v, %d documents", m, len(docs))
	}
	d := docs[0]
	if !slices.Equal(d.Positions, []int32{0, 1, 83, 84, 85, 148}) || d.Phase(3) != trace.Prefill || d.Phase(4) != trace.Decode {
		t.Errorf("positions %v, phases %v", d.Positions, d.Phases)
	}
	row := 0
	for _, r := range rows(t, path) {
		step, layer, slot := atoi(t, r[2]), atoi(t, r[3]), atoi(t, r[4])
		tok := slices.Index(d.Positions, int32(step))
		w, err := strconv.ParseFloat(r[6], 32)
		if err != nil {
			t.Fatal(err)
		}
		if e := d.ExpertsAt(&m, tok, layer)[slot]; int(e) != atoi(t, r[5]) || d.WeightsAt(&m, tok, layer)[slot] != float32(w) {
			t.Errorf("step %d, layer %d, slot %d: expert %d", step, layer, slot, e)
		}
		row++
	}
	// Prompt tokens but the last skip the last layer.
	missing := 0
	for _, e := range d.Experts {
		if e == trace.NoExpert {
			missing++
		}
	}
	if row+missing != len(d.Experts) || missing != 2*3 || d.ExpertsAt(&m, 2, 35)[0] != trace.NoExpert {
		t.Errorf("%d rows, %d missing of %d choices", row, missing, len(d.Experts))
	}

	back := filepath.Join(t.TempDir(), "back.csv")
	write(t, "bigmoe", docs, report.Header, back)
	got, want := rows(t, back), rows(t, path)
	key := func(r []string) string { return strings.Join(r[:7], ",") }
	byKey := func(a, b []string) int { return strings.Compare(key(a), key(b)) }
	slices.SortFunc(got, byKey)
	slices.SortFunc(want, byKey)
	if !slices.EqualFunc(got, want, func(a, b []string) bool { return key(a) == key(b) }) {
		t.Error("rows do not come back")
	}
	if a, b := comments(t, path), comments(t, back); !slices.Equal(a, b) {
		t.Errorf("header lines %q, want %q", b, a)
	}
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
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	s := bufio.NewScanner(file)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		f(s.Text())
	}
	if s.Err() != nil {
		t.Fatal(s.Err())
	}
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	v, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// write stores documents as a trace and converts that.
func write(t *testing.T, to string, docs []*trace.Document, h trace.Header, out string) *convert.Report {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "trace")
	w, err := trace.Create(dir, h, trace.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range docs {
		if err := w.Write(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	report, err := convert.Write(context.Background(), to, dir, out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := convert.Write(context.Background(), to, dir, out); err == nil {
		t.Error("writing over the last conversion succeeds")
	}
	return report
}

// TestESFT compares a part of a real trace with its files, both ways.
func TestESFT(t *testing.T) {
	path := fixtures + "esft/intent"
	report, docs := read(t, "esft", path, convert.Options{})
	m := report.Header.Model
	if m.Layers != 3 || m.TopK != 6 || m.Experts != 64 || len(docs) != 4 || !slices.Equal(m.Stacks[0].Blocks, []int{1, 2, 26}) {
		t.Fatalf("%+v, %d documents", m, len(docs))
	}
	check := func(folder string) {
		t.Helper()
		for l, block := range m.Stacks[0].Blocks {
			n := 0
			scan(t, filepath.Join(folder, fmt.Sprintf("expert_weights_%d.txt", block)), func(line string) {
				left, right, ok := strings.Cut(line, "\t\t")
				ids, weights := strings.Split(left, "\t"), strings.Split(right, "\t")
				d := docs[n]
				if !ok || len(ids) != 6*d.Len() || len(weights) != 6*d.Len() {
					t.Fatalf("line %d of layer %d: %d experts for %d tokens", n+1, block, len(ids), d.Len())
				}
				for i := range ids {
					tok := i / 6
					k := slices.Index(d.ExpertsAt(&m, tok, l), int32(atoi(t, ids[i])))
					w, err := strconv.ParseFloat(weights[i], 32)
					if err != nil || k < 0 || d.WeightsAt(&m, tok, l)[k] != float32(w) {
						t.Fatalf("line %d of layer %d: token %d has no expert %s with %s", n+1, block, tok, ids[i], weights[i])
					}
				}
				n++
			})
			if n != len(docs) {
				t.Errorf("%d lines", n)
			}
		}
	}
	check(path)
	for _, d := range docs {
		for i := 0; i < len(d.Weights); i += 6 {
			if !slices.IsSortedFunc(d.Weights[i:i+6], func(a, b float32) int { return int(1e6 * (b - a)) }) {
				t.Fatalf("weights %v do not fall", d.Weights[i:i+6])
			}
		}
	}
	back := filepath.Join(t.TempDir(), "intent")
	write(t, "esft", docs, report.Header, back)
	check(back)
	if _, again := read(t, "esft", back, convert.Options{}); !reflect.DeepEqual(again, docs) {
		t.Error("round trip differs")
	}
}

// TestRoundTrip writes a trace in each format and reads it back.
func TestRoundTrip(t *testing.T) {
	h := trace.Header{Model: trace.Model{Name: "m", Layers: 3, Experts: 7, TopK: 2}, LogitLayers: []int{0, 1, 2}}
	var docs []*trace.Document
	for i := range 19 {
		d := &trace.Document{Dataset: "set", ID: fmt.Sprintf("d%02d", i)}
		for tok := range 1 + i*5%13 {
			d.Tokens = append(d.Tokens, int32(tok*3+i))
			for l := range 3 {
				a, b := (i+tok+l)%7, (i+2*tok+3*l)%7
				if a == b {
					b = (a + 1) % 7
				}
				logits := make([]float32, 7)
				logits[a], logits[b] = 2, 1
				d.RouterLogits = append(d.RouterLogits, logits...)
				d.Experts = append(d.Experts, int32(a), int32(b))
				d.Weights = append(d.Weights, float32(1/(1+math.Exp(-1))), float32(1/(1+math.E)))
			}
		}
		docs = append(docs, d)
	}
	for _, c := range []struct{ to, name string }{{"vllm", "set"}, {"vllm", "set.safetensors"}, {"allenai", "set.jsonl"}, {"transformers", "set"}} {
		t.Run(c.to+" "+c.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), c.name)
			report := write(t, c.to, docs, h, out)
			if report.Documents != len(docs) || len(report.LeftOut) > 0 || len(report.Notes) == 0 {
				t.Errorf("%+v", report)
			}
			_, again := read(t, c.to, out, convert.Options{Experts: 7})
			if len(again) != len(docs) {
				t.Fatalf("%d documents", len(again))
			}
			for i, d := range again {
				want := *docs[i]
				switch c.to {
				case "vllm", "allenai":
					want.Weights, want.RouterLogits = nil, nil
				}
				d.Dataset = strings.TrimSuffix(d.Dataset, ".safetensors")
				d.ID = strings.TrimPrefix(d.ID, "set.")
				if c.to == "allenai" {
					want.ID = strconv.Itoa(i + 1)
				}
				if !reflect.DeepEqual(d, &want) {
					t.Fatalf("document %d:\n%+v\nwant\n%+v", i, d, &want)
				}
			}
		})
	}
}

// TestCannotHold demands that what a format cannot hold is refused or named.
func TestCannotHold(t *testing.T) {
	h := trace.Header{Model: trace.Model{Name: "m", Layers: 1, Experts: 4, TopK: 2}, NoWeights: true}
	docs := []*trace.Document{
		{ID: "gap", Tokens: []int32{1}, Experts: []int32{2, trace.NoExpert}},
		{ID: "whole", Tokens: []int32{1}, Experts: []int32{2, 3}},
		{ID: "no ids", Tokens: []int32{trace.NoToken}, Experts: []int32{2, 3}},
	}
	report := write(t, "allenai", docs, h, filepath.Join(t.TempDir(), "x.jsonl"))
	if report.Documents != 1 || len(report.LeftOut) != 2 || !strings.Contains(report.LeftOut[0].Error(), `"gap"`) {
		t.Errorf("%+v", report)
	}
	dir := filepath.Join(t.TempDir(), "trace")
	w, err := trace.Create(dir, h, trace.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"esft", "bigmoe", "transformers", "specmoe", "none"} {
		if _, err := convert.Write(context.Background(), to, dir, filepath.Join(t.TempDir(), "x")); err == nil {
			t.Errorf("%s takes a trace without weights and logits", to)
		}
	}
}

func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dir := filepath.Join(t.TempDir(), "trace")
	if _, err := convert.Read(ctx, "allenai", fixtures+"allenai.jsonl", dir, convert.Options{}, trace.WriterOptions{}, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := trace.Open(dir); err == nil {
		t.Error("a canceled conversion leaves a trace")
	}
}
