package collect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gomlx/go-huggingface/hub"
)

// Hub is where public data sets come from: a cache folder in the layout that
// huggingface_hub and go-huggingface share, and, where Download allows it, a hub.
type Hub struct {
	// Cache is the folder, as ~/.cache/huggingface/hub.
	Cache string
	// Download allows requests to Endpoint, for what the cache has not.
	Download bool
	// Endpoint is the hub's address; "": https://huggingface.co.
	Endpoint string
	// Token is sent to Endpoint, and to no host that it redirects to; "": none.
	Token string
	// Stall is how long a transfer may bring nothing before it is tried anew, from
	// where it was; 0: 30 seconds. Attempts is how often in all; 0: 4.
	Stall    time.Duration
	Attempts int
	// Client makes the requests; nil: one like http.DefaultClient.
	Client *http.Client
	// Progress, if set, is told how many bytes of a file are there; total is 0
	// where unknown.
	Progress func(file string, done, total int64)
}

// hubSet is a named data set.
type hubSet struct {
	name   string
	repos  []string // its name today, and the one it had before
	config string   // folder of the files
	split  string
	text   string // column of the text
	id     string // column of the id; "": none
}

// The ten named data sets: reviews, news, questions, encyclopedias, mathematics
// and code.
var hubSets = []hubSet{
	{"imdb", []string{"stanfordnlp/imdb", "imdb"}, "plain_text", "train", "text", ""},
	{"yelp_review_full", []string{"Yelp/yelp_review_full", "yelp_review_full"}, "yelp_review_full", "train", "text", ""},
	{"ag_news", []string{"fancyzhx/ag_news", "ag_news"}, "data", "train", "text", ""},
	{"squad", []string{"rajpurkar/squad", "squad"}, "plain_text", "train", "context", "id"},
	{"amazon_polarity", []string{"fancyzhx/amazon_polarity", "amazon_polarity"}, "amazon_polarity", "train", "content", ""},
	{"dbpedia_14", []string{"fancyzhx/dbpedia_14", "dbpedia_14"}, "dbpedia_14", "train", "content", ""},
	{"yahoo_answers_topics", []string{"community-datasets/yahoo_answers_topics", "yahoo_answers_topics"}, "yahoo_answers_topics", "train", "best_answer", "id"},
	{"wikitext-2-raw-v1", []string{"Salesforce/wikitext", "wikitext"}, "wikitext-2-raw-v1", "train", "text", ""},
	{"gsm8k", []string{"openai/gsm8k", "gsm8k"}, "main", "train", "question", ""},
	{"openai_humaneval", []string{"openai/openai_humaneval", "openai_humaneval"}, "openai_humaneval", "test", "prompt", "task_id"},
}

// HubSets returns the names of the data sets that Hub.Source knows.
func HubSets() []string {
	var names []string
	for _, s := range hubSets {
		names = append(names, s.name)
	}
	return names
}

// Source returns a named data set (see HubSets): of the split train, or test
// where there is no other, the column of its texts. Rows without text, of which
// wikitext has many, are no documents. What the cache has is not asked for
// again; without Download the network is not touched.
func (h *Hub) Source(ctx context.Context, name string) (Source, error) {
	i := slices.IndexFunc(hubSets, func(s hubSet) bool { return s.name == name })
	if i < 0 {
		return Source{}, fmt.Errorf("data set %q: want one of %s", name, strings.Join(HubSets(), ", "))
	}
	if h.Cache == "" {
		return Source{}, errors.New("the folder of the hub's cache is not named")
	}
	s := &hubSets[i]
	files, err := h.cached(s)
	if err != nil && h.Download {
		files, err = h.download(ctx, s)
	}
	if err != nil {
		return Source{}, fmt.Errorf("data set %s: %w", name, err)
	}
	return s.source(files), nil
}

func (s *hubSet) source(files []string) Source {
	return Source{s.name, func(context.Context) iter.Seq2[Document, error] {
		return func(yield func(Document, error) bool) {
			more := true
			for _, p := range files {
				name := stem(p)
				f, err := os.Open(p)
				if err != nil {
					more = yield(Document{}, err)
				} else {
					ids := func(row int64) string { return name + "/" + strconv.FormatInt(row, 10) }
					parquetRows(f, filepath.Base(p), Fields{Text: s.text, ID: s.id}, ids, func(d Document, err error) bool {
						if err == nil && strings.TrimSpace(d.Text) == "" {
							return true
						}
						d.Dataset = s.name
						more = yield(d, err)
						return more
					})
					f.Close()
				}
				if !more {
					return
				}
			}
		}
	}}
}

