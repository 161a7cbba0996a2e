package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// display shows progress: a bar on a terminal, else a line now and then.
type display struct {
	w     io.Writer
	quiet bool
	bar   *progressbar.ProgressBar
	isTTY bool
	stage string
	last  time.Time
}

// lineEvery is the time between two lines of progress.
const lineEvery = 10 * time.Second

func newDisplay(w io.Writer, quiet bool) *display {
	f, ok := w.(*os.File)
	return &display{w: w, quiet: quiet, isTTY: ok && term.IsTerminal(int(f.Fd())), last: time.Now()}
}

func (d *display) progress(p collect.Progress) {
	if d.quiet {
		return
	}
	final := p.Stage == "collecting" && p.Shards == p.ShardsTotal
	if !d.isTTY {
		if !final && time.Since(d.last) < lineEvery {
			return
		}
		d.last = time.Now()
		fmt.Fprintln(d.w, "collect: "+describe(p))
		return
	}
	if d.bar == nil || d.stage != p.Stage {
		d.end()
		d.stage = p.Stage
		total := int64(-1)
		switch p.Stage {
		case "reading":
			total = p.DocumentsTotal
		case "collecting":
			total = p.TokensTotal
		}
		d.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(d.w), progressbar.OptionSetWidth(30),
			progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(false), progressbar.OptionThrottle(100*time.Millisecond))
	}
	d.bar.Describe(describe(p))
	if p.Stage == "collecting" {
		d.bar.Set64(p.Tokens)
	} else {
		d.bar.Set64(p.Documents)
	}
}

// describe returns a line about it.
func describe(p collect.Progress) string {
	switch p.Stage {
	case "choosing":
		return fmt.Sprintf("choosing: %d documents seen", p.Documents)
	case "verifying":
		return fmt.Sprintf("verifying: %d of %d shards", p.Shards, p.ShardsTotal)
	case "reading":
		return fmt.Sprintf("reading: %d of %d documents", p.Documents, p.DocumentsTotal)
	}
	s := fmt.Sprintf("%d of %d documents, %d of %d tokens, %d of %d shards", p.Documents, p.DocumentsTotal, p.Tokens, p.TokensTotal, p.Shards, p.ShardsTotal)
	if p.Rate > 0 {
		s += fmt.Sprintf(", %.0f tokens/s, %v left", p.Rate, p.Remaining.Round(time.Second))
	}
	if p.Peak > 0 {
		s += fmt.Sprintf(", %d MiB", p.Peak>>20)
	}
	return s
}

// problem names what is omitted, above the bar.
func (d *display) problem(p collect.Problem) {
	if d.bar != nil {
		d.bar.Clear()
	}
	fmt.Fprintf(d.w, "collect: omitted: %v\n", p)
}

// end leaves the bar as it is.
func (d *display) end() {
	if d.bar != nil {
		d.bar.Exit()
		fmt.Fprintln(d.w)
		d.bar = nil
	}
}
