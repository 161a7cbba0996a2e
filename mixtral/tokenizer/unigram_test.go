package tokenizer

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var t5Tokenizer = sync.OnceValues(func() (*Tokenizer, error) {
	return Load(os.DirFS(tokenizerFixtures), "unigram.json")
})

func t5(t testing.TB) *Tokenizer {
	t.Helper()
	tk, err := t5Tokenizer()
	require.NoError(t, err)
	return tk
}

// bestByDefinition returns the highest sum of scores over all ways to spell a text, summed from the left.
func bestByDefinition(m *unigramModel, scores []float64, text string, sum float64) float64 {
	if text == "" {
		return sum
	}
	best, first := -1e300, []rune(text)[0]
	if _, ok := m.ids[string(first)]; !ok {
		best = bestByDefinition(m, scores, text[len(string(first)):], sum+m.unkScore)
	}
	for tok, id := range m.ids {
		if rest, ok := strings.CutPrefix(text, tok); ok {
			best = max(best, bestByDefinition(m, scores, rest, sum+scores[id]))
		}
	}
	return best
}

// The tokens spell the text and have the highest sum of scores; a second call is answered by the cache.
func TestUnigramBest(t *testing.T) {
	rnd := rand.New(rand.NewPCG(4, 1))
	for k := range 100 {
		c := unigramConfig{Tokens: []string{"?"}, Scores: []float64{0}}
		seen := map[string]bool{}
		for range 3 + rnd.IntN(20) {
			tok := ""
			for range 1 + rnd.IntN(4) {
				tok += []string{"▁", "a", "b", "é"}[rnd.IntN(4)]
			}
			if !seen[tok] {
				c.Tokens, c.Scores = append(c.Tokens, tok), append(c.Scores, -10*rnd.Float64())
			}
			seen[tok] = true
		}
		m, err := newUnigram(c)
		require.NoError(t, err)
		for range 10 {
			text := ""
			for range rnd.IntN(9) {
				text += []string{"▁", "a", "b", "é", "x", "你"}[rnd.IntN(6)]
			}
			ends := make([]pathEnd, len(text)+1)
			m.forward(ends, text)
			require.Equal(t, bestByDefinition(m, c.Scores, text, 0), ends[len(text)].score, "model %d: %q", k, text)
			pieces := m.appendWord(nil, text)
			require.Equal(t, pieces, m.appendWord(nil, text))
			sum, at := 0.0, 0
			for _, p := range pieces {
				part := text[at : at+int(p.size)]
				at += int(p.size)
				if p.id != m.unk {
					require.Equal(t, c.Tokens[p.id], part)
					sum += c.Scores[p.id]
					continue
				}
				for range part {
					if part != "?" {
						sum += m.unkScore
					}
				}
			}
			require.Equal(t, len(text), at, "model %d: %q", k, text)
			require.InDelta(t, ends[len(text)].score, sum, 1e-9, "model %d: %q", k, text)
		}
	}
}

func TestUnigramInSugarme(t *testing.T) {
	m := t5(t).Model()
	toks, err := m.Tokenize("▁theЖ\xff▁")
	require.NoError(t, err)
	got := ""
	for _, tok := range toks {
		got += fmt.Sprint(tok.Value, tok.Offsets)
	}
	assert.Equal(t, "▁the[0 6]<unk>[6 11]▁[11 14]", got)
	id, ok := m.TokenToId("▁the")
	require.True(t, ok)
	tok, ok := m.IdToToken(id)
	require.True(t, ok)
	assert.Equal(t, "▁the", tok)
	assert.Equal(t, 1010, m.GetVocabSize())
	assert.ErrorIs(t, m.Save("x"), errors.ErrUnsupported)
}

// Spans are where tokens come from, in front of and behind what normalization changes.
func TestUnigramSpans(t *testing.T) {
	text := "\u200bthe\u00a0ﬁ <extra_id_3>Ｔo ЖЖ"
	got := []string{}
	for _, s := range t5(t).EncodeSpans(text, true) {
		got = append(got, fmt.Sprintf("%s=%s", s.Token, text[s.Start:s.End]))
	}
	assert.Equal(t, []string{"▁the=the", "▁f=", "i=ﬁ", "<extra_id_3>=<extra_id_3>", "▁To=Ｔo", "▁=", "<unk>=ЖЖ", "</s>="}, got)
	assert.Equal(t, []string{" the", "<unk>", "</s>"}, t5(t).Pieces([]int32{6, 2, 1}))
}

