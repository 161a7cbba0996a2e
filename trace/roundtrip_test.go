package trace_test

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/expertspec/expertspec/trace"
)

func writePlanted(t testing.TB, dir string, docs int, h trace.Header, opts trace.WriterOptions) {
	t.Helper()
	w, err := trace.Create(dir, h, opts)
	if err != nil {
		t.Fatal(err)
	}
	for i := range docs {
		if err := w.Write(plantedDocument(i, plantedLen(i), h)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestPlantedRouting writes planted routing and demands it back at the same
// token, layer and expert.
func TestPlantedRouting(t *testing.T) {
	for name, opts := range map[string]trace.WriterOptions{
		"one group":    {},
		"small groups": {GroupTokens: 50},
		"small shards": {GroupTokens: 20, ShardBytes: 3000},
		"float16":      {Float: trace.Float16, GroupTokens: 100},
		"split":        {Split: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "trace")
			h := plantedHeader()
			const docs = 23
			writePlanted(t, dir, docs, h, opts)
			r, err := trace.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Header(); !reflect.DeepEqual(got, h) {
				t.Errorf("header %+v, want %+v", got, h)
			}
			i := 0
			for d, err := range r.Documents() {
				if err != nil {
					t.Fatal(err)
				}
				if want := plantedDocument(i, plantedLen(i), h); !reflect.DeepEqual(d, want) {
					t.Fatalf("document %d:\n%+v\nwant\n%+v", i, d, want)
				}
				i++
			}
			if i != docs {
				t.Errorf("%d documents, want %d", i, docs)
			}
			shards, _ := filepath.Glob(filepath.Join(dir, "*"))
			if name == "small shards" && len(shards) < 5 || name != "small shards" && len(shards) != 1 {
				t.Errorf("%d shards", len(shards))
			}
		})
	}
}

func TestNoWeights(t *testing.T) {
	dir := t.TempDir()
	h := plantedHeader()
	h.NoWeights, h.LogitLayers, h.InputLayers = true, nil, nil
	writePlanted(t, dir, 3, h, trace.WriterOptions{})
	r, err := trace.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	all, err := r.ReadAll()
	if err != nil || len(all) != 3 || !reflect.DeepEqual(all[2], plantedDocument(2, plantedLen(2), h)) {
		t.Errorf("%v, %v", all, err)
	}
}

func TestFilter(t *testing.T) {
	dir := t.TempDir()
	h := plantedHeader()
	writePlanted(t, dir, 23, h, trace.WriterOptions{GroupTokens: 100})
	r, err := trace.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	all, err := r.Select(trace.Filter{Datasets: []string{"set-1", "set-3"}, NoLogits: true, NoInput: true}).ReadAll()
	if err != nil || len(all) != 8 {
		t.Fatalf("%d documents, %v", len(all), err)
	}
	for i, doc := range []int{4, 5, 6, 7, 12, 13, 14, 15} {
		want := plantedDocument(doc, plantedLen(doc), h)
		want.RouterLogits, want.RouterInput = nil, nil
		if !reflect.DeepEqual(all[i], want) {
			t.Errorf("document %d differs", doc)
		}
	}
	all, err = r.Select(trace.Filter{Documents: []string{"doc-017", "doc-009", "none"}}).ReadAll()
	if err != nil || len(all) != 2 || !reflect.DeepEqual(all[1], plantedDocument(17, plantedLen(17), h)) {
		t.Errorf("%v, %v", all, err)
	}
}

func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	h := plantedHeader()
	for _, name := range []string{".shard-00000.parquet.tmp", "_SUCCESS", "notes.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("junk"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := trace.Open(dir); err == nil {
		t.Error("a directory without shards opens")
	}
	writePlanted(t, dir, 2, h, trace.WriterOptions{})
	if _, err := trace.Create(dir, h, trace.WriterOptions{}); err == nil {
		t.Error("Create writes over a trace")
	}
	writePlanted(t, dir, 2, h, trace.WriterOptions{Append: true})
	r, err := trace.Open(dir)
	if err != nil || len(r.Paths()) != 2 {
		t.Fatalf("%v, %v", r, err)
	}
	other := h
	other.Source.Seed++
	if _, err := trace.Create(dir, other, trace.WriterOptions{Append: true}); err == nil {
		t.Error("appending with another seed is not refused")
	}
	w, err := trace.Create(dir, h, trace.WriterOptions{Prefix: "more"})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(plantedDocument(0, 4, h)); err != nil {
		t.Fatal(err)
	}
	if err := w.Write(plantedDocument(0, 5, h)); err == nil {
		t.Error("a document is written twice")
	}
	w.Abort()
	if names, _ := filepath.Glob(filepath.Join(dir, "*more*")); len(names) > 0 {
		t.Errorf("Abort leaves %v", names)
	}
}

func TestEmptyTrace(t *testing.T) {
	dir := t.TempDir()
	h := plantedHeader()
	writePlanted(t, dir, 0, h, trace.WriterOptions{})
	r, err := trace.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	all, err := r.ReadAll()
	if len(all) != 0 || err != nil || !reflect.DeepEqual(r.Header(), h) {
		t.Errorf("%v, %v", all, err)
	}
}
