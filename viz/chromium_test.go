package viz

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	chromium = flag.String("chromium", "", "Chromium `program` to test reports in; without it these tests are skipped")
	axe      = flag.String("axe", "", "`file` axe.min.js of the npm package axe-core")
	picture  = flag.String("picture", "", "`file` of a report to make the README's picture from")
	shots    = flag.String("shots", "", "`folder` for screenshots")
)

// browser is a headless Chromium, controlled by the DevTools protocol over a
// pipe: JSON messages that end with a zero byte.
type browser struct {
	t       *testing.T
	in      *os.File
	mu      sync.Mutex
	id      int
	waiting map[int]chan message
	session string
	errs    []string // console errors and uncaught exceptions
	asked   []string // URLs requested
}

type message struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

func startBrowser(t *testing.T) *browser {
	t.Helper()
	if *chromium == "" {
		t.Skip("needs -chromium PATH")
	}
	inR, inW, err := os.Pipe()
	require.NoError(t, err)
	outR, outW, err := os.Pipe()
	require.NoError(t, err)
	profile, err := os.MkdirTemp("", "viz-chromium-*")
	require.NoError(t, err)
	cmd := exec.Command(*chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--hide-scrollbars", "--remote-debugging-pipe", "--user-data-dir="+profile)
	cmd.ExtraFiles = []*os.File{inR, outW} // descriptors 3 and 4
	require.NoError(t, cmd.Start())
	inR.Close()
	outW.Close()
	b := &browser{t: t, in: inW, waiting: map[int]chan message{}}
	done := make(chan struct{})
	go b.read(outR, done)
	t.Cleanup(func() {
		inW.Close() // Chromium ends when its pipe does
		select {
		case <-done:
		case <-time.After(5 * time.Second):
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		outR.Close()
		os.RemoveAll(profile)
	})
	var target struct {
		TargetID string `json:"targetId"`
	}
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var s struct {
		SessionID string `json:"sessionId"`
	}
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &s)
	b.session = s.SessionID
	for _, d := range []string{"Page", "Runtime", "Log", "Network"} {
		b.call(d+".enable", nil, nil)
	}
	return b
}

func (b *browser) read(r *os.File, done chan struct{}) {
	defer close(done)
	in := bufio.NewReaderSize(r, 1<<20)
	for {
		line, err := in.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		if json.Unmarshal(line[:len(line)-1], &m) != nil {
			continue
		}
		b.mu.Lock()
		switch m.Method {
		case "Runtime.exceptionThrown", "Log.entryAdded":
			b.errs = append(b.errs, string(m.Params))
		case "Runtime.consoleAPICalled":
			var c struct{ Type string }
			if json.Unmarshal(m.Params, &c) == nil && c.Type == "error" {
				b.errs = append(b.errs, string(m.Params))
			}
		case "Network.requestWillBeSent":
			var q struct{ Request struct{ URL string } }
			if json.Unmarshal(m.Params, &q) == nil {
				b.asked = append(b.asked, q.Request.URL)
			}
		}
		if c := b.waiting[m.ID]; c != nil {
			delete(b.waiting, m.ID)
			c <- m
		}
		b.mu.Unlock()
	}
}

func (b *browser) call(method string, params any, result any) {
	b.t.Helper()
	b.mu.Lock()
	b.id++
	req := map[string]any{"id": b.id, "method": method}
	if params != nil {
		req["params"] = params
	}
	if b.session != "" {
		req["sessionId"] = b.session
	}
	c := make(chan message, 1)
	b.waiting[b.id] = c
	b.mu.Unlock()
	raw, err := json.Marshal(req)
	require.NoError(b.t, err)
	_, err = b.in.Write(append(raw, 0))
	require.NoError(b.t, err)
	select {
	case m := <-c:
		require.Empty(b.t, string(m.Error), method)
		if result != nil {
			require.NoError(b.t, json.Unmarshal(m.Result, result))
		}
	case <-time.After(60 * time.Second):
		require.Fail(b.t, method+": no answer within a minute")
	}
}

// eval runs an expression, awaits it and stores its value.
func (b *browser) eval(expr string, out any) {
	b.t.Helper()
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expr, "awaitPromise": true, "returnByValue": true}, &r)
	require.Empty(b.t, string(r.ExceptionDetails), "%.200s", expr)
	if out != nil {
		require.NoError(b.t, json.Unmarshal(r.Result.Value, out), "%.200s: %s", expr, r.Result.Value)
	}
}

func (b *browser) open(file string, width, height int, dark bool) {
	b.t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}, nil)
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{
		{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"}}}, nil)
	b.call("Page.navigate", map[string]any{"url": "file://" + file}, nil)
	for range 200 {
		var ready bool
		b.eval(`location.protocol === "file:" && document.documentElement?.dataset.ready === "true"`, &ready)
		if ready {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	require.Fail(b.t, file+" did not become ready", "console: %v", b.errs)
}

func (b *browser) key(name string) {
	b.t.Helper()
	for _, typ := range []string{"keyDown", "keyUp"} {
		b.call("Input.dispatchKeyEvent", map[string]any{"type": typ, "key": name, "code": name}, nil)
	}
}

// shot writes a picture of the page, all of it or what is in view.
func (b *browser) shot(name string, all bool) {
	b.t.Helper()
	if *shots == "" {
		return
	}
	var r struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": all}, &r)
	raw, err := base64.StdEncoding.DecodeString(r.Data)
	require.NoError(b.t, err)
	require.NoError(b.t, os.WriteFile(filepath.Join(*shots, name+".png"), raw, 0o644))
}

func (b *browser) axe() {
	b.t.Helper()
	if *axe == "" {
		return
	}
	src, err := os.ReadFile(*axe)
	require.NoError(b.t, err)
	b.eval(string(src)+";true", nil)
	var found []struct {
		ID, Impact, Help string
		Nodes            []struct {
			Target []any
			HTML   string
			Any    []struct{ Message string }
		}
	}
	b.eval(`axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations)`, &found)
	for _, v := range found {
		for i, n := range v.Nodes {
			if i < 4 {
				assert.Fail(b.t, "axe", "%s (%s): %s: %v %.160s %v", v.ID, v.Impact, v.Help, n.Target, n.HTML, n.Any)
			}
		}
	}
}

func writeReport(t *testing.T, r Report) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "report.html")
	require.NoError(t, r.Save(file, ""))
	return file
}
