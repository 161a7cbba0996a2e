package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/mixtral/offload"
	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
)

// policy is a value of -policy.
type policy struct {
	name    string
	evict   prefetch.Policy
	predict bool // and experts that -predictor says are read ahead
	adapt   bool // and as many as pay
	reuse   bool // and what -predictor says of the next token is kept, if one is given that does
	host    bool // and missing experts are computed by the host, beside -predictor, if one is given
	future  bool // that it knows: it can only be simulated
}

var policies = []policy{
	{name: "on-demand", evict: prefetch.OnDemand},
	{name: "lru", evict: prefetch.LRU},
	{name: "lfu", evict: prefetch.DecayedLFU},
	{name: "static", evict: prefetch.Static},
	{name: "reuse", evict: prefetch.Reuse, reuse: true},
	{name: "prefetch", evict: prefetch.DecayedLFU, predict: true},
	{name: "adaptive", evict: prefetch.DecayedLFU, predict: true, adapt: true},
	{name: "reuse-prefetch", evict: prefetch.Reuse, predict: true, adapt: true, reuse: true},
	{name: "host", evict: prefetch.DecayedLFU, host: true},
	{name: "opt", evict: prefetch.OPT, future: true},
}

func policyNames() string {
	var names []string
	for _, p := range policies {
		names = append(names, p.name)
	}
	return strings.Join(names, ", ")
}

// variant is a policy, with the predictor that it has.
type variant struct {
	policy
	predictor string
	distance  int
}

// String is the variant's name in tables.
func (v variant) String() string {
	if v.predictor == "" {
		return v.name
	}
	_, name, ok := folder(v.predictor)
	if !ok || name == "" {
		name = v.predictor
	}
	return v.name + ": " + name
}

// variants are what -policy, -compare and -predictor ask for.
func variants(o *options) ([]variant, error) {
	flag, names, ps := "policy", []string{o.policy}, []string{o.predictor}
	if o.compare != "" {
		flag, names, ps = "compare", cli.List(o.compare), cli.List(o.predictor)
	}
	if o.predictor == "" {
		ps = nil
	}
	var vs []variant
	for _, name := range names {
		i := slices.IndexFunc(policies, func(p policy) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-%s: policy %q; must be one of %s", flag, name, policyNames())
		}
		p := policies[i]
		switch {
		case p.future && o.simulate == "":
			return nil, fmt.Errorf("-%s: policy %s knows the future; it requires -simulate", flag, name)
		case p.host && o.simulate != "":
			return nil, fmt.Errorf("-%s: policy %s cannot be simulated: no run measures the time in which the host computes an expert", flag, name)
		case p.host && o.limits.Host == 0:
			return nil, fmt.Errorf("-%s: policy %s requires -host-memory, from which the host computes", flag, name)
		}
		predictors := ps
		switch {
		case p.predict && !p.reuse && ps == nil:
			predictors = []string{gateReuse}
		case p.reuse: // gate reuse does not predict the next token
			predictors = slices.DeleteFunc(slices.Clone(ps), func(name string) bool { return name == gateReuse })
			if len(predictors) == 0 {
				if p.predict {
					return nil, fmt.Errorf("policy %s requires a -predictor that was trained for the next token (train -horizons token)", p.name)
				}
				predictors = []string{""}
			}
		case !p.predict && (!p.host || ps == nil):
			predictors = []string{""}
		}
		for _, predictor := range predictors {
			if predictor == oracle && o.simulate == "" {
				return nil, errors.New("-predictor: the oracle knows the future; it requires -simulate")
			}
			vs = append(vs, variant{p, predictor, o.distance})
		}
	}
	return vs, nil
}

// Predictors that are not trained; the oracle can only be simulated.
const gateReuse, oracle = "gate reuse", "oracle"

