package tokenizer

import (
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Parse reads the contents of a tokenizer.json. The file's name is for errors, which
// name the field too. A field or value that is not implemented is an error, so that
// no text is tokenized otherwise than the file determines.
func Parse(file string, data []byte) (t *Tokenizer, err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case invalid:
			t, err = nil, p.err
		default:
			panic(p)
		}
	}()
	t = &Tokenizer{}
	t.parse(readJSON(file, data))
	return t, nil
}

func (t *Tokenizer) parse(j value) {
	j.members("version", "truncation", "padding", "added_tokens", "normalizer",
		"pre_tokenizer", "post_processor", "decoder", "model")
	if v := j.member("version"); !v.null() && v.str() != "1.0" {
		v.fail("%q is not implemented; must be 1.0", v.v)
	}
	for _, name := range []string{"truncation", "padding"} {
		if m := j.member(name); !m.null() {
			m.fail("is not implemented; must be null")
		}
	}
	t.parseNormalizer(j.member("normalizer"))
	t.parsePreTokenizer(j.member("pre_tokenizer"))
	t.mark = t.spaceMark()
	t.parseModel(j.member("model"))
	t.parseAdded(j.member("added_tokens"))
	t.parseTemplate(j.member("post_processor"))
	t.parseDecoder(j.member("decoder"))
}

func (t *Tokenizer) parseNormalizer(j value) {
	if j.null() {
		return
	}
	typ := j.typ()
	if typ == "Sequence" {
		j.sequence("normalizers", t.parseNormalizer)
		return
	}
	step, cause := parseStep(j, typ)
	t.normalizer = append(t.normalizer, step)
	limitGrowth(cause, t.normalizer)
}

// parseStep reads one step of a normalizer, and returns also the field that determines
// how much text grows by it.
func parseStep(j value, typ string) (step normalizeStep, cause value) {
	switch typ {
	case "Prepend":
		j.members("type", "prepend")
		m := j.member("prepend")
		return prependStep{m.str()}, m
	case "Replace":
		content := j.member("content")
		if p := j.member("pattern"); p.v != nil && !p.member("Regex").null() {
			return parseRegexp(j), content
		}
		return parseReplace(j), content
	case "Precompiled":
		j.members("type", "precompiled_charsmap")
		m := j.member("precompiled_charsmap")
		c, err := newCharsmap(m.str())
		if err != nil {
			m.fail("%w", err)
		}
		return c, m
	case "Strip":
		j.members("type", "strip_left", "strip_right")
		return trimStep{j.member("strip_left").boolean(), j.member("strip_right").boolean()}, j
	case "Nmt", "Lowercase":
		j.members("type")
		if typ == "Nmt" {
			return nmtStep{}, j
		}
		return lowercaseStep{}, j
	}
	j.member("type").fail("%q is not implemented; must be Sequence, Precompiled, Prepend, Replace, Strip, Nmt or Lowercase", typ)
	return nil, j
}

// maxGrowth bounds how many bytes a byte of text may become; Mixtral's normalizer
// makes 12 of one.
const maxGrowth = 1000

// limitGrowth refuses steps that could make any text too large for memory.
func limitGrowth(j value, steps []normalizeStep) {
	growth := 1.0
	for _, s := range steps {
		growth *= s.growth()
	}
	if growth > maxGrowth {
		j.fail("text may grow %.3g-fold; must be at most %d-fold", growth, maxGrowth)
	}
}

// sequence calls fn with each member of a Sequence.
func (j value) sequence(name string, fn func(value)) {
	j.members("type", name)
	for _, m := range j.member(name).list() {
		m.members()
		fn(m)
	}
}

// parseReplace reads a Replace step of a literal string, as a normalizer or as a decoder.
func parseReplace(j value) literalStep {
	j.members("type", "pattern", "content")
	p := j.member("pattern")
	p.members("String")
	s := literalStep{p.member("String").str(), j.member("content").str()}
	if s.old == "" {
		p.member("String").fail("is empty, which is not implemented")
	}
	return s
}

// plainPattern matches the regular expressions that mean the same to Go and to
// Oniguruma, which the Hugging Face tokenizers use: alternatives of characters that
// may be repeated and of the ends of the text.
var plainPattern = func() *regexp.Regexp {
	item := `(?:[^\\.+*?()|\[\]{}^$]|\\[.+*?()|\[\]{}^$\\])(?:\+|\*|\{\d+(?:,\d*)?\})?`
	branch := `(?:\\A)?(?:` + item + `)+(?:\\z)?`
	return regexp.MustCompile(`^` + branch + `(?:\|` + branch + `)*$`)
}()

// parseRegexp reads a Replace step of a regular expression.
func parseRegexp(j value) regexpStep {
	j.members("type", "pattern", "content")
	p := j.member("pattern")
	p.members("Regex")
	m := p.member("Regex")
	if !plainPattern.MatchString(m.str()) {
		m.fail("%q is not implemented; must consist of characters, which may be repeated (+, *, {2,}), \\A, \\z and |", m.v)
	}
	old, err := regexp.Compile(m.str())
	if err != nil {
		m.fail("is not implemented: %w", err)
	}
	if regexp.MustCompile(`^(?:` + m.str() + `)$`).MatchString("") {
		m.fail("%q matches an empty string, which is not implemented", m.v)
	}
	return regexpStep{old, j.member("content").str()}
}

