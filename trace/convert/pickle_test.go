package convert

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/internal/pickle"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// onePoint is a fixture cut after its first data point.
func onePoint(tb testing.TB) []byte {
	b, err := os.ReadFile("../../testdata/traces/specmoe-4.pkl")
	require.NoError(tb, err)
	end := bytes.Index(b, []byte("squad_0_seq_0"))
	return append(b[:end+13:end+13], "\x94ube."...)
}

// readPickle converts a pickle, and checks that the error names the file.
func readPickle(t *testing.T, text string) (*Report, error) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "x.pkl")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	r, err := Read(t.Context(), "specmoe", path, filepath.Join(dir, "out"), Options{}, trace.WriterOptions{})
	if err != nil {
		assert.ErrorContains(t, err, "x.pkl")
	}
	return r, err
}

// TestHostilePickle checks that pickles are refused that would run code, are
// malformed, or use what the format does not.
func TestHostilePickle(t *testing.T) {
	honest, err := os.ReadFile("../../testdata/traces/specmoe-4.pkl")
	require.NoError(t, err)
	const load = "\x80\x04\x8c\x0dtorch.storage\x8c\x10_load_from_bytes\x93"
	for want, text := range map[string]string{
		"os.system is not allowed":         "cos\nsystem\n(X\x04\x00\x00\x00echotR.",
		"posix.system is not allowed":      "\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.",
		"builtins.eval is not allowed":     "\x80\x02cbuiltins\neval\nX\x03\x00\x00\x001+1\x85R.",
		"a name is not a string":           "\x80\x04K\x01\x8c\x06system\x93.",
		"name does not end":                "c" + strings.Repeat("x", 1000) + "\nx\n.",
		"instruction 0x69":                 "\x80\x02(\x8c\x02idios\nsystem\n.", // INST
		"instruction 0x6f":                 "\x80\x02(\x8c\x02ido.",             // OBJ
		"instruction 0x82":                 "\x80\x02\x82\x01.",                 // EXT1
		"instruction 0x32":                 "\x80\x02N2.",                       // DUP
		"call of int with tuple":           "\x80\x02K\x01)R.",
		"persistent id":                    "\x80\x02K\x01Q.",
		"ends early":                       string(honest[:len(honest)-300]),
		"str, expected a list":             "\x80\x04\x8c\x01x.",
		"item 0 is int":                    "\x80\x04]K\x01a.",
		"empty stack":                      ".",
		"no mark":                          "t.",
		"no memo 7":                        "h\x07.",
		"protocol 9":                       "\x80\x09N.",
		"protocol 1; must be 2 to 5":       "\x80\x01N.",
		"items for tuple":                  ")K\x01a.",
		"key of a dict is tuple":           "})Ns.",
		"3 keys and values":                "}(NNNu.",
		"state for dict":                   "}}b.",
		"storage is not bytes":             load + "N\x85R.",
		"storage: byte 0: collections.Ord": load + "C\x1eccollections\nOrderedDict\n)R.xx\x85R.",
		"tensor of unknown arguments":      "\x80\x04\x8c\x0ctorch._utils\x8c\x12_rebuild_tensor_v2\x93(NNNNtR.",
		"data point 0: no sample_id":       "\x80\x04cx\nMixtralGatingDataPoint\n)\x81}b.",
	} {
		_, err := readPickle(t, text)
		assert.ErrorContains(t, err, want)
	}
	// A tensor that reads beyond its storage: the shape (1, 3) of target_top_k
	// becomes (1, 200).
	far := bytes.ReplaceAll(honest, []byte("K\x01K\x03\x86"), []byte("K\x01K\xc8\x86"))
	require.NotEqual(t, honest, far)
	_, err = readPickle(t, string(far))
	assert.ErrorContains(t, err, "more elements than its storage")
	// Documents with an expert that does not exist are omitted.
	wrong := bytes.ReplaceAll(honest, []byte{10, 0, 0, 0, 0, 0, 0, 0}, []byte{11, 0, 0, 0, 0, 0, 0, 0})
	report, err := readPickle(t, string(wrong))
	assert.ErrorContains(t, err, "no document could be converted")
	require.NotNil(t, report)
	assert.Equal(t, 0, report.Documents)
	require.Len(t, report.Omitted, 2)
	assert.ErrorContains(t, report.Omitted[0], `document "squad_0": data point 2: choice 0 is not an expert in 0..10`)
}

// bounded reads a pickle, and checks that it takes time and memory in proportion
// to its size and that the error is short.
func bounded(tb testing.TB, b []byte) error {
	tb.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	_, err := readSpecMoE(b)
	elapsed := time.Since(start)
	runtime.ReadMemStats(&after)
	assert.LessOrEqual(tb, after.TotalAlloc-before.TotalAlloc, uint64(4<<20+160*len(b)), "bytes allocated")
	assert.LessOrEqual(tb, elapsed, 10*time.Second)
	if err != nil {
		assert.LessOrEqual(tb, len(err.Error()), 600)
	}
	return err
}

