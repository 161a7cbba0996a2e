// Package hub reads public data sets for package collect, from the cache that
// huggingface_hub keeps or, where allowed, from the Hugging Face hub. It is the
// only package of the library that uses the network.
package hub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/gomlx/go-huggingface/hub"
)

// DefaultEndpoint and DefaultStall are what a [Client] uses where its fields of
// these names are zero.
const (
	DefaultEndpoint = "https://huggingface.co"
	DefaultStall    = 30 * time.Second
)

// Client reads data sets from a cache folder in the layout that huggingface_hub
// and go-huggingface share and, if Download is set, downloads what it lacks.
type Client struct {
	// Cache is the folder, for example ~/.cache/huggingface/hub.
	Cache string
	// Download allows requests to Endpoint. Without it the network is not used.
	Download bool
	// Endpoint is the address of the hub.
	Endpoint string
	// Token, if not empty, authorizes requests to Endpoint. It is not sent to hosts
	// that Endpoint redirects to.
	Token string
	// Stall is how long a transfer may receive nothing before it is resumed on a
	// new connection. After the fourth attempt it fails.
	Stall time.Duration
	// Progress, if set, is called with the number of bytes of a file received so
	// far; total is 0 if unknown.
	Progress func(file string, done, total int64)
}

// dataset is a named data set.
type dataset struct {
	name   string
	repos  []string // its name today, and the one it had before
	config string   // folder of the files
	split  string
	text   string // column of the text
	id     string // column of the id; "": none
}

// datasets are reviews, news, questions, encyclopedias, mathematics and code.
var datasets = []dataset{
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

// Names returns the names of the data sets that [Client.Source] knows.
func Names() []string {
	var names []string
	for _, s := range datasets {
		names = append(names, s.name)
	}
	return names
}

// Source returns a named data set (see [Names]): the texts of its split train, or
// test where there is no other. Rows without text, of which wikitext has many,
// are skipped. Files that are in the cache are not requested again.
func (c *Client) Source(ctx context.Context, name string) (collect.Source, error) {
	i := slices.IndexFunc(datasets, func(s dataset) bool { return s.name == name })
	if i < 0 {
		return collect.Source{}, fmt.Errorf("no data set %q; the data sets are %s", name, strings.Join(Names(), ", "))
	}
	if c.Cache == "" {
		return collect.Source{}, errors.New("hub: Client.Cache is empty")
	}
	s := &datasets[i]
	files, err := c.cached(s)
	if err != nil && c.Download {
		files, err = c.download(ctx, s)
	}
	var sources []collect.Source
	if err == nil {
		sources, err = collect.Files(ctx, files, collect.FileOptions{Format: "parquet", Text: s.text, ID: s.id, Name: name})
	}
	if err != nil {
		return collect.Source{}, fmt.Errorf("data set %s: %w", name, err)
	}
	return collect.Source{Name: name, Documents: func(ctx context.Context) iter.Seq2[collect.Document, error] {
		return func(yield func(collect.Document, error) bool) {
			for _, file := range sources {
				for d, err := range file.Documents(ctx) {
					if err == nil && strings.TrimSpace(d.Text) == "" {
						continue
					}
					d.Dataset = name
					if err == nil && d.ID == "" {
						d.ID = rowID(d.Place)
					}
					if !yield(d, err) {
						return
					}
				}
			}
		}
	}}, nil
}

// rowID returns the id of a row without one, FILE/ROW, from its place,
// FILE.parquet:ROW. It is the same wherever the file is.
func rowID(place string) string {
	i := strings.LastIndexByte(place, ':')
	file := path.Base(place[:i])
	return strings.TrimSuffix(file, path.Ext(file)) + "/" + place[i+1:]
}

// errNotCached is wrapped if the cache lacks files of a data set.
var errNotCached = errors.New("not in the cache")

// folderOf is a repository's folder in the cache.
func (c *Client) folderOf(repo string) string {
	return filepath.Join(c.Cache, string(hub.RepoTypeDataset)+hub.RepoIdSeparator+strings.ReplaceAll(repo, "/", hub.RepoIdSeparator))
}

// cached returns the files of a data set if all of them are in the cache.
func (c *Client) cached(s *dataset) ([]string, error) {
	var errs []error
	for _, repo := range s.repos {
		dir := c.folderOf(repo)
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
			if _, e := os.Stat(p); e != nil { // a dangling link
				err = errors.Join(err, e)
			}
			paths = append(paths, p)
		}
		if err == nil {
			return paths, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", snapshot, err))
	}
	return nil, fmt.Errorf("%w %s: %w", errNotCached, c.Cache, errors.Join(errs...))
}

// newestSnapshot returns the snapshot of a cached repository's main branch, or the
// only snapshot if the branch is not recorded.
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
		return "", fmt.Errorf("%s: %d snapshots, and no refs/main to choose one", dir, len(list))
	}
	return filepath.Join(dir, "snapshots", list[0].Name()), nil
}

var (
	commitName = regexp.MustCompile(`^[0-9A-Za-z._-]{1,128}$`)
	shardName  = regexp.MustCompile(`^(.+)-(\d{5})-of-(\d{5})\.parquet$`)
)

// choose returns the files of the data set's split among a repository's:
// CONFIG/SPLIT-00000-of-00002.parquet and so on, CONFIG/SPLIT.parquet, or
// CONFIG/SPLIT/0000.parquet. If no folder has the configuration's name, it is
// data, default or the top.
func (s *dataset) choose(names []string) ([]string, error) {
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

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
