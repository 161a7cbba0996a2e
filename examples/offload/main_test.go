package main

import (
	"encoding/json"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/examples/internal/cli/clitest"
	"github.com/expertspec/expertspec/mixtral/offload"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/expertspec/expertspec/trace/tracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const documents = `{"id": "a", "text": "Once upon a time there was a little girl."}
{"id": "bad"}
{"id": "b", "ids": [1, 17, 400, 23]}
`

// input writes the documents and what examples/forward writes for them.
func input(t *testing.T, dir string, flags ...string) (in string, want []byte) {
	t.Helper()
	in = filepath.Join(dir, "in.jsonl")
	require.NoError(t, os.WriteFile(in, []byte(documents), 0o600))
	var model cli.Model
	outputs := cli.Outputs{In: in, Out: filepath.Join(dir, "want.safetensors"), Greedy: 5, Logits: true}
	f := flag.NewFlagSet("", flag.PanicOnError)
	model.Flags(f)
	require.NoError(t, f.Parse(flags))
	m, free, err := model.Load(t.Context())
	require.NoError(t, err)
	defer free()
	made, bad, err := outputs.Compute(t.Context(), "forward", &model, m, nil, io.Discard)
	require.NoError(t, err)
	var incomplete *cli.Incomplete
	require.ErrorAs(t, outputs.Write(made, bad), &incomplete)
	want, err = os.ReadFile(outputs.Out)
	require.NoError(t, err)
	return in, want
}

// With each policy the outputs are those of examples/forward.
func TestPolicies(t *testing.T) {
	for _, form := range [][]string{nil, {"-quantize", "int8", "-dtype", "bfloat16"}} {
		dir := t.TempDir()
		in, want := input(t, dir, form...)
		out, file := filepath.Join(dir, "out.safetensors"), filepath.Join(dir, "figures.json")
		run := func(args ...string) (stdout string) {
			args = append(append([]string{"-in", in, "-out", out, "-greedy", "5", "-json", file}, args...), form...)
			status, stdout, errs := clitest.Run(t, new(options).program(), args...)
			require.Equal(t, cli.Partial, status, errs)
			require.Equal(t, "offload: "+in+":2: document \"bad\": has both or neither of text and ids\noffload: 1 lines of "+in+" omitted\n", errs)
			got, err := os.ReadFile(out)
			require.NoError(t, err)
			require.Equal(t, want, got, args)
			return stdout
		}
		for _, p := range policies {
			if p.future {
				continue
			}
			args := []string{"-policy", p.name, "-slots", "9", "-host-memory", "1MB"}
			if p.predict && p.reuse { // no predictor of the next token is given by default
				args = append(args, "-predictor", "mini:routing transformer")
			}
			stdout := run(args...)
			assert.Contains(t, stdout, p.name)
			assert.Contains(t, stdout, "(7.0 % of the experts)")
			raw, err := os.ReadFile(file)
			require.NoError(t, err)
			all := new(figures)
			require.NoError(t, json.Unmarshal(raw, all))
			require.Len(t, all.Runs, 1)
			r := all.Runs[0]
			assert.Equal(t, 8, r.Decode.Tokens, "two documents, each without its first token")
			assert.EqualValues(t, 8*32, r.Decode.Total.Requests)
			assert.Len(t, r.Token, 8)
			assert.Len(t, r.FirstToken, 2)
			assert.True(t, !p.predict || r.Decode.Total.Prefetched > 0, p.name)
			assert.Positive(t, r.Decode.Total.Misses)
			assert.Equal(t, p.evict, r.Store.Policy)
		}
		stdout := run("-compare", "lru, prefetch,on-demand,host", "-device-memory", "16MB", "-host-memory", "9MiB", "-figures", filepath.Join(dir, "figures"))
		assert.Contains(t, stdout, "outputs are equal")
		assert.Contains(t, stdout, "prefetch: gate reuse")
		for _, name := range []string{"report.html", "offload-policies.svg", "offload-stalls.png"} {
			_, err := os.Stat(filepath.Join(dir, "figures", name))
			assert.NoError(t, err)
		}
	}
}

// Outputs that differ are found, those of the host beyond a tolerance.
func TestEqual(t *testing.T) {
	of := func(x ...float32) []output {
		outputs, again, err := read([]safetensors.Tensor{safetensors.Float32s("x", []int{len(x)}, x), safetensors.Int32s("ids", []int{1}, []int32{7})})
		require.NoError(t, err)
		require.Len(t, again, 2)
		return outputs
	}
	ids := of(1, 200)
	ids[1].bytes[0] = 8
	for _, c := range []struct {
		b                  []output
		want, wantTolerant string
	}{
		{b: of(1, 200)}, {b: of(1, 200.001), want: "tensor x"}, {b: of(1, 200.1), want: "tensor x", wantTolerant: "tensor x, element 1: 200 and 200.1"},
		{b: of(1), want: "tensor x", wantTolerant: "tensor x"}, {b: ids, want: "tensor ids", wantTolerant: "tensor ids"},
		{b: of(1, 2)[:1], want: "not the same documents", wantTolerant: "not the same"}, {b: of(float32(math.NaN()), 200), want: "tensor x", wantTolerant: "element 0"},
	} {
		for tolerant, want := range map[bool]string{false: c.want, true: c.wantTolerant} {
			if err := equal(of(1, 200), c.b, tolerant); want == "" {
				assert.NoError(t, err)
			} else {
				assert.ErrorContains(t, err, want)
			}
		}
	}
}

// The simulator takes the times of a run, or of flags, and prints the same table.
func TestSimulate(t *testing.T) {
	dir := t.TempDir()
	in, _ := input(t, dir)
	costs, file := filepath.Join(dir, "costs.json"), filepath.Join(dir, "simulated.json")
	status, _, errs := clitest.Run(t, new(options).program(), "-in", in, "-out", filepath.Join(dir, "out"), "-greedy", "9", "-slots", "40", "-json", costs)
	require.Equal(t, cli.Partial, status, errs)
	r := tracetest.Router{
		Header: trace.Header{Model: trace.Model{Layers: 16, Experts: 8, TopK: 2}, NoWeights: true},
		Rule: tracetest.Choose(func(s *tracetest.Step) []int32 {
			return []int32{int32(s.Position+s.Layer) % 8, int32(s.Position+s.Layer+1) % 8}
		}),
	}
	traced := tracetest.Write(t, r.Header, r.Documents(3, 20, 1), trace.WriterOptions{})
	simulated := func(args ...string) []*cli.Telemetry {
		status, stdout, errs := clitest.Run(t, new(options).program(), append(args, "-simulate", traced, "-json", file, "-figures", filepath.Join(dir, "figures"))...)
		require.Equal(t, cli.Done, status, errs)
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		all := new(figures)
		require.NoError(t, json.Unmarshal(raw, all))
		for _, run := range all.Runs {
			assert.Contains(t, stdout, run.Label)
			assert.Nil(t, run.Store)
			assert.Equal(t, 63, run.Decode.Tokens)
		}
		return all.Runs
	}
	runs := simulated("-slots", "64", "-load", "3ms", "-compute", "2ms", "-compare", "on-demand,lru,prefetch,opt", "-predictor", "oracle")
	require.Len(t, runs, 4)
	assert.InDelta(t, 63*16*(3*2+2)/1000., runs[0].Decode.Seconds, 1e-9, "on demand")
	for i, faster := range []int{1, 2, 3} {
		assert.Less(t, runs[faster].Decode.Seconds, runs[0].Decode.Seconds, i)
	}
	assert.Equal(t, prefetch.OPT, runs[3].Decode.Policy)
	assert.Equal(t, "oracle", runs[2].Decode.Predictor)
	runs = simulated("-slots", "70", "-costs", costs, "-compare", "static,reuse,prefetch,lfu", "-predictor", "oracle", "-distance", "2", "-pin", traced)
	require.Len(t, runs, 4)
	assert.Equal(t, "reuse: oracle", runs[1].Label)
	assert.Equal(t, "oracle", runs[1].Decode.Predictor)
	assert.Equal(t, "h=2", runs[2].Decode.Horizon)
	runs = simulated("-slots", "64", "-compare", "lru,reuse", "-predictor", "gate reuse") // with costs that it measures
	assert.Greater(t, runs[0].Decode.Seconds, runs[0].Decode.StallPerToken*63)
	assert.Positive(t, runs[0].Decode.StallPerToken)
	assert.Equal(t, "reuse", runs[1].Label, "gate reuse does not predict the next token")
	runs = simulated("-device-memory", "18936192", "-costs", costs) // half
	assert.Equal(t, 64, runs[0].Decode.Capacity)
	assert.Positive(t, runs[0].Decode.StallPerToken)

	// Of several runs, that of lru has the times of reading, and each predictor's that of its decisions.
	var f figures
	for _, x := range []struct {
		policy         prefetch.Policy
		predictor      string
		load, decision float64
	}{{prefetch.OnDemand, "", 1, 0}, {prefetch.LRU, "p", 2, 3}, {prefetch.LRU, "", 4, 0}, {prefetch.Static, "", 5, 0}} {
		c := offload.Costs{LoadSeconds: x.load, ComputeSeconds: 6, DecisionSeconds: x.decision}
		f.Runs = append(f.Runs, &cli.Telemetry{Decode: &prefetch.Result{Predictor: x.predictor}, Store: &offload.Stats{Policy: x.policy, Costs: c}})
	}
	several := filepath.Join(dir, "several.json")
	raw, err := json.Marshal(f)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(several, raw, 0o600))
	chosen, decisions, err := (&options{costs: several, compute: 7 * time.Second}).readCosts()
	require.NoError(t, err)
	assert.Equal(t, offload.Costs{LoadSeconds: 4, ComputeSeconds: 7}, chosen)
	chosen, _, err = (&options{costs: several}).readCosts()
	require.NoError(t, err)
	assert.Equal(t, 4., chosen.LoadSeconds)
	assert.Equal(t, 3., decisions["p"])

	bad := filepath.Join(dir, "bad.json")
	require.NoError(t, os.WriteFile(bad, []byte("{"), 0o600))
	for _, c := range []struct {
		status int
		want   string
		args   []string
	}{
		{cli.Usage, "-load and -compute require each other", []string{"-slots", "64", "-load", "1ms"}},
		{cli.Failed, "must say what the trace's model takes", []string{"-slots", "64", "-model", filepath.Join("..", "..", "testdata", "variants", "b")}},
		{cli.Usage, `-load "-1ms": must be a positive time`, []string{"-slots", "64", "-load", "3ms,-1ms"}},
		{cli.Usage, `-resident "101": must be a percentage`, []string{"-resident", "101", "-costs", costs}},
		{cli.Usage, "-resident excludes", []string{"-resident", "50", "-slots", "64", "-costs", costs}},
		{cli.Usage, "policy host cannot be simulated", []string{"-slots", "64", "-policy", "host", "-costs", costs}},
		{cli.Failed, "-costs: open /no/file", []string{"-slots", "64", "-costs", "/no/file"}},
		{cli.Failed, "bad.json: unexpected end of JSON", []string{"-slots", "64", "-costs", bad}},
		{cli.Failed, "no run of it read experts", []string{"-slots", "64", "-costs", file}},
		{cli.Failed, "-device-memory is required: the model needs at least", []string{"-costs", costs}},
		{cli.Failed, "room for 1 experts of 221184 bytes; a token needs 2", []string{"-costs", costs, "-device-memory", "5.01MB"}},
		{cli.Failed, "has 2 layers of 6 experts, the trace", []string{"-costs", costs, "-device-memory", "5MB", "-model", filepath.Join("..", "..", "testdata", "variants", "b")}},
		{cli.Failed, "capacity is 1 experts", []string{"-costs", costs, "-slots", "1"}},
		{cli.Failed, "predictor gate reuse: ", []string{"-costs", costs, "-slots", "64", "-policy", "prefetch"}},
	} {
		status, _, errs := clitest.Run(t, new(options).program(), append(c.args, "-simulate", traced)...)
		assert.Equal(t, c.status, status, "%q: %s", c.args, errs)
		assert.Contains(t, errs, c.want, "%q", c.args)
	}
	status, _, errs = clitest.Run(t, new(options).program(), "-simulate", filepath.Join(dir, "none"), "-slots", "9", "-costs", costs)
	assert.Equal(t, cli.Failed, status)
	assert.Contains(t, errs, "-simulate: ")
}

