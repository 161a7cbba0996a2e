// Package mixtral runs Mixtral, a sparse mixture of experts (arXiv 2401.04088),
// of any size of that architecture, on GoMLX, and shows every routing decision.
//
// [OpenBackend] opens a compute backend: pure Go, or XLA on CPU or CUDA. [Load]
// reads a checkpoint folder as a model hub ships it; package mini embeds a small
// trained model. [Model.Forward] computes batches of documents, from their start
// or, over a [Cache], from where an earlier pass ended; [Model.Generate] continues
// one. Package tokenizer converts between text and token ids.
//
// A [Hook] receives each layer's routing before the layer's experts run, as
// Request.Observe, or as Request.Intervene, in which it may change the routing.
// [Ablate], [MaskExperts], [Force] and [Chain] return hooks that intervene. A
// [Recorder] observes and returns documents of a trace.
//
// Two executors share one [Model]. The stepped one computes layer by layer and
// routes on the host, so that only selected experts run and hooks may intervene:
// on XLA by programs that the layers share, on the Go backend by products of this
// module's own, in assembly where the processor allows. The whole-graph one runs
// all layers as one program. Their results are those of Hugging Face transformers,
// within rounding; parity_test.go compares them.
//
// [Checkpoint.Plan] says what a model needs of memory, before it is loaded.
//
// A [Mesh] divides a model among several devices of an XLA backend, such as the GPUs
// of a host.
//
// On XLA, lengths and row counts are bucketed, so that few programs are compiled;
// the first step of a new size is slow.
//
// Axis letters: B batch, T tokens, N = B*T rows, L MoE layers, E experts, K
// experts per token, D hidden size, F expert width, H attention heads, KV heads
// of keys and values, hd head size, V vocabulary, C cache capacity.
//
// Errors of computation begin with "mixtral:"; those of files name file and
// tensor or field. GoMLX panics while graphs are built, and a user's hook may
// panic: both become errors. Other panics are defects of this package.
package mixtral
