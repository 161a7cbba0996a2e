package collect

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/expertspec/expertspec/trace"
)

// Names of a shard and of the file of the documents that it lacks.
const (
	shardFormat   = "shard-%05d.parquet"
	omittedFormat = "_omitted-%05d.json"
)

// State is how complete a folder is that [Run] has written.
type State struct {
	// Parts, Shards and Documents are the numbers of the complete trace. Documents
	// includes those that were omitted.
	Parts, Shards int
	Documents     int64
	// MissingShards are the numbers of the shards that do not exist, MissingParts those
	// of the parts that have to write them; both ascending.
	MissingShards, MissingParts []int
	// Omitted are the documents that existing shards lack because of an error.
	Omitted []Problem
}

// Inspect reads how complete the trace in dir is. It lists the folder once and opens
// no shards. Where Run has not begun, the error is an fs.ErrNotExist.
func Inspect(dir string) (*State, error) {
	path := filepath.Join(dir, manifestName)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(path, text)
	if err != nil {
		return nil, err
	}
	s := &State{Parts: m.Parts, Documents: m.Documents}
	if s.Shards, err = strconv.Atoi(m.Settings["shards"]); err != nil || s.Shards < 1 || s.Shards > trace.MaxShards {
		return nil, fmt.Errorf("%s: the number of shards is %s; must be 1 to %d", path, quoted(m.Settings, "shards"), trace.MaxShards)
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make(map[string]bool, len(list))
	for _, e := range list {
		names[e.Name()] = true
	}
	for n := range s.Shards {
		if !names[fmt.Sprintf(shardFormat, n)] {
			s.MissingShards = append(s.MissingShards, n)
			s.MissingParts = append(s.MissingParts, n%s.Parts)
			continue
		}
		if name := fmt.Sprintf(omittedFormat, n); names[name] {
			omitted, err := readOmitted(filepath.Join(dir, name))
			if err != nil {
				return nil, err
			}
			s.Omitted = append(s.Omitted, omitted...)
		}
	}
	slices.Sort(s.MissingParts)
	s.MissingParts = slices.Compact(s.MissingParts)
	return s, nil
}
