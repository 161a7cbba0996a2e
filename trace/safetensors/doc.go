// Package safetensors reads and writes the safetensors format: eight bytes that
// give the length of a JSON header (little-endian), the header, and the tensors'
// bytes, one after another without holes.
//
// The reader is lazy and strict. It reads the header alone, and a tensor's bytes
// when they are asked for, into the caller's buffer. What the format's own
// implementation refuses is an error here too: a header longer than the file or
// than [MaxHeaderLen], names that come twice, offsets that overlap, leave holes
// or do not fit shape and type, bytes behind the last tensor. Nothing is
// allocated on a header's word: memory is bounded by the bytes that the file
// really has. Errors are of type [*Error] and name the file and the tensor.
//
// The writer streams: the header comes from names, types and shapes alone, and
// the data may be produced while it is written. [WriteFile] writes aside, syncs
// and renames, so that a file appears whole or not at all.
//
// The format is described at https://github.com/huggingface/safetensors.
package safetensors
