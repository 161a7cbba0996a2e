package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/examples/internal/cli/clitest"
	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A public data set is downloaded when asked, and found in the cache after that.
func TestSets(t *testing.T) {
	type row struct {
		Question string `parquet:"question"`
		Answer   string `parquet:"answer"`
	}
	var b bytes.Buffer
	require.NoError(t, parquet.Write(&b, []row{{"What is two and three?", "5"}, {"What is four times two?", "8"}, {"What is one less one?", "0"}}))
	sum := sha256.Sum256(b.Bytes())
	const commit = "89abcdef0123456789abcdef0123456789abcdef"
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/api/datasets/openai/gsm8k/revision/main":
			fmt.Fprintf(w, `{"sha": %q, "siblings": [{"rfilename": "main/train-00000-of-00001.parquet"}]}`, commit)
		case "/datasets/openai/gsm8k/resolve/" + commit + "/main/train-00000-of-00001.parquet":
			w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:])+`"`)
			w.Header().Set("Content-Length", fmt.Sprint(b.Len()))
			if r.Method == http.MethodGet {
				w.Write(b.Bytes())
			}
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer hub.Close()
	dir := t.TempDir()
	args := func(set, out string, more ...string) []string {
		return append([]string{"-sets", set, "-hub-cache", filepath.Join(dir, "cache"), "-hub-endpoint", hub.URL,
			"-out", filepath.Join(dir, out), "-docs", "2", "-tokens", "6"}, more...)
	}
	status, _, errs := clitest.Run(t, new(options).program(), args("gsm8k", "a")...)
	assert.Equal(t, int(cli.Failed), status)
	assert.Contains(t, errs, "-download")
	status, out, errs := clitest.Run(t, new(options).program(), args("gsm8k", "a", "-download")...)
	assert.Equal(t, int(cli.Done), status, "status %d, %s, %s", status, out, errs)
	assert.Contains(t, out, "2 documents, 12 tokens", "status %d, %s, %s", status, out, errs)
	status, _, errs = clitest.Run(t, new(options).program(), args("imdb", "b", "-download")...)
	assert.Equal(t, int(cli.Failed), status)
	assert.Contains(t, errs, "imdb")
	assert.Contains(t, errs, "404")
	hub.Close()
	status, out, errs = clitest.Run(t, new(options).program(), args("gsm8k", "c")...)
	assert.Equal(t, int(cli.Done), status, "from the cache: status %d, %s, %s", status, out, errs)
	assert.Contains(t, out, "2 documents", "from the cache: status %d, %s, %s", status, out, errs)
}
