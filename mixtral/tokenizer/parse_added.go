package tokenizer

import (
	"slices"

	sugarme "github.com/sugarme/tokenizer"
)

// parseAdded reads the added tokens and lays out the tables by id.
//
// The Hugging Face tokenizers give an added token the id that the vocabulary has for
// it, or else the next free one, whatever the file says. A file that says otherwise
// is refused: its text would come out under ids that it does not name.
func (t *Tokenizer) parseAdded(j jsonValue) error {
	t.tokens = append([]string(nil), t.model.tokens...)
	t.known = append([]bool(nil), t.model.known...)
	t.ids = map[string]int32{}
	var list []jsonValue
	if !j.isNull() {
		var err error
		if list, err = j.list(); err != nil {
			return err
		}
	}
	for _, m := range list {
		tok, err := parseAddedToken(m)
		if err != nil {
			return err
		}
		if err := t.placeAdded(m, tok); err != nil {
			return err
		}
		t.added = append(t.added, tok)
	}
	t.special = make([]bool, len(t.tokens))
	// Special tokens come first where two patterns are equal.
	for _, special := range []bool{true, false} {
		for i, tok := range t.added {
			if tok.Special != special {
				continue
			}
			if !tok.Token.Normalized {
				t.special[tok.Id] = special
				t.raw.add(tok, tok.Token.Content)
				continue
			}
			content := t.normalize(alignedText{text: tok.Token.Content}).text
			if content == "" {
				return list[i].errorf("%q is normalized to nothing", tok.Token.Content)
			}
			t.norm.add(tok, content)
			// Ids become the normalized content, which is skipped only if that is
			// still the content of a special token.
			t.tokens[tok.Id] = content
			t.special[tok.Id] = slices.ContainsFunc(t.added, func(a sugarme.AddedTokenWithId) bool {
				return a.Special && a.Token.Content == content
			})
		}
	}
	t.align = t.metaspace != nil && t.metaspace.scheme == prependFirst && len(t.normalizer) > 0
	return nil
}

func parseAddedToken(j jsonValue) (tok sugarme.AddedTokenWithId, err error) {
	if err = j.object("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"); err != nil {
		return
	}
	id, err := j.member("id").id()
	if err != nil {
		return
	}
	tok.Id = int(id)
	if tok.Token.Content, err = j.member("content").str(); err != nil {
		return
	}
	if tok.Token.Content == "" {
		return tok, j.member("content").errorf("is empty")
	}
	for _, f := range []struct {
		name string
		to   *bool
	}{
		{"single_word", &tok.Token.SingleWord},
		{"lstrip", &tok.Token.LStrip},
		{"rstrip", &tok.Token.RStrip},
		{"normalized", &tok.Token.Normalized},
		{"special", &tok.Special},
	} {
		if *f.to, err = j.member(f.name).boolean(); err != nil {
			return
		}
	}
	return tok, nil
}

// placeAdded checks an added token's id and enters it into the tables.
func (t *Tokenizer) placeAdded(j jsonValue, tok sugarme.AddedTokenWithId) error {
	content, id := tok.Token.Content, int32(tok.Id)
	if _, ok := t.ids[content]; ok {
		return j.member("content").errorf("%q was added before", content)
	}
	want, ok := t.model.ids[content]
	if !ok {
		want = int32(len(t.model.ids))
		for _, a := range t.added {
			want = max(want, int32(a.Id)+1)
		}
	}
	if id != want {
		return j.member("id").errorf("is %d, but %q has or would be given the id %d", id, content, want)
	}
	if !ok && int(id) < len(t.tokens) {
		if t.known[id] {
			return j.member("id").errorf("%d of %q is also that of %q", id, content, t.tokens[id])
		}
		t.tokens[id], t.known[id] = content, true
	} else if !ok {
		t.tokens, t.known = append(t.tokens, content), append(t.known, true)
	}
	t.ids[content] = id
	return nil
}

// parseTemplate reads the post-processor: what goes around the text. The template
// for pairs of texts is checked and not used.
func (t *Tokenizer) parseTemplate(j jsonValue) error {
	t.template = []int32{textPlace}
	if j.isNull() {
		return nil
	}
	typ, err := j.typ()
	if err != nil {
		return err
	}
	if typ != "TemplateProcessing" {
		return j.member("type").errorf("%q is not implemented, only TemplateProcessing", typ)
	}
	if err := j.object("type", "single", "pair", "special_tokens"); err != nil {
		return err
	}
	special, err := t.parseTemplateTokens(j.member("special_tokens"))
	if err != nil {
		return err
	}
	if _, err := parsePieces(j.member("pair"), special, "A", "B"); err != nil {
		return err
	}
	t.template, err = parsePieces(j.member("single"), special, "A")
	return err
}

// parseTemplateTokens reads the special tokens of a template: name -> ids.
func (t *Tokenizer) parseTemplateTokens(j jsonValue) (map[string][]int32, error) {
	o, ok := j.v.(*jsonObject)
	if !ok {
		return nil, j.errorf("is %s, want an object", j.kind())
	}
	out := map[string][]int32{}
	for _, name := range o.keys {
		m := j.member(name)
		if err := m.object("id", "ids", "tokens"); err != nil {
			return nil, err
		}
		if id := m.member("id"); id.v != name {
			return nil, id.errorf("is not the name %q of this entry", name)
		}
		ids, err := m.member("ids").list()
		if err != nil {
			return nil, err
		}
		tokens, err := m.member("tokens").list()
		if err != nil {
			return nil, err
		}
		if len(ids) != len(tokens) {
			return nil, m.errorf("has %d ids and %d tokens", len(ids), len(tokens))
		}
		for i := range ids {
			id, err := ids[i].id()
			if err != nil {
				return nil, err
			}
			tok, ok := t.Token(id)
			if !ok {
				return nil, ids[i].errorf("no token has the id %d", id)
			}
			if want, ok := t.ID(tok); ok && want == id && tokens[i].v != tok {
				return nil, tokens[i].errorf("is not %q, the token with id %d", tok, id)
			}
			out[name] = append(out[name], id)
		}
	}
	return out, nil
}

// parsePieces reads a template as ids, with textPlace for each sequence.
func parsePieces(j jsonValue, special map[string][]int32, sequences ...string) ([]int32, error) {
	list, err := j.list()
	if err != nil {
		return nil, err
	}
	ids := []int32{}
	for _, m := range list {
		if err := m.object("Sequence", "SpecialToken"); err != nil {
			return nil, err
		}
		seq, tok := m.member("Sequence"), m.member("SpecialToken")
		if seq.isNull() == tok.isNull() {
			return nil, m.errorf("is neither a Sequence nor a SpecialToken")
		}
		piece := seq
		if seq.isNull() {
			piece = tok
		}
		if err := piece.object("id", "type_id"); err != nil {
			return nil, err
		}
		if _, err := piece.member("type_id").id(); err != nil {
			return nil, err
		}
		name, err := piece.member("id").str()
		if err != nil {
			return nil, err
		}
		if seq.isNull() {
			of, ok := special[name]
			if !ok {
				return nil, piece.member("id").errorf("%q is not among the special_tokens", name)
			}
			ids = append(ids, of...)
			continue
		}
		ok := false
		for _, s := range sequences {
			ok = ok || s == name
		}
		if !ok {
			return nil, piece.member("id").errorf("%q is not implemented here, only %v", name, sequences)
		}
		ids = append(ids, textPlace)
	}
	return ids, nil
}
