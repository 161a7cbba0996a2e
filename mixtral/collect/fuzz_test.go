package collect

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Fuzzing checks that no file makes a source panic or yield without end, that
// names are valid UTF-8, and that each document has a place.

func drain(t *testing.T, size int, read func(yield func(Document, error) bool)) {
	n := 0
	read(func(d Document, err error) bool {
		if n++; n > size+2 {
			t.Fatalf("%d documents of %d bytes", n, size)
		}
		assert.False(t, err == nil && d.Place == "", "no place: %+v", d)
		assert.Equal(t, d.ID+d.Dataset, strings.ToValidUTF8(d.ID+d.Dataset, ""))
		return true
	})
}

func FuzzJSONLines(f *testing.F) {
	f.Add([]byte("{\"text\": \"a\", \"id\": 1}\n\n{\"text\": null}\n[]\n{\"text\": \"\\ud800\"}"))
	f.Add([]byte("\xff\n{\"text\":{}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		drain(t, len(data), func(yield func(Document, error) bool) {
			new(FileOptions).jsonLines(bytes.NewReader(data), "p", "n", yield)
		})
	})
}

func FuzzTable(f *testing.F) {
	f.Add([]byte("text,id,domain\n\"a\nb\",1,x\nc,2\n\"d"))
	f.Add([]byte("text\n\"\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		drain(t, len(data), func(yield func(Document, error) bool) {
			new(FileOptions).table(bytes.NewReader(data), "p", "n", ',', yield)
		})
	})
}

func FuzzParquet(f *testing.F) {
	type row struct {
		Text string  `parquet:"text,dict"`
		ID   *string `parquet:"id,optional,snappy"`
	}
	var b bytes.Buffer
	id := "i"
	require.NoError(f, parquet.Write(&b, []row{{"a", &id}, {"b", nil}, {"a", &id}}))
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "x.parquet")
		require.NoError(t, os.WriteFile(path, data, 0o666))
		for _, err := range (FileOptions{Format: "parquet"}).source(path, "x", "x").Documents(context.Background()) {
			assert.False(t, err != nil && !strings.Contains(err.Error(), "x.parquet"), "error without a file: %v", err)
		}
	})
}
