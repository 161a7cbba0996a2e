package tokenizer

import (
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func miniTokenizer(t testing.TB) *Tokenizer {
	t.Helper()
	tk, err := Load(os.DirFS("../mini/checkpoint"), "tokenizer.json")
	require.NoError(t, err)
	return tk
}

// checkInvariants checks what is true of every tokenizer and text.
func checkInvariants(t *testing.T, tk *Tokenizer, text string) {
	t.Helper()
	ids := tk.Encode(text, false)
	spans := tk.EncodeSpans(text, false)
	require.Len(t, ids, len(spans), "%q", text)
	limit := len(validUTF8(text))
	for i, s := range spans {
		_, ok := tk.Token(s.ID)
		require.Equal(t, ids[i], s.ID, "%q: token %d", text, i)
		require.True(t, ok, "%q: token %d is %+v", text, i, s)
		require.GreaterOrEqual(t, s.Start, 0, "%q: token %d is %+v", text, i, s)
		require.LessOrEqual(t, s.Start, s.End, "%q: token %d is %+v", text, i, s)
		require.LessOrEqual(t, s.End, limit, "%q: token %d is %+v", text, i, s)
	}
	require.Len(t, tk.Pieces(ids), len(ids), "%q", text)
	for _, skip := range []bool{false, true} {
		want, err := tk.Decode(ids, skip)
		require.NoError(t, err, "%q", text)
		require.True(t, utf8.ValidString(want), "%q: decoded %q", text, want)
		require.Equal(t, want, streamed(t, tk, ids, skip), "%q", text)
	}
}

func FuzzTokenizer(f *testing.F) {
	for _, s := range []string{"", " Hello  world\n", "▁ ▁", "<s>a</s> <unk>", "\xe2\x96", "😀\u200d👩e\u0301", "<0x0A>", strings.Repeat("re e r", 9)} {
		f.Add(s)
	}
	tokenizers := []*Tokenizer{mistral(f), miniTokenizer(f)}
	unigram := t5(f)
	f.Fuzz(func(t *testing.T, text string) {
		checkInvariants(t, unigram, text)
		for _, tk := range tokenizers {
			checkInvariants(t, tk, text)
			valid := validUTF8(text)
			if strings.ContainsAny(valid, "▁") || strings.Contains(valid, "<s>") || strings.Contains(valid, "</s>") || strings.Contains(valid, "<unk>") {
				continue
			}
			// All bytes have tokens, so every text is restored.
			got, err := tk.Decode(tk.Encode(text, true), true)
			require.NoError(t, err, "%q", text)
			assert.Equal(t, valid, got, "%q", text)
			// Spans follow each other and cover the text.
			at := 0
			for _, s := range tk.EncodeSpans(text, true) {
				require.Equal(t, at, s.Start, "%q: span to %d", text, s.End)
				at = s.End
			}
			assert.Equal(t, len(valid), at, "%q", text)
		}
	})
}

// A stream returns what Decode returns, whatever the bytes.
func TestStream(t *testing.T) {
	tk := mistral(t)
	rnd := rand.New(rand.NewPCG(5, 2))
	for range 3000 {
		ids := make([]int32, rnd.IntN(12))
		for i := range ids {
			switch rnd.IntN(4) {
			case 0:
				ids[i] = rnd.Int32N(int32(tk.VocabSize()))
			case 1:
				ids[i] = rnd.Int32N(3)
			default:
				ids[i] = 3 + []int32{0x20, 0x41, 0xC3, 0xA9, 0xE4, 0xBD, 0xA0, 0xF0, 0x9F, 0x98, 0x80, 0xFF}[rnd.IntN(12)]
			}
		}
		for _, skip := range []bool{false, true} {
			want, err := tk.Decode(ids, skip)
			require.NoError(t, err)
			assert.Equal(t, want, streamed(t, tk, ids, skip), "%v", ids)
		}
	}
	s := tk.NewStream(false)
	_, err := s.Push(32000)
	assert.ErrorContains(t, err, "32000")
	_, err = tk.Decode([]int32{5, -1}, false)
	assert.ErrorContains(t, err, "token 1 of 2")
	// A word is returned at once, a character when no later byte can make it invalid.
	var parts []string
	for _, id := range []int32{22557, 3 + 0xC3, 3 + 0xA9, 1526} {
		p, err := s.Push(id)
		require.NoError(t, err)
		parts = append(parts, p)
	}
	assert.Equal(t, []string{"Hello", "", "", "é world"}, parts)
	// Flush restarts a stream.
	for range 2 {
		p, err := s.Push(1526)
		require.NoError(t, err)
		assert.Empty(t, s.Flush())
		assert.Contains(t, []string{" world", "world"}, p)
	}
}

func TestTokenizerWords(t *testing.T) {
	tk := mistral(t)
	spans := tk.EncodeSpans(" the\n你é<s>", true)
	want := []Span{{1, "<s>", 0, 0}, {28705, "▁", 0, 0}, {272, "▁the", 0, 4}, {13, "<0x0A>", 4, 5}, {29383, "你", 5, 8}, {28797, "é", 8, 10}, {1, "<s>", 10, 13}}
	assert.Equal(t, want, spans)
	assert.Equal(t, []string{"<s>", " the", "\n", "<0xE4>", "<id 99999>"}, tk.Pieces([]int32{1, 272, 13, 3 + 0xE4, 99999}))
	id, ok := tk.ID("</s>")
	require.True(t, ok)
	assert.Equal(t, int32(2), id)
	_, ok = tk.ID("no such token")
	assert.False(t, ok)
	_, ok = tk.Token(-1)
	assert.False(t, ok)
}

// Many goroutines share the cache of words.
func TestTokenizerConcurrent(t *testing.T) {
	tk := miniTokenizer(t)
	texts := make([]string, 40)
	want := make([][]int32, len(texts))
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range texts {
		for range 50 {
			texts[i] += []string{" the", " and", "\n", "x", " é", "ing"}[rnd.IntN(6)]
		}
		want[i] = miniTokenizer(t).Encode(texts[i], true)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i, text := range texts {
				assert.Equal(t, want[i], tk.Encode(text, true))
			}
		})
	}
	wg.Wait()
}

// 100 kB with one piece or with cuts everywhere take about 50 ms; quadratic time would be
// minutes. The limit is far from both.
func TestTokenizerNotQuadratic(t *testing.T) {
	spaces := `{"id": 7, "content": "<x>", "single_word": false, "lstrip": true, "rstrip": true,`
	data := strings.Replace(smallTokenizer, `{"id": 7, "content": "<x>", "single_word": false, "lstrip": false, "rstrip": false,`, spaces, 1)
	newline := strings.Replace(data, `"content": "<x>"`, `"content": "\n"`, 1)
	tokenizers := []*Tokenizer{mistral(t), miniTokenizer(t), t5(t)}
	for _, d := range []string{data, newline} {
		tk, err := Parse("small.json", []byte(d))
		require.NoError(t, err)
		tokenizers = append(tokenizers, tk)
	}
	for _, c := range adversarial {
		text := strings.Repeat(c.unit, 100_000/len(c.unit))
		for i, tk := range tokenizers {
			start := time.Now()
			ids := tk.Encode(text, true)
			_, err := tk.Decode(ids, true)
			assert.NoError(t, err)
			tk.EncodeSpans(text, false)
			assert.LessOrEqual(t, time.Since(start), 20*time.Second, "tokenizer %d, %s", i, c.name)
		}
	}
}
