package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gomlx/go-huggingface/hub"
)

func (c *Client) endpoint() string {
	return strings.TrimSuffix(cmp.Or(c.Endpoint, DefaultEndpoint), "/")
}

// permanent is an error that a retry does not change.
type permanent struct{ err error }

func (e *permanent) Error() string { return e.err.Error() }
func (e *permanent) Unwrap() error { return e.err }

// lively calls alive whenever bytes arrive.
type lively struct {
	r     io.Reader
	alive func()
}

// Read reads from r.
func (l *lively) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if n > 0 {
		l.alive()
	}
	return n, err
}

// try calls do until it succeeds, returns a permanent error, or the attempts are
// exhausted. An attempt that does not call alive for c.Stall is cancelled.
func (c *Client) try(ctx context.Context, do func(ctx context.Context, alive func()) error) error {
	stall := cmp.Or(c.Stall, DefaultStall)
	for n := 1; ; n++ {
		err := attempt(ctx, stall, do)
		var p *permanent
		var s *statusError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &p):
			return p.err
		case errors.As(err, &s) && s.code < 500 && s.code != http.StatusTooManyRequests && s.code != http.StatusRequestTimeout &&
			s.code != http.StatusRequestedRangeNotSatisfiable:
			return err
		case n >= attempts:
			return fmt.Errorf("%w (after %d attempts)", err, n)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(stall, time.Duration(n*n)*500*time.Millisecond)):
		}
	}
}

func attempt(ctx context.Context, stall time.Duration, do func(ctx context.Context, alive func()) error) error {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := fmt.Errorf("nothing received for %v", stall)
	timer := time.AfterFunc(stall, func() { cancel(stalled) })
	defer timer.Stop()
	err := do(inner, func() { timer.Reset(stall) })
	if err != nil && ctx.Err() == nil && context.Cause(inner) == stalled {
		return fmt.Errorf("%w: %w", stalled, err)
	}
	return err
}

// request makes a request for the bytes at and after from. It follows redirections;
// a HEAD request only to where the hub describes the file, as for a renamed
// repository, but not to another host's copy. The caller closes the body.
func (c *Client) request(ctx context.Context, method, address string, from int64) (*http.Response, error) {
	first, err := url.Parse(address)
	if err != nil {
		return nil, &permanent{err}
	}
	client := http.Client{CheckRedirect: func(req *http.Request, via []*http.Request) error {
		switch {
		case len(via) >= maxRedirects:
			return &permanent{fmt.Errorf("%s: more than %d redirections", address, maxRedirects)}
		case via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https":
			return &permanent{fmt.Errorf("%s: redirected to %s, which is not encrypted", address, req.URL.Redacted())}
		case method == http.MethodHead && (req.Response.Header.Get(hub.HeaderXLinkedETag) != "" ||
			req.URL.Host != first.Host && req.Response.Header.Get("ETag") != ""):
			return http.ErrUseLastResponse
		case req.URL.Host != first.Host:
			req.Header.Del("Authorization")
		}
		return nil
	}}
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, &permanent{err}
	}
	req.Header.Set("User-Agent", "expertspec")
	req.Header.Set("Accept-Encoding", "identity") // sizes are those of the files
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	redirected := method == http.MethodHead && resp.StatusCode >= 300 && resp.StatusCode < 400
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent && !redirected {
		resp.Body.Close()
		return nil, &statusError{address, resp.StatusCode}
	}
	return resp, nil
}
