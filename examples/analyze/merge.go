package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/trace"
)

// sums is what -sums writes.
type sums struct {
	Part       int               `json:"part"` // of every n-th shard
	Parts      int               `json:"parts"`
	Selected   string            `json:"selected"` // of -datasets, -phase and -part
	Statistics *trace.Statistics `json:"statistics"`
}

// parseShards reads "i/n"; "" is 0/1. n is 0 where it is invalid.
func parseShards(s string) (i, n int) {
	if s == "" {
		return 0, 1
	}
	i, n, ok := cli.Part(s)
	if !ok {
		return 0, 0
	}
	return i % n, n
}

func validShards(s string) bool {
	_, n := parseShards(s)
	return n > 0
}

func (s *side) writeSums(file string) error {
	i, n := parseShards(s.shards)
	return cli.WriteFile(file, func(w io.Writer) error { return json.NewEncoder(w).Encode(sums{i, n, s.selected, s.sums}) })
}

// merged reads the sums of all parts.
func merged(patterns, name string) (*side, error) {
	s := &side{name: name}
	seen := map[int]string{}
	parts := 0
	for _, pattern := range cli.List(patterns) {
		files, err := filepath.Glob(pattern)
		if err == nil && files == nil {
			err = os.ErrNotExist
		}
		if err != nil {
			return nil, fmt.Errorf("-merge %s: %w", pattern, err)
		}
		for _, file := range files {
			x, err := readSums(file)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			if parts == 0 {
				parts, s.selected = x.Parts, x.Selected
			}
			switch other := seen[x.Part]; {
			case x.Selected != s.selected:
				return nil, fmt.Errorf("%s: of %q, elsewhere of %q", file, x.Selected, s.selected)
			case x.Parts != parts:
				return nil, fmt.Errorf("%s: a part of %d, elsewhere of %d", file, x.Parts, parts)
			case other != "":
				return nil, fmt.Errorf("%s: part %d/%d is also in %s", file, x.Part, parts, other)
			}
			seen[x.Part] = file
			if s.sums == nil {
				s.sums = x.Statistics
			} else if err := s.sums.Merge(x.Statistics); err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	if len(seen) < parts {
		var missing []string
		for i := range parts {
			if seen[i] == "" && len(missing) < 10 {
				missing = append(missing, fmt.Sprintf("%d/%d", i, parts))
			}
		}
		return nil, fmt.Errorf("-merge %s: %d of %d parts are missing: %s", patterns, parts-len(seen), parts, strings.Join(missing, ", "))
	}
	if s.stats = s.sums.Summary(); s.stats.Tokens == 0 {
		return nil, fmt.Errorf("-merge %s: no tokens", patterns)
	}
	if s.name == "" {
		s.name = s.stats.Model.Name
	}
	s.header = trace.Header{Model: s.stats.Model, Source: s.stats.Source}
	return s, nil
}

func readSums(file string) (*sums, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	x := new(sums)
	if err := json.Unmarshal(raw, x); err != nil {
		return nil, err
	}
	if x.Statistics == nil || x.Parts < 1 || x.Part < 0 || x.Part >= x.Parts {
		return nil, fmt.Errorf("part %d of %d, or no statistics: not a file that -sums wrote", x.Part, x.Parts)
	}
	return x, nil
}
