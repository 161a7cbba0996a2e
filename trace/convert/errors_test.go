package convert_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/convert"
	"github.com/expertspec/expertspec/trace/safetensors"
)

// try converts files of one format, given by name, and returns what came of it.
func try(t *testing.T, from, name string, files map[string]string, o convert.Options) (*convert.Report, error) {
	t.Helper()
	dir := t.TempDir()
	for file, text := range files {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return convert.Read(context.Background(), from, filepath.Join(dir, name), filepath.Join(dir, "out"), o, trace.WriterOptions{}, nil)
}

const good = `{"input_ids": [5, 6], "exp_ids": [[[0, 1, 2], [3, 2, 1]], [[1, 0, 3], [0, 1, 2]]]}` + "\n"

// TestBadLines demands that a bad line is named by its place and that the rest
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
		"x.jsonl:2: not a JSON object":                  `[1]`,
		"x.jsonl:2: input_ids: nested more than 1":      `{"input_ids": [[5]]}`,
		"x.jsonl:2: exp_ids: value 0 stands at depth":   `{"input_ids": [5], "exp_ids": [7]}`,
		"x.jsonl: document \"2\" of data set \"x\": to": `{"input_ids": [5], "exp_ids": [[[0, 1, 2], [0, 2, 1]]]}`,
	} {
		report, err := try(t, "allenai", "x.jsonl", map[string]string{"x.jsonl": good + line + "\n" + good}, convert.Options{})
		if err != nil || report.Documents != 2 || len(report.LeftOut) != 1 || !strings.Contains(report.LeftOut[0].Error(), want) {
			t.Errorf("%s: %v, %+v", want, err, report)
		}
	}
	report, err := try(t, "allenai", "x.jsonl", map[string]string{"x.jsonl": good + "\n" + strings.TrimSpace(good)}, convert.Options{})
	if err != nil || report.Documents != 2 || report.LeftOut != nil {
		t.Errorf("an empty line and no end of line: %v, %+v", err, report)
	}
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
	for want, text := range map[string]string{
		"":                                      route + turn2,
		"x.csv:9: turn 1 is left out: 2 fields": route + "1,0\n",
		"x.csv:10: turn 1 is left out: field 6": route + "1,1,1,0,0,1,.5,0,0\n1,1,1,0,1,x,.5,0,0\n",
		"x.csv:9: turn 1 is left out: phase 7":  route + "1,7,1,0,0,1,.5,0,0\n",
		"x.csv:9: turn 1 is left out: weight":   route + "1,0,1,0,0,1,NaN,0,0\n",
		"x.csv: turn 1: position 4, layer 0: choice 0 stands twice": route + "1,0,4,0,0,1,.5,0,0\n1,0,4,0,0,2,.5,0,0\n",
		"x.csv: turn 1: position 4, layer 0: choice 3 with top-k 2": route + "1,0,4,0,3,1,.5,0,0\n",
		"x.csv: document \"turn-1\"":                                route + "1,0,4,0,1,1,.5,0,0\n",
	} {
		if strings.Contains(text, "\n1,0\n") {
			text = strings.Replace(text, "\n1,0\n", "\n1,0,0,0,0,1,.5,0,0\n1,0\n", 1)
			want = strings.Replace(want, ":9:", ":10:", 1)
		}
		report, err := try(t, "bigmoe", "x.csv", map[string]string{"x.csv": text}, convert.Options{})
		switch {
		case err != nil:
			t.Errorf("%s: %v", want, err)
		case want == "" && (report.Documents != 2 || report.LeftOut != nil),
			want != "" && (report.Documents != 1 || len(report.LeftOut) != 1 || !strings.Contains(report.LeftOut[0].Error(), want)):
			t.Errorf("%s: %+v", want, report)
		}
	}
	for want, text := range map[string]string{
		"x.csv:1: no route trace":  "# something\n",
		"x.csv:2: n_expert":        "# route_trace v1\n# model=m arch=a n_layer=2 n_expert=four n_expert_used=2\n",
		"top-k 9 of 4":             "# route_trace v1\n# model=m arch=a n_layer=2 n_expert=4 n_expert_used=9\n",
		"x.csv:3: columns are":     "# route_trace v1\n# model=m arch=a n_layer=2 n_expert=4 n_expert_used=2\na,b\n",
		"column names are missing": "# route_trace v1\n",
		"no rows":                  route[:strings.Index(route, "0,0,0")],
		"layer 7 of n_layer=2":     route + "0,0,1,7,0,1,.5,0,0\n",
	} {
		if _, err := try(t, "bigmoe", "x.csv", map[string]string{"x.csv": text}, convert.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestBadESFT(t *testing.T) {
	a := "0\t1\t2\t0\t\t.5\t.5\t.5\t.5\n3\t1\t\t.2\t.8\n0\t1\t1\t2\t3\t1\t\t.1\t.1\t.1\t.1\t.1\t.1\n"
	files := func(b string) map[string]string {
		return map[string]string{"f/expert_weights_0.txt": a, "f/expert_weights_3.txt": b, "f/summary.json": "{}"}
	}
	o := convert.Options{TopK: 2}
	report, err := try(t, "esft", "f", files(a), o)
	if err != nil || report.Documents != 3 || report.Tokens != 6 || report.Header.Model.Stacks[0].Blocks[1] != 3 {
		t.Errorf("%v, %+v", err, report)
	}
	for want, line := range map[string]string{
		"expert_weights_3.txt:2: 4 experts, 2 weights":                 "3\t1\t0\t2\t\t.2\t.8",
		"expert_weights_3.txt:2: field 2: \"x\" is no expert":          "3\tx\t\t.2\t.8",
		"expert_weights_3.txt:2: field 4: \"-1\" is no weight":         "3\t1\t\t.2\t-1",
		"expert_weights_3.txt:2: 2 tokens, in":                         "3\t1\t0\t2\t\t.2\t.8\t.2\t.8",
		"expert_weights_3.txt:2: 3 experts are no multiple of top-k 2": "3\t1\t0\t\t.2\t.8\t.2",
		"expert_weights_3.txt:2: 1 fields are no two halves":           "",
	} {
		lines := strings.Split(a, "\n")
		lines[1] = line
		report, err := try(t, "esft", "f", files(strings.Join(lines, "\n")), o)
		if err != nil || report.Documents != 2 || len(report.LeftOut) != 1 || !strings.Contains(report.LeftOut[0].Error(), want) {
			t.Errorf("%s: %v, %+v", want, err, report)
		}
	}
	if _, err := try(t, "esft", "f", files(a[:30]), o); err == nil || !strings.Contains(err.Error(), "expert_weights_0.txt:3") {
		t.Errorf("a file of fewer lines: %v", err)
	}
	if _, err := try(t, "esft", "f", map[string]string{"f/expert_weights_1.txt": "1\t2\t\t.5\t.5\n"}, convert.Options{}); err == nil ||
		!strings.Contains(err.Error(), "give it (2 fits)") {
		t.Errorf("top-k of one line: %v", err)
	}
	if _, err := try(t, "esft", "f", map[string]string{"f/x": ""}, o); err == nil {
		t.Error("a folder of nothing")
	}
}

// npy makes a NumPy file.
func npy(header string, data ...byte) string {
	return "\x93NUMPY\x01\x00" + string([]byte{byte(len(header)), 0}) + header + string(data)
}

func TestBadVLLM(t *testing.T) {
	fine := npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1, 2)}", 0, 1, 2, 3)
	for want, text := range map[string]string{
		"b.npy: no NumPy file":               "PK",
		"b.npy: array is in Fortran order":   npy("{'descr': '<i4', 'fortran_order': True, 'shape': (1, 1, 2)}"),
		"b.npy: values of type f4":           npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1)}", 0, 0, 0, 0),
		"b.npy: 1 bytes of data, shape [1 1": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 2)}", 0),
		"is larger than the file":            npy("{'descr': '<i8', 'fortran_order': False, 'shape': (99999999, 99999999, 99999999)}", 0),
		"b.npy: shape [1 2 2], want [T,1,2]": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 2)}", 0, 1, 2, 3),
		"b.npy: header":                      npy("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,)}"),
		"expert 1 twice":                     npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 2)}", 1, 1),
		"value 1 is -9223372036854775808":    npy("{'descr': '>i8', 'fortran_order': False, 'shape': (1, 1, 2)}", append(make([]byte, 8), 0x80, 0, 0, 0, 0, 0, 0, 0)...),
	} {
		report, err := try(t, "vllm", "f", map[string]string{"f/a.npy": fine, "f/b.npy": text}, convert.Options{})
		if err != nil || report.Documents != 1 || len(report.LeftOut) != 1 || !strings.Contains(report.LeftOut[0].Error(), want) {
			t.Errorf("%s: %v, %+v", want, err, report)
		}
	}
	if _, err := try(t, "vllm", "a.npy", map[string]string{"a.npy": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4,)}", 0, 1, 2, 3)}, convert.Options{}); err == nil ||
		!strings.Contains(err.Error(), "a.npy: shape [4] is not [T,L,K]") {
		t.Errorf("one axis: %v", err)
	}
	if _, err := try(t, "vllm", "a.safetensors", map[string]string{"a.safetensors": "junk"}, convert.Options{}); err == nil {
		t.Error("junk is read as safetensors")
	}
	if _, err := try(t, "none", "a", nil, convert.Options{}); err == nil || !strings.Contains(err.Error(), "allenai, bigmoe") {
		t.Errorf("format none: %v", err)
	}
}