// TestPickleNested reads values that would be endless if they were printed.
func TestPickleNested(t *testing.T) {
	tuple := "\x80\x04K\x01"
	for i := range 40 { // each tuple holds the one before twice
		tuple += "\x94h" + string(rune(i)) + "\x86"
	}
	for want, text := range map[string]string{
		"pickle holds tuple":        tuple + ".",
		"state is tuple":            "\x80\x04cx\nMixtralGatingDataPoint\n)\x81" + tuple[2:] + "b.",
		"items for tuple":           tuple + "K\x01a.",
		"call of tuple with tuple":  tuple + ")R.",
		"key of a dict is tuple":    "\x80\x04}" + tuple[2:] + "Ns.",
		"encoding other than latin": "\x80\x04c_codecs\nencode\n" + tuple[2:] + "R.",
		"unknown arguments":         "\x80\x04ctorch._utils\n_rebuild_tensor_v2\n(" + tuple[2:] + "NNNtR.",
	} {
		require.Less(t, len(text), 250)
		assert.ErrorContains(t, bounded(t, []byte(text)), want)
	}
	// Field values are not printed either.
	point := onePoint(t)
	at := bytes.Index(point, []byte("\x8c\x08layer_id"))
	require.Positive(t, at)
	value := at + len("\x8c\x08layer_id\x94")
	require.Equal(t, byte('K'), point[value])
	list := append([]byte{}, point[:value]...)
	list = append(append(list, "(N\x85\x85\x85t"...), point[value+2:]...)
	s, err := readSpecMoE(list)
	require.NoError(t, err)
	require.Len(t, s.g.bad, 1)
	assert.ErrorContains(t, s.g.bad[0], "layer_id is not an integer in 0..4095")
}

// Instructions of a pickle, with their operands.
func pickleInt(v int) string      { return "J" + string(binary.LittleEndian.AppendUint32(nil, uint32(v))) }
func pickleStr(s string) string   { return "X" + pickleInt(len(s))[1:] + s }
func pickleBytes(s string) string { return "B" + pickleInt(len(s))[1:] + s }

// TestPickleLoops repeats, by few bytes, what takes memory or time: the budget
// must end each.
func TestPickleLoops(t *testing.T) {
	const size = 1 << 19
	repeat := func(s string) string { return strings.Repeat(s, size/len(s)) }
	long := pickleStr(strings.Repeat("x", size))
	many := strings.Repeat("N", size)
	for name, text := range map[string]string{
		"values":   "\x80\x04" + strings.Repeat("]", 2*size),
		"encode":   "\x80\x02c_codecs\nencode\nq\x00" + long + pickleStr("latin1") + "\x86q\x01]" + repeat("h\x00h\x01R"),
		"storages": "\x80\x04ctorch.storage\n_load_from_bytes\nq\x00" + pickleBytes(savedBytes(many, 1)) + "\x85q\x01" + repeat("h\x00h\x01R"),
		"copies":   "\x80\x04](" + many + "tq\x01" + repeat("(h\x01h\x01h\x01t\x85"),
		"keys":     "\x80\x04" + long + "q\x01}" + repeat("h\x01Ns"),
		"choices":  choices(1<<14, size),
	} {
		t.Run(name, func(t *testing.T) {
			assert.ErrorIs(t, bounded(t, []byte(text)), pickle.ErrBudget)
		})
	}
}

// savedBytes is what torch.save writes for a storage of n bytes, with more
// instructions in the third pickle.
func savedBytes(more string, n int) string {
	return "\x80\x02\x8a\x0a" + pickle.TorchMagic + ".\x80\x02M\xe9\x03.\x80\x02" + more + "}." +
		"\x80\x02(" + pickleStr("storage") + "ctorch\nByteStorage\n" + pickleStr("0") + pickleStr("cpu") + pickleInt(n) + "NtQ." +
		"\x80\x02]" + pickleStr("0") + "a." + string(binary.LittleEndian.AppendUint64(nil, uint64(n))) + strings.Repeat("\x01", n)
}

// choices is a pickle of data points that all refer to one tensor of k experts.
func choices(k, size int) string {
	text := "\x80\x04ctorch._utils\n_rebuild_tensor_v2\n(ctorch.storage\n_load_from_bytes\n" + pickleBytes(savedBytes("", k)) + "\x85RK\x00" +
		pickleInt(k) + "\x85K\x01\x85tRq\x00cx\nMixtralGatingDataPoint\nq\x01"
	for i, s := range []string{"sample_id", "a_seq_0", "dataset_name", "d", "layer_id", "target_top_k", "target_routing"} {
		text += pickleStr(s) + "q" + string(rune(2+i))
	}
	point := "h\x01)\x81}(h\x02h\x03h\x04h\x05h\x06K\x00h\x07h\x00h\x08h\x00ub"
	return text + strings.Repeat(point, size/len(point))
}

// FuzzPickle runs any bytes as a pickle of data points, within bounds of time and
// memory.
func FuzzPickle(f *testing.F) {
	f.Add(onePoint(f))
	f.Add([]byte("cos\nsystem\n(X\x02\x00\x00\x00idtR."))
	f.Add([]byte("\x80\x02c_codecs\nencode\nq\x00X\x02\x00\x00\x00idX\x06\x00\x00\x00latin1\x86q\x01]h\x00h\x01Rh\x00h\x01R."))
	f.Add([]byte("\x80\x04K\x01\x94h\x00\x86\x94h\x01\x86."))
	f.Fuzz(func(t *testing.T, b []byte) { _ = bounded(t, b) })
}
