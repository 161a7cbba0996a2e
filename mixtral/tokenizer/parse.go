package tokenizer

import (
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
	t.parseModel(j.member("model"))
	t.parseAdded(j.member("added_tokens"))
	t.parseTemplate(j.member("post_processor"))
	t.parseDecoder(j.member("decoder"))
}

func (t *Tokenizer) parseNormalizer(j value) {
	if j.null() {
		return
	}
	switch typ := j.typ(); typ {
	case "Sequence":
		j.sequence("normalizers", t.parseNormalizer)
	case "Prepend":
		j.members("type", "prepend")
		t.normalizer = append(t.normalizer, normalizeStep{with: j.member("prepend").str()})
		limitGrowth(j.member("prepend"), t.normalizer)
	case "Replace":
		t.normalizer = append(t.normalizer, parseReplace(j))
		limitGrowth(j.member("content"), t.normalizer)
	default:
		j.member("type").fail("%q is not implemented; must be Sequence, Prepend or Replace", typ)
	}
}

// maxGrowth bounds how many bytes a byte of text may become; Mixtral's normalizer
// makes 12 of one.
const maxGrowth = 1000

// limitGrowth refuses steps that could make any text too large for memory.
func limitGrowth(j value, steps []normalizeStep) {
	growth := 1.0
	for _, s := range steps {
		if s.old == "" {
			growth *= float64(1 + len(s.with))
		} else {
			growth *= max(1, float64(len(s.with))/float64(len(s.old)))
		}
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

// parseReplace reads a Replace step, as a normalizer or as a decoder.
func parseReplace(j value) normalizeStep {
	j.members("type", "pattern", "content")
	p := j.member("pattern")
	p.members("String")
	s := normalizeStep{p.member("String").str(), j.member("content").str()}
	if s.old == "" {
		p.member("String").fail("is empty, which is not implemented")
	}
	return s
}

func (t *Tokenizer) parsePreTokenizer(j value) {
	if j.null() {
		return
	}
	if typ := j.typ(); typ != "Metaspace" {
		j.member("type").fail("%q is not implemented; must be Metaspace", typ)
	}
	t.metaspace = parseMetaspace(j)
	for _, s := range t.normalizer {
		// Where the text starts would then depend on how each character of the
		// pattern is aligned with the replacement.
		if t.metaspace.scheme == "first" && utf8.RuneCountInString(s.old) > 1 {
			j.member("prepend_scheme").fail("first is not implemented behind a normalizer that replaces %q", s.old)
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

// mark returns the character that represents a space in the pipeline.
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

func (t *Tokenizer) parseModel(j value) {
	j.members("type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
		"fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges")
	if typ := j.typ(); typ != "BPE" {
		j.member("type").fail("%q is not implemented; must be BPE", typ)
	}
	if m := j.member("dropout"); !m.null() {
		m.fail("is not implemented; must be null")
	}
	for _, name := range []string{"continuing_subword_prefix", "end_of_word_suffix"} {
		if m := j.member(name); !m.null() && m.v != "" {
			m.fail("is not implemented; must be null or empty")
		}
	}
	c := bpeConfig{
		Mark:         t.mark(),
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
	var err error
	if t.model, err = newBPE(c); err != nil {
		j.fail("%w", err)
	}
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