// TestHostilePickle demands that a pickle that would run code, or grow without
// end, is an error.
func TestHostilePickle(t *testing.T) {
	honest, err := os.ReadFile(fixtures + "specmoe-4.pkl")
	if err != nil {
		t.Fatal(err)
	}
	for want, text := range map[string]string{
		"os.system is not allowed":         "cos\nsystem\n(S'echo hostile'\ntR.",
		"posix.system is not allowed":      "\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.",
		"builtins.eval is not allowed":     "\x80\x02cbuiltins\neval\nX\x04\x00\x00\x001+1.\x85R.",
		"instruction 0x69":                 "(S'id'\nios\nsystem\n.", // INST
		"instruction 0x6f":                 "(cos\nsystem\nS'id'\no.",
		"instruction 0x82":                 "\x80\x02\x82\x01.", // EXT1
		"persistent id":                    "\x80\x02K\x01Q.",
		"ends early":                       string(honest[:len(honest)-300]),
		"string, want a list":              "\x80\x04\x8c\x01x.",
		"item 0 is int64":                  "\x80\x04]K\x01a.",
		"empty stack":                      ".",
		"no mark":                          "t.",
		"no memo 7":                        "h\x07.",
		"protocol 9":                       "\x80\x09N.",
		"makes more values":                strings.Repeat("]", 5<<20),
		"items for []interface":            ")K\x01a.",
		"is no bytes":                      "\x80\x04\x8c\x0dtorch.storage\x8c\x10_load_from_bytes\x93N\x85R.",
		"storage: collections.OrderedDict": "\x80\x04\x8c\x0dtorch.storage\x8c\x10_load_from_bytes\x93C\x1eccollections\nOrderedDict\n)R.xx\x85R.",
		"tensor of unknown arguments":      "\x80\x04\x8c\x0ctorch._utils\x8c\x12_rebuild_tensor_v2\x93(NNNNt R.",
	} {
		if want == "tensor of unknown arguments" {
			text = strings.ReplaceAll(text, " ", "")
		}
		if strings.HasPrefix(text, "cos") {
			text = strings.ReplaceAll(text, "S'echo hostile'\n", "X\x04\x00\x00\x00echo")
		}
		_, err := try(t, "specmoe", "x.pkl", map[string]string{"x.pkl": text}, convert.Options{})
		if want == "instruction 0x69" || want == "instruction 0x6f" { // their string comes first
			want = "instruction"
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "x.pkl") {
			t.Errorf("%s: %v", want, err)
		}
	}
	// A tensor that reads beyond its storage: the shape (1, 3) of target_top_k
	// becomes (1, 200).
	far := bytes.ReplaceAll(honest, []byte("K\x01K\x03\x86"), []byte("K\x01K\xc8\x86"))
	if bytes.Equal(far, honest) {
		t.Fatal("fixture has no shape (1, 3)")
	}
	if _, err := try(t, "specmoe", "x.pkl", map[string]string{"x.pkl": string(far)}, convert.Options{}); err == nil || !strings.Contains(err.Error(), "storage of") {
		t.Errorf("tensor beyond its storage: %v", err)
	}
	// An expert that does not exist leaves its documents out.
	wrong := bytes.ReplaceAll(honest, []byte{10, 0, 0, 0, 0, 0, 0, 0}, []byte{11, 0, 0, 0, 0, 0, 0, 0})
	report, err := try(t, "specmoe", "x.pkl", map[string]string{"x.pkl": string(wrong)}, convert.Options{})
	if err != nil || report.Documents != 0 || len(report.LeftOut) != 2 || !strings.Contains(report.LeftOut[0].Error(), "expert 11 of 11") {
		t.Errorf("expert 11 of 11: %v, %+v", err, report)
	}
}