// smallUnigram is a whole tokenizer.json of few tokens.
const smallUnigram = `{"version": "1.0", "added_tokens": [],
 "normalizer": {"type": "Sequence", "normalizers": [{"type": "Strip", "strip_left": false, "strip_right": true}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}]},
 "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}]},
 "decoder": {"type": "Metaspace", "replacement": "▁"},
 "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["▁", -1.5], ["a", -2e0], ["▁a", -1.25], ["é", -3]], "byte_fallback": false}}`

// table makes a Precompiled normalizer's table of a trie and replacements.
func table(units []uint32, text string) string {
	blob := binary.LittleEndian.AppendUint32(nil, uint32(4*len(units)))
	for _, u := range units {
		blob = binary.LittleEndian.AppendUint32(blob, u)
	}
	return base64.StdEncoding.EncodeToString(append(blob, text...))
}

// trieOf is a trie of one key, the byte b, with a value.
func trieOf(b byte, value uint32) []uint32 {
	units := make([]uint32, 512)
	for i := range units {
		units[i] = 1 << 31 // is no label
	}
	units[0] = 256 << 10
	units[256^uint32(b)] = uint32(b) | 1<<8 | uint32(b)<<10 // to position 256
	units[256] = 1<<31 | value
	return units
}

func TestCharsmap(t *testing.T) {
	c, err := newCharsmap(table(trieOf('a', 2), "x\x00▁▁\x00y"))
	require.NoError(t, err)
	a := c.apply(alignIdentity("ba\u0301ba"))
	assert.Equal(t, "b▁▁b▁▁", a.text)
	assert.Equal(t, []int{0, 1, 1, 1, 2, 2, 2, 4, 5, 5, 5, 5, 5, 5, 6}, a.at)
	assert.Equal(t, "bx", c.apply(alignedText{text: "bx"}).text)
	assert.InDelta(t, 6, c.growth(), 0)
}

