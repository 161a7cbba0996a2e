package tokenizer

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var vectorsFile = flag.String("tokenizer.vectors", tokenizerFixtures+"/vectors.jsonl.gz", "test vectors, as testdata/tokenizer/vectors.py writes them")

// patched returns a tokenizer.json with some of its fields replaced.
func patched(t testing.TB, base string, patch map[string]json.RawMessage) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", base))
	require.NoError(t, err)
	if len(patch) == 0 {
		return data
	}
	var top map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(data, &top))
	for k, v := range patch {
		top[k] = v
	}
	data, err = json.Marshal(top)
	require.NoError(t, err)
	return data
}

// Results equal those of the Hugging Face tokenizers for unusual texts, with the Mistral and the mini
// tokenizer in both pipelines and with many synthetic ones.
func TestTokenizerVectors(t *testing.T) {
	var tk *Tokenizer
	var name string
	tokenizers, texts, decodes := 0, 0, 0
	gzipLines(t, *vectorsFile, func(line int, v struct {
		Name, Base string
		Patch      map[string]json.RawMessage
		JSON       json.RawMessage

		Text     *string  `json:"t"`
		IDs      []int32  `json:"i"`
		Specials []int32  `json:"s"`
		Tokens   []string `json:"k"`

		Decode []int32 `json:"d"`
		Skip   *string `json:"x"`
		Keep   *string `json:"y"`
	}) {
		switch {
		case v.Name != "":
			data := []byte(v.JSON)
			if v.Base != "" {
				data = patched(t, v.Base, v.Patch)
			}
			name = v.Name
			tokenizers++
			var err error
			tk, err = Parse(name, data)
			require.NoError(t, err, "line %d", line)
		case v.Text != nil:
			texts++
			checkText(t, tk, line, name, *v.Text, v.IDs, v.Specials, v.Tokens)
		default:
			decodes++
			for skip, want := range map[bool]string{true: *v.Skip, false: *v.Keep} {
				got, err := tk.Decode(v.Decode, skip)
				require.NoError(t, err, "line %d: %s", line, name)
				assert.Equal(t, want, got, "line %d: %s: %v decoded (skip %v)", line, name, v.Decode, skip)
				assert.Equal(t, want, streamed(t, tk, v.Decode, skip), "line %d", line)
			}
		}
	})
	t.Logf("%d tokenizers, %d texts, %d lists of ids", tokenizers, texts, decodes)
	assert.GreaterOrEqual(t, tokenizers, 30)
	assert.GreaterOrEqual(t, texts, 1000)
	assert.GreaterOrEqual(t, decodes, 1000)
}

func checkText(t *testing.T, tk *Tokenizer, line int, name, text string, ids, specials []int32, tokens []string) {
	t.Helper()
	assert.Equal(t, ids, tk.Encode(text, false), "line %d", line)
	assert.Equal(t, specials, tk.Encode(text, true), "line %d", line)
	spans := tk.EncodeSpans(text, true)
	gotIDs := []int32{}
	gotTokens := []string{}
	for i, s := range spans {
		gotIDs, gotTokens = append(gotIDs, s.ID), append(gotTokens, s.Token)
		at := fmt.Sprintf("line %d: %s: %q: token %d, [%d, %d)", line, name, text, i, s.Start, s.End)
		assert.GreaterOrEqual(t, s.Start, spans[max(i-1, 0)].Start, at)
		assert.LessOrEqual(t, 0, s.Start, at)
		assert.LessOrEqual(t, s.Start, s.End, at)
		assert.LessOrEqual(t, s.End, len(text), at)
	}
	assert.Equal(t, specials, gotIDs, "line %d: %s: %q", line, name, text)
	assert.Equal(t, tokens, gotTokens, "line %d: %s: %q", line, name, text)
}
