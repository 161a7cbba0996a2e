package tokenizer

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"os"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const tokenizerFixtures = "../../testdata/tokenizer"

var mistralTokenizer = sync.OnceValues(func() (*Tokenizer, error) {
	return Load(os.DirFS(tokenizerFixtures), "tokenizer.json")
})

func mistral(t testing.TB) *Tokenizer {
	t.Helper()
	tk, err := mistralTokenizer()
	require.NoError(t, err)
	return tk
}

// gzipLines calls fn for each JSON line of a compressed file.
func gzipLines[T any](t testing.TB, name string, fn func(line int, v T)) {
	t.Helper()
	f, err := os.Open(name)
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	dec := json.NewDecoder(bufio.NewReader(z))
	n := 0
	for dec.More() {
		var v T
		require.NoError(t, dec.Decode(&v), "%s", name)
		n++
		fn(n, v)
	}
	require.Positive(t, n, name)
}

// Every line of the goldens that the Hugging Face tokenizer wrote for the 32,000-token
// vocabulary: texts encoded and decoded, ids decoded, and bytes that are not UTF-8.
func TestTokenizerGoldens(t *testing.T) {
	tk := mistral(t)
	require.Equal(t, 32000, tk.VocabSize())
	gzipLines(t, tokenizerFixtures+"/goldens.jsonl.gz", func(line int, g struct {
		Text    *string
		Base64  []byte `json:"b64"`
		Lossy   string
		IDs     []int32
		IDsNoSp []int32 `json:"ids_nosp"`
		DecSkip *string `json:"dec_skip"`
		DecKeep *string `json:"dec_keep"`
	}) {
		if g.Base64 != nil {
			assert.Equal(t, g.Lossy, validUTF8(string(g.Base64)), "line %d", line)
			assert.Equal(t, g.IDs, tk.Encode(string(g.Base64), true), "line %d", line)
			return
		}
		if g.Text != nil {
			assert.Equal(t, g.IDs, tk.Encode(*g.Text, true), "line %d", line)
			assert.Equal(t, g.IDsNoSp, tk.Encode(*g.Text, false), "line %d", line)
		}
		for skip, want := range map[bool]string{true: *g.DecSkip, false: *g.DecKeep} {
			got, err := tk.Decode(g.IDs, skip)
			require.NoError(t, err, "line %d", line)
			assert.Equal(t, want, got, "line %d: skip specials %v", line, skip)
			assert.Equal(t, want, streamed(t, tk, g.IDs, skip), "line %d", line)
		}
	})
}

// streamed decodes token by token and checks that no character is split.
func streamed(t testing.TB, tk *Tokenizer, ids []int32, skip bool) string {
	t.Helper()
	s, text := tk.NewStream(skip), ""
	for _, id := range ids {
		part, err := s.Push(id)
		require.NoError(t, err)
		assert.True(t, utf8.ValidString(part), "stream of %v: part %q is not whole characters", ids, part)
		text += part
	}
	return text + s.Flush()
}
