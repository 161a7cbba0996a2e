package tokenizer

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// smallTokenizer is a whole tokenizer.json of few tokens.
const smallTokenizer = `{"version": "1.0", "truncation": null, "padding": null,
 "added_tokens": [
  {"id": 0, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
  {"id": 7, "content": "<x>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false}],
 "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
 "pre_tokenizer": null,
 "post_processor": {"type": "TemplateProcessing",
  "single": [{"SpecialToken": {"id": "<unk>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
  "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
  "special_tokens": {"<unk>": {"id": "<unk>", "ids": [0], "tokens": ["<unk>"]}}},
 "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
 "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": false, "ignore_merges": false,
  "vocab": {"<unk>": 0, "▁": 1, "a": 2, "b": 3, "▁a": 4, "ab": 5, "▁ab": 6}, "merges": ["▁ a", "a b", "▁a b"]}}`

func TestParse(t *testing.T) {
	tk, err := Parse("small.json", []byte(smallTokenizer))
	require.NoError(t, err)
	require.Len(t, tk.Encode("ab <x>a", true), 5)
	assert.Equal(t, 8, tk.VocabSize())
}

// Each change of the file is an error that names file and field.
func TestParseErrors(t *testing.T) {
	meta := func(s string) string { return `"pre_tokenizer": {"type": "Metaspace", ` + s + `}` }
	for _, c := range []struct{ old, with, want string }{
		// The file as such.
		{smallTokenizer, "", "at byte 0: unexpected EOF"},
		{smallTokenizer, "[]", "is an array; must be an object"},
		{smallTokenizer, strings.Repeat("[", 100), "nesting is deeper than 32"},
		{smallTokenizer, smallTokenizer[:900], "unexpected EOF"},
		{smallTokenizer, smallTokenizer + "{}", "data follows the JSON value"},
		{"\"a\": 2", "\"\xff\": 2", "is not valid UTF-8"},
		{`"version"`, `"padding": null, "version"`, `member "padding" occurs twice`},
		// Fields that are not implemented, anywhere.
		{`"version": "1.0"`, `"version": "1.1"`, `version: "1.1" is not implemented; must be 1.0`},
		{`"version": "1.0"`, `"version": 1`, "version: is the number 1; must be a string"},
		{`"version"`, `"chat_template": "", "version"`, "chat_template: is not implemented"},
		{`"truncation": null`, `"truncation": {"max_length": 8}`, "truncation: is not implemented"},
		{`"padding": null`, `"padding": {"length": 8}`, "padding: is not implemented"},
		// Model.
		{`"type": "BPE"`, `"type": "WordPiece"`, `model.type: "WordPiece" is not implemented; must be BPE or Unigram`},
		{`"type": "BPE"`, `"type": "Unigram"`, "model.dropout: is not implemented"},
		{`"type": "BPE", `, ``, "model.type: is null; must be a string"},
		{`"dropout": null`, `"dropout": 0.1`, "model.dropout: is not implemented"},
		{`"continuing_subword_prefix": null`, `"continuing_subword_prefix": "##"`, "model.continuing_subword_prefix: is not implemented"},
		{`"end_of_word_suffix": null`, `"end_of_word_suffix": "</w>"`, "model.end_of_word_suffix: is not implemented"},
		{`"fuse_unk": true`, `"fuse_unk": "yes"`, "model.fuse_unk: is a string; must be a boolean"},
		{`"byte_fallback": false`, `"byte_fallback": 0`, "model.byte_fallback: is the number 0; must be a boolean"},
		{`"ignore_merges"`, `"cache_size"`, "model.cache_size: is not implemented"},
		{`"unk_token": "<unk>"`, `"unk_token": "[UNK]"`, `model: unk_token: "[UNK]" is not in the vocabulary`},
		{`"unk_token": "<unk>"`, `"unk_token": 0`, "model.unk_token: is the number 0; must be a string"},
		{`"vocab": {"<unk>": 0`, `"vocab": [], "x": {"<unk>": 0`, "model.x: is not implemented"},
		{`"a": 2`, `"a": 3`, `model: vocab: tokens "a" and "b" have the same id 3`},
		{`"a": 2`, `"a": -2`, `model.vocab.a: is the number -2; must be a whole number`},
		{`"a": 2`, `"a": 2.5`, `model.vocab.a: is the number 2.5`},
		{`"a": 2`, `"a": 4294967296`, `model.vocab.a: is the number 4294967296`},
		{`"a": 2`, `"a": 2000000000`, "model: vocab: id 2000000000 of token \"a\" is out of range"},
		{`"a": 2`, `"a": "2"`, `model.vocab.a: is a string`},
		{`"a": 2`, `"a": 2, "a": 2`, `member "a" occurs twice`},
		{`"▁a b"]`, `"▁a b", "b b"]`, `model: merges[3]: "bb", of "b" and "b", is not in the vocabulary`},
		{`"▁a b"]`, `"▁a b", "c b"]`, `model: merges[3]: "c" is not in the vocabulary`},
		{`"▁a b"]`, `"▁ab"]`, `model.merges[2]: "▁ab" is not two tokens and a space`},
		{`"▁a b"]`, `"▁a b "]`, `model.merges[2]: "▁a b " is not two tokens and a space`},
		{`"▁a b"]`, `["▁a", "b"]]`, "model.merges[2]: is not of the same kind as [0]"},
		{`["▁ a", "a b", "▁a b"]`, `[["▁", "a"], "a b"]`, "model.merges[1]: is not of the same kind as [0]"},
		{`["▁ a", "a b", "▁a b"]`, `[["▁", "a", "b"]]`, "model.merges[0]: has 3 members"},
		{`["▁ a", "a b", "▁a b"]`, `[["▁", 1]]`, "model.merges[0][1]: is the number 1; must be a string"},
		{`["▁ a", "a b", "▁a b"]`, `[1]`, "model.merges[0]: is the number 1; must be an array"},
		{`["▁ a", "a b", "▁a b"]`, `{}`, "model.merges: is an object; must be an array"},
		// Added tokens.
		{`"id": 7`, `"id": 9`, `added_tokens[1].id: is 9; must be 7, the id that "<x>" has or would be assigned`},
		{`"id": 7`, `"id": 3`, `added_tokens[1].id: is 3; must be 7, the id that "<x>"`},
		{`"id": 7, "content": "<x>"`, `"id": 7, "content": "a"`, `added_tokens[1].id: is 7; must be 2, the id that "a" has`},
		{`"id": 7, "content": "<x>"`, `"id": 0, "content": "<unk>"`, `added_tokens[1].content: "<unk>" was added before`},
		{`"content": "<x>"`, `"content": ""`, "added_tokens[1].content: is empty"},
		{`"special": false}]`, `"special": false, "score": 1}]`, "added_tokens[1].score: is not implemented"},
		{`"special": false}]`, `"special": null}]`, "added_tokens[1].special: is null; must be a boolean"},
		{`"added_tokens": [`, `"added_tokens": [3, `, "added_tokens[0]: is the number 3; must be an object"},
		// Normalizer and pre-tokenizer.
		{`{"type": "Prepend", "prepend": "▁"}`, `{"type": "NFKC"}`, `normalizer.normalizers[0].type: "NFKC" is not implemented`},
		{`"prepend": "▁"`, `"prepend": null`, "normalizer.normalizers[0].prepend: is null"},
		{`"prepend": "▁"`, `"prepend": "▁", "append": ""`, "normalizer.normalizers[0].append: is not implemented"},
		{`{"String": " "}`, `{"Regex": "[ ]"}`, `normalizer.normalizers[1].pattern.Regex: "[ ]" is not implemented`},
		{`{"String": " "}`, `{"String": ""}`, "normalizer.normalizers[1].pattern.String: is empty"},
		{`"normalizers": [`, `"normalizers": [null, `, "normalizer.normalizers[0]: is null"},
		{`"normalizer": {`, `"normalizer": "NFC", "x": {`, "x: is not implemented"},
		{`"pre_tokenizer": null`, `"pre_tokenizer": {"type": "ByteLevel"}`, `pre_tokenizer.type: "ByteLevel" is not implemented`},
		{`"pre_tokenizer": null`, meta(`"replacement": "ab"`), `pre_tokenizer.replacement: is "ab"; must be one character`},
		{`"pre_tokenizer": null`, meta(`"replacement": "▁", "prepend_scheme": "last"`), `pre_tokenizer.prepend_scheme: "last" is not implemented`},
		{`"pre_tokenizer": null`, meta(`"replacement": "▁", "add_prefix_space": false`), "pre_tokenizer.add_prefix_space: is false"},
		{`"pre_tokenizer": null`, meta(`"replacement": "▁", "split": 1`), "pre_tokenizer.split: is the number 1"},
		{`"pre_tokenizer": null`, meta(`"replacement": "▁", "str_rep": "_"`), "pre_tokenizer.str_rep: is not the replacement"},
		{`"pre_tokenizer": null`, meta(`"replacement": "▁", "regex": ""`), "pre_tokenizer.regex: is not implemented"},
		{`"normalizers": [`, `"normalizers": [` + strings.Repeat(`{"type": "Replace", "pattern": {"String": "a"}, "content": "aaaa"}, `, 5), "normalizer.normalizers[4].content: text may grow"},
		{`"prepend": "▁"`, `"prepend": "` + strings.Repeat("▁", 400) + `"`, "normalizer.normalizers[0].prepend: text may grow"},
		// Post-processor.
		{`"TemplateProcessing"`, `"ByteLevel"`, `post_processor.type: "ByteLevel" is not implemented`},
		{`"ids": [0]`, `"ids": [70]`, "post_processor.special_tokens.<unk>.ids[0]: no token has the id 70"},
		{`"ids": [0]`, `"ids": [2]`, `post_processor.special_tokens.<unk>.tokens[0]: is not "a"`},
		{`"ids": [0]`, `"ids": [0, 0]`, "post_processor.special_tokens.<unk>: has 2 ids and 1 tokens"},
		{`{"SpecialToken": {"id": "<unk>"`, `{"SpecialToken": {"id": "<s>"`, `post_processor.single[0].SpecialToken.id: "<s>" is not among the special_tokens`},
		{`{"Sequence": {"id": "A", "type_id": 0}}],`, `{"Sequence": {"id": "B", "type_id": 0}}],`, `post_processor.single[1].Sequence.id: "B" is not implemented here`},
		{`"single": [`, `"single": [{}, `, "post_processor.single[0]: must be either"},
		{`"pair": [`, `"pair": [{"Sequence": {"id": "C", "type_id": 0}}, `, `post_processor.pair[0].Sequence.id: "C"`},
		// Decoder.
		{`{"type": "ByteFallback"}`, `{"type": "WordPiece"}`, `decoder.decoders[1].type: "WordPiece" is not implemented`},
		{`{"type": "ByteFallback"}`, `{"type": "Fuse"}, {"type": "ByteFallback"}`, `decoder.decoders[2].type: "ByteFallback" after Fuse is not implemented`},
		{`"content": " ", "start": 1`, `"content": "  ", "start": 1`, "decoder.decoders[3].content: is \"  \"; must be one character"},
		{`"decoders": [`, `"decoders": [` + strings.Repeat(`{"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaa"}, `, 4), "decoder.decoders[3].content: text may grow"},
		{`"start": 1`, `"start": -1`, "decoder.decoders[3].start: is the number -1"},
	} {
		require.Contains(t, smallTokenizer, c.old)
		_, err := Parse("small.json", []byte(strings.Replace(smallTokenizer, c.old, c.with, 1)))
		want := "small.json: " + c.want
		require.ErrorContains(t, err, c.want, "%s -> %s", c.old, c.with)
		got := regexp.MustCompile(`at byte [1-9]\d*: `).ReplaceAllString(err.Error(), "")
		assert.True(t, strings.HasPrefix(got, want), "%s -> %s:\n got %v\nwant %s", c.old, c.with, err, want)
	}
}