// TestPlan prints where experts are.
func TestPlan(t *testing.T) {
	status, out, errs := clitest.Run(t, new(options).program(), "-plan", "-device-memory", "19MB", "-host-memory", "5MB")
	require.Equal(t, cli.Done, status, errs)
	text := strings.Join(strings.Fields(out), " ")
	assert.Contains(t, text, "experts 7077888 14.16 MB 4.866 MB 4.645 MB", "64 of 221184 bytes, 22, and 42 of 110592 in bfloat16")
	assert.Contains(t, text, "64 of 128 experts are in slots of the device and copies of up to 22 in host memory")
	status, _, errs = clitest.Run(t, new(options).program(), "-plan", "-device-memory", "5222783")
	assert.Equal(t, cli.Failed, status)
	assert.Contains(t, errs, "-device-memory 5222783: offload: device memory of 5222783 bytes is too little: the model needs 5222784 bytes")
}

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "in.jsonl")
	require.NoError(t, os.WriteFile(in, []byte(documents), 0o600))
	for _, c := range []struct {
		status int
		want   string
		args   []string
	}{
		{cli.Usage, "-in is required", []string{"-in", ""}},
		{cli.Usage, "-out is required", []string{"-out", ""}},
		{cli.Usage, "-greedy is -1", []string{"-greedy", "-1"}},
		{cli.Usage, "-distance is 0 layers", []string{"-distance", "0"}},
		{cli.Usage, `-policy: policy "mru"; must be one of on-demand, lru`, []string{"-policy", "mru"}},
		{cli.Usage, `-compare: policy "mru"`, []string{"-compare", "lru,mru"}},
		{cli.Failed, "-pin: ", []string{"-slots", "9", "-policy", "static", "-pin", "/no/trace"}},
		{cli.Usage, `for flag -device-memory: size "24XB": must be a number of bytes`, []string{"-device-memory", "24XB"}},
		{cli.Usage, `for flag -host-memory: size "-1"`, []string{"-host-memory", "-1"}},
		{cli.Usage, "-slots is -3", []string{"-slots", "-3"}},
		{cli.Usage, "exclude each other", []string{"-slots", "3", "-device-memory", "1GB"}},
		{cli.Usage, "-host-memory requires -device-memory", []string{"-host-memory", "1GB"}},
		{cli.Usage, "policy opt knows the future; it requires -simulate", []string{"-policy", "opt"}},
		{cli.Usage, "the oracle knows the future; it requires -simulate", []string{"-policy", "prefetch", "-predictor", "oracle"}},
		{cli.Usage, "-policy: policy host requires -host-memory", []string{"-policy", "host", "-slots", "9"}},
		{cli.Usage, "-costs, -load, -resident, -compute and -split require -simulate", []string{"-load", "1ms"}},
		{cli.Usage, "unexpected argument", []string{"x"}},
		{cli.Failed, "-device-memory is required: the model needs at least 5222784 bytes (5.223 MB), for 2 experts of 221184 bytes and 4780416 bytes of other weights; all of its 128 experts need 33091968 bytes (33.09 MB)", nil},
		{cli.Failed, "-device-memory 5222783: offload: device memory of 5222783 bytes is too little: the model needs 5222784 bytes", []string{"-device-memory", "5222783"}},
		{cli.Failed, "1 slots are too few", []string{"-slots", "1"}},
		{cli.Failed, "-model /no/model: no such folder", []string{"-slots", "9", "-model", "/no/model"}},
		{cli.Failed, "/no/file", []string{"-slots", "9", "-in", "/no/file"}},
		{cli.Failed, "-predictor /no/folder: neither gate reuse, mini nor a folder", []string{"-slots", "9", "-policy", "prefetch", "-predictor", "/no/folder"}},
		{cli.Failed, "-predictor " + dir + ": open predictors.json", []string{"-slots", "9", "-policy", "prefetch", "-predictor", dir}},
		{cli.Failed, "-distance is 16 layers; the model has 16", []string{"-slots", "9", "-policy", "prefetch", "-distance", "16", "-greedy", "2"}},
		{cli.Failed, `backend "abacus"`, []string{"-slots", "9", "-backend", "abacus"}},
	} {
		args := append([]string{"-in", in, "-out", filepath.Join(dir, "out")}, c.args...)
		status, _, errs := clitest.Run(t, new(options).program(), args...)
		assert.Equal(t, c.status, status, "%q: %s", c.args, errs)
		assert.Contains(t, errs, c.want, "%q", c.args)
	}
	_, err := os.Stat(filepath.Join(dir, "out"))
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// The embedded predictors are chosen by name.
func TestEmbedded(t *testing.T) {
	dir := t.TempDir()
	in, want := input(t, dir)
	run := func(args ...string) (status int, stdout, errs string) {
		return clitest.Run(t, new(options).program(), append([]string{"-in", in, "-out", filepath.Join(dir, "out"), "-greedy", "5", "-slots", "9"}, args...)...)
	}
	status, stdout, errs := run("-policy", "prefetch", "-distance", "2", "-predictor", "mini")
	require.Equal(t, cli.Partial, status, errs)
	got, err := os.ReadFile(filepath.Join(dir, "out"))
	require.NoError(t, err)
	assert.Equal(t, want, got)
	assert.Contains(t, stdout, "prefetch: mini ")
	status, stdout, errs = run("-compare", "prefetch", "-predictor", "mini")
	require.Equal(t, cli.Partial, status, errs)
	for _, name := range []string{"routing", "router-logit", "hidden"} {
		assert.Contains(t, stdout, "prefetch: "+name+" transformer ")
	}
	status, _, errs = run("-policy", "prefetch", "-predictor", "mini:gate")
	assert.Equal(t, cli.Failed, status)
	assert.Contains(t, errs, `it has ["routing transformer" "router-logit transformer" "hidden transformer"]; choose one`)
}

