package tokenizer

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sugarme "github.com/sugarme/tokenizer"
	"github.com/sugarme/tokenizer/normalizer"
)

// mergeByDefinition joins the pair of lowest rank, leftmost first, until no pair has one.
func mergeByDefinition(m *bpeModel, word string) []piece {
	s := m.appendSymbols(nil, word)
	for {
		best, at := int32(noRank), -1
		for i := range len(s) - 1 {
			if r := m.pairs.rank(s[i].id, s[i+1].id); r < best {
				best, at = r, i
			}
		}
		if at < 0 {
			return s
		}
		s[at] = piece{m.merged[best], s[at].size + s[at+1].size}
		s = slices.Delete(s, at+1, at+2)
	}
}

// randomBPE makes a model of few characters and many merges that overlap; merges over
// the end of a word only if cross is true.
func randomBPE(t testing.TB, rnd *rand.Rand, cross bool) *bpeModel {
	t.Helper()
	vocab := map[string]int32{"<unk>": 0}
	add := func(tok string) {
		if _, ok := vocab[tok]; !ok {
			vocab[tok] = int32(len(vocab))
		}
	}
	chars := []string{"▁", "a", "b", "c", "é"}
	for _, c := range chars {
		add(c)
	}
	for _, b := range "\n你" {
		for _, c := range []byte(string(b)) {
			add(fmt.Sprintf("<0x%02X>", c))
		}
	}
	parts := slices.Clone(chars)
	seen := map[bpeMerge]bool{}
	unk := "<unk>"
	c := bpeConfig{Vocab: vocab, Mark: "▁", ByteFallback: true, FuseUnk: rnd.IntN(2) == 0, UnkToken: &unk}
	for range 10 + rnd.IntN(60) {
		p := bpeMerge{parts[rnd.IntN(len(parts))], parts[rnd.IntN(len(parts))]}
		over := strings.HasPrefix(p.right, "▁") && !strings.HasSuffix(p.left, "▁")
		if seen[p] || len(p.left+p.right) > 16 || over && !cross {
			continue
		}
		seen[p] = true
		add(p.left + p.right)
		parts = append(parts, p.left+p.right)
		c.Merges = append(c.Merges, p)
	}
	rnd.Shuffle(len(c.Merges), func(i, j int) { c.Merges[i], c.Merges[j] = c.Merges[j], c.Merges[i] })
	m, err := newBPE(c)
	require.NoError(t, err)
	return m
}

// The scan, the heap, the cut into words and the cache all return what the definition
// does for the whole text.
func TestBPEMerges(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 1))
	cuts := 0
	for k := range 300 {
		m := randomBPE(t, rnd, k%3 == 0)
		if m.cut {
			cuts++
		}
		for range 20 {
			var b strings.Builder
			for range rnd.IntN(60) {
				b.WriteString([]string{"▁", "▁", "a", "b", "c", "é", "\n", "你", "x", "yz"}[rnd.IntN(10)])
			}
			text := b.String()
			want := mergeByDefinition(m, text)
			for range 2 { // the second time from the cache
				require.Equal(t, want, m.appendPieces(nil, text), "model %d", k)
			}
			s := &bpeScratch{pieces: m.appendSymbols(nil, text)}
			if len(s.pieces) > 0 {
				require.Equal(t, want, m.mergeLong(nil, s), "model %d", k)
			}
			size := 0
			for _, p := range want {
				size += int(p.size)
			}
			require.Equal(t, len(text), size, "model %d: %q", k, text)
		}
	}
	assert.GreaterOrEqual(t, cuts, 150)
	assert.NotEqual(t, 300, cuts)
}