// A missing file and an invalid one are distinguished, and errors name the file once.
func TestLoadErrors(t *testing.T) {
	fsys := fstest.MapFS{"dir/tokenizer.json": {Data: []byte(`{"model": {}}`)}}
	for name, want := range map[string]string{
		"tokenizer.json":     "tokenizer.json: file does not exist",
		"dir":                "dir: invalid argument",
		"dir/tokenizer.json": "dir/tokenizer.json: model.type: is null; must be a string",
	} {
		_, err := Load(fsys, name)
		assert.EqualError(t, err, want)
		assert.Equal(t, name == "tokenizer.json", errors.Is(err, fs.ErrNotExist), name)
	}
	_, err := Load(os.DirFS("."), "none.json")
	assert.ErrorIs(t, err, fs.ErrNotExist)
	assert.EqualError(t, err, "none.json: no such file or directory")
}

// No file causes a panic, and neither does a text with what is accepted.
func FuzzParse(f *testing.F) {
	f.Add([]byte(smallTokenizer), "ab <x> a\xff")
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}`), "aa")
	f.Add([]byte(smallUnigram), " a  ab é\u3000")
	f.Add([]byte(`{"model":{"type":"Unigram","unk_id":0,"byte_fallback":true,"vocab":[["<0x61>",-1],["b",-2.5]]},"normalizer":{"type":"Nmt"},"pre_tokenizer":{"type":"WhitespaceSplit"}}`), "ab aa")
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"<0x61>":0,"▁":4},"merges":[],"byte_fallback":true},"pre_tokenizer":{"type":"Metaspace","replacement":"▁"},"decoder":{"type":"Strip","content":"a","start":2,"stop":1}}`), " a a")
	f.Fuzz(func(t *testing.T, data []byte, text string) {
		tk, err := Parse("fuzz.json", data)
		if err != nil {
			assert.Contains(t, err.Error(), "fuzz.json")
			return
		}
		checkInvariants(t, tk, text)
	})
}

// A file read back from JSON that was parsed and written by others means the same.
func TestParseReordered(t *testing.T) {
	var any map[string]any
	require.NoError(t, json.Unmarshal([]byte(smallTokenizer), &any))
	data, err := json.Marshal(any)
	require.NoError(t, err)
	tk, err := Parse("small.json", data)
	require.NoError(t, err)
	id, ok := tk.ID("▁ab")
	require.True(t, ok, "id of ▁ab: %d, %v", id, ok)
	assert.Equal(t, int32(6), id)
}
