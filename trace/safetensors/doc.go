// Package safetensors reads and writes the safetensors format: eight bytes with
// the length of a JSON header (little-endian), the header, and the tensors'
// bytes, one after another without holes.
//
// The reader is lazy and strict. Opening a file reads the header alone; a
// tensor's bytes are read on request, into the caller's buffer. What the
// format's own implementation refuses is an error here too: a header longer than
// the file or than 100 MB, duplicate names, offsets that overlap, leave holes or
// do not fit shape and type, bytes after the last tensor. Memory is bounded by
// the bytes that a file really has, whatever its header states. Errors are of
// type [*Error] and name the file and the tensor.
//
// The writer streams: the header is made from names, types and shapes alone, and
// the data may be produced while it is written. [WriteFile] writes to a
// temporary file, syncs and renames it, so that a file appears whole or not at
// all.
//
// [OpenTorch] reads files of PyTorch's torch.save as if they were of this format.
//
// The format is described at https://github.com/huggingface/safetensors.
package safetensors