// A vocabulary with a merge over the end of a word, one that drops characters and one
// without the mark must not be cut; the real ones may.
func TestBPEMayCut(t *testing.T) {
	assert.True(t, mistral(t).model.(*bpeModel).cut)
	unk := "<unk>"
	base := func() bpeConfig {
		return bpeConfig{Mark: "▁", Vocab: map[string]int32{"<unk>": 0, "▁": 1, "a": 2, "▁a": 3, "a▁": 4, "▁▁": 5},
			Merges: []bpeMerge{{"▁", "a"}, {"▁", "▁"}}, UnkToken: &unk}
	}
	for _, c := range []struct {
		name   string
		change func(*bpeConfig)
		want   bool
	}{
		{"plain", func(*bpeConfig) {}, true},
		{"merge over the end of a word", func(c *bpeConfig) { c.Merges = append(c.Merges, bpeMerge{"a", "▁"}) }, false},
		{"dropped characters", func(c *bpeConfig) { c.UnkToken = nil }, false},
		{"no mark", func(c *bpeConfig) { c.Mark = "_" }, false},
	} {
		cfg := base()
		c.change(&cfg)
		m, err := newBPE(cfg)
		require.NoError(t, err)
		assert.Equal(t, c.want, m.cut, c.name)
	}
}

// The model works in sugarme's own pipeline.
func TestBPEInSugarme(t *testing.T) {
	tk := mistral(t)
	st := sugarme.NewTokenizer(tk.Model())
	st.WithNormalizer(normalizer.NewSequence([]normalizer.Normalizer{
		normalizer.NewPrepend("▁"), normalizer.NewReplace(normalizer.String, " ", "▁")}))
	for _, text := range []string{"Hello world!", "def f(x):\n\treturn x", "naïve 😀 你好"} {
		enc, err := st.EncodeSingle(text)
		require.NoError(t, err)
		var got []int32
		for _, id := range enc.Ids {
			got = append(got, int32(id))
		}
		assert.Equal(t, tk.Encode(text, false), got, "%q", text)
	}
	m := tk.Model()
	id, ok := m.TokenToId("▁the")
	require.True(t, ok)
	assert.Equal(t, 272, id)
	tok, ok := m.IdToToken(272)
	require.True(t, ok)
	assert.Equal(t, "▁the", tok)
	_, ok = m.IdToToken(32000)
	assert.False(t, ok)
	assert.Equal(t, 32000, m.GetVocabSize())
	assert.Len(t, m.GetVocab(), 32000)
	toks, err := m.Tokenize("▁the\xff")
	require.NoError(t, err)
	require.Len(t, toks, 2)
	assert.Equal(t, []int{6, 9}, toks[1].Offsets)
	assert.ErrorIs(t, m.Save("x"), errors.ErrUnsupported)
}

// One wrong id must not make the table by id large.
func TestBPEVocabErrors(t *testing.T) {
	unk := "<unk>"
	for _, c := range []struct {
		cfg  bpeConfig
		want string
	}{
		{bpeConfig{}, "vocab: is empty"},
		{bpeConfig{Vocab: map[string]int32{"a": 1 << 30}}, "out of range"},
		{bpeConfig{Vocab: map[string]int32{"a": -1}}, "out of range"},
		{bpeConfig{Vocab: map[string]int32{"a": 3, "b": 3}}, `"a" and "b" have the same id 3`},
		{bpeConfig{Vocab: map[string]int32{"a": 0}, UnkToken: &unk}, "unk_token"},
		{bpeConfig{Vocab: map[string]int32{"a": 0}, Merges: []bpeMerge{{"a", "a"}}}, `merges[0]: "aa", of "a" and "a", is not in the vocabulary`},
		{bpeConfig{Vocab: map[string]int32{"a": 0}, Merges: []bpeMerge{{"a", "b"}}}, `merges[0]: "b"`},
		{bpeConfig{Vocab: map[string]int32{"a": 0}, Merges: []bpeMerge{{"b", "a"}}}, `merges[0]: "b"`},
	} {
		_, err := newBPE(c.cfg)
		assert.ErrorContains(t, err, c.want)
	}
}
