// Package collect runs texts through a model with routed experts and writes its
// routing as a trace.
//
// [Run] reads every [Source] once to choose documents, at random by the seed,
// and again for the texts of those that are to be computed. The chosen
// documents, in the order of data set and random number, are divided into shards
// of the same number of documents. Which documents are chosen and which shard
// each is in depends only on the sources and the options, not on the order of the
// input or on earlier runs. So a run that was killed is resumed by computing the
// missing shards, several processes share the work ([Options.Part]) without
// communicating, and in all cases the folder ends up with the same files.
//
// A shard appears under its name when it is complete. An interrupted process
// loses what it computed of at most two shards: while one is computed, the one
// before may still be on its way to the disk. A resumed run verifies the
// checksums of the shards that exist and rewrites damaged ones.
//
// The first run writes _collect.json beside the shards, with everything that
// decides their content and the number of parts. A run that would continue with
// other settings is refused, with an error that names the differences. Every shard
// has the number of all shards in its header, and [Inspect] lists those, and the
// parts, that are missing.
//
// The folder may be on a network file system. Run requires of it that a rename within
// the folder happens whole or not at all and replaces an existing file; it requires no
// locks. Two processes may run the same part at the same time, which costs their time
// but leaves the same trace. Processes read the folder's list of files only when they
// are the first.
//
// In memory are the model, the routing of Options.Concurrency + 1 batches, each
// at most 512 MiB where that is more than one document, one row group of the
// trace, and about 200 bytes for each chosen document. Tokenized texts are stored
// in a temporary file beside the shards.
//
// A document that cannot be read or has no tokens and a shard that cannot be
// written are reported, and the run continues. The file _omitted-00012.json
// names the documents that are missing from shard 12.
package collect
