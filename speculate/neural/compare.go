package neural

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// CompareOptions are the options of [Compare], [Fit] and [LeaveOneOut].
type CompareOptions struct {
	// Train are the options of each network; Statistics are set by Fit.
	Train TrainOptions
	// MLPs are the perceptrons to fit; nil means those of [MLPConfigs], of width 64.
	// An empty, non-nil slice means none.
	MLPs []MLPConfig
	// Only, if not empty, names the predictors to fit.
	Only []string
	// Transformers are trained only where Only names them; nil means
	// [TransformerConfigs] of two blocks, width 128 and a window of 512 tokens.
	Transformers []TransformerConfig
	// Trained are networks of earlier trainings. They are calibrated and become
	// members of the ensemble, except that a transformer that Only names is trained
	// further. A new transformer that reads router logits starts from one here of the
	// same sizes that does not.
	Trained []Network
	// Int8 rounds the matrices of all networks, Trained too, to 8 bits before they are
	// calibrated, and they are saved so, in a quarter of the bytes. Their predictions
	// are those of the networks that speculate.SaveAll saves.
	Int8 bool
	// Evaluate are the options of the evaluation; Horizons are those of Train.
	Evaluate speculate.EvaluateOptions
	// Stage, if not nil, is called when a stage begins, with its description.
	Stage func(what string)
}

// Comparison is the result of [Compare] and [Fit].
type Comparison struct {
	Predictors []speculate.Predictor // calibrated, the ensemble last
	Networks   []Network             // those among Predictors, without calibration
	// Ensemble is nil if Only does not name it, or if there is one predictor.
	Ensemble *speculate.Ensemble
	Costs    map[string]speculate.Cost
	Results  *speculate.Results // of Compare; nil after Fit
}

// MLPConfigs returns configurations of a hidden width for a trace with header h
// and gates, which may be nil: [InterLayer] and [StatisticsAware]
// always, [RouterLogits] where all router logits are recorded, [CorrectedGate]
// and [HiddenState] where all router inputs are recorded and gates is not nil.
func MLPConfigs(width int, h trace.Header, gates *speculate.Gates) []MLPConfig {
	logits, inputs := recorded(h)
	cs := []MLPConfig{InterLayer(width), StatisticsAware(width)}
	if logits {
		cs = append(cs, RouterLogits(width))
	}
	if inputs && gates != nil {
		h := HiddenState(width)
		if !logits {
			h.Features.Logits, h.Features.PastLogits = 0, 0
		}
		cs = append(cs, CorrectedGate(), h)
	}
	return cs
}

// TransformerConfigs returns configurations for a trace with header h and gates,
// which may be nil:
//
//   - "routing transformer" reads routing and token ids.
//   - "router-logit transformer", where all router logits are recorded, reads those
//     too.
//   - "hidden transformer", where all router inputs are recorded and gates is not
//     nil, reads those, and starts as the target layers' routers.
//
// width is that of the transformer, a multiple of 32, and window its number of
// tokens.
func TransformerConfigs(blocks, width, window int, h trace.Header, gates *speculate.Gates) []TransformerConfig {
	logits, inputs := recorded(h)
	cs := []TransformerConfig{routingTransformer(blocks, width, window)}
	if logits {
		cs = append(cs, logitTransformer(blocks, width, window))
	}
	if inputs && gates != nil {
		cs = append(cs, hiddenTransformer(blocks, width, window))
	}
	return cs
}

// recorded reports whether h records the router logits and the router inputs of
// all layers.
func recorded(h trace.Header) (logits, inputs bool) {
	return len(h.LogitLayers) == h.Model.Layers, len(h.InputLayers) == h.Model.Layers && h.Model.Hidden > 0
}

// Compare fits predictors on parts.Train and parts.Valid as [Fit] does, and
// evaluates them and the oracle on parts.Test.
func Compare(ctx context.Context, parts speculate.Parts, o CompareOptions) (*Comparison, error) {
	c, err := Fit(ctx, parts.Train, parts.Valid, o)
	if err != nil {
		return nil, err
	}
	o.stage("evaluating")
	eo := o.Evaluate
	eo.Horizons = o.Train.Horizons
	c.Results, err = speculate.Evaluate(ctx, parts.Test, eo, append(slices.Clone(c.Predictors), speculate.Oracle{})...)
	if err != nil {
		return nil, err
	}
	c.Results.Costs = c.Costs
	return c, nil
}

