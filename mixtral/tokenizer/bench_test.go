package tokenizer

import (
	"strings"
	"testing"

	"encoding/json"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// prose is the English of the corpus's validation documents, repeated to a megabyte.
func prose(t testing.TB) string {
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
		switch d.Domain {
		case "fiction", "drama", "speeches", "technical":
			b.WriteString(d.Text)
			b.WriteString("\n")
		}
	}
	text := b.String()
	for len(text) < 1<<20 {
		text += text
	}
	return text[:1<<20]
}

func benchmarkEncode(b *testing.B, text string) {
	tk := mistral(b)
	n := len(tk.Encode(text, false))
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		tk.Encode(text, false)
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}

func BenchmarkTokenizerProse(b *testing.B) { benchmarkEncode(b, prose(b)) }

// Every word is new to the cache.
func BenchmarkTokenizerProseCold(b *testing.B) {
	tk := mistral(b)
	text := prose(b)
	n := len(tk.Encode(text, false))
	for b.Loop() {
		tk.model.cache = newWordCache()
		tk.Encode(text, false)
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}

// As with a vocabulary whose tokens span words: the whole text is one piece.
func BenchmarkTokenizerProseUncut(b *testing.B) {
	tk := *mistral(b)
	m := *tk.model
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
			benchmarkEncode(b, strings.Repeat(c.unit, 100_000/len(c.unit)))
		})
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
