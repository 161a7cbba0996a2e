package hub_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/mixtral/collect/hub"
	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// fakeHub serves one data set, gsm8k, in two files that are on another host.
type fakeHub struct {
	t        *testing.T
	hub, cdn *httptest.Server
	files    map[string][]byte
	mu       sync.Mutex
	requests []string
	// Faults.
	renamed   bool           // the repository is redirected
	wrongSize int64          // is added to the size in the header
	spoil     bool           // the content is not that of the ETag
	breakAt   map[string]int // the connection of a file breaks, once, after so many bytes
	stallAt   map[string]int // nothing more is sent, stalls times
	stalls    int
	noRange   bool
	status    int // of the listing
}

type gsmRow struct {
	Question string  `parquet:"question"`
	Answer   *string `parquet:"answer,optional"`
}

func parquetBytes[T any](rows []T) []byte {
	var b bytes.Buffer
	w := parquet.NewGenericWriter[T](&b)
	must(w.Write(rows))
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func newFakeHub(t *testing.T) *fakeHub {
	h := &fakeHub{t: t, files: make(map[string][]byte), breakAt: map[string]int{}, stallAt: map[string]int{}, stalls: 1}
	for part, n := range []int{30, 17} {
		var rows []gsmRow
		for i := range n {
			rows = append(rows, gsmRow{Question: fmt.Sprintf("Question %d of file %d: what is %d times %d? %s", i, part, i, i*i, strings.Repeat("x", 200))})
		}
		h.files[fmt.Sprintf("main/train-%05d-of-00002.parquet", part)] = parquetBytes(rows)
	}
	h.files["main/test-00000-of-00001.parquet"] = []byte("PAR1, but of another split")
	h.files["README.md"] = []byte("# gsm8k")
	h.hub = httptest.NewServer(http.HandlerFunc(h.serve))
	h.cdn = httptest.NewServer(http.HandlerFunc(h.content))
	t.Cleanup(func() { h.cdn.CloseClientConnections(); h.hub.Close(); h.cdn.Close() })
	return h
}

const fakeCommit = "0123456789abcdef0123456789abcdef01234567"

func (h *fakeHub) log(r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests = append(h.requests, r.Method+" "+r.URL.Path+" "+r.Header.Get("Range"))
}

func (h *fakeHub) serve(w http.ResponseWriter, r *http.Request) {
	h.log(r)
	assert.Equal(h.t, "Bearer secret", r.Header.Get("Authorization"), r.URL)
	if h.renamed && strings.Contains(r.URL.Path, "openai/gsm8k") {
		http.Redirect(w, r, strings.Replace(r.URL.RequestURI(), "openai/gsm8k", "newowner/gsm8k", 1), http.StatusTemporaryRedirect)
		return
	}
	path := strings.Replace(r.URL.Path, "newowner", "openai", 1)
	if path == "/api/datasets/openai/gsm8k/revision/main" {
		if h.status != 0 {
			w.WriteHeader(h.status)
			return
		}
		var list []string
		for name := range h.files {
			list = append(list, fmt.Sprintf(`{"rfilename": %q}`, name))
		}
		slices.Sort(list)
		fmt.Fprintf(w, `{"id": "openai/gsm8k", "sha": %q, "cardData": {"license": ["mit"]}, "siblings": [%s]}`, fakeCommit, strings.Join(list, ","))
		return
	}
	name, ok := strings.CutPrefix(path, "/datasets/openai/gsm8k/resolve/"+fakeCommit+"/")
	data := h.files[name]
	if !ok || data == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	sum := sha256.Sum256(data)
	w.Header().Set("X-Repo-Commit", fakeCommit)
	w.Header().Set("X-Linked-Etag", `"`+hex.EncodeToString(sum[:])+`"`)
	w.Header().Set("X-Linked-Size", strconv.FormatInt(int64(len(data))+h.wrongSize, 10))
	http.Redirect(w, r, h.cdn.URL+"/"+name+"?signature=a%2Fb", http.StatusFound)
}

func (h *fakeHub) content(w http.ResponseWriter, r *http.Request) {
	h.log(r)
	assert.Empty(h.t, r.Header.Get("Authorization"), "the token is sent to the other host")
	assert.Equal(h.t, "signature=a%2Fb", r.URL.RawQuery)
	name := r.URL.Path[1:]
	data := bytes.Clone(h.files[name])
	if h.spoil {
		data[len(data)/2]++
	}
	h.mu.Lock()
	at, breaks := h.breakAt[name]
	delete(h.breakAt, name)
	stall, stalls := h.stallAt[name]
	if stalls = stalls && h.stalls > 0; stalls {
		h.stalls--
	}
	h.mu.Unlock()
	if h.noRange {
		r.Header.Del("Range")
	}
	switch {
	case breaks:
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		w.Write(data[:at])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	case stalls:
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		w.Write(data[:stall])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	default:
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}

func (h *fakeHub) client(t *testing.T) *hub.Client {
	return &hub.Client{Cache: t.TempDir(), Download: true, Endpoint: h.hub.URL + "/", Token: "secret", Stall: 300 * time.Millisecond}
}

// read returns the documents of a data set.
func read(c *hub.Client, name string) ([]collect.Document, error) {
	s, err := c.Source(context.Background(), name)
	if err != nil {
		return nil, err
	}
	var docs []collect.Document
	for d, err := range s.Documents(context.Background()) {
		if err != nil {
			return docs, err
		}
		docs = append(docs, d)
	}
	return docs, nil
}

const fileA, fileB = "main/train-00000-of-00002.parquet", "main/train-00001-of-00002.parquet"

func TestDownload(t *testing.T) {
	for name, set := range map[string]func(*fakeHub){
		"plain":     func(*fakeHub) {},
		"renamed":   func(h *fakeHub) { h.renamed = true },
		"broken":    func(h *fakeHub) { h.breakAt[fileA] = 100; h.breakAt[fileB] = 1 },
		"stalled":   func(h *fakeHub) { h.stallAt[fileB] = 50 },
		"no ranges": func(h *fakeHub) { h.breakAt[fileB] = 60; h.noRange = true },
	} {
		t.Run(name, func(t *testing.T) {
			h := newFakeHub(t)
			set(h)
			c := h.client(t)
			docs, err := read(c, "gsm8k")
			require.NoError(t, err)
			require.Len(t, docs, 47)
			assert.Equal(t, "train-00001-of-00002/1", docs[31].ID)
			assert.Contains(t, docs[31].Text, "Question 1 of file 1:")
			assert.Equal(t, "gsm8k", docs[31].Dataset)
			if name == "broken" {
				assert.Contains(t, h.requests, "GET /"+fileA+" bytes=100-", "the transfer is resumed")
			}
			// The cache is as huggingface_hub makes it, and from now on sufficient.
			dir := filepath.Join(c.Cache, "datasets--openai--gsm8k")
			assert.Equal(t, fakeCommit, string(must(os.ReadFile(filepath.Join(dir, "refs", "main")))))
			assert.Equal(t, h.files[fileA], must(os.ReadFile(filepath.Join(dir, "snapshots", fakeCommit, fileA))))
			h.hub.Close()
			c.Download = false
			docs, err = read(c, "gsm8k")
			require.NoError(t, err)
			assert.Len(t, docs, 47)
		})
	}
}

func TestDownloadErrors(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*fakeHub)
		want string
	}{
		"wrong size":      {func(h *fakeHub) { h.wrongSize = 7 }, "the hub says"},
		"too long":        {func(h *fakeHub) { h.wrongSize = -7 }, "the hub says"},
		"wrong content":   {func(h *fakeHub) { h.spoil = true }, "SHA-256"},
		"absent":          {func(h *fakeHub) { h.status = 404 }, "404"},
		"server error":    {func(h *fakeHub) { h.status = 500 }, "500 Internal Server Error (after 4 attempts)"},
		"always stalls":   {func(h *fakeHub) { h.stallAt[fileB] = 0; h.stalls = 99 }, "nothing received for 300ms"},
		"file is missing": {func(h *fakeHub) { delete(h.files, fileA) }, "1 of 2 files"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newFakeHub(t)
			c.set(h)
			client := h.client(t)
			_, err := read(client, "gsm8k")
			require.ErrorContains(t, err, c.want)
			require.Contains(t, err.Error(), "gsm8k")
			client.Download = false
			_, err = read(client, "gsm8k")
			assert.Error(t, err, "nothing is in the cache")
		})
	}
}

