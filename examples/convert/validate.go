package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/trace"
)

// validate reports every problem of a trace, and what it lacks.
func validate(ctx context.Context, dir string, s cli.Streams) error {
	state, err := inspect(dir)
	if err != nil {
		return err
	}
	var r *trace.ValidationReport
	done := make(chan struct{})
	go func() {
		r, err = trace.Validate(dir, trace.ValidateOptions{})
		close(done)
	}()
	select {
	case <-ctx.Done(): // the process ends
		return ctx.Err()
	case <-done:
	}
	if err != nil {
		return err
	}
	for _, p := range r.Problems {
		fmt.Fprintf(s.Err, "convert: %v\n", p)
	}
	if r.Count > 0 {
		return fmt.Errorf("%s: %d problems", dir, r.Count)
	}
	missing, omitted := r.Missing, 0
	if state != nil {
		missing, omitted = state.MissingShards, len(state.Omitted)
	}
	if state != nil && len(missing) == 0 && int64(r.Documents+omitted) != state.Documents {
		return fmt.Errorf("%s: %d documents in the shards and %d named as omitted are not the %d that were chosen: remove the shards that lack some, and collect again",
			dir, r.Documents, omitted, state.Documents)
	}
	if _, err := fmt.Fprintf(s.Out, "%s is valid: %d documents, %d tokens in %d shards\n", dir, r.Documents, r.Tokens, r.Shards); err != nil {
		return err
	}
	return lacks(dir, state, missing, r.Header.Source.Shards, s.Err)
}

// missing prints the numbers of parts of which shards are missing.
func missing(dir string, s cli.Streams) error {
	state, err := collect.Inspect(dir)
	if err != nil {
		return err
	}
	if len(state.MissingParts) > 0 {
		if _, err := fmt.Fprintln(s.Out, ranges(state.MissingParts)); err != nil {
			return err
		}
	}
	return lacks(dir, state, state.MissingShards, state.Shards, s.Err)
}

// inspect returns the state of a folder that collect has written, or nil, as for a
// single shard.
func inspect(dir string) (*collect.State, error) {
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return nil, nil
	}
	state, err := collect.Inspect(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return state, err
}

// lacks names what a trace lacks. state may be nil.
func lacks(dir string, state *collect.State, missing []int, shards int, errs io.Writer) error {
	documents := 0
	if state != nil {
		documents = len(state.Omitted)
		for _, p := range state.Omitted {
			fmt.Fprintf(errs, "convert: omitted: %v\n", p)
		}
	}
	if len(missing) > 0 {
		fmt.Fprintf(errs, "convert: missing: shards %s of 0-%d\n", ranges(missing), shards-1)
		if state != nil {
			fmt.Fprintf(errs, "convert: missing: shards of parts %s of 0-%d, to be run again\n", ranges(state.MissingParts), state.Parts-1)
		}
	}
	switch {
	case len(missing) > 0 && documents > 0:
		return &cli.Incomplete{Omitted: len(missing), What: fmt.Sprintf("shards and %d documents of %s", documents, dir)}
	case len(missing) > 0:
		return &cli.Incomplete{Omitted: len(missing), What: "shards of " + dir}
	case documents > 0:
		return &cli.Incomplete{Omitted: documents, What: "documents of " + dir}
	}
	return nil
}

// ranges writes ascending numbers as Slurm does: 3,17-19.
func ranges(list []int) string {
	var b strings.Builder
	for i := 0; i < len(list); {
		j := i
		for j+1 < len(list) && list[j+1] == list[j]+1 {
			j++
		}
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprint(&b, list[i])
		if j > i {
			fmt.Fprintf(&b, "-%d", list[j])
		}
		i = j + 1
	}
	return b.String()
}
