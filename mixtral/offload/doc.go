// Package offload runs a model in less memory than its experts need: a few of them
// are in slots, from which the model computes, and the others in host memory or in
// the checkpoint, from which they are read when they are needed, or before if a
// predictor says so.
//
// A [Store] is the Experts of [mixtral.Options]. Package speculate/prefetch decides
// what it holds, as in its simulator; this package copies. Results are bit-equal to
// those of the model with all its experts in memory.
//
// A step whose experts number at most K (decoding a token) needs them at once. One of
// more (a prompt) uses them one after the other, each read once, while the next are
// being read.
//
// A [Prefetcher] observes the routing of documents. When that of layer l is known, it
// asks a predictor about layer l+h, and the store reads its likeliest experts while
// the model computes.
package offload