// Predictors of a folder that train wrote are chosen by name.
func TestTrained(t *testing.T) {
	dir := t.TempDir()
	in, want := input(t, dir)
	r := tracetest.Router{
		Header: trace.Header{Model: trace.Model{Layers: 16, Experts: 8, TopK: 2, Hidden: 96, Vocabulary: 4096}, NoWeights: true},
		Rule: tracetest.Choose(func(s *tracetest.Step) []int32 {
			return []int32{int32(s.Layer) % 8, int32(s.Layer+1+s.Position%7) % 8}
		}),
	}
	ps := []speculate.Predictor{&speculate.Transition{}, &speculate.TokenID{}}
	horizons := append(speculate.LayersAhead(1), speculate.Horizon{})
	require.NoError(t, speculate.Fit(t.Context(), speculate.Slice(r.Header, r.Documents(3, 20, 1)), horizons, ps...))
	both, one := filepath.Join(dir, "both"), filepath.Join(dir, "one")
	require.NoError(t, speculate.SaveAll(both, &speculate.Set{Predictors: ps}))
	require.NoError(t, speculate.SaveAll(one, &speculate.Set{Predictors: ps[:1]}))
	run := func(args ...string) (status int, stdout, errs string) {
		return clitest.Run(t, new(options).program(), append([]string{"-in", in, "-out", filepath.Join(dir, "out"), "-greedy", "5", "-slots", "9"}, args...)...)
	}
	status, stdout, errs := run("-compare", "prefetch", "-predictor", both+":transition,gate reuse,"+one)
	require.Equal(t, cli.Partial, status, errs)
	got, err := os.ReadFile(filepath.Join(dir, "out"))
	require.NoError(t, err)
	assert.Equal(t, want, got)
	for _, label := range []string{"prefetch: transition", "prefetch: gate reuse"} {
		assert.Contains(t, stdout, label)
	}
	status, stdout, errs = run("-policy", "reuse", "-predictor", one)
	require.Equal(t, cli.Partial, status, errs)
	assert.Contains(t, stdout, "reuse: "+one)
	for want, args := range map[string][]string{
		`it has ["transition" "token id"]; choose one as FOLDER:NAME`: {"-predictor", both},
		`it has ["transition" "token id"]; choose one`:                {"-predictor", both + ":gate"},
		"transition was not trained for -distance 2":                  {"-predictor", one, "-distance", "2"},
		"token id was not trained for the next token":                 {"-predictor", both + ":token id", "-policy", "reuse"},
	} {
		status, _, errs := run(append([]string{"-policy", "prefetch"}, args...)...)
		assert.Equal(t, cli.Failed, status)
		assert.Contains(t, errs, want)
	}
}
