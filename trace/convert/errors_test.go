package convert_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/convert"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// try writes files by name and converts the one of them, or the folder, of a name.
func try(t *testing.T, from, name string, files map[string]string, o convert.Options) (*convert.Report, error) {
	t.Helper()
	dir := t.TempDir()
	for file, text := range files {
		path := filepath.Join(dir, file)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return convert.Read(t.Context(), from, filepath.Join(dir, name), filepath.Join(dir, "out"), o, trace.WriterOptions{})
}

// omits converts as try does, and checks that some documents are converted and
// one is omitted with an error.
func omits(t *testing.T, from, name string, files map[string]string, o convert.Options, documents int, want string) {
	t.Helper()
	report, err := try(t, from, name, files, o)
	require.NoError(t, err, want)
	assert.Equal(t, documents, report.Documents, want)
	require.Len(t, report.Omitted, 1, want)
	assert.ErrorContains(t, report.Omitted[0], want)
}

const good = `{"input_ids": [5, 6], "exp_ids": [[[0, 1, 2], [3, 2, 1]], [[1, 0, 3], [0, 1, 2]]]}` + "\n"

// TestBadLines checks that a bad line is named by its place and that the rest
// is converted.
func TestBadLines(t *testing.T) {
	for want, line := range map[string]string{
		"x.jsonl:2: exp_ids: array of 1 at depth 2":     `{"input_ids": [5, 6], "exp_ids": [[[0, 1, 2], [3, 2, 1]], [[1, 0, 3]]]}`,
		"x.jsonl:2: exp_ids: value 4: integer does":     `{"input_ids": [5, 6], "exp_ids": [[[0, 1, 2], [3, 99999999999, 1]], [[1, 0, 3], [0, 1, 2]]]}`,
		"x.jsonl:2: exp_ids: value 1: not a 32-bit":     `{"input_ids": [5, 6], "exp_ids": [[[0, 1.5, 2], [3, 2, 1]], [[1, 0, 3], [0, 1, 2]]]}`,
		"x.jsonl:2: 1 input_ids, exp_ids of 2 tokens":   `{"input_ids": [5], "exp_ids": [[[0, 1, 2], [3, 2, 1]], [[1, 0, 3], [0, 1, 2]]]}`,
		"x.jsonl:2: input_ids or exp_ids is missing":    `{"input_ids": [5]}`,
		"x.jsonl:2: exp_ids has top-k 1 and 3 layers":   `{"input_ids": [5], "exp_ids": [[[0, 1, 2]]]}`,
		"x.jsonl:2: unexpected end of JSON input":       `{"input_ids": [5`,
		"x.jsonl:2: json: cannot unmarshal array":       `[1]`,
		"x.jsonl:2: input_ids: nested more than 1":      `{"input_ids": [[5]], "exp_ids": []}`,
		"x.jsonl:2: exp_ids: value 0 is at depth 1":     `{"input_ids": [5], "exp_ids": [7]}`,
		"x.jsonl:2: input_ids: value 0: not a 32-bit":   `{"input_ids": [null], "exp_ids": []}`,
		"x.jsonl: document \"2\" of data set \"x\": to": `{"input_ids": [5], "exp_ids": [[[0, 1, 2], [0, 2, 1]]]}`,
	} {
		omits(t, "allenai", "x.jsonl", map[string]string{"x.jsonl": good + line + "\n" + good}, convert.Options{}, 2, want)
	}
	report, err := try(t, "allenai", "x.jsonl", map[string]string{"x.jsonl": good + "\n" + strings.TrimSpace(good)}, convert.Options{})
	require.NoError(t, err)
	assert.Equal(t, 2, report.Documents)
	assert.Nil(t, report.Omitted)
}

const route = `# route_trace v1
# model=/x y/m.gguf arch=a n_layer=2 n_expert=4 n_expert_used=2
# layer=0 expert_bytes=10 dense_bytes=20
turn,phase,step,layer,slot,expert,weight,residency,expert_bytes
0,0,0,0,0,3,0.75,0,10
0,0,0,0,1,1,0.25,1,0
0,0,0,1,0,2,0.5,0,10
0,0,0,1,1,0,0.5,0,10
`

func TestBadRoute(t *testing.T) {
	turn2 := strings.ReplaceAll(route[strings.Index(route, "0,0,0,0"):], "\n0,", "\n1,")
	turn2 = "1" + turn2[1:]
	report, err := try(t, "bigmoe", "x.csv", map[string]string{"x.csv": route + turn2}, convert.Options{})
	require.NoError(t, err)
	assert.Equal(t, 2, report.Documents)
	assert.Empty(t, report.Omitted)
	for want, rows := range map[string]string{
		"x.csv:9: turn 1: 2 fields":                                 "1,0\n",
		"x.csv:10: turn 1: field 6":                                 "1,1,1,0,0,1,.5,0,0\n1,1,1,0,1,x,.5,0,0\n",
		"x.csv:9: turn 1: field 2":                                  "1,x,1,0,0,1,.5,0,0\n",
		"x.csv:9: turn 1: phase is 7":                               "1,7,1,0,0,1,.5,0,0\n",
		"x.csv:9: turn 1: weight is NaN":                            "1,0,1,0,0,1,NaN,0,0\n",
		"document \"turn-1\": position 4, layer 0: choice 0 occurs": "1,0,4,0,0,1,.5,0,0\n1,0,4,0,0,2,.5,0,0\n",
		"document \"turn-1\": position 4, layer 0: choice 3 with":   "1,0,4,0,3,1,.5,0,0\n",
		"x.csv: document \"turn-1\"":                                "1,0,4,0,1,1,.5,0,0\n",
	} {
		omits(t, "bigmoe", "x.csv", map[string]string{"x.csv": route + rows}, convert.Options{}, 1, want)
	}
	for want, text := range map[string]string{
		"x.csv:1: not a route trace": "# something\n",
		"x.csv:2: n_expert":          "# route_trace v1\n# model=m arch=a n_layer=2 n_expert=four n_expert_used=2\n",
		"top-k 9 of 4":               "# route_trace v1\n# model=m arch=a n_layer=2 n_expert=4 n_expert_used=9\n",
		"x.csv:3: columns are":       "# route_trace v1\n# model=m arch=a n_layer=2 n_expert=4 n_expert_used=2\na,b\n",
		"column names are missing":   "# route_trace v1\n",
		"no rows":                    route[:strings.Index(route, "0,0,0")],
		"layer 7 of n_layer=2":       route + "0,0,1,7,0,1,.5,0,0\n",
	} {
		_, err := try(t, "bigmoe", "x.csv", map[string]string{"x.csv": text}, convert.Options{})
		assert.ErrorContains(t, err, want)
	}
}

func TestBadESFT(t *testing.T) {
	a := "0\t1\t2\t0\t\t.5\t.5\t.5\t.5\n3\t1\t\t.2\t.8\n0\t1\t1\t2\t3\t1\t\t.1\t.1\t.1\t.1\t.1\t.1\n"
	files := func(b string) map[string]string {
		return map[string]string{"f/expert_weights_0.txt": a, "f/expert_weights_3.txt": b, "f/summary.json": "{}"}
	}
	o := convert.Options{TopK: 2}
	report, err := try(t, "esft", "f", files(a), o)
	require.NoError(t, err)
	assert.Equal(t, 3, report.Documents)
	assert.Equal(t, int64(6), report.Tokens)
	assert.Equal(t, 3, report.Header.Model.Stacks[0].Blocks[1])
	for want, line := range map[string]string{
		"expert_weights_3.txt:2: 4 experts, 2 weights":                    "3\t1\t0\t2\t\t.2\t.8",
		"expert_weights_3.txt:2: field 2: \"x\" is not an expert":         "3\tx\t\t.2\t.8",
		"expert_weights_3.txt:2: field 4: \"-1\" is not a weight":         "3\t1\t\t.2\t-1",
		"expert_weights_3.txt:2: 2 tokens, in":                            "3\t1\t0\t2\t\t.2\t.8\t.2\t.8",
		"expert_weights_3.txt:2: 3 experts are not a multiple of top-k 2": "3\t1\t0\t\t.2\t.8\t.2",
		"expert_weights_3.txt:2: 1 fields are not two halves":             "",
	} {
		lines := strings.Split(a, "\n")
		lines[1] = line
		omits(t, "esft", "f", files(strings.Join(lines, "\n")), o, 2, want)
	}
	_, err = try(t, "esft", "f", files(a[:30]), o)
	assert.ErrorContains(t, err, "expert_weights_0.txt:3")
	_, err = try(t, "esft", "f", map[string]string{"f/expert_weights_1.txt": "1\t2\t\t.5\t.5\n"}, convert.Options{})
	assert.ErrorContains(t, err, "must be given (2 fits)")
	_, err = try(t, "esft", "f", map[string]string{"f/x": ""}, o)
	assert.Error(t, err, "a folder of nothing")
}

// npy makes a NumPy file.
func npy(header string, data ...byte) string {
	return "\x93NUMPY\x01\x00" + string([]byte{byte(len(header)), 0}) + header + string(data)
}

func TestBadVLLM(t *testing.T) {
	fine := npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1, 2)}", 0, 1, 2, 3)
	for want, text := range map[string]string{
		"b.npy: not a NumPy file":                "PK",
		"b.npy: array is in Fortran order":       npy("{'descr': '<i4', 'fortran_order': True, 'shape': (1, 1, 2)}"),
		"b.npy: values of type f4":               npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1)}", 0, 0, 0, 0),
		"b.npy: 1 bytes of data, shape [1 1":     npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 2)}", 0),
		"is larger than the file":                npy("{'descr': '<i8', 'fortran_order': False, 'shape': (99999999, 99999999, 99999999)}", 0),
		"b.npy: shape [1 2 2], expected [T,1,2]": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 2)}", 0, 1, 2, 3),
		"b.npy: header":                          npy("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,)}"),
		"expert 1 twice":                         npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 2)}", 1, 1),
		"value 1 does not fit 32 bits":           npy("{'descr': '>i8', 'fortran_order': False, 'shape': (1, 1, 2)}", append(make([]byte, 8), 0x80, 0, 0, 0, 0, 0, 0, 0)...),
	} {
		omits(t, "vllm", "f", map[string]string{"f/a.npy": fine, "f/b.npy": text}, convert.Options{}, 1, want)
	}
	_, err := try(t, "vllm", "a.npy", map[string]string{"a.npy": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4,)}", 0, 1, 2, 3)}, convert.Options{})
	assert.ErrorContains(t, err, "a.npy: shape [4] is not [T,L,K]")
	_, err = try(t, "vllm", "a.safetensors", map[string]string{"a.safetensors": "junk"}, convert.Options{})
	assert.Error(t, err, "junk is read as safetensors")
	_, err = try(t, "none", "a", nil, convert.Options{})
	assert.ErrorContains(t, err, "allenai, bigmoe")
}

