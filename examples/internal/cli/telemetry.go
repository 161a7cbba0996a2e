package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/offload"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
)

// Telemetry is what a run with some of the experts elsewhere did, or, with Decode
// alone, what a simulation says that it does.
type Telemetry struct {
	Label string `json:"label"`
	// Decode is about the tokens that were decoded, one at a time.
	Decode *prefetch.Result `json:"decode"`
	// DecodeBytes were read for them.
	DecodeBytes int64 `json:"decode_bytes,omitempty"`
	// FirstToken are the seconds until a prompt's first token, by document, and Token
	// those of each decoded token.
	FirstToken []float64 `json:"first_token_seconds,omitempty"`
	Token      []float64 `json:"token_seconds,omitempty"`
	// PromptTokens were computed for FirstToken, with these experts.
	PromptTokens int             `json:"prompt_tokens,omitempty"`
	Prompts      prefetch.Counts `json:"prompts"`
	// LoadSeconds and DecisionSeconds are those of one copy and one prediction that a
	// simulation assumes.
	LoadSeconds     float64 `json:"load_seconds,omitempty"`
	DecisionSeconds float64 `json:"decision_seconds,omitempty"`
	// Store is about everything that the model computed, also without -greedy.
	Store *offload.Stats `json:"store,omitempty"`
}

// Meter measures a model that decodes.
type Meter struct {
	model *mixtral.Model
	store *offload.Store
	ahead *offload.PrefetchOptions
	m     trace.Model
	t     Telemetry
}

// NewMeter returns the meter of a model whose experts are in a store, which reads
// ahead if ahead is not nil.
func NewMeter(label string, model *mixtral.Model, store *offload.Store, ahead *offload.PrefetchOptions) *Meter {
	c := model.Config()
	m := &Meter{model: model, store: store, ahead: ahead, m: c.TraceModel("")}
	m.t = Telemetry{Label: label, Decode: &prefetch.Result{Layers: make([]prefetch.Counts, c.Layers)}}
	return m
}

// Generate is a [Generator].
func (m *Meter) Generate(ctx context.Context, prompt []int32, o mixtral.GenerateOptions) ([]int32, error) {
	if m.ahead != nil {
		p, err := m.store.NewPrefetcher(m.m, *m.ahead)
		if err != nil {
			return nil, err
		}
		o.Observe, o.RouterInput = p.Observe, p.RouterInput()
	}
	t, d := &m.t, m.t.Decode
	begin, first := m.store.Stats(), offload.Stats{}
	start, last := time.Now(), time.Time{}
	o.Token = func(int32) error {
		now := time.Now()
		if last.IsZero() {
			first = m.store.Stats()
			t.FirstToken = append(t.FirstToken, now.Sub(start).Seconds())
		} else {
			t.Token = append(t.Token, now.Sub(last).Seconds())
			d.Seconds += now.Sub(last).Seconds()
		}
		last = time.Now()
		return nil
	}
	ids, err := m.model.Generate(ctx, prompt, o)
	if err != nil || len(ids) == 0 {
		return ids, err
	}
	end := m.store.Stats()
	t.PromptTokens += len(prompt)
	addSince(&t.Prompts, first.Total, begin.Total)
	addSince(&d.Total, end.Total, first.Total)
	for l := range d.Layers {
		addSince(&d.Layers[l], end.Layers[l], first.Layers[l])
	}
	t.DecodeBytes += end.DiskBytes + end.HostBytes - first.DiskBytes - first.HostBytes
	d.Documents, d.Tokens = d.Documents+1, d.Tokens+len(ids)-1
	return ids, nil
}

// addSince adds what was counted between two times.
func addSince(to *prefetch.Counts, now, then prefetch.Counts) {
	to.Requests += now.Requests - then.Requests
	to.Hits += now.Hits - then.Hits
	to.Late += now.Late - then.Late
	to.Misses += now.Misses - then.Misses
	to.Host += now.Host - then.Host
	to.Cold += now.Cold - then.Cold
	to.Prefetched += now.Prefetched - then.Prefetched
	to.Used += now.Used - then.Used
	to.Wasted += now.Wasted - then.Wasted
	to.Dropped += now.Dropped - then.Dropped
	to.Transfers += now.Transfers - then.Transfers
	to.StallSeconds += now.StallSeconds - then.StallSeconds
}

// Telemetry returns what was measured. It is called before the model is closed.
func (m *Meter) Telemetry() *Telemetry {
	t, d, s := m.t, *m.t.Decode, m.store.Stats()
	t.Store, t.Decode = &s, Decoded(&d, &s, m.ahead)
	return &t
}

