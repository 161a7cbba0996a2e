// Package tokenizer turns text into token ids and back as the Hugging Face
// tokenizers library does.
//
// Its BPE is our own because those to be had in Go are wrong for Mixtral:
// sugarme/tokenizer's merges differ, and go-huggingface's gives other ids for 231 of
// the 235 vectors in testdata. It is usable as a model of sugarme/tokenizer.
package tokenizer