func TestBadTransformers(t *testing.T) {
	for _, text := range []string{"", "junk", strings.Repeat("\xff", 100)} {
		_, err := try(t, "transformers", "x.safetensors", map[string]string{"x.safetensors": text}, convert.Options{})
		assert.ErrorContains(t, err, "x.safetensors", "%q", text)
	}
	_, err := convert.Read(t.Context(), "transformers", fixtures+"vllm.safetensors", t.TempDir(), convert.Options{}, trace.WriterOptions{})
	assert.ErrorContains(t, err, "vllm.safetensors: no tensors [B*T,E]")
	rows := make([]float32, 2*3*4)
	for i := range rows {
		rows[i] = float32(i * 7 % 5)
	}
	write := func(tensors ...safetensors.Tensor) string {
		var b bytes.Buffer
		require.NoError(t, safetensors.Write(&b, tensors, nil))
		return b.String()
	}
	logits := func(name string, shape ...int) safetensors.Tensor { return safetensors.Float32s(name, shape, rows) }
	mask := func(values ...int64) safetensors.Tensor {
		return safetensors.Int64s("attention_mask", []int{2, len(values) / 2}, values)
	}
	for want, text := range map[string]string{
		"":                             write(logits("layers.1.router.logits", 2, 3, 4), logits("layers.3.router.logits", 2, 3, 4), logits("hidden.0", 6, 4), mask(1, 1, 1, 0, 1, 1)),
		"2 families of tensors; 0":     write(logits("a.0", 6, 4), logits("b.0", 6, 4)),
		"2 families of tensors; 2":     write(logits("encoder_router.0", 6, 4), logits("decoder_router.0", 6, 4)),
		"tensor \"r.1\" is F32 [4 6]":  write(logits("r.0", 6, 4), logits("r.1", 4, 6)),
		"layer 1 twice":                write(logits("r.1", 6, 4), logits("r.01", 6, 4)),
		"\"attention_mask\" has shape": write(logits("r.0", 6, 4), mask(1, 1, 1, 1)),
	} {
		report, err := try(t, "transformers", "x.safetensors", map[string]string{"x.safetensors": text}, convert.Options{})
		if want == "" {
			require.NoError(t, err)
			assert.Equal(t, 2, report.Documents)
			assert.Equal(t, int64(5), report.Tokens)
			assert.Equal(t, 3, report.Header.Model.Stacks[0].Blocks[1])
			continue
		}
		require.ErrorContains(t, err, want)
		assert.ErrorContains(t, err, "x.safetensors")
	}
	text := write(logits("r.0", 6, 4), mask(0, 0, 0, 1, 1, 2))
	report, err := try(t, "transformers", "x.safetensors", map[string]string{"x.safetensors": text}, convert.Options{})
	assert.ErrorContains(t, err, "x.safetensors: no document could be converted")
	require.Len(t, report.Omitted, 2)
	assert.Contains(t, report.Omitted[0].Error(), "sequence 0: attention mask selects no token")
}