// Each change of the file is an error that names file and field.
func TestUnigramErrors(t *testing.T) {
	_, err := Parse("small.json", []byte(smallUnigram))
	require.NoError(t, err)
	precompiled := func(s string) string {
		return `"normalizers": [{"type": "Precompiled", "precompiled_charsmap": "` + s + `"}, `
	}
	wide := trieOf('a', 0)
	wide[256^'a'] = 'a' | 1024<<10
	for _, c := range []struct{ old, with, want string }{
		{`"unk_id": 0`, `"unk_id": null`, "model.unk_id: is null, which is not implemented"},
		{`"unk_id": 0`, `"unk_id": 5`, "model: unk_id: is 5; must be in [0, 5)"},
		{`"unk_id": 0`, `"unk_id": -1`, "model.unk_id: is the number -1"},
		{`"unk_id": 0`, `"unk_id": "<unk>"`, "model.unk_id: is a string"},
		{`"byte_fallback": false`, `"byte_fallback": "no"`, "model.byte_fallback: is a string"},
		{`"byte_fallback": false`, `"alpha": 0.1`, "model.alpha: is not implemented"},
		{`["a", -2e0]`, `["a"]`, "model.vocab[2]: has 1 members; must be a token and its score"},
		{`["a", -2e0]`, `["a", "b"]`, "model.vocab[2][1]: is a string; must be a number"},
		{`["a", -2e0]`, `["a", 1e999]`, "model.vocab[2][1]: is 1e999, which no 64-bit float represents"},
		{`["a", -2e0]`, `["a", -1e99999999999]`, "model.vocab[2][1]: is -1e99999999999, which"},
		{`["a", -2e0]`, `[3, -2]`, "model.vocab[2][0]: is the number 3; must be a string"},
		{`["a", -2e0]`, `["▁", -2]`, `model: vocab[2][0]: "▁" is also [1][0]`},
		{`[["<unk>", 0], ["▁", -1.5], ["a", -2e0], ["▁a", -1.25], ["é", -3]]`, `[]`, "model: vocab: is empty"},
		{`[["<unk>", 0], ["▁", -1.5], ["a", -2e0], ["▁a", -1.25], ["é", -3]]`, `{"a": 1}`, "model.vocab: is an object; must be an array"},
		{`"strip_left": false`, `"strip_left": 1`, "normalizer.normalizers[0].strip_left: is the number 1"},
		{`"strip_right": true`, `"strip_both": true`, "normalizer.normalizers[0].strip_both: is not implemented"},
		{`"strip_left": false`, `"left": false`, "normalizer.normalizers[0].left: is not implemented"},
		{`{2,}`, `\\s+`, `normalizer.normalizers[1].pattern.Regex: " \\s+" is not implemented; must consist of`},
		{`" {2,}"`, `"[ab]"`, `normalizer.normalizers[1].pattern.Regex: "[ab]" is not implemented`},
		{`" {2,}"`, `"a++"`, `normalizer.normalizers[1].pattern.Regex: "a++" is not implemented`},
		{`" {2,}"`, `"^a"`, `normalizer.normalizers[1].pattern.Regex: "^a" is not implemented`},
		{`" {2,}"`, `"ab|c*"`, `normalizer.normalizers[1].pattern.Regex: "ab|c*" matches an empty string`},
		{`" {2,}"`, `"a{3,2}"`, `normalizer.normalizers[1].pattern.Regex: is not implemented: error parsing regexp`},
		{`" {2,}"`, `3`, `normalizer.normalizers[1].pattern.Regex: is the number 3`},
		{`" {2,}"`, `" {2,}", "String": "a"`, `normalizer.normalizers[1].pattern.String: is not implemented`},
		{`"content": "▁"`, `"content": "x"`, `pre_tokenizer.pretokenizers[1].prepend_scheme: first is not implemented behind a normalizer that replaces " {2,}"`},
		{`"▁"}]`, `"▁"}, {"type": "Replace", "pattern": {"String": "▁"}, "content": "x"}]`, "pre_tokenizer.pretokenizers[1].prepend_scheme: first is not implemented"},
		{`"normalizers": [`, precompiled(table(trieOf('a', 0), "")), "pre_tokenizer.pretokenizers[1].prepend_scheme: first is not implemented behind a Precompiled normalizer and another"},
		{`{"type": "WhitespaceSplit"}`, `{"type": "Whitespace"}`, `pre_tokenizer.pretokenizers[0].type: "Whitespace" is not implemented; must be Sequence, Metaspace or WhitespaceSplit`},
		{`{"type": "WhitespaceSplit"}`, `{"type": "WhitespaceSplit", "x": 1}`, `pre_tokenizer.pretokenizers[0].x: is not implemented`},
		{`"normalizers": [`, `"normalizers": [{"type": "Precompiled"}, `, "normalizer.normalizers[0].precompiled_charsmap: is null"},
		{`"normalizers": [`, precompiled("*"), "normalizer.normalizers[0].precompiled_charsmap: is not base64: illegal base64 data at input byte 0"},
		{`"normalizers": [`, precompiled("AAA="), "normalizer.normalizers[0].precompiled_charsmap: has 2 bytes; must have at least 4"},
		{`"normalizers": [`, precompiled("AAAAAA=="), "normalizer.normalizers[0].precompiled_charsmap: has a trie of 0 bytes in 0"},
		{`"normalizers": [`, precompiled("BgAAAAAAAAAAAA=="), "normalizer.normalizers[0].precompiled_charsmap: has a trie of 6 bytes in 6"},
		{`"normalizers": [`, precompiled("/P///wAAAAA="), "normalizer.normalizers[0].precompiled_charsmap: has a trie of 4294967292 bytes in 4"},
		{`"normalizers": [`, precompiled(table([]uint32{0}, "")), "normalizer.normalizers[0].precompiled_charsmap: trie: unit 0 refers to unit 255 of 1"},
		{`"normalizers": [`, precompiled(table(wide, "")), "normalizer.normalizers[0].precompiled_charsmap: trie: unit 353 refers to unit 1535 of 512"},
		{`"normalizers": [`, precompiled(table(trieOf('a', 3), "ab")), "normalizer.normalizers[0].precompiled_charsmap: trie: unit 256 refers to byte 3 of 2 bytes of replacements"},
		{`"normalizers": [`, precompiled(table(trieOf('a', 1), "é")), "normalizer.normalizers[0].precompiled_charsmap: trie: unit 256 refers to byte 1 of 2 bytes of replacements"},
		{`"normalizers": [`, precompiled(table(trieOf('a', 0), "\xff")), "normalizer.normalizers[0].precompiled_charsmap: has replacements that are not valid UTF-8"},
		{`"normalizers": [`, precompiled(table(trieOf('a', 0), strings.Repeat("a", 1001))), "normalizer.normalizers[0].precompiled_charsmap: text may grow"},
	} {
		require.Contains(t, smallUnigram, c.old)
		_, err := Parse("small.json", []byte(strings.Replace(smallUnigram, c.old, c.with, 1)))
		require.Error(t, err, "%s -> %s", c.old, c.with)
		assert.True(t, strings.HasPrefix(err.Error(), "small.json: "+c.want), "%s -> %s:\n got %v\nwant %s", c.old, c.with, err, c.want)
	}
}

