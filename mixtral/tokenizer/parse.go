package tokenizer

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Parse reads the contents of a tokenizer.json; file is the name that errors
// give it. A field or a value that is not implemented here is an error that names
// it, so that no text is ever tokenized otherwise than the file asks for.
func Parse(file string, data []byte) (*Tokenizer, error) {
	j, err := parseJSON(file, data)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	t := &Tokenizer{}
	if err := t.parse(j); err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	return t, nil
}

func (t *Tokenizer) parse(j jsonValue) error {
	err := j.object("version", "truncation", "padding", "added_tokens", "normalizer",
		"pre_tokenizer", "post_processor", "decoder", "model")
	if err != nil {
		return err
	}
	if v := j.member("version"); !v.isNull() {
		if s, err := v.str(); err != nil {
			return err
		} else if s != "1.0" {
			return v.errorf("version %q is not implemented, only 1.0", s)
		}
	}
	for _, name := range []string{"truncation", "padding"} {
		if m := j.member(name); !m.isNull() {
			return m.errorf("is not implemented, must be null")
		}
	}
	if err := t.parseNormalizer(j.member("normalizer")); err != nil {
		return err
	}
	if err := t.parsePreTokenizer(j.member("pre_tokenizer")); err != nil {
		return err
	}
	if err := t.parseModel(j.member("model")); err != nil {
		return err
	}
	if err := t.parseAdded(j.member("added_tokens")); err != nil {
		return err
	}
	if err := t.parseTemplate(j.member("post_processor")); err != nil {
		return err
	}
	return t.parseDecoder(j.member("decoder"))
}

func (t *Tokenizer) parseNormalizer(j jsonValue) error {
	if j.isNull() {
		return nil
	}
	typ, err := j.typ()
	if err != nil {
		return err
	}
	switch typ {
	case "Sequence":
		return eachOf(j, "normalizers", t.parseNormalizer)
	case "Prepend":
		if err := j.object("type", "prepend"); err != nil {
			return err
		}
		s, err := j.member("prepend").str()
		if err != nil {
			return err
		}
		t.normalizer = append(t.normalizer, normalizeStep{with: s})
		return limitGrowth(j.member("prepend"), t.normalizer)
	case "Replace":
		old, with, err := parseReplace(j)
		if err != nil {
			return err
		}
		t.normalizer = append(t.normalizer, normalizeStep{old, with})
		return limitGrowth(j.member("content"), t.normalizer)
	}
	return j.member("type").errorf("%q is not implemented, only Sequence, Prepend and Replace", typ)
}

// maxGrowth bounds how many bytes a byte of text may become; Mixtral's normalizer
// makes 12 of one.
const maxGrowth = 1000

// limitGrowth refuses steps that could make any text too large for memory.
func limitGrowth(j jsonValue, steps []normalizeStep) error {
	growth := 1.0
	for _, s := range steps {
		if s.old == "" {
			growth *= float64(1 + len(s.with))
		} else {
			growth *= max(1, float64(len(s.with))/float64(len(s.old)))
		}
	}
	if growth > maxGrowth {
		return j.errorf("text may grow %.3g-fold, more than %d-fold is not implemented", growth, maxGrowth)
	}
	return nil
}

// eachOf calls fn for the members of a Sequence.
func eachOf(j jsonValue, name string, fn func(jsonValue) error) error {
	if err := j.object("type", name); err != nil {
		return err
	}
	list, err := j.member(name).list()
	if err != nil {
		return err
	}
	for _, m := range list {
		if m.isNull() {
			return m.errorf("is null, want an object")
		}
		if err := fn(m); err != nil {
			return err
		}
	}
	return nil
}

// parseReplace reads a Replace step, as a normalizer or as a decoder.
func parseReplace(j jsonValue) (old, with string, err error) {
	if err = j.object("type", "pattern", "content"); err != nil {
		return
	}
	p := j.member("pattern")
	if err = p.object("String"); err != nil {
		return
	}
	if old, err = p.member("String").str(); err != nil {
		return
	}
	if old == "" {
		return "", "", p.member("String").errorf("is empty, which is not implemented")
	}
	with, err = j.member("content").str()
	return
}

func (t *Tokenizer) parsePreTokenizer(j jsonValue) error {
	if j.isNull() {
		return nil
	}
	typ, err := j.typ()
	if err != nil {
		return err
	}
	if typ != "Metaspace" {
		return j.member("type").errorf("%q is not implemented, only Metaspace", typ)
	}
	if t.metaspace, err = parseMetaspace(j); err != nil {
		return err
	}
	for _, s := range t.normalizer {
		// Where the text starts would then hang on how each character of the pattern
		// is aligned with the replacement.
		if t.metaspace.scheme == prependFirst && utf8.RuneCountInString(s.old) > 1 {
			return j.member("prepend_scheme").errorf("first is not implemented behind a normalizer that replaces %q", s.old)
		}
	}
	return nil
}

