// Package tokenizer turns text into token ids and back as the Hugging Face tokenizers
// library does, from the same tokenizer.json: the BPE of Mixtral's family and the
// Unigram of T5's, to which Switch Transformer belongs.
//
// It exists because other tokenizers in Go return other ids for Mixtral. Of the 235
// test vectors in testdata/tokenizer, go-huggingface's tokenizer differs on 231. The
// BPE of github.com/sugarme/tokenizer turns a newline into <unk>, breaks ties in
// another order, takes quadratic time on long pieces and panics on invalid UTF-8, and
// its normalized strings take 15 s for 20 kB of prose, where this package takes .05 s
// for 1 MB. [Tokenizer.Model] is a model of that library, for use in its pipelines.
//
// The Unigram model does what the Hugging Face library does where that differs from
// sentencepiece: it reads scores with the rounding of its JSON parser, which may
// decide between two ways to split a word; it replaces a grapheme by what its shortest
// beginning is replaced by; and it never removes or joins spaces but as the file says.
package tokenizer
