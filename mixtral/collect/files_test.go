package collect_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// from returns the sources of files.
func from(t *testing.T, o collect.FileOptions, paths ...string) []collect.Source {
	t.Helper()
	return must(collect.Files(t.Context(), paths, o))
}

// all returns what sources yield: a line "dataset|id or place|text" for each
// document, and one with the error for each that cannot be read.
func all(t *testing.T, sources ...collect.Source) []string {
	t.Helper()
	var out []string
	for _, s := range sources {
		for d, err := range s.Documents(t.Context()) {
			if err != nil {
				out = append(out, "error: "+err.Error())
				continue
			}
			if d.Dataset == "" {
				d.Dataset = s.Name
			}
			if d.ID == "" {
				d.ID = "at " + d.Place
			}
			out = append(out, d.Dataset+"|"+d.ID+"|"+d.Text)
		}
	}
	return out
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
	return path
}

func gzipped(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(s))
	w.Close()
	return b.String()
}

func zstded(s string) string {
	return string(must(zstd.NewWriter(nil)).EncodeAll([]byte(s), nil))
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	require.Len(t, got, len(want), "%q", got)
	for i := range want {
		if message, ok := strings.CutPrefix(want[i], "error: "); ok {
			assert.True(t, strings.HasPrefix(got[i], "error: "), got[i])
			assert.Contains(t, got[i], message)
		} else {
			assert.Equal(t, want[i], got[i])
		}
	}
}

func TestJSONL(t *testing.T) {
	dir := t.TempDir()
	text := `{"id": "a", "text": "one", "domain": "x"}

{"text": "two"}
{"id": 7, "text": "three", "dataset": "y", "domain": "x"}
{"id": null, "text": "four"}
not JSON
{"id": "b"}
{"id": ["c"], "text": "five"}
[1]
{"text": 5.5}` + "\n{\"text\": \"\xff\"}\n" + `{"text": "last"}`
	want := []string{
		"x|a|one", "NAME|at FILE:3|two", "y|7|three", "NAME|at FILE:5|four",
		"error: FILE:6: invalid character", `error: FILE:7: no field "text"`, `error: FILE:8: field "id" is not a string`,
		"error: FILE:9: json", "NAME|at FILE:10|5.5", "error: FILE:11: not valid UTF-8", "NAME|at FILE:12|last",
	}
	for name, content := range map[string]string{
		"some.jsonl": text, "some.ndjson.gz": gzipped(text), "some.json.zst": zstded(text),
	} {
		path := write(t, dir, name, content)
		var w []string
		for _, s := range want {
			w = append(w, strings.NewReplacer("FILE", name, "NAME", "some").Replace(s))
		}
		expect(t, all(t, from(t, collect.FileOptions{}, path)...), w...)
	}
	path := write(t, dir, "fields.jsonl", `{"q": "Why?", "a": "So.", "key": "k1", "set": "s", "id": "no", "domain": "no"}`)
	o := collect.FileOptions{Text: "q,a", ID: "key", Dataset: "set"}
	expect(t, all(t, from(t, o, path)...), "s|k1|Why?\n\nSo.")
	o.Dataset = "other"
	expect(t, all(t, from(t, o, path)...), `error: no field "other"`)
	cut := write(t, dir, "cut.jsonl.gz", gzipped(text)[:60])
	got := all(t, from(t, collect.FileOptions{}, cut)...)
	require.NotEmpty(t, got)
	assert.Contains(t, got[len(got)-1], "unexpected EOF")
	expect(t, all(t, from(t, collect.FileOptions{}, write(t, dir, "no.jsonl.zst", "not zstd"))...), "error: no.jsonl.zst")
}

// A line without end does not exhaust the memory.
func TestLongLine(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"text": "`)
	b.WriteString(strings.Repeat("x", 70<<20))
	b.WriteString("\"}\n{\"text\": \"next\"}\n")
	path := write(t, t.TempDir(), "long.jsonl", b.String())
	expect(t, all(t, from(t, collect.FileOptions{}, path)...), "error: long.jsonl:1: line is longer than 64 MiB", "long|at long.jsonl:2|next")
}

func TestTables(t *testing.T) {
	dir := t.TempDir()
	path := write(t, dir, "t.csv", "\ufeffid,text,n\r\na,\"one,\nmore\",1\r\nb,two\r\nc,three,3\r\n,four,4\r\n")
	expect(t, all(t, from(t, collect.FileOptions{}, path)...),
		"t|a|one,\nmore", "error: t.csv: record on line 4: wrong number of fields", "t|c|three", "t|at t.csv:6|four")
	path = write(t, dir, "t.tsv.gz", gzipped("body\tdomain\nfive\td\n"))
	expect(t, all(t, from(t, collect.FileOptions{Text: "body"}, path)...), "d|at t.tsv.gz:2|five")
	expect(t, all(t, from(t, collect.FileOptions{}, path)...), `error: t.tsv.gz: no field "text"`)
	expect(t, all(t, from(t, collect.FileOptions{}, write(t, dir, "e.csv", ""))...), "error: e.csv: no header line")
	expect(t, all(t, from(t, collect.FileOptions{}, write(t, dir, "d.csv", "text,text\n1,2\n"))...), "error: d.csv: two fields")
}

