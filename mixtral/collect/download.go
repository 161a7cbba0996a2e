package collect

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/gomlx/go-huggingface/hub"
)

// Of go-huggingface this uses the hub's header names and cache layout. The transfer is our own, since that of version 0.4.1 takes a broken
// connection for success (downloader.go wraps a nil error), compares no sizes,
// waits for ever on a server that falls silent, refuses files whose header tells
// of a redirect, starts over instead of going on, asks the network about what
// the cache has, and prints to standard output.

const (
	defaultEndpoint = "https://huggingface.co"
	defaultStall    = 30 * time.Second
	defaultAttempts = 4
	maxListing      = 64 << 20 // bytes of a repository's description
	maxRedirects    = 10
)

// etagName is what can be the name of a blob.
var etagName = regexp.MustCompile(`^[0-9A-Za-z_-]{8,128}$`)

// sha256Name is an ETag that is the content's SHA-256, as of large files.
var sha256Name = regexp.MustCompile(`^[0-9a-f]{64}$`)

// statusError is an answer other than success.
type statusError struct {
	url  string
	code int
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s: %d %s", e.url, e.code, http.StatusText(e.code))
}

// download gets the files of a data set into the cache.
func (h *Hub) download(ctx context.Context, s *hubSet) ([]string, error) {
	var errs []error
	for _, repo := range s.repos {
		for _, revision := range []string{"main", "refs/convert/parquet"} {
			info, err := h.describe(ctx, repo, revision)
			var status *statusError
			if errors.As(err, &status) && (status.code == http.StatusNotFound || status.code == http.StatusUnauthorized) {
				errs = append(errs, err) // the hub says 401 of what does not exist
				continue
			}
			if err != nil {
				return nil, err
			}
			var names []string
			for _, f := range info.Siblings {
				names = append(names, f.Name)
			}
			if names, err = s.choose(names); err != nil {
				errs = append(errs, fmt.Errorf("%s, %s: %w", repo, revision, err))
				continue
			}
			return h.files(ctx, repo, revision, info, names)
		}
	}
	return nil, errors.Join(errs...)
}

// repository is what the hub says of one. hub.RepoInfo has more, in which it does
// not expect what the cards of data sets hold (a license that is a list).
type repository struct {
	Commit   string `json:"sha"`
	Siblings []struct {
		Name string `json:"rfilename"`
	} `json:"siblings"`
}

// describe asks for the list of a repository's files and its commit.
func (h *Hub) describe(ctx context.Context, repo, revision string) (*repository, error) {
	address := fmt.Sprintf("%s/api/%s/%s/revision/%s?blobs=true", h.endpoint(), hub.RepoTypeDataset, repo, url.PathEscape(revision))
	var info *repository
	err := h.try(ctx, func(ctx context.Context, alive func()) error {
		resp, err := h.request(ctx, http.MethodGet, address, 0)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(&lively{io.LimitReader(resp.Body, maxListing), alive})
		if err != nil {
			return fmt.Errorf("%s: %w", address, err)
		}
		info = new(repository)
		if err := json.Unmarshal(text, info); err != nil {
			return &permanent{fmt.Errorf("%s: %w", address, err)}
		}
		if !commitName.MatchString(info.Commit) {
			return &permanent{fmt.Errorf("%s: the commit is called %q", address, info.Commit)}
		}
		return nil
	})
	return info, err
}

// files gets the named files and returns their paths in the cache.
func (h *Hub) files(ctx context.Context, repo, revision string, info *repository, names []string) ([]string, error) {
	dir := h.folderOf(repo)
	snapshot := filepath.Join(dir, "snapshots", info.Commit)
	var paths []string
	for _, name := range names {
		p := filepath.Join(snapshot, filepath.FromSlash(name))
		paths = append(paths, p)
		if fileExists(p) {
			continue
		}
		address := fmt.Sprintf("%s/%s/%s/resolve/%s/%s", h.endpoint(), hub.RepoTypeDataset, repo, info.Commit, escape(name))
		blob, err := h.blob(ctx, dir, name, address)
		if err != nil {
			return nil, err
		}
		if err := link(p, blob); err != nil {
			return nil, err
		}
	}
	ref := filepath.Join(dir, "refs", filepath.FromSlash(revision))
	if err := os.MkdirAll(filepath.Dir(ref), 0o777); err != nil {
		return nil, err
	}
	return paths, os.WriteFile(ref, []byte(info.Commit), 0o666)
}

