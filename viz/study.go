package viz

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// Study holds what a report shows: the statistics of a trace and, optionally,
// results about it.
type Study struct {
	// Name identifies the trace in a comparison; "": the model's name.
	Name string
	// Title and Lead begin the report. Both have a default.
	Title, Lead string
	// Routing is required, all other fields are optional.
	Routing *trace.Summary
	// Results of an evaluation of predictors, and their calibration.
	Results     *speculate.Results
	Calibration *Calibration
	// Journeys are documents to read token by token, see [Sampler].
	Journeys []Journey
	// Training are figures of a training: losses by step.
	Training []Figure
	// Cache holds simulations of a cache of experts.
	Cache *CacheStudy
	// Extra are the last sections of the report.
	Extra []Section
	// Source is added to what the trace says about its source.
	Source []Fact
}

func (s Study) name() string {
	return cmp.Or(s.Name, s.Routing.Model.Name, "an unnamed model")
}

// NewReport returns the report of a study: usage and balance, token journeys,
// prediction, transitions between layers and tokens, training, calibration and
// cache. Sections without data are omitted.
func NewReport(s Study) (Report, error) {
	if s.Routing == nil {
		return Report{}, errors.New("viz: report: the study has no Routing")
	}
	r := s.Routing
	rep := Report{
		Title: cmp.Or(s.Title, "Routing of "+s.name()),
		Lead: cmp.Or(s.Lead, fmt.Sprintf("The routing of %s documents: which of %s experts each token was sent to at each of %s MoE layers.",
			whole(r.Documents), whole(int64(r.Model.Experts)), whole(int64(r.Model.Layers)))),
		Facts:  facts(r, s.Results),
		Source: append(origin(r), s.Source...),
	}
	rep.Sections = append(rep.Sections, usageSection(r))
	if len(s.Journeys) > 0 {
		rep.Sections = append(rep.Sections, journeySection(r, s.Journeys))
	}
	if s.Results != nil {
		rep.Sections = append(rep.Sections, prediction(s.Results))
	}
	rep.Sections = append(rep.Sections, layerSection(r), tokenSection(r))
	if len(s.Training) > 0 {
		sec := Section{ID: "training", Title: "Training"}
		for _, f := range s.Training {
			sec.add(f)
		}
		rep.Sections = append(rep.Sections, sec)
	}
	if s.Calibration != nil {
		rep.Sections = append(rep.Sections, s.Calibration.section())
	}
	if s.Cache != nil {
		sec, err := s.Cache.section(r.Model)
		if err != nil {
			return Report{}, err
		}
		rep.Sections = append(rep.Sections, sec)
	}
	rep.Sections = append(rep.Sections, s.Extra...)
	return rep, nil
}

func whole(n int64) string { return thousands(strconv.FormatInt(n, 10)) }

// facts are the numbers of the summary; results may be nil.
func facts(r *trace.Summary, results *speculate.Results) []Fact {
	mean := func(f func(*trace.LayerSummary) float64) float64 {
		if len(r.Overall.Layers) == 0 {
			return 0
		}
		return meanOver(r.Overall.Layers, f)
	}
	entropy := mean(func(l *trace.LayerSummary) float64 { return 100 * l.Usage.Normalized })
	gini := mean(func(l *trace.LayerSummary) float64 { return l.Usage.Gini })
	first := mean(func(l *trace.LayerSummary) float64 { return 100 * l.RepeatedFirst })
	random := mean(func(l *trace.LayerSummary) float64 { return 100 * l.RandomRepeatedFirst })
	sets := "data sets"
	if len(r.Datasets) == 1 {
		sets = "data set"
	}
	facts := []Fact{
		{"tokens", whole(r.Tokens), fmt.Sprintf("%s documents, %s %s", whole(r.Documents), whole(int64(len(r.Datasets))), sets)},
		{"MoE layers", whole(int64(r.Model.Layers)), stackCounts(r.Model)},
		{"experts", whole(int64(r.Model.Experts)), fmt.Sprintf("per layer, top-%d", r.Model.TopK)},
		{"evenness of use", short(entropy, 3) + " %", "entropy, share of its maximum"},
		{"Gini coefficient", short(gini, 2), "0: all used equally"},
		{"repeated first choice", short(first, 3) + " %", "random " + short(random, 3) + " %"},
	}
	if results == nil {
		return facts
	}
	var best speculate.Row
	for _, p := range withoutOracle(results).Predictors {
		if row := recallAhead(results, p); row.RecallK > best.RecallK {
			best = row
		}
	}
	if best.Predictor != "" {
		facts = append(facts, Fact{fmt.Sprintf("best recall@%d", results.Shape.TopK), short(100*best.RecallK, 3) + " %", best.Predictor + ", " + horizonText(best.Horizon)})
	}
	return facts
}

// stackCounts says how many layers each of several stacks has.
func stackCounts(m trace.Model) string {
	if len(m.Stacks) < 2 {
		return ""
	}
	var parts []string
	for _, s := range m.Stacks {
		parts = append(parts, fmt.Sprintf("%s %d", s.Name, s.Layers))
	}
	return strings.Join(parts, ", ")
}

