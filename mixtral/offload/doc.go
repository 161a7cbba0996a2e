// Package offload runs a model in less memory than its experts need: a few of them
// are in slots, from which the model computes, and the others in host memory or in
// the checkpoint, from which they are copied when they are needed, or before if a
// predictor says so.
//
// A [Store] is the Experts of [mixtral.Options]. Package speculate/prefetch decides
// what it holds, as in its simulator; this package copies. Results are bit-equal to
// those of the same executor with all its experts in memory, unless [Options].Host has
// some computed on the processor's cores beside another device.
//
// A step that decodes needs its experts at once. One of many tokens (a prompt) uses
// them one after the other, each copied once, while the next are being copied; what
// was in a slot before remains there.
//
// A [Prefetcher] observes the routing of documents. When that of layer l is known, it
// asks a predictor about layer l+h, and the store copies its likeliest experts while
// the model computes.
//
// On a CUDA device, XLA must leave room for the slots and what it computes with, or be
// limited to it, by the plugin's memory_fraction (see [mixtral.OpenBackend]).
package offload
