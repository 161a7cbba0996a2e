// Package pq reads and writes the subset of Parquet that a trace uses: flat
// required columns and one-level lists of fixed-size numbers.
//
// The file's structures (footer, page headers) are those of
// parquet-go/format; page bodies are coded here, for two reasons. A trace's
// lists all have the same length, so that levels, dictionaries and pages can be
// written and checked in bulk, without a boxed value for each number. And a
// corrupt or hostile file must not be able to ask for more memory than it has
// bytes to justify: every size that a file states is checked before memory is
// allocated for it.
package pq

import "errors"

// ErrCorrupt is wrapped by errors about bytes that are not well-formed Parquet.
var ErrCorrupt = errors.New("corrupt Parquet")

// ErrUnsupported is wrapped by errors about well-formed Parquet that this
// package does not read.
var ErrUnsupported = errors.New("unsupported Parquet")
