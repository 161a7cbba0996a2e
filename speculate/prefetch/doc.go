// Package prefetch decides which experts a model holds whose experts do not all fit
// in device memory: a cache of experts, an eviction policy, and a prefetcher that
// asks a [speculate.Predictor] what will be needed. An [Engine] decides; [Simulate]
// drives it on a trace, and package mixtral/offload while a model runs.
//
// # The model
//
// Documents are decoded one at a time, or in batches, token by token and layer by
// layer, whatever their phase was. Each batch starts with an empty cache and idle
// channels. Tokens of an encoder (phase encode) come first, as one step a layer of all
// of them, in which each expert that is chosen is requested once and nothing is
// predicted; the decoder's tokens then pass the decoder's layers. The experts of all layers share a cache of Capacity experts, or with
// PerLayer each layer has a cache of that size.
//
// When the routing of a layer is known, computing first waits for the predictions
// that follow it, each of which takes Decision. Then the chosen experts are
// requested, first choice first, each once a step. One that is resident is a hit.
// One whose prefetch is being copied is late: the layer waits for the rest of the
// copy. Any other is a miss: it is copied on demand, or computed by the host where
// that ends earlier. Once all of its experts are resident, the layer computes for
// Compute. With Hold, a step of more than K experts uses one after the other, in
// ascending order, and requests as many ahead as there are streams, like package
// mixtral/offload.
//
// Streams copies are under way at a time and are never interrupted. A copy takes
// Latency and then occupies the channel, which all share, for Load. A demand precedes
// prefetches in the queue.
//
// When the routing of layer l is known, the Prefetch likeliest experts of layer l+h
// with a probability above 0 are put in the queue of prefetches unless they are
// resident; those for earlier layers precede. A prediction from nearer, as with Nearer,
// replaces those about the same layer that are still in the queue. With NextToken,
// predictions for layers 0..h-1 of the next token, none of whose routing is known,
// follow the last layer. A prefetch starts, and evicts, when a stream is free and fewer
// than InFlight are being copied. It leaves the queue when its layer comes. Adaptive
// changes the number of experts by one every 16 tokens, up or down, and turns round
// when the waiting for an expert that was not resident in time has grown.
//
// # Eviction
//
//   - LRU: the least recently used.
//   - LFU: the least often used since the start of the document, ties to the least
//     recently; counts survive eviction.
//   - Decayed LFU: LFU of counts that halve after each half-life.
//   - Static: pinned experts stay; the others have the rest of the places, by LRU.
//   - Predicted reuse: decayed LFU's frequency, mixed with the probability that a
//     predictor gives for the layer's next token, until that comes.
//   - On demand: an expert leaves the cache with the layer that used it.
//   - OPT (Belady 1966): the farthest next use. It needs the future, and bounds all
//     that copy on demand, with Hold all of those that hold.
//
// A prefetch is not a use: an expert that was not requested since ranks by its last
// request, if any, and so is evicted early. What was predicted and is resident is
// protected until its layer has passed. A prefetch that finds nothing else to evict,
// except what the current layer uses, is dropped; a demand then evicts by policy. With
// [Config].Hold, what the current layer has requested is never evicted. Nothing else is
// protected: without a prefetcher and Hold the hits are those of the policy on the
// sequence of choices.
//
// Axis letters: T tokens, L MoE layers, E experts, K experts per token.
package prefetch
