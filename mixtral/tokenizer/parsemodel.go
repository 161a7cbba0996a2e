package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// spaceMark returns the character that represents a space in the pipeline.
func (t *Tokenizer) spaceMark() string {
	for _, p := range t.pre {
		if m, ok := p.(*metaspace); ok {
			return m.replacement
		}
	}
	for _, s := range t.normalizer {
		if s, ok := s.(literalStep); ok && s.old == " " && utf8.RuneCountInString(s.with) == 1 {
			return s.with
		}
	}
	return "▁"
}

func (t *Tokenizer) parseModel(j value) {
	var err error
	switch typ := j.typ(); typ {
	case "BPE":
		var m *bpeModel
		if m, err = newBPE(parseBPE(j, t.mark)); err == nil {
			t.model, t.vocab = m, &m.vocabulary
		}
	case "Unigram":
		var m *unigramModel
		if m, err = newUnigram(parseUnigram(j)); err == nil {
			t.model, t.vocab = m, &m.vocabulary
		}
	default:
		j.member("type").fail("%q is not implemented; must be BPE or Unigram", typ)
	}
	if err != nil {
		j.fail("%w", err)
	}
}

// parseUnigram reads the fields of a Unigram model.
func parseUnigram(j value) unigramConfig {
	j.members("type", "unk_id", "vocab", "byte_fallback")
	if unk := j.member("unk_id"); unk.null() {
		unk.fail("is null, which is not implemented: an unknown character would have no token")
	}
	c := unigramConfig{Unk: j.member("unk_id").id(), ByteFallback: j.flag("byte_fallback", false)}
	for _, m := range j.member("vocab").list() {
		pair := m.list()
		if len(pair) != 2 {
			m.fail("has %d members; must be a token and its score", len(pair))
		}
		c.Tokens = append(c.Tokens, pair[0].str())
		c.Scores = append(c.Scores, pair[1].score())
	}
	return c
}

// parseBPE reads the fields of a BPE model; mark is the character that represents a
// space.
func parseBPE(j value, mark string) bpeConfig {
	j.members("type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
		"fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges")
	if m := j.member("dropout"); !m.null() {
		m.fail("is not implemented; must be null")
	}
	for _, name := range []string{"continuing_subword_prefix", "end_of_word_suffix"} {
		if m := j.member(name); !m.null() && m.v != "" {
			m.fail("is not implemented; must be null or empty")
		}
	}
	c := bpeConfig{
		Mark:         mark,
		FuseUnk:      j.flag("fuse_unk", false),
		ByteFallback: j.flag("byte_fallback", false),
		IgnoreMerges: j.flag("ignore_merges", false),
		Vocab:        parseVocab(j.member("vocab")),
		Merges:       parseMerges(j.member("merges")),
	}
	if m := j.member("unk_token"); !m.null() {
		s := m.str()
		c.UnkToken = &s
	}
	return c
}

func parseVocab(j value) map[string]int32 {
	o := j.members()
	vocab := make(map[string]int32, len(o.keys))
	for i, tok := range o.keys {
		id, ok := wholeNumber(o.vals[i])
		if !ok {
			j.member(tok).id() // fails
		}
		vocab[tok] = id
	}
	return vocab
}

// parseMerges reads the merges, which are strings "a b" or pairs ["a", "b"], all of
// one kind.
func parseMerges(j value) []bpeMerge {
	list := j.list()
	merges := make([]bpeMerge, 0, len(list))
	for i, m := range list {
		s, isString := m.v.(string)
		if i == 0 && strings.HasPrefix(s, "#version") {
			continue // the head of an old merges.txt
		}
		if _, first := list[0].v.(string); first != isString {
			m.fail("is not of the same kind as [0]: all must be strings or pairs")
		}
		var pair bpeMerge
		if isString {
			left, right, ok := strings.Cut(s, " ")
			if !ok || strings.Contains(right, " ") {
				m.fail("%q is not two tokens and a space", s)
			}
			pair = bpeMerge{left, right}
		} else {
			tokens := m.list()
			if len(tokens) != 2 {
				m.fail("has %d members; must be two tokens", len(tokens))
			}
			pair = bpeMerge{tokens[0].str(), tokens[1].str()}
		}
		merges = append(merges, pair)
	}
	return merges
}