// origin says where a trace comes from.
func origin(r *trace.Summary) []Fact {
	f := []Fact{{"model", orElse(r.Model.Name, "unnamed"), fmt.Sprintf("%d MoE layers, %d experts, top-%d", r.Model.Layers, r.Model.Experts, r.Model.TopK)}}
	for _, x := range []Fact{{"program", r.Source.Program, ""}, {"checkpoint", r.Source.Checkpoint, ""}, {"numeric type", r.Source.DType, ""}} {
		if x.Value != "" {
			f = append(f, x)
		}
	}
	f = append(f, Fact{"seed", strconv.FormatUint(r.Source.Seed, 10), ""})
	if len(r.Skipped) > 0 {
		f = append(f, Fact{"omitted", strings.Join(r.Skipped, ", "), "too large for memory"})
	}
	return f
}

// maxDatasets is the maximum number of data sets that are drawn.
const maxDatasets = 48

func usageSection(r *trace.Summary) Section {
	s := Section{ID: "usage", Title: "Usage", Text: []string{
		"How often each expert is chosen. If the spread is even, the model uses its whole capacity. Experts that are chosen often in one data set only are its specialists."}}
	s.add(usageMap(r.Model, &r.Overall, "usage", "Expert usage by layer"))
	s.add(balance(r))
	if f := dropped(r); len(f.Curves) > 0 {
		s.add(f)
	}
	switch n := len(r.Datasets); {
	case n > maxDatasets:
		s.Text = append(s.Text, fmt.Sprintf("There are %s data sets, too many for figures: see the table.", whole(int64(n))))
	case n > 1:
		if r.Model.Layers*r.Model.Experts*n <= 3*maxCells {
			s.add(usagePanels(r))
			c := Figures{Label: "Data set"}
			for i := range r.Datasets {
				g := &r.Datasets[i]
				c.add(datasetName(g.Dataset), usageMap(r.Model, g, fmt.Sprintf("usage-dataset-%d", i+1), "Expert usage: "+datasetName(g.Dataset)))
			}
			s.Blocks = append(s.Blocks, c)
		}
		s.add(entropyMap(r))
		s.add(proportions(r))
	}
	s.Blocks = append(s.Blocks, datasetTable(r))
	return s
}

// datasetTable has a row for each data set, with means over layers.
func datasetTable(r *trace.Summary) Table {
	t := Table{Info: Info{Name: "datasets", Title: "Data sets", Caption: "Means over layers."}, Columns: []Column{
		{Name: "data set"}, {Name: "documents"}, {Name: "tokens"}, {Name: "evenness of use", Unit: "%", Digits: 1}, {Name: "Gini", Digits: 3},
		{Name: "same first choice", Unit: "%", Digits: 1}, {Name: "an expert in common", Unit: "%", Digits: 1}}}
	groups := append([]trace.GroupSummary{}, r.Datasets...)
	if len(groups) > 1 {
		groups = append(groups, r.Overall)
		groups[len(groups)-1].Dataset = "all"
	}
	for _, g := range groups {
		t.Rows = append(t.Rows, []any{datasetName(g.Dataset), int(g.Documents), int(g.Tokens),
			meanOver(g.Layers, func(l *trace.LayerSummary) float64 { return 100 * l.Usage.Normalized }),
			meanOver(g.Layers, func(l *trace.LayerSummary) float64 { return l.Usage.Gini }),
			meanOver(g.Layers, func(l *trace.LayerSummary) float64 { return 100 * l.RepeatedFirst }),
			meanOver(g.Layers, func(l *trace.LayerSummary) float64 { return 100 * l.RepeatedAny })})
	}
	return t
}

func journeySection(r *trace.Summary, docs []Journey) Section {
	return Section{ID: "tokens", Title: "Token journey", Text: []string{
		"Choose a document and a layer: each token has the colour and the number of its expert at that layer. Choose a token: its path through all layers is drawn below. Keep the path to compare it with others."},
		Blocks: []Block{journeys{Info: Info{Name: "journey", Title: "Read a document by its experts",
			Caption: "Filled circles are first choices, rings the other choices; their size is the routing weight. Press an expert in the legend to see only its tokens. Arrow keys move from token to token."},
			Layers: r.Model.Layers, Experts: r.Model.Experts, TopK: r.Model.TopK, Documents: docs, names: stacksOf(r.Model).names}}}
}

func layerSection(r *trace.Summary) Section {
	s := Section{ID: "layers", Title: "From layer to layer", Text: []string{
		"What the choice at one layer says about the next, and which experts are chosen together."}}
	for _, f := range []Figures{flows(r), {List: []Figure{information(r)}}, transitionMaps(r), coactivationMaps(r)} {
		if len(f.List) > 0 && hasData(f.List[0]) {
			s.Blocks = append(s.Blocks, f)
		}
	}
	if len(s.Blocks) == 0 {
		s.Text = append(s.Text, "Nothing to draw: the model has one layer, or its pairs of experts were omitted.")
	}
	return s
}

func tokenSection(r *trace.Summary) Section {
	s := Section{ID: "course", Title: "From token to token", Text: []string{
		"How much consecutive tokens have in common, which is what makes a cache of experts useful."}}
	for _, p := range []Panels{repeats(r), locality(r), positions(r), certainty(r)} {
		if hasData(p) {
			s.add(p)
		}
	}
	return s
}