func (o *CompareOptions) stage(format string, a ...any) {
	if o.Stage != nil {
		o.Stage(fmt.Sprintf(format, a...))
	}
}

// wants reports whether a predictor is to be fitted.
func (o *CompareOptions) wants(name string) bool {
	return len(o.Only) == 0 || slices.Contains(o.Only, name)
}

// Fit fits the baselines and the networks on train, calibrates them on valid and
// fits the ensemble there. If the trace does not state the size of the vocabulary,
// MLPs do not read token ids.
func Fit(ctx context.Context, train, valid speculate.Data, o CompareOptions) (*Comparison, error) {
	if o.MLPs == nil {
		o.MLPs = MLPConfigs(64, train.Header, o.Train.Gates)
	}
	if o.Transformers == nil {
		o.Transformers = TransformerConfigs(2, 128, 512, train.Header, o.Train.Gates)
	}
	ps, stats, err := o.baselines(ctx, train)
	if err != nil {
		return nil, err
	}
	c := &Comparison{Costs: map[string]speculate.Cost{}}
	if c.Networks, err = o.train(ctx, train, valid, stats); err != nil {
		return nil, err
	}
	for i, n := range c.Networks {
		if q, ok := n.(interface{ toInt8() Network }); ok && o.Int8 {
			n = q.toInt8()
			c.Networks[i] = n
		}
		c.Costs[n.Name()] = speculate.Cost{Parameters: n.Info().Parameters, TrainSeconds: n.Info().Seconds}
		ps = append(ps, n)
	}
	eo := o.Evaluate
	eo.Horizons, eo.Each, eo.Progress = o.Train.Horizons, nil, nil
	o.stage("calibrating")
	if ps, err = speculate.Calibrate(ctx, valid, eo, ps...); err != nil {
		return nil, err
	}
	c.Predictors = ps
	if len(ps) > 1 && o.wants("ensemble") {
		o.stage("fitting the ensemble")
		began := time.Now()
		if c.Ensemble, err = speculate.FitEnsemble(ctx, "ensemble", valid, eo, ps...); err != nil {
			return nil, err
		}
		c.Costs["ensemble"] = speculate.Cost{TrainSeconds: time.Since(began).Seconds()}
		c.Predictors = append(ps, c.Ensemble.Calibrated())
	}
	return c, nil
}

// baselines returns the fitted baselines that o names, and the predictors that
// count, which networks mix.
func (o *CompareOptions) baselines(ctx context.Context, train speculate.Data) (ps, stats []speculate.Predictor, err error) {
	gates := o.Train.Gates
	if _, inputs := recorded(train.Header); !inputs {
		gates = nil
	}
	if ps, err = speculate.Baselines(speculate.ShapeOf(train.Header.Model), gates); err != nil {
		return nil, nil, err
	}
	if err := errors.Join(o.known(ps), o.joins()); err != nil {
		return nil, nil, err
	}
	mixes := slices.ContainsFunc(o.MLPs, func(c MLPConfig) bool { return c.Statistics && o.wants(c.Name) })
	ps = slices.DeleteFunc(ps, func(p speculate.Predictor) bool {
		_, counts := p.(speculate.Counter)
		return p == speculate.Oracle{} || !o.wants(p.Name()) && !(counts && mixes)
	})
	o.stage("counting")
	if err := speculate.Fit(ctx, train, o.Train.Horizons, ps...); err != nil {
		return nil, nil, err
	}
	for _, p := range ps {
		if !supportsAny(p, o.Train.Horizons) && slices.Contains(o.Only, p.Name()) {
			return nil, nil, fmt.Errorf("neural: %s supports none of the horizons on these documents (are token ids recorded?)", p.Name())
		}
	}
	ps = slices.DeleteFunc(ps, func(p speculate.Predictor) bool { return !supportsAny(p, o.Train.Horizons) })
	for _, p := range ps {
		// Counts by token id are of the documents that the network is trained on,
		// where those of rare ids look more certain than they are. The network has
		// embeddings of ids instead.
		_, ids := p.(*speculate.TokenID)
		if _, counts := p.(speculate.Counter); counts && !ids {
			stats = append(stats, p)
		}
	}
	return slices.DeleteFunc(ps, func(p speculate.Predictor) bool { return !o.wants(p.Name()) }), stats, nil
}