// A normalized added token behind a table may begin anywhere, which "first" depends on.
func TestUnigramNormalizedAdded(t *testing.T) {
	data := strings.NewReplacer(`"added_tokens": []`, `"added_tokens": [{"id": 5, "content": "b", "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": false}]`,
		`"normalizers": [`, `"normalizers": [{"type": "Precompiled", "precompiled_charsmap": "`+table(trieOf('a', 0), "")+`"}, `,
		`{"type": "WhitespaceSplit"}, `, ``).Replace(smallUnigram)
	_, err := Parse("small.json", []byte(data))
	assert.EqualError(t, err, "small.json: added_tokens[0].normalized: true is not implemented with prepend_scheme first behind a Precompiled normalizer")
}

// Regular expressions mean what they mean to the library, or are refused.
func TestUnigramRegex(t *testing.T) {
	for _, c := range []struct{ pattern, text, want string }{
		{` {2,}`, "a  b   c d ", "a_b_c d "},
		{`\\A +| +\\z`, "  a  b  ", "_a  b_"},
		{`\\A▁`, "▁▁a▁", "_▁a▁"},
		{`x\\.+|yz*`, "x...xy yzz", "_x_ _"},
	} {
		tk, err := Parse("small.json", []byte(strings.NewReplacer(`" {2,}"`, `"`+c.pattern+`"`, `"content": "▁"`, `"content": "_"`, `"first"`, `"always"`).Replace(smallUnigram)))
		require.NoError(t, err)
		assert.Equal(t, c.want, tk.normalizer[1].apply(alignedText{text: c.text}).text)
	}
}

// No table causes a panic or a hang, and what is accepted works for any text.
func FuzzCharsmap(f *testing.F) {
	f.Add(trieBytes(trieOf('a', 2)), "x\x00▁▁\x00y", "ba\u0301ba")
	f.Add(trieBytes(trieOf(0xC3, 1)), "\x00", "é\r\n\u200d")
	loop := trieOf('a', 0)
	loop['a'] = 'a' // leads to position 0
	loop[0] = 'a' | 1<<8
	f.Add(trieBytes(loop), "", "aaaa")
	f.Add([]byte{1, 2, 3}, "", "")
	f.Fuzz(func(t *testing.T, trie []byte, replacements, text string) {
		blob := binary.LittleEndian.AppendUint32(nil, uint32(len(trie)))
		data := strings.Replace(smallUnigram, `"normalizers": [`,
			`"normalizers": [{"type": "Precompiled", "precompiled_charsmap": "`+base64.StdEncoding.EncodeToString(append(append(blob, trie...), replacements...))+`"}, `, 1)
		tk, err := Parse("fuzz.json", []byte(data))
		if err != nil {
			assert.Contains(t, err.Error(), "fuzz.json: ")
			return
		}
		checkInvariants(t, tk, text)
	})
}

func trieBytes(units []uint32) (out []byte) {
	for _, u := range units {
		out = binary.LittleEndian.AppendUint32(out, u)
	}
	return out
}
