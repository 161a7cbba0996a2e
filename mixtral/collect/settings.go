package collect

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/expertspec/expertspec/trace"
)

// manifestName is the file beside the shards with the settings that they were made
// with. Its name begins with an underscore so that pandas, Spark and others that
// read the folder as a data set ignore it.
const manifestName = "_collect.json"

// manifest is the content of that file.
type manifest struct {
	Version int `json:"version"`
	// Parts is the number of processes that share the work. It decides no content.
	Parts int `json:"parts"`
	// Documents is how many were chosen.
	Documents int64 `json:"documents"`
	// Settings are everything that decides the content of the shards, by the name
	// of the flag where there is one.
	Settings map[string]string `json:"settings"`
}

// settings lists the settings in a header.
func settings(h *trace.Header) map[string]string {
	m := map[string]string{
		"shards": fmt.Sprint(h.Source.Shards),
		"model":  h.Model.Name, "program": h.Source.Program, "checkpoint": h.Source.Checkpoint,
		"dtype": h.Source.DType, "seed": fmt.Sprint(h.Source.Seed),
		"layers": fmt.Sprint(h.Model.Layers), "experts": fmt.Sprint(h.Model.Experts), "top-k": fmt.Sprint(h.Model.TopK),
		"hidden": fmt.Sprint(h.Model.Hidden), "vocabulary": fmt.Sprint(h.Model.Vocabulary),
		"logits": layerList(h.LogitLayers, h.Model.Layers), "router-input": layerList(h.InputLayers, h.Model.Layers),
	}
	if h.Dropped {
		m["dropped"] = "true"
	}
	for k, v := range h.Source.Extra {
		m[k] = v
	}
	return m
}

func layerList(layers []int, all int) string {
	switch len(layers) {
	case 0:
		return "none"
	case all:
		return "all layers"
	}
	return "layers " + strings.Trim(fmt.Sprint(layers), "[]")
}

// differences names the settings that were changed between two runs.
func differences(was, now map[string]string) string {
	names := make(map[string]bool)
	for k := range was {
		names[k] = true
	}
	for k := range now {
		names[k] = true
	}
	var list []string
	for k := range names {
		if was[k] != now[k] {
			list = append(list, fmt.Sprintf("%s was %s and is now %s", k, quoted(was, k), quoted(now, k)))
		}
	}
	slices.Sort(list)
	// A changed choice follows from the other changes, if there are any.
	others := slices.DeleteFunc(slices.Clone(list), func(s string) bool {
		return strings.HasPrefix(s, "choice was ") || strings.HasPrefix(s, "shards was ")
	})
	if len(list) > 0 && len(others) == 0 {
		return "the sources have other documents or texts than before"
	}
	return strings.Join(others, "; ")
}

func quoted(m map[string]string, k string) string {
	v, ok := m[k]
	if !ok {
		return "not set"
	}
	return fmt.Sprintf("%q", v)
}

// agree checks that the folder was created with the same settings, or creates its
// manifest.
func (r *run) agree() error {
	path := filepath.Join(r.dir, manifestName)
	now := settings(&r.header)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := r.noShards(path); err != nil {
			return err
		}
		if err := r.begin(path, manifest{1, r.o.Parts, r.report.Chosen, now}); err != nil {
			return err
		}
		// Another part may have been first.
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return err
	}
	m, err := parseManifest(path, text)
	if err != nil {
		return err
	}
	if diff := differences(m.Settings, now); diff != "" {
		return fmt.Errorf("%s: the trace was made with other settings, so it cannot be continued: %s", path, diff)
	}
	// With another number, a part would write the shards of several others.
	if r.o.Parts > 1 && r.o.Parts != m.Parts {
		return fmt.Errorf("%s: the trace is divided between %d processes, so part %d of %d cannot continue it; "+
			"a process of all parts can, or change the number in the file while none runs", path, m.Parts, r.o.Part, r.o.Parts)
	}
	return nil
}

func parseManifest(path string, text []byte) (m manifest, err error) {
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("%s: %w", path, err)
	}
	switch {
	case m.Version != 1:
		return m, fmt.Errorf("%s: unknown version %d; must be 1", path, m.Version)
	case m.Parts < 1 || m.Parts > maxParts:
		return m, fmt.Errorf("%s: the trace is divided between %d processes; must be 1 to %d", path, m.Parts, maxParts)
	}
	return m, nil
}

// noShards checks that a folder without a manifest has no shards of another
// program.
func (r *run) noShards(path string) error {
	list, err := os.ReadDir(r.dir)
	for _, e := range list {
		if name := e.Name(); strings.HasSuffix(name, ".parquet") && name[0] != '.' && name[0] != '_' {
			if fileExists(path) {
				return nil // another part has begun meanwhile
			}
			return fmt.Errorf("%s has Parquet files, but no %s: they are of another program", r.dir, manifestName)
		}
	}
	return err
}

// begin writes the manifest, whole or not at all. Of several parts that start at
// the same time the first wins.
func (r *run) begin(path string, m manifest) error {
	temp := filepath.Join(r.temp, manifestName)
	if err := writeSynced(temp, m); err != nil {
		return err
	}
	// A link fails if the name exists, whereas a rename would replace the file. On
	// file systems without links it is renamed, and of parts that begin at the same
	// moment the last wins; shards of other settings are refused later, by their headers.
	err := os.Link(temp, path)
	switch {
	case err == nil || errors.Is(err, fs.ErrExist):
		return os.Remove(temp)
	case fileExists(path):
		return os.Remove(temp)
	}
	return os.Rename(temp, path)
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