type parquetRow struct {
	ID    int64    `parquet:"id"`
	Text  *string  `parquet:"text,optional,dict"`
	Other string   `parquet:"other"`
	List  []string `parquet:"list,list"`
	Deep  struct {
		Text string `parquet:"text"`
	} `parquet:"deep"`
}

func TestParquet(t *testing.T) {
	dir := t.TempDir()
	text := func(s string) *string { return &s }
	var b bytes.Buffer
	w := parquet.NewGenericWriter[parquetRow](&b, parquet.MaxRowsPerRowGroup(70), parquet.PageBufferSize(100))
	for i := range 200 {
		row := parquetRow{ID: int64(i), Text: text(fmt.Sprintf("text %d", i)), Other: "o"}
		row.Deep.Text = fmt.Sprintf("deep %d", i)
		if i == 71 {
			row.Text = nil
		}
		must(w.Write([]parquetRow{row}))
	}
	require.NoError(t, w.Close())
	path := write(t, dir, "rows.parquet", b.String())
	got := all(t, from(t, collect.FileOptions{}, path)...)
	var want []string
	for i := range 200 {
		want = append(want, fmt.Sprintf("rows|%d|text %d", i, i))
	}
	want[71] = `error: rows.parquet: row 71: no field "text"`
	expect(t, got, want...)
	got = all(t, from(t, collect.FileOptions{Text: "deep.text"}, path)...)
	expect(t, got[199:], "rows|199|deep 199")
	for field, want := range map[string]string{"list": `no field "list"`, "absent": `no field "absent"`} {
		expect(t, all(t, from(t, collect.FileOptions{Text: field}, path)...), "error: "+want)
	}
	// No damaged file causes a panic.
	data := b.Bytes()
	for i := 0; i < len(data); i += 41 {
		damaged := bytes.Clone(data)
		damaged[i] ^= 0x55
		all(t, from(t, collect.FileOptions{}, write(t, dir, "damaged.parquet", string(damaged)))...)
	}
	for _, n := range []int{0, 3, 11, len(data) / 2, len(data) - 1} {
		got := all(t, from(t, collect.FileOptions{}, write(t, dir, "cut.parquet", string(data[:n])))...)
		require.NotEmpty(t, got)
		assert.Contains(t, got[len(got)-1], "cut.parquet")
	}
}

func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "corpus")
	write(t, dir, "top.txt", "top")
	write(t, dir, "poems/b.txt.zst", zstded("b"))
	write(t, dir, "poems/deep/a.md", "a")
	write(t, dir, "table.csv", "text\nrow\n")
	write(t, dir, "reviews/part-1.jsonl", `{"text": "r", "id": "1"}`)
	write(t, dir, ".hidden/x.txt", "x")
	write(t, dir, ".x.txt", "x")
	write(t, dir, "notes.pdf", "x")
	expect(t, all(t, from(t, collect.FileOptions{}, dir)...),
		"poems|poems/b.txt.zst|b", "poems|poems/deep/a.md|a", "reviews|1|r", "table|at table.csv:2|row", "corpus|top.txt|top")
	expect(t, all(t, from(t, collect.FileOptions{Format: "text", Name: "n"}, dir)...),
		"n|poems/b.txt.zst|b", "n|poems/deep/a.md|a", "n|top.txt|top")
	a, b := write(t, dir, "1/same.jsonl", `{"text": "a"}`), write(t, dir, "2/same.jsonl", `{"text": "b"}`)
	got := all(t, from(t, collect.FileOptions{}, a, b)...)
	require.Len(t, got, 2)
	assert.NotEqual(t, got[1], got[0])
	assert.Contains(t, got[0], "1/same.jsonl:1")
	for want, paths := range map[string][]string{"no such file": {filepath.Join(dir, "none")}, "unknown extension": {filepath.Join(dir, "notes.pdf")}, "no files of texts": {t.TempDir()}} {
		_, err := collect.Files(t.Context(), paths, collect.FileOptions{})
		assert.ErrorContains(t, err, want)
	}
	_, err := collect.Files(t.Context(), nil, collect.FileOptions{Format: "xml"})
	assert.Error(t, err, "format xml")
}

// Lines without ids are chosen by their texts, not by their order.
func TestChoiceByText(t *testing.T) {
	dir := t.TempDir()
	var lines []string
	for i := range 40 {
		lines = append(lines, fmt.Sprintf(`{"text": "This is line number %d."}`, i/2)) // each twice
	}
	texts := func(lines []string) []string {
		path := write(t, dir, "x.jsonl", strings.Join(lines, "\n"))
		out := t.TempDir()
		rep, err := tryRun(t.Context(), miniModel(), out, collect.Options{DocumentsPerDataset: 10, MaxTokens: 16}, from(t, collect.FileOptions{}, path)...)
		require.NoError(t, err)
		require.Equal(t, int64(10), rep.Documents)
		var got []string
		for _, d := range documentsOf(t, out) {
			got = append(got, must(must(loadTokenizer()).Decode(d.Tokens, true)))
		}
		slices.Sort(got)
		return got
	}
	first := texts(lines)
	slices.Reverse(lines)
	assert.Equal(t, texts(lines), first)
}
