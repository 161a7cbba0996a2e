// Package switchtransformer runs Switch Transformer (arXiv 2101.03961), an
// encoder-decoder whose router sends each token to one of many experts, and shows
// every routing decision. It mirrors package mixtral.
//
// [Load] reads a checkpoint folder as a model hub ships it, on a backend that
// mixtral.OpenBackend opened; package mini embeds a small trained model.
// [Model.Forward] encodes batches of texts and computes the decoder over them, all at
// once or, over a [Cache], from where an earlier pass ended; [Model.Generate] decodes
// one text. A [Hook] receives each layer's routing before the layer's experts run. A
// [Recorder] observes and returns documents of a trace.
//
// # Capacity
//
// An expert computes at most C tokens of a sequence, those with the lowest positions:
// others are dropped, that is, the layer adds nothing to them. The encoder drops so,
// and the decoder when it computes the tokens of a sequence at once, as Hugging Face
// transformers does from version 5.24 and from 4.51 to 4.57.
// Over a Cache, and with Request.Uncapped, the decoder drops nothing, as in decoding
// one token at a time.
//
// A layer is an MoE layer, counted within its stack; a block is a transformer block,
// of which some have a layer. Axis letters: B batch, T tokens, N rows of all
// documents, L MoE layers of a stack, E experts, C capacity of an expert, D hidden
// size, F expert width, H attention heads, hd head size, V vocabulary.
//
// Errors of computation begin with "switchtransformer:"; those of files name file and
// tensor or field.
package switchtransformer