// Decoded completes d, which has tokens, time and counts of decoding with a store, and
// returns it. ahead may be nil.
func Decoded(d *prefetch.Result, s *offload.Stats, ahead *offload.PrefetchOptions) *prefetch.Result {
	d.Policy, d.Capacity, d.Resident = s.Policy, s.Slots, s.Resident
	if ahead != nil {
		d.Predictor, d.Horizon, d.Prefetch = ahead.Predictor.Name(), ahead.Horizon.String(), ahead.Experts
	}
	d.HitRate = d.Total.HitRate()
	if n := float64(d.Tokens); n > 0 {
		d.TransfersPerToken, d.StallPerToken, d.TokensPerSecond = float64(d.Total.Transfers)/n, d.Total.StallSeconds/n, n/d.Seconds
	}
	return d
}

// WriteTable writes a row about each run, in which experts are shares of those that
// decoding requested.
func WriteTable(w io.Writer, runs []*Telemetry) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "policy\tslots\ttokens\ttokens/s\tms/token\tstall ms\tresident\tprefetched\thost\tlate\tmisses\twasted\tcopied/token\tfirst token ms\t")
	for _, t := range runs {
		d := t.Decode
		c := &d.Total
		inTime := c.Used - c.Late
		per := 0.
		if d.Tokens > 0 {
			per = 1000 * d.Seconds / float64(d.Tokens)
		}
		first := "-"
		if len(t.FirstToken) > 0 {
			first = fmt.Sprintf("%.1f", 1000*mean(t.FirstToken))
		}
		fmt.Fprintf(tw, "%s\t%d\t%d\t%.1f\t%.2f\t%.2f\t%s\t%s\t%s\t%s\t%s\t%s\t%.2f\t%s\t\n", t.Label, d.Capacity, d.Tokens, d.TokensPerSecond, per, 1000*d.StallPerToken,
			share(c.Hits-inTime, c.Requests), share(inTime, c.Requests), share(c.Host, c.Requests), share(c.Late, c.Requests), share(c.Misses, c.Requests), share(c.Wasted, c.Prefetched), d.TransfersPerToken, first)
	}
	return tw.Flush()
}

// Write writes the details of one run.
func (t *Telemetry) Write(w io.Writer) error {
	d := t.Decode
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "layer\texperts\tresident\tprefetched\thost\tlate\tmisses\twasted\tstall ms/token\t")
	for l, c := range d.Layers {
		inTime := c.Used - c.Late
		fmt.Fprintf(tw, "%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%.3f\t\n", l, c.Requests, share(c.Hits-inTime, c.Requests), share(inTime, c.Requests), share(c.Host, c.Requests),
			share(c.Late, c.Requests), share(c.Misses, c.Requests), share(c.Wasted, c.Prefetched), 1000*c.StallSeconds/float64(max(1, d.Tokens)))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	s := t.Store
	if s == nil {
		return nil
	}
	var stalls []float64 // of decoding, by token
	for _, step := range s.Steps {
		if step.Phase == string(trace.Decode) {
			stalls = append(stalls, step.StallSeconds)
		}
	}
	line := func(what, format string, a ...any) { fmt.Fprintf(w, "%-14s"+format+"\n", append([]any{what}, a...)...) }
	if len(t.FirstToken) > 0 {
		line("first token", "%s, after prompts of %.0f tokens", quantiles(t.FirstToken), float64(t.PromptTokens)/float64(len(t.FirstToken)))
	}
	if len(t.Token) > 0 {
		line("token", "%s", quantiles(t.Token))
		line("stall", "%s a token", quantiles(stalls))
		line("read", "%s a token", Bytes(t.DecodeBytes/int64(len(t.Token))))
	}
	line("in all", "%d requests, %d misses, %d prefetched, %d of them wasted; %.3f s of stalls", s.Total.Requests, s.Total.Misses, s.Total.Prefetched, s.Total.Wasted, s.Total.StallSeconds)
	line("", "%s read from the checkpoint, %s from host memory; predictions took %.3f s", Bytes(s.DiskBytes), Bytes(s.HostBytes), s.PredictSeconds)
	line("memory", "device %s: %s in %d slots (%.1f %% of the experts), %s of other weights; host %s", Bytes(s.Peak.Device()), Bytes(s.Peak.Slots), s.Slots, 100*s.Resident,
		Bytes(s.Peak.Weights), Bytes(s.Peak.Host))
	return nil
}

// share is a part in percent.
func share(part, all int64) string {
	if all == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(part)/float64(all))
}

func mean(x []float64) (sum float64) {
	for _, v := range x {
		sum += v
	}
	return sum / float64(max(1, len(x)))
}

// quantiles describes times in seconds.
func quantiles(x []float64) string {
	s := slices.Sorted(slices.Values(x))
	if len(s) == 0 {
		return "-"
	}
	at := func(q float64) float64 { return 1000 * s[int(q*float64(len(s)-1)+.5)] }
	return fmt.Sprintf("%.2f ms (median %.2f, 95 %% %.2f, most %.2f)", 1000*mean(x), at(.5), at(.95), at(1))
}