// Without Download nothing is requested.
func TestNoDownload(t *testing.T) {
	h := newFakeHub(t)
	c := h.client(t)
	c.Download = false
	_, err := read(c, "gsm8k")
	assert.ErrorContains(t, err, "not in the cache")
	assert.Empty(t, h.requests)
}

// A context ends a download.
func TestCancel(t *testing.T) {
	h := newFakeHub(t)
	h.stallAt[fileA], h.stalls = 0, 99
	c := h.client(t)
	c.Stall = time.Hour
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, err := c.Source(ctx, "gsm8k")
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}

// TestNames reads each data set from a cache as huggingface_hub makes it: the
// files' names and columns are those of the hub.
func TestNames(t *testing.T) {
	type named struct{ repo, dir, split, column, id string }
	sets := map[string]named{
		"imdb":                 {"stanfordnlp--imdb", "plain_text", "train", "text", ""},
		"yelp_review_full":     {"Yelp--yelp_review_full", "yelp_review_full", "train", "text", ""},
		"ag_news":              {"ag_news", "data", "train", "text", ""}, // by its old name
		"squad":                {"rajpurkar--squad", "plain_text", "train", "context", "id"},
		"amazon_polarity":      {"fancyzhx--amazon_polarity", "amazon_polarity", "train", "content", ""},
		"dbpedia_14":           {"fancyzhx--dbpedia_14", "dbpedia_14", "train", "content", ""},
		"yahoo_answers_topics": {"community-datasets--yahoo_answers_topics", "yahoo_answers_topics", "train", "best_answer", "id"},
		"wikitext-2-raw-v1":    {"Salesforce--wikitext", "wikitext-2-raw-v1", "train", "text", ""},
		"gsm8k":                {"openai--gsm8k", "main", "train", "question", ""},
		"openai_humaneval":     {"openai--openai_humaneval", "openai_humaneval", "test", "prompt", "task_id"},
	}
	assert.ElementsMatch(t, slices.Collect(maps.Keys(sets)), hub.Names())
	cache := t.TempDir()
	for name, s := range sets {
		columns := parquet.Group{"unused": parquet.Leaf(parquet.DoubleType)}
		columns[s.column] = parquet.Optional(parquet.String())
		if s.id == "id" && name == "yahoo_answers_topics" {
			columns[s.id] = parquet.Int(32)
		} else if s.id != "" {
			columns[s.id] = parquet.String()
		}
		var b bytes.Buffer
		w := parquet.NewGenericWriter[map[string]any](&b, parquet.NewSchema("set", columns))
		for i, text := range []string{"first", " ", "second"} {
			row := map[string]any{"unused": 1.5, s.column: text}
			if name == "yahoo_answers_topics" {
				row[s.id] = int32(i)
			} else if s.id != "" {
				row[s.id] = fmt.Sprintf("id%d", i)
			}
			must(w.Write([]map[string]any{row}))
		}
		require.NoError(t, w.Close())
		dir := filepath.Join(cache, "datasets--"+s.repo)
		write := func(name, text string) {
			path := filepath.Join(dir, name)
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
			require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
		}
		write("refs/main", fakeCommit)
		write("snapshots/other/x.txt", "")
		write("blobs/abcd", b.String())
		file := fmt.Sprintf("%s/%s-00000-of-00001.parquet", s.dir, s.split)
		write("snapshots/"+fakeCommit+"/README.md", "")
		write("snapshots/"+fakeCommit+"/other-config/"+s.split+"-00000-of-00001.parquet", "no Parquet")
		link := filepath.Join(dir, "snapshots", fakeCommit, file)
		require.NoError(t, os.MkdirAll(filepath.Dir(link), 0o777))
		require.NoError(t, os.Symlink("../../../blobs/abcd", link))
		docs, err := read(&hub.Client{Cache: cache}, name)
		require.NoError(t, err, name)
		ids := []string{s.split + "-00000-of-00001/0", s.split + "-00000-of-00001/2"}
		switch {
		case name == "yahoo_answers_topics":
			ids = []string{"0", "2"}
		case s.id != "":
			ids = []string{"id0", "id2"}
		}
		require.Len(t, docs, 2, name)
		for i, text := range []string{"first", "second"} {
			assert.Equal(t, name, docs[i].Dataset)
			assert.Equal(t, ids[i], docs[i].ID)
			assert.Equal(t, text, docs[i].Text)
		}
		require.NoError(t, os.Remove(filepath.Join(dir, "blobs", "abcd")))
		_, err = read(&hub.Client{Cache: cache}, name)
		assert.ErrorContains(t, err, "not in the cache", "%s: a dangling link", name)
	}
	_, err := read(&hub.Client{Cache: cache}, "mnist")
	assert.ErrorContains(t, err, `no data set "mnist"; the data sets are imdb`)
	_, err = read(&hub.Client{}, "imdb")
	assert.ErrorContains(t, err, "Cache is empty")
}