// errNotCached is wrapped where the cache has not (all of) a data set.
var errNotCached = errors.New("not in the cache")

// folderOf is a repository's folder in the cache.
func (h *Hub) folderOf(repo string) string {
	return filepath.Join(h.Cache, string(hub.RepoTypeDataset)+hub.RepoIdSeparator+strings.ReplaceAll(repo, "/", hub.RepoIdSeparator))
}

// cached returns the files of a data set, if the cache has them all.
func (h *Hub) cached(s *hubSet) ([]string, error) {
	var errs []error
	for _, repo := range s.repos {
		dir := h.folderOf(repo)
		snapshot, err := newestSnapshot(dir)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var names []string
		err = filepath.WalkDir(snapshot, func(p string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				if name, e := filepath.Rel(snapshot, p); e == nil {
					names = append(names, filepath.ToSlash(name))
				}
			}
			return err
		})
		if err == nil {
			names, err = s.choose(names)
		}
		var paths []string
		for _, name := range names {
			p := filepath.Join(snapshot, filepath.FromSlash(name))
			if _, e := os.Stat(p); e != nil { // a link to nowhere
				err = errors.Join(err, e)
			}
			paths = append(paths, p)
		}
		if err == nil {
			return paths, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", snapshot, err))
	}
	return nil, fmt.Errorf("%w %s: %w", errNotCached, h.Cache, errors.Join(errs...))
}

// newestSnapshot is the snapshot that a cached repository's main branch is at;
// without such a note the only one.
func newestSnapshot(dir string) (string, error) {
	for _, ref := range []string{"main", "refs/convert/parquet"} {
		text, err := os.ReadFile(filepath.Join(dir, "refs", filepath.FromSlash(ref)))
		commit := strings.TrimSpace(string(text))
		if err != nil || !commitName.MatchString(commit) {
			continue
		}
		if p := filepath.Join(dir, "snapshots", commit); fileExists(p) {
			return p, nil
		}
	}
	list, err := os.ReadDir(filepath.Join(dir, "snapshots"))
	if err != nil {
		return "", err
	}
	if len(list) != 1 {
		return "", fmt.Errorf("%s: %d snapshots, and no refs/main that chooses one", dir, len(list))
	}
	return filepath.Join(dir, "snapshots", list[0].Name()), nil
}

var (
	commitName = regexp.MustCompile(`^[0-9A-Za-z._-]{1,128}$`)
	shardName  = regexp.MustCompile(`^(.+)-(\d{5})-of-(\d{5})\.parquet$`)
)

// choose returns the files of the data set's split among a repository's:
// CONFIG/SPLIT-00000-of-00002.parquet and so on, CONFIG/SPLIT.parquet, or
// CONFIG/SPLIT/0000.parquet; where no folder has the configuration's name, data,
// default or the top.
func (s *hubSet) choose(names []string) ([]string, error) {
	byFolder := make(map[string][]string)
	for _, name := range names {
		if !strings.HasSuffix(name, ".parquet") || !fs.ValidPath(name) {
			continue
		}
		dir, base := path.Split(name)
		dir = strings.TrimSuffix(dir, "/")
		m := shardName.FindStringSubmatch(base)
		switch {
		case path.Base(dir) == s.split && m == nil:
			dir = path.Dir(dir)
		case m != nil && m[1] == s.split, base == s.split+".parquet":
		default:
			continue
		}
		byFolder[dir] = append(byFolder[dir], name)
	}
	for _, dir := range []string{s.config, "data", "default", "", "."} {
		list := byFolder[dir]
		if len(list) == 0 {
			continue
		}
		slices.Sort(list)
		if m := shardName.FindStringSubmatch(path.Base(list[0])); m != nil {
			if n, _ := strconv.Atoi(m[3]); n != len(list) {
				return nil, fmt.Errorf("%d of %d files of %s", len(list), n, s.split)
			}
		}
		return list, nil
	}
	return nil, fmt.Errorf("no Parquet files of %s, %s", s.config, s.split)
}
