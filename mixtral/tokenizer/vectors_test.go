package tokenizer

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var vectorsFile = flag.String("tokenizer.vectors", tokenizerFixtures+"/vectors.jsonl.gz", "test vectors, as testdata/tokenizer/vectors.py writes them")

var unigramFile = flag.String("tokenizer.unigram", tokenizerFixtures+"/unigram.jsonl.gz", "test vectors, as testdata/tokenizer/unigram.py writes them")

// patched returns a tokenizer.json with some of its fields replaced. "@nmt_nfkc" in one is the precompiled
// table of the file.
func patched(t testing.TB, base string, patch map[string]json.RawMessage) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", base))
	require.NoError(t, err)
	if len(patch) == 0 {
		return data
	}
	var top map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(data, &top))
	var normalizer struct {
		Table json.RawMessage `json:"precompiled_charsmap"`
	}
	if n := top["normalizer"]; n != nil {
		require.NoError(t, json.Unmarshal(n, &normalizer))
	}
	for k, v := range patch {
		top[k] = bytes.ReplaceAll(v, []byte(`"@nmt_nfkc"`), normalizer.Table)
	}
	data, err = json.Marshal(top)
	require.NoError(t, err)
	return data
}

// vector is a line of a file of test vectors.
type vector struct {
	Name, Base string
	Patch      map[string]json.RawMessage
	JSON       json.RawMessage

	Text     *string  `json:"t"`
	IDs      []int32  `json:"i"`
	Specials []int32  `json:"s"`
	Tokens   []string `json:"k"`
	Offsets  [][2]int `json:"o"`

	Decode []int32 `json:"d"`
	Skip   *string `json:"x"`
	Keep   *string `json:"y"`

	Number string  `json:"n"`
	Value  float64 `json:"v"`
}

// Results equal those of the Hugging Face tokenizers for unusual texts, with the Mistral and the mini
// tokenizer in both pipelines and with many synthetic ones.
func TestTokenizerVectors(t *testing.T) {
	tokenizers, texts, decodes := checkVectors(t, *vectorsFile)
	assert.GreaterOrEqual(t, tokenizers, 30)
	assert.GreaterOrEqual(t, texts, 1000)
	assert.GreaterOrEqual(t, decodes, 1000)
}

// Likewise with a small T5 tokenizer in the pipelines that its files have had, and with synthetic ones
// of few characters and many equal scores.
func TestUnigramVectors(t *testing.T) {
	tokenizers, texts, decodes := checkVectors(t, *unigramFile)
	assert.GreaterOrEqual(t, tokenizers, 40)
	assert.GreaterOrEqual(t, texts, 1000)
	assert.GreaterOrEqual(t, decodes, 250)
}

func checkVectors(t *testing.T, file string) (tokenizers, texts, decodes int) {
	t.Helper()
	var tk *Tokenizer
	var name string
	gzipLines(t, file, func(line int, v vector) {
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
			checkText(t, tk, line, name, v)
		case v.Number != "":
			got, ok := serdeFloat(v.Number)
			assert.True(t, ok, "line %d: %s", line, v.Number)
			assert.Equal(t, v.Value, got, "line %d: %s", line, v.Number)
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
	return tokenizers, texts, decodes
}

var plainText = regexp.MustCompile(`^[!-;=-~]+( [!-;=-~]+)*$`)

func checkText(t *testing.T, tk *Tokenizer, line int, name string, v vector) {
	t.Helper()
	text := *v.Text
	assert.Equal(t, v.IDs, tk.Encode(text, false), "line %d: %s: %q", line, name, text)
	assert.Equal(t, v.Specials, tk.Encode(text, true), "line %d: %s: %q", line, name, text)
	spans := tk.EncodeSpans(text, true)
	// Elsewhere the library's offsets overlap or, behind a character that was removed, are shifted.
	plain := len(v.Offsets) == len(spans) && plainText.MatchString(text)
	gotIDs := []int32{}
	gotTokens := []string{}
	for i, s := range spans {
		gotIDs, gotTokens = append(gotIDs, s.ID), append(gotTokens, s.Token)
		at := fmt.Sprintf("line %d: %s: %q: token %d, [%d, %d)", line, name, text, i, s.Start, s.End)
		assert.GreaterOrEqual(t, s.Start, spans[max(i-1, 0)].Start, at)
		assert.LessOrEqual(t, 0, s.Start, at)
		assert.LessOrEqual(t, s.Start, s.End, at)
		assert.LessOrEqual(t, s.End, len(text), at)
		if plain && s.Start < s.End {
			assert.Equal(t, v.Offsets[i], [2]int{s.Start, s.End}, at)
		}
	}
	assert.Equal(t, v.Specials, gotIDs, "line %d: %s: %q", line, name, text)
	assert.Equal(t, v.Tokens, gotTokens, "line %d: %s: %q", line, name, text)
}