func (t *Tokenizer) parsePreTokenizer(j value) {
	if j.null() {
		return
	}
	switch typ := j.typ(); typ {
	case "Sequence":
		j.sequence("pretokenizers", t.parsePreTokenizer)
	case "WhitespaceSplit":
		j.members("type")
		t.pre = append(t.pre, whitespaceSplit{})
	case "Metaspace":
		m := parseMetaspace(j)
		if m.scheme == "first" {
			t.checkStart(j.member("prepend_scheme"), m)
			if len(t.pre) > 0 && t.precompiled() {
				j.member("prepend_scheme").fail("first is not implemented behind a Precompiled normalizer and another pre-tokenizer")
			}
			t.align = len(t.normalizer)+len(t.pre) > 0
		}
		t.pre = append(t.pre, m)
	default:
		j.member("type").fail("%q is not implemented; must be Sequence, Metaspace or WhitespaceSplit", typ)
	}
}

// precompiled reports whether the normalizer contains a table of characters. Where the
// tokenizers library aligns a character behind one that the table removed is then
// known only of the first character.
func (t *Tokenizer) precompiled() bool {
	return slices.ContainsFunc(t.normalizer, func(s normalizeStep) bool {
		_, ok := s.(*charsmap)
		return ok
	})
}

// checkStart refuses normalizers after which the start of a text depends on how each
// character of a replacement is aligned with the pattern. That has no effect where the
// replacement begins with a space, before which no other is put.
func (t *Tokenizer) checkStart(j value, m *metaspace) {
	spaces := []string{" ", m.replacement}
	beginsWithSpace := func(s string) bool {
		return s == "" || slices.ContainsFunc(spaces, func(space string) bool { return strings.HasPrefix(s, space) })
	}
	for i, s := range t.normalizer {
		var old, with string
		switch s := s.(type) {
		case literalStep:
			old, with = s.old, s.with
		case regexpStep:
			old, with = s.old.String(), s.with
		}
		if utf8.RuneCountInString(old) <= 1 {
			continue
		}
		ok := beginsWithSpace(with)
		for _, later := range t.normalizer[i+1:] {
			for _, space := range spaces {
				ok = ok && beginsWithSpace(later.apply(alignedText{text: space}).text)
			}
		}
		if !ok {
			j.fail("first is not implemented behind a normalizer that replaces %q", old)
		}
	}
}

// parseMetaspace reads a Metaspace pre-tokenizer or decoder. The older field
// add_prefix_space must agree with prepend_scheme, which is "always" if absent.
func parseMetaspace(j value) *metaspace {
	j.members("type", "replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep")
	m := &metaspace{replacement: j.member("replacement").char(), scheme: "always", split: j.flag("split", true)}
	if s := j.member("str_rep"); !s.null() && s.v != m.replacement {
		s.fail("is not the replacement %q", m.replacement)
	}
	if s := j.member("prepend_scheme"); !s.null() {
		m.scheme = s.str()
		if !slices.Contains([]string{"always", "first", "never"}, m.scheme) {
			s.fail("%q is not implemented; must be always, first or never", m.scheme)
		}
	}
	if !j.flag("add_prefix_space", true) && m.scheme != "never" {
		j.member("add_prefix_space").fail("is false, which contradicts prepend_scheme %q", m.scheme)
	}
	return m
}

// parseTemplate reads the post-processor: the tokens around the text. The template
// for pairs of texts is checked and not used.
func (t *Tokenizer) parseTemplate(j value) {
	t.template = []int32{textPlace}
	if j.null() {
		return
	}
	if typ := j.typ(); typ != "TemplateProcessing" {
		j.member("type").fail("%q is not implemented; must be TemplateProcessing", typ)
	}
	j.members("type", "single", "pair", "special_tokens")
	special := t.parseTemplateTokens(j.member("special_tokens"))
	parsePieces(j.member("pair"), special, "A", "B")
	t.template = parsePieces(j.member("single"), special, "A")
}

// parseTemplateTokens reads the special tokens of a template: name -> ids.
func (t *Tokenizer) parseTemplateTokens(j value) map[string][]int32 {
	out := map[string][]int32{}
	for _, name := range j.members().keys {
		m := j.member(name)
		m.members("id", "ids", "tokens")
		if id := m.member("id"); id.v != name {
			id.fail("is not the name %q of this entry", name)
		}
		ids, tokens := m.member("ids").list(), m.member("tokens").list()
		if len(ids) != len(tokens) {
			m.fail("has %d ids and %d tokens", len(ids), len(tokens))
		}
		for i := range ids {
			id := ids[i].id()
			tok, ok := t.Token(id)
			if !ok {
				ids[i].fail("no token has the id %d", id)
			}
			if of, ok := t.ID(tok); ok && of == id && tokens[i].v != tok {
				tokens[i].fail("is not %q, the token with id %d", tok, id)
			}
			out[name] = append(out[name], id)
		}
	}
	return out
}

// parsePieces reads a template as ids, with textPlace for each sequence.
func parsePieces(j value, special map[string][]int32, sequences ...string) []int32 {
	ids := []int32{}
	for _, m := range j.list() {
		m.members("Sequence", "SpecialToken")
		seq, tok := m.member("Sequence"), m.member("SpecialToken")
		if seq.null() == tok.null() {
			m.fail("must be either a Sequence or a SpecialToken")
		}
		piece := seq
		if seq.null() {
			piece = tok
		}
		piece.members("id", "type_id")
		piece.member("type_id").id()
		name := piece.member("id").str()
		of, ok := special[name]
		switch {
		case seq.null() && !ok:
			piece.member("id").fail("%q is not among the special_tokens", name)
		case seq.null():
			ids = append(ids, of...)
		case !slices.Contains(sequences, name):
			piece.member("id").fail("%q is not implemented here; must be one of %v", name, sequences)
		default:
			ids = append(ids, textPlace)
		}
	}
	return ids
}