// escape quotes a file's name for an address, its slashes excepted.
func escape(name string) string {
	parts := strings.Split(name, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

// link makes p stand for a blob.
func link(p, blob string) error {
	if err := os.MkdirAll(filepath.Dir(p), 0o777); err != nil {
		return err
	}
	target, err := filepath.Rel(filepath.Dir(p), blob)
	if err != nil {
		target = blob
	}
	if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if os.Symlink(target, p) == nil {
		return nil
	}
	return os.Link(blob, p) // where links by name need rights
}

// blob gets one file's content into the cache's blobs and returns its path.
func (h *Hub) blob(ctx context.Context, dir, name, address string) (string, error) {
	etag, size, err := h.head(ctx, address)
	if err != nil {
		return "", err
	}
	blob := filepath.Join(dir, "blobs", etag)
	if fileExists(blob) {
		return blob, nil
	}
	if err := os.MkdirAll(filepath.Dir(blob), 0o777); err != nil {
		return "", err
	}
	lock := flock.New(filepath.Join(h.Cache, ".locks", filepath.Base(dir), etag+".lock"))
	if err := os.MkdirAll(filepath.Dir(lock.Path()), 0o777); err != nil {
		return "", err
	}
	if _, err := lock.TryLockContext(ctx, 200*time.Millisecond); ctx.Err() != nil {
		return "", err
	}
	defer lock.Close()
	if fileExists(blob) { // another process was first
		return blob, nil
	}
	part := blob + ".incomplete"
	err = h.try(ctx, func(ctx context.Context, alive func()) error {
		return h.transfer(ctx, name, address, part, size, alive)
	})
	if err != nil {
		return "", err
	}
	if err := verify(part, etag, size); err != nil {
		os.Remove(part)
		return "", fmt.Errorf("%s: %w", address, err)
	}
	return blob, os.Rename(part, blob)
}

// head asks for a file's ETag and size, of the hub itself, which knows them for
// files that it keeps elsewhere.
func (h *Hub) head(ctx context.Context, address string) (etag string, size int64, err error) {
	err = h.try(ctx, func(ctx context.Context, _ func()) error {
		resp, err := h.request(ctx, http.MethodHead, address, 0)
		if err != nil {
			return err
		}
		resp.Body.Close()
		etag = resp.Header.Get(hub.HeaderXLinkedETag)
		if etag == "" {
			etag = resp.Header.Get("ETag")
		}
		etag = strings.Trim(strings.TrimPrefix(etag, "W/"), `"`)
		if !etagName.MatchString(etag) {
			return &permanent{fmt.Errorf("%s: the ETag is %q", address, etag)}
		}
		size = resp.ContentLength
		if text := resp.Header.Get(hub.HeaderXLinkedSize); text != "" {
			if size, err = strconv.ParseInt(text, 10, 64); err != nil || size < 0 {
				return &permanent{fmt.Errorf("%s: the size is %q", address, text)}
			}
		} else if resp.StatusCode != http.StatusOK {
			size = -1 // the length is that of the redirection
		}
		return nil
	})
	return etag, size, err
}

// transfer appends to part what it lacks.
func (h *Hub) transfer(ctx context.Context, name, address, part string, size int64, alive func()) error {
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE, 0o666)
	if err != nil {
		return &permanent{err}
	}
	defer f.Close()
	done, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return &permanent{err}
	}
	if size >= 0 && done == size && done > 0 {
		return nil
	}
	if size >= 0 && done > size {
		done = 0
	}
	resp, err := h.request(ctx, http.MethodGet, address, done)
	if err != nil {
		var status *statusError
		if errors.As(err, &status) && status.code == http.StatusRequestedRangeNotSatisfiable {
			err = errors.Join(err, f.Truncate(0))
		}
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent ||
		!strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", done)) {
		if resp.StatusCode == http.StatusPartialContent && done > 0 {
			err := fmt.Errorf("%s: the server sent %q for bytes from %d", address, resp.Header.Get("Content-Range"), done)
			return errors.Join(err, f.Truncate(0))
		}
		done = 0 // all of it comes
	}
	if err := f.Truncate(done); err != nil {
		return &permanent{err}
	}
	if _, err := f.Seek(done, io.SeekStart); err != nil {
		return &permanent{err}
	}
	body := io.Reader(&lively{resp.Body, alive})
	if size >= 0 {
		body = io.LimitReader(body, size-done+1)
	}
	if err := h.copy(f, body, name, done, size); err != nil {
		return err
	}
	return f.Sync()
}

// copy writes body to f and tells how far it is.
func (h *Hub) copy(f *os.File, body io.Reader, name string, done, size int64) error {
	buf := make([]byte, 1<<17)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if _, err := f.Write(buf[:n]); err != nil {
				return &permanent{err}
			}
			done += int64(n)
			if h.Progress != nil {
				h.Progress(name, done, max(size, 0))
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: after %d bytes: %w", name, done, err)
		}
	}
}

// verify checks a file's size and, where the ETag is one, its SHA-256.
func verify(path, etag string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	switch {
	case err != nil:
		return err
	case size >= 0 && n != size:
		return fmt.Errorf("%d bytes came, the hub says %d", n, size)
	case sha256Name.MatchString(etag) && hex.EncodeToString(sum.Sum(nil)) != etag:
		return fmt.Errorf("the SHA-256 of what came is not the one that the hub says, %s", etag)
	}
	return nil
}
