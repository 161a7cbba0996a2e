// Package collect runs texts through a Mixtral and records its routing: data
// sets in, a trace out.
//
// [Run] reads every [Source] once to choose documents, at random by the seed,
// and once more for the texts of those it has to compute. The chosen documents,
// in the order of data set and random number, make shards of a fixed number of
// documents. Which documents are chosen, and which shard each is in, depends on
// the sources and the options alone: not on the order of the input, on time, or
// on what was done before. So a run that was killed goes on with the shards that
// are missing; several processes, told [Options.Part] of [Options.Parts], each
// make their share of the same shards without talking; and in all cases the
// folder ends up with the same files.
//
// A shard appears under its name when it is whole. What is not in one is
// computed again: at most twice Shard documents for each process that is killed,
// for while a shard is computed the one before may still be on its way to the disk.
// The first run leaves _collect.json beside the shards, with everything that
// decides their content; a run that would continue with anything else is
// refused and told the difference.
//
// Memory holds the model; the routing of the batches that are computed and
// of one that is written, each at most 512 MiB where that is more than a
// document's; one row group of the trace; and for each chosen document about
// 200 bytes. Texts are tokenized into a file beside the shards,
// which is gone at the end.
//
// A document that cannot be read, one that has no tokens or a shard that has no
// room on the disk is reported by name, and the rest goes on; beside a shard,
// _left-out-00012.json names the documents that it lacks for good.
package collect
