package main

import (
	"fmt"
	"io"
	"time"

	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/speculate/neural"
)

// progress tells a person how far the work is, at most every two seconds.
type progress struct {
	to   io.Writer
	last time.Time
}

func (p *progress) line(always bool, format string, args ...any) {
	if now := time.Now(); always || now.Sub(p.last) > 2*time.Second {
		p.last = now
		fmt.Fprintf(p.to, format+"\n", args...)
	}
}

func (p *progress) collected(c collect.Progress) {
	p.line(c.Documents == c.DocumentsTotal, "%s: %d of %d documents, %.0f tokens/s, %v left",
		c.Stage, c.Documents, c.DocumentsTotal, c.Rate, c.Remaining.Round(time.Second))
}

func (p *progress) stage(what string) { p.line(true, "%s", what) }

func (p *progress) trained(n neural.Progress) {
	p.line(n.Step == n.Steps, "training %s: step %d of %d, validation loss %.4f, recall %.3f",
		n.Name, n.Step, n.Steps, n.ValidLoss, n.ValidRecallK)
}