// supportsAny reports whether p answers at one of hs: a predictor by token ids does not
// where no ids are recorded.
func supportsAny(p speculate.Predictor, hs []speculate.Horizon) bool {
	return slices.ContainsFunc(hs, p.Supports)
}

// train trains networks.
func (o *CompareOptions) train(ctx context.Context, train, valid speculate.Data, stats []speculate.Predictor) ([]Network, error) {
	var made []Network
	do := func(name string, fit func(t TrainOptions) (Network, error)) error {
		o.stage("training %s", name)
		n, err := fit(o.Train)
		if err == nil {
			made = append(made, n)
		}
		return err
	}
	for _, cfg := range o.MLPs {
		if !o.wants(cfg.Name) {
			continue
		}
		if train.Header.Model.Vocabulary == 0 {
			cfg = cfg.withoutIDs()
		}
		if err := do(cfg.Name, func(t TrainOptions) (Network, error) {
			t.Statistics = stats
			return TrainMLP(ctx, cfg, train, valid, t)
		}); err != nil {
			return nil, err
		}
	}
	for _, cfg := range o.Transformers {
		if !slices.Contains(o.Only, cfg.Name) {
			continue
		}
		if err := do(cfg.Name, func(t TrainOptions) (Network, error) {
			i := o.trained(cfg.Name)
			if i < 0 && cfg.Logits {
				twin := cfg
				twin.Logits = false
				i = slices.IndexFunc(o.Trained, func(n Network) bool {
					t, ok := n.(*Transformer)
					twin.Name = n.Name()
					return ok && t.cfg == twin
				})
			}
			if i >= 0 {
				t.Start, _ = o.Trained[i].(*Transformer)
			}
			return TrainTransformer(ctx, cfg, train, valid, t)
		}); err != nil {
			return nil, err
		}
	}
	for _, n := range o.Trained {
		if !slices.Contains(o.Only, n.Name()) {
			made = append(made, n)
		}
	}
	return made, nil
}

// trained returns the index of a name in o.Trained, -1 if it is not there.
func (o *CompareOptions) trained(name string) int {
	return slices.IndexFunc(o.Trained, func(n Network) bool { return n.Name() == name })
}

// joins reports a network in o.Trained that cannot be used.
func (o *CompareOptions) joins() error {
	for i, n := range o.Trained {
		_, further := n.(*Transformer)
		needs, ok := n.(interface{ Needs() []speculate.Predictor })
		switch {
		case ok && len(needs.Needs()) > 0:
			return fmt.Errorf("neural: %s in Trained mixes predictors that were fitted on other documents", n.Name())
		case o.trained(n.Name()) != i:
			return fmt.Errorf("neural: %s is in Trained twice", n.Name())
		case !further && o.wants(n.Name()):
			return fmt.Errorf("neural: %s is in Trained and cannot be trained further", n.Name())
		}
	}
	return nil
}

// known reports a name in o.Only that no predictor has.
func (o *CompareOptions) known(ps []speculate.Predictor) error {
	names := []string{"ensemble"}
	for _, p := range ps {
		if p != (speculate.Oracle{}) {
			names = append(names, p.Name())
		}
	}
	for _, c := range o.MLPs {
		names = append(names, c.Name)
	}
	for _, c := range o.Transformers {
		names = append(names, c.Name)
	}
	for _, n := range o.Only {
		if !slices.Contains(names, n) {
			return fmt.Errorf("neural: no predictor %q; must be one of %q", n, names)
		}
	}
	return nil
}