// parseMetaspace reads a Metaspace pre-tokenizer or decoder. The older field
// add_prefix_space must agree with prepend_scheme, which is "always" if absent.
func parseMetaspace(j jsonValue) (*metaspace, error) {
	if err := j.object("type", "replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"); err != nil {
		return nil, err
	}
	rep, err := j.member("replacement").str()
	if err != nil {
		return nil, err
	}
	if utf8.RuneCountInString(rep) != 1 {
		return nil, j.member("replacement").errorf("%q is not one character", rep)
	}
	if s := j.member("str_rep"); !s.isNull() && s.v != rep {
		return nil, s.errorf("is not the replacement %q", rep)
	}
	p := &metaspace{replacement: rep, scheme: prependAlways}
	if s := j.member("prepend_scheme"); !s.isNull() {
		name, err := s.str()
		if err != nil {
			return nil, err
		}
		p.scheme = prependScheme(name)
		switch p.scheme {
		case prependAlways, prependFirst, prependNever:
		default:
			return nil, s.errorf("%q is not implemented, only always, first and never", name)
		}
	}
	prefix, err := j.flag("add_prefix_space", true)
	if err != nil {
		return nil, err
	}
	if !prefix && p.scheme != prependNever {
		return nil, j.member("add_prefix_space").errorf("is false, which prepend_scheme %q contradicts", p.scheme)
	}
	p.split, err = j.flag("split", true)
	return p, err
}

// mark returns the character that stands for a space in the pipeline.
func (t *Tokenizer) mark() string {
	if t.metaspace != nil {
		return t.metaspace.replacement
	}
	for _, s := range t.normalizer {
		if s.old == " " && utf8.RuneCountInString(s.with) == 1 {
			return s.with
		}
	}
	return "▁"
}

func (t *Tokenizer) parseModel(j jsonValue) error {
	err := j.object("type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
		"fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges")
	if err != nil {
		return err
	}
	typ, err := j.typ()
	if err != nil {
		return err
	}
	if typ != "BPE" {
		return j.member("type").errorf("%q is not implemented, only BPE", typ)
	}
	if m := j.member("dropout"); !m.isNull() {
		return m.errorf("is not implemented, must be null")
	}
	for _, name := range []string{"continuing_subword_prefix", "end_of_word_suffix"} {
		if m := j.member(name); !m.isNull() && m.v != "" {
			return m.errorf("is not implemented, must be null or empty")
		}
	}
	c := bpeConfig{Mark: t.mark()}
	if m := j.member("unk_token"); !m.isNull() {
		s, err := m.str()
		if err != nil {
			return err
		}
		c.UnkToken = &s
	}
	if c.FuseUnk, err = j.flag("fuse_unk", false); err != nil {
		return err
	}
	if c.ByteFallback, err = j.flag("byte_fallback", false); err != nil {
		return err
	}
	if c.IgnoreMerges, err = j.flag("ignore_merges", false); err != nil {
		return err
	}
	if c.Vocab, err = parseVocab(j.member("vocab")); err != nil {
		return err
	}
	if c.Merges, err = parseMerges(j.member("merges")); err != nil {
		return err
	}
	if t.model, err = newBPE(c); err != nil {
		return j.errorf("%w", err)
	}
	return nil
}

func parseVocab(j jsonValue) (map[string]int32, error) {
	o, ok := j.v.(*jsonObject)
	if !ok {
		return nil, j.errorf("is %s, want an object", j.kind())
	}
	vocab := make(map[string]int32, len(o.keys))
	for i, tok := range o.keys {
		id, ok := wholeNumber(o.vals[i])
		if !ok {
			_, err := jsonValue{j.file, fmt.Sprintf("%s[%q]", j.path, tok), o.vals[i]}.id()
			return nil, err
		}
		vocab[tok] = id
	}
	return vocab, nil
}

// parseMerges reads the merges, strings "a b" or pairs ["a", "b"].
func parseMerges(j jsonValue) ([]bpeMerge, error) {
	l, ok := j.v.([]any)
	if !ok {
		return nil, j.errorf("is %s, want an array", j.kind())
	}
	merges := make([]bpeMerge, 0, len(l))
	for i, v := range l {
		if i == 0 {
			if s, ok := v.(string); ok && strings.HasPrefix(s, "#version") {
				continue // the head of an old merges.txt
			}
		}
		m, err := parseMerge(v, l[0])
		if err != nil {
			return nil, jsonValue{j.file, fmt.Sprintf("%s[%d]", j.path, i), v}.errorf("%w", err)
		}
		merges = append(merges, m)
	}
	return merges, nil
}

// parseMerge reads one merge, which has the form of the first.
func parseMerge(v, first any) (bpeMerge, error) {
	_, asString := first.(string)
	switch v := v.(type) {
	case string:
		if !asString {
			return bpeMerge{}, errors.New("is a string, but [0] is not")
		}
		left, right, ok := strings.Cut(v, " ")
		if !ok || strings.Contains(right, " ") {
			return bpeMerge{}, fmt.Errorf("%q is not two tokens and a space", v)
		}
		return bpeMerge{left, right}, nil
	case []any:
		if asString {
			return bpeMerge{}, errors.New("is a pair, but [0] is a string")
		}
		if len(v) != 2 {
			return bpeMerge{}, fmt.Errorf("has %d members, want two tokens", len(v))
		}
		left, ok1 := v[0].(string)
		right, ok2 := v[1].(string)
		if !ok1 || !ok2 {
			return bpeMerge{}, errors.New("is not two strings")
		}
		return bpeMerge{left, right}, nil
	}
	return bpeMerge{}, errors.New("is neither a string nor a pair")
}
