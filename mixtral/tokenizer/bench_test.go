package tokenizer

import (
	"slices"
	"strings"
	"testing"

	"encoding/json"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// prose is the English of the corpus's validation documents, repeated to a megabyte.
func prose(t testing.TB) string { return domains(t, "fiction", "drama", "speeches", "technical") }

// domains are the validation documents of some domains, repeated to a megabyte.
func domains(t testing.TB, names ...string) string {
	t.Helper()
	f, err := os.Open("../../testdata/corpus/valid.jsonl.zst")
	require.NoError(t, err)
	defer f.Close()
	z, err := zstd.NewReader(f)
	require.NoError(t, err)
	defer z.Close()
	var b strings.Builder
	dec := json.NewDecoder(z)
	for dec.More() {
		var d struct{ Domain, Text string }
		require.NoError(t, dec.Decode(&d))
		if slices.Contains(names, d.Domain) {
			b.WriteString(d.Text)
			b.WriteString("\n")
		}
	}
	text := b.String()
	for len(text) < 1<<20 {
		text += text
	}
	return strings.ToValidUTF8(text[:1<<20], "")
}

func benchmarkEncode(b *testing.B, tk *Tokenizer, text string) {
	n := len(tk.Encode(text, false))
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		tk.Encode(text, false)
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}

func BenchmarkTokenizerProse(b *testing.B) { benchmarkEncode(b, mistral(b), prose(b)) }

// Every word is new to the cache.
func BenchmarkTokenizerProseCold(b *testing.B) {
	tk := mistral(b)
	text := prose(b)
	n := len(tk.Encode(text, false))
	for b.Loop() {
		tk.model.(*bpeModel).cache = newWordCache()
		tk.Encode(text, false)
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}

// As with a vocabulary whose tokens span words: the whole text is one piece.
func BenchmarkTokenizerProseUncut(b *testing.B) {
	tk := *mistral(b)
	m := *tk.model.(*bpeModel)
	m.cut = false
	tk.model = &m
	text := prose(b)
	n := len(tk.Encode(text, false))
	for b.Loop() {
		tk.Encode(text, false)
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}

// adversarial texts have long runs without a place to cut, or with one everywhere.
var adversarial = []struct{ name, unit string }{
	{"a", "a"}, {"space", " "}, {"mark", "▁"}, {"newline", "\n"}, {"chinese", "中文"}, {"mixed", "re e r"},
	{"special", "</s>"}, {"almost", "</"}, {"emoji", "😀"}, {"broken", "\xe2\x96"}, {"dashes", "--="},
}

func BenchmarkTokenizerAdversarial(b *testing.B) {
	for _, c := range adversarial {
		b.Run(c.name, func(b *testing.B) {
			benchmarkEncode(b, mistral(b), strings.Repeat(c.unit, 100_000/len(c.unit)))
		})
	}
}

func BenchmarkUnigram(b *testing.B) {
	for _, name := range []string{"technical", "legal-de", "poetry-zh", "code"} {
		b.Run(name, func(b *testing.B) { benchmarkEncode(b, t5(b), domains(b, name)) })
	}
	b.Run("prose", func(b *testing.B) { benchmarkEncode(b, t5(b), prose(b)) })
}

// Every word is new to the cache.
func BenchmarkUnigramCold(b *testing.B) {
	text, tk := prose(b), *t5(b)
	m := *tk.model.(*unigramModel)
	tk.model = &m
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		m.cache = newWordCache()
		tk.Encode(text, false)
	}
}

func BenchmarkTokenizerParse(b *testing.B) {
	data, err := os.ReadFile(tokenizerFixtures + "/tokenizer.json")
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		_, err := Parse("tokenizer.json", data)
		require.NoError(b, err)
	}
}

func BenchmarkTokenizerDecode(b *testing.B) {
	tk := mistral(b)
	ids := tk.Encode(prose(b), false)
	b.ReportAllocs()
	for b.Loop() {
		_, err := tk.Decode(ids, true)
		require.NoError(b, err)
	}
	b.ReportMetric(float64(len(ids))*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}

func BenchmarkTokenizerSpans(b *testing.B) {
	tk := mistral(b)
	text := prose(b)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n = len(tk.EncodeSpans(text, false))
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}