func TestBadTransformers(t *testing.T) {
	for _, text := range []string{"", "junk", strings.Repeat("\xff", 100)} {
		if _, err := try(t, "transformers", "x.safetensors", map[string]string{"x.safetensors": text}, convert.Options{}); err == nil ||
			!strings.Contains(err.Error(), "x.safetensors") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := convert.Read(context.Background(), "transformers", fixtures+"vllm.safetensors", t.TempDir(), convert.Options{}, trace.WriterOptions{}, nil); err == nil ||
		!strings.Contains(err.Error(), "vllm.safetensors: no tensors [B*T,E]") {
		t.Errorf("experts for logits: %v", err)
	}
	rows := make([]float32, 2*3*4)
	for i := range rows {
		rows[i] = float32(i * 7 % 5)
	}
	write := func(tensors ...safetensors.Tensor) string {
		var b bytes.Buffer
		if err := safetensors.Write(&b, tensors, nil); err != nil {
			t.Fatal(err)
		}
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
			if err != nil || report.Documents != 2 || report.Tokens != 5 || report.Header.Model.Stacks[0].Blocks[1] != 3 {
				t.Errorf("%v, %+v", err, report)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "x.safetensors") {
			t.Errorf("%s: %v", want, err)
		}
	}
	text := write(logits("r.0", 6, 4), mask(0, 0, 0, 1, 1, 2))
	if report, err := try(t, "transformers", "x.safetensors", map[string]string{"x.safetensors": text}, convert.Options{}); err != nil ||
		len(report.LeftOut) != 2 || !strings.Contains(report.LeftOut[0].Error(), "sequence 0: attention mask leaves no token") {
		t.Errorf("%v, %+v", err, report)
	}
}
