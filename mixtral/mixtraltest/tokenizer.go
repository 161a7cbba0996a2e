package mixtraltest

import (
	"fmt"
	"strings"
)

// characters are the tokens of one character after the space, the most frequent ones
// first.
const characters = "etaoinshrdlucmfwypvbgkqjxz.,'\n0123456789" + "ETAOINSHRDLUCMFWYPVBGKQJXZ" + `"!?;:()[]{}<>-_+=*/\|&%$#@^~` + "`\t"

// tokenizerJSON returns a tokenizer.json of v tokens.
func tokenizerJSON(v int) []byte {
	tokens := append([]string{"<unk>", "<s>", "</s>", "▁"}, strings.Split(characters, "")...)
	vocab := map[string]int{}
	for id := range v {
		if id < len(tokens) {
			vocab[tokens[id]] = id
		} else {
			vocab[fmt.Sprintf("<extra %d>", id)] = id
		}
	}
	type object = map[string]any
	var added []object
	for id, tok := range tokens[:3] {
		added = append(added, object{"id": id, "content": tok, "special": true,
			"single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
	}
	replace := func(from, to string) object {
		return object{"type": "Replace", "pattern": object{"String": from}, "content": to}
	}
	text := object{"Sequence": object{"id": "A", "type_id": 0}}
	bos := object{"SpecialToken": object{"id": "<s>", "type_id": 0}}
	return marshal(object{
		"version": "1.0", "truncation": nil, "padding": nil, "pre_tokenizer": nil, "added_tokens": added,
		"normalizer": object{"type": "Sequence", "normalizers": []object{{"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")}},
		"decoder": object{"type": "Sequence", "decoders": []object{
			replace("▁", " "), {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}}},
		"post_processor": object{"type": "TemplateProcessing", "single": []object{bos, text}, "pair": []object{bos, text},
			"special_tokens": object{"<s>": object{"id": "<s>", "ids": []int{1}, "tokens": []string{"<s>"}}}},
		"model": object{"type": "BPE", "unk_token": "<unk>", "fuse_unk": false, "byte_fallback": false,
			"vocab": vocab, "merges": []string{}},
	})
}
