package hub

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

// The header names and the cache layout are go-huggingface's. The transfer is our
// own because that of version 0.4.1 takes a broken connection for success
// (downloader.go wraps a nil error), does not compare sizes, waits forever for a
// server that sends nothing, rejects files that the hub redirects, restarts
// instead of resuming, requests what is in the cache, and prints to standard
// output.

const (
	attempts     = 4        // of each request
	maxListing   = 64 << 20 // bytes of a repository's description
	maxRedirects = 10
)

// etagName matches ETags that can name a blob.
var etagName = regexp.MustCompile(`^[0-9A-Za-z_-]{8,128}$`)

// sha256Name matches ETags that are the SHA-256 of the content, as of large files.
var sha256Name = regexp.MustCompile(`^[0-9a-f]{64}$`)

// statusError is a response other than success.
type statusError struct {
	url  string
	code int
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s: %d %s", e.url, e.code, http.StatusText(e.code))
}

// download downloads the files of a data set to the cache.
func (c *Client) download(ctx context.Context, s *dataset) ([]string, error) {
	var errs []error
	for _, repo := range s.repos {
		for _, revision := range []string{"main", "refs/convert/parquet"} {
			info, err := c.describe(ctx, repo, revision)
			var status *statusError
			if errors.As(err, &status) && (status.code == http.StatusNotFound || status.code == http.StatusUnauthorized) {
				errs = append(errs, err) // the hub answers 401 for what does not exist
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
			return c.files(ctx, repo, revision, info, names)
		}
	}
	return nil, errors.Join(errs...)
}

// repository is a part of the hub's description of one. hub.RepoInfo cannot be
// used: it fails on cards of data sets whose license is a list.
type repository struct {
	Commit   string `json:"sha"`
	Siblings []struct {
		Name string `json:"rfilename"`
	} `json:"siblings"`
}

// describe requests the list of a repository's files and its commit.
func (c *Client) describe(ctx context.Context, repo, revision string) (*repository, error) {
	address := fmt.Sprintf("%s/api/%s/%s/revision/%s?blobs=true", c.endpoint(), hub.RepoTypeDataset, repo, url.PathEscape(revision))
	var info *repository
	err := c.try(ctx, func(ctx context.Context, alive func()) error {
		resp, err := c.request(ctx, http.MethodGet, address, 0)
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
			return &permanent{fmt.Errorf("%s: invalid commit %q", address, info.Commit)}
		}
		return nil
	})
	return info, err
}

// files downloads the named files and returns their paths in the cache.
func (c *Client) files(ctx context.Context, repo, revision string, info *repository, names []string) ([]string, error) {
	dir := c.folderOf(repo)
	snapshot := filepath.Join(dir, "snapshots", info.Commit)
	var paths []string
	for _, name := range names {
		p := filepath.Join(snapshot, filepath.FromSlash(name))
		paths = append(paths, p)
		if fileExists(p) {
			continue
		}
		address := fmt.Sprintf("%s/%s/%s/resolve/%s/%s", c.endpoint(), hub.RepoTypeDataset, repo, info.Commit, escape(name))
		blob, err := c.blob(ctx, dir, name, address)
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

// escape quotes a file's name for an address, except its slashes.
func escape(name string) string {
	parts := strings.Split(name, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

// link makes p a link to a blob.
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
	return os.Link(blob, p) // where symbolic links require privileges
}

// blob downloads the content of a file to the cache and returns its path.
func (c *Client) blob(ctx context.Context, dir, name, address string) (string, error) {
	etag, size, err := c.head(ctx, address)
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
	lock := flock.New(filepath.Join(c.Cache, ".locks", filepath.Base(dir), etag+".lock"))
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
	err = c.try(ctx, func(ctx context.Context, alive func()) error {
		return c.transfer(ctx, name, address, part, size, alive)
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

// head requests a file's ETag and size from the hub itself, which knows them for
// files stored on other hosts too.
func (c *Client) head(ctx context.Context, address string) (etag string, size int64, err error) {
	err = c.try(ctx, func(ctx context.Context, _ func()) error {
		resp, err := c.request(ctx, http.MethodHead, address, 0)
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
			return &permanent{fmt.Errorf("%s: invalid ETag %q", address, etag)}
		}
		size = resp.ContentLength
		if text := resp.Header.Get(hub.HeaderXLinkedSize); text != "" {
			if size, err = strconv.ParseInt(text, 10, 64); err != nil || size < 0 {
				return &permanent{fmt.Errorf("%s: invalid size %q", address, text)}
			}
		} else if resp.StatusCode != http.StatusOK {
			size = -1 // the length is that of the redirection
		}
		return nil
	})
	return etag, size, err
}

// transfer appends what is missing to part.
func (c *Client) transfer(ctx context.Context, name, address, part string, size int64, alive func()) error {
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
	resp, err := c.request(ctx, http.MethodGet, address, done)
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
			err := fmt.Errorf("%s: got Content-Range %q, expected bytes from %d", address, resp.Header.Get("Content-Range"), done)
			return errors.Join(err, f.Truncate(0))
		}
		done = 0 // the response is the whole file
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
	if err := c.copy(f, body, name, done, size); err != nil {
		return err
	}
	return f.Sync()
}

// copy writes body to f and reports progress.
func (c *Client) copy(f *os.File, body io.Reader, name string, done, size int64) error {
	buf := make([]byte, 1<<17)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if _, err := f.Write(buf[:n]); err != nil {
				return &permanent{err}
			}
			done += int64(n)
			if c.Progress != nil {
				c.Progress(name, done, max(size, 0))
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
		return fmt.Errorf("got %d bytes, the hub says %d", n, size)
	case sha256Name.MatchString(etag) && hex.EncodeToString(sum.Sum(nil)) != etag:
		return fmt.Errorf("the content's SHA-256 is not the hub's, %s", etag)
	}
	return nil
}