// ahead is what the variant reads ahead; nil: nothing.
func (v variant) ahead(p speculate.Predictor, c trace.Model) (*offload.PrefetchOptions, error) {
	if p == nil {
		return nil, nil
	}
	if v.distance >= c.Layers {
		return nil, fmt.Errorf("-distance is %d layers; the model has %d", v.distance, c.Layers)
	}
	token := p.Supports(speculate.Horizon{})
	o := &offload.PrefetchOptions{Predictor: p, Horizon: speculate.Horizon{Layers: v.distance}}
	switch {
	case v.reuse && !token:
		return nil, fmt.Errorf("-predictor %s: %s was not trained for the next token, which policy %s requires (train -horizons token)", v.predictor, p.Name(), v.name)
	case v.reuse && !v.predict:
		return o, nil
	case !v.supports(p):
		return nil, fmt.Errorf("-predictor %s: %s was not trained for -distance %d", v.predictor, p.Name(), v.distance)
	}
	if v.host { // more than the bus can bring beside the host's computing is not worth it
		o.Experts = 1
		return o, nil
	}
	o.Experts, o.NextToken, o.Nearer = c.TopK, token, v.distance > 1
	for h := 1; h < v.distance; h++ {
		o.Nearer = o.Nearer && p.Supports(speculate.Horizon{Layers: h})
	}
	return o, nil
}

// predictors loads those of all variants, by their name in -predictor. With -compare, a
// folder becomes a variant for each of its predictors; those that a policy cannot use
// are named on errs.
func (o *options) predictors(errs io.Writer) (map[string]speculate.Predictor, error) {
	ps := map[string]speculate.Predictor{}
	loaded := map[string][]speculate.Predictor{oracle: {speculate.Oracle{}}}
	var runs []variant
	for _, v := range o.runs {
		if v.predictor == "" {
			runs = append(runs, v)
			continue
		}
		_, name, every := folder(v.predictor)
		every = every && name == "" && o.compare != ""
		all := loaded[v.predictor]
		if all == nil {
			var err error
			if all, err = o.chosen(v.predictor, every); err != nil {
				return nil, fmt.Errorf("-predictor %s: %w", v.predictor, err)
			}
			loaded[v.predictor] = all
		}
		for _, p := range all {
			w := v
			if every {
				w.predictor += ":" + p.Name()
			}
			if every && !w.supports(p) {
				fmt.Fprintf(errs, "offload: %s omitted: not trained for it\n", w)
				continue
			}
			ps[w.predictor] = p
			runs = append(runs, w)
		}
	}
	if len(runs) == 0 {
		return nil, fmt.Errorf("-predictor %s: no predictor was trained for what -compare and -distance ask", o.predictor)
	}
	o.runs = runs
	return ps, nil
}

// supports reports whether p was trained for what the variant asks.
func (v variant) supports(p speculate.Predictor) bool {
	return (!v.reuse || p.Supports(speculate.Horizon{})) && (v.reuse && !v.predict || p.Supports(speculate.Horizon{Layers: v.distance}))
}

// chosen returns a predictor that needs no training, or one of a folder, or, with every,
// all of a folder.
func (o *options) chosen(name string, every bool) ([]speculate.Predictor, error) {
	gates, err := cli.ReadGates(o.model.Folder)
	if err != nil {
		return nil, err
	}
	dir, name, ok := folder(name)
	if !ok {
		if name != gateReuse {
			return nil, errors.New("neither gate reuse, mini nor a folder of predictors")
		}
		ps, err := speculate.Baselines(speculate.Shape{Layers: gates.Layers, Experts: gates.Experts, Hidden: gates.Hidden}, gates)
		if err != nil {
			return nil, err
		}
		return named(ps, name)
	}
	set, err := cli.LoadPredictors(dir, gates)
	if err != nil {
		return nil, err
	}
	o.fitted = append(o.fitted, fitted{dir, set.Provenance})
	switch {
	case name == "" && (every || len(set.Predictors) == 1):
		return set.Predictors, nil
	case name == "" && dir == "mini":
		name = "hidden transformer" // the best
	}
	return named(set.Predictors, name)
}

// fitted says on which documents the predictors of a folder were fitted.
type fitted struct {
	dir string
	*speculate.Provenance
}

// folder splits FOLDER:NAME or FOLDER; ok is false if there is no such folder.
func folder(s string) (dir, name string, ok bool) {
	isDir := func(path string) bool {
		info, err := os.Stat(path)
		return path == "mini" || err == nil && info.IsDir()
	}
	if isDir(s) {
		return s, "", true
	}
	if i := strings.LastIndexByte(s, ':'); i > 0 && isDir(s[:i]) {
		return s[:i], s[i+1:], true
	}
	return "", s, false
}

func named(ps []speculate.Predictor, name string) ([]speculate.Predictor, error) {
	var names []string
	for _, p := range ps {
		if p.Name() == name {
			return []speculate.Predictor{p}, nil
		}
		names = append(names, p.Name())
	}
	return nil, fmt.Errorf("it has %q; choose one as FOLDER:NAME", names)
}
