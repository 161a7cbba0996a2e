package viz

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// Study is what a report is about: the statistics of a trace, and what else is
// known of it.
type Study struct {
	// Title of the report; "": the model's name.
	Title string
	Lead  string
	// Routing is needed, the rest is not.
	Routing *trace.Summary
	// Results are those of an evaluation of predictors.
	Results *speculate.Results
	// Journeys are documents to read token by token.
	Journeys []Journey
	// Training are the curves of training, loss against steps.
	Training []Lines
	// First comes before the other sections (a comparison), Extra after them.
	First, Extra []Section
	// Source is added to the trace's own.
	Source []Fact
}

// NewReport puts everything that a study holds into a report: usage and
// balance, the token journey, data sets, layers, the course of documents,
// prediction and training.
func NewReport(s Study) (Report, error) {
	if s.Routing == nil {
		return Report{}, fmt.Errorf("viz: report: a study without statistics of routing")
	}
	r := s.Routing
	rep := Report{Title: s.Title, Lead: s.Lead, Facts: Facts(r, s.Results), Source: append(Origin(r), s.Source...)}
	if rep.Title == "" {
		rep.Title = "Routing of " + orElse(r.Model.Name, "an unnamed model")
	}
	if rep.Lead == "" {
		rep.Lead = fmt.Sprintf("Which of %s experts each token of %s documents went to, at each of %s MoE layers.",
			whole(int64(r.Model.Experts)), whole(r.Documents), whole(int64(r.Model.Layers)))
	}
	rep.Sections = append(rep.Sections, s.First...)
	rep.Sections = append(rep.Sections, usageSection(r))
	if len(s.Journeys) > 0 {
		rep.Sections = append(rep.Sections, journeySection(r, s.Journeys))
	}
	if s.Results != nil {
		rep.Sections = append(rep.Sections, Prediction(s.Results))
	}
	rep.Sections = append(rep.Sections, layerSection(r), courseSection(r))
	if len(s.Training) > 0 {
		sec := Section{ID: "training", Title: "Training"}
		for _, l := range s.Training {
			sec.Blocks = append(sec.Blocks, Figures{List: []Figure{l}})
		}
		rep.Sections = append(rep.Sections, sec)
	}
	rep.Sections = append(rep.Sections, s.Extra...)
	return rep, nil
}

func whole(n int64) string { return thousands(strconv.FormatInt(n, 10)) }

// Facts are the numbers of the summary; results may be nil.
func Facts(r *trace.Summary, results *speculate.Results) []Fact {
	var entropy, gini, first, random float64
	n := float64(max(1, len(r.Overall.Layers)))
	for _, l := range r.Overall.Layers {
		entropy += 100 * l.Usage.Normalized / n
		gini += l.Usage.Gini / n
		first += 100 * l.RepeatedFirst / n
		random += 100 * l.RandomRepeatedFirst / n
	}
	sets := "data sets"
	if len(r.Datasets) == 1 {
		sets = "data set"
	}
	facts := []Fact{
		{"tokens", whole(r.Tokens), fmt.Sprintf("%s documents, %s %s", whole(r.Documents), whole(int64(len(r.Datasets))), sets)},
		{"MoE layers", whole(int64(r.Model.Layers)), ""},
		{"experts", whole(int64(r.Model.Experts)), fmt.Sprintf("top-%d, a layer", r.Model.TopK)},
		{"evenness of use", short(entropy, 3) + " %", "entropy of its maximum"},
		{"Gini coefficient", short(gini, 2), "0: all used alike"},
		{"repeated first choice", short(first, 3) + " %", "random " + short(random, 3) + " %"},
	}
	if f, ok := best(results); ok {
		facts = append(facts, f)
	}
	return facts
}

// best is the best recall one layer ahead.
func best(r *speculate.Results) (Fact, bool) {
	if r == nil {
		return Fact{}, false
	}
	r = withoutOracle(r)
	h := speculate.Horizon{Layers: 1}
	var top *speculate.Row
	for _, p := range r.Predictors {
		for _, row := range r.Find(p, h, "all") {
			if top == nil || row.RecallK > top.RecallK {
				top = &row
			}
		}
	}
	if top == nil {
		return Fact{}, false
	}
	return Fact{fmt.Sprintf("best recall@%d", r.Shape.TopK), short(100*top.RecallK, 3) + " %", top.Predictor + ", " + HorizonText(h)}, true
}

// Origin says where a trace comes from.
func Origin(r *trace.Summary) []Fact {
	f := []Fact{{"model", orElse(r.Model.Name, "unnamed"), fmt.Sprintf("%d MoE layers, %d experts, top-%d", r.Model.Layers, r.Model.Experts, r.Model.TopK)}}
	for _, x := range []Fact{{"program", r.Source.Program, ""}, {"checkpoint", r.Source.Checkpoint, ""}, {"numeric type", r.Source.DType, ""}} {
		if x.Value != "" {
			f = append(f, x)
		}
	}
	f = append(f, Fact{"seed", strconv.FormatUint(r.Source.Seed, 10), ""})
	if len(r.Skipped) > 0 {
		f = append(f, Fact{"left out", strings.Join(r.Skipped, ", "), "too large for memory"})
	}
	return f
}

// maxDatasets bounds the data sets that are drawn.
const maxDatasets = 48

func usageSection(r *trace.Summary) Section {
	s := Section{ID: "usage", Title: "Usage", Text: []string{
		"How often each expert is chosen. An even spread uses the model's capacity; experts that stand out for one data set are its specialists."}}
	s.Blocks = append(s.Blocks, Figures{List: []Figure{UsageMap(&r.Overall, "usage", "Expert usage by layer")}}, Figures{List: []Figure{Balance(r)}})
	switch n := len(r.Datasets); {
	case n > maxDatasets:
		s.Text = append(s.Text, fmt.Sprintf("There are %s data sets, too many for a picture each: see the table.", whole(int64(n))))
	case n > 1:
		c := Figures{Label: "Data set"}
		for i := range r.Datasets {
			g := &r.Datasets[i]
			c.List = append(c.List, UsageMap(g, fmt.Sprintf("usage-dataset-%d", i+1), "Expert usage: "+datasetName(g.Dataset)))
			c.Options = append(c.Options, datasetName(g.Dataset))
		}
		if r.Model.Layers*r.Model.Experts*n <= 3*maxCells {
			s.Blocks = append(s.Blocks, Figures{List: []Figure{UsagePanels(r)}}, c)
		}
		s.Blocks = append(s.Blocks, Figures{List: []Figure{EntropyMap(r)}}, Figures{List: []Figure{Proportions(r)}})
	}
	s.Blocks = append(s.Blocks, DatasetTable(r))
	return s
}

// DatasetTable is a row for each data set, means over layers.
func DatasetTable(r *trace.Summary) Table {
	t := Table{Info: Info{Name: "datasets", Title: "Data sets", Caption: "Means over layers."}, Columns: []Column{
		{Name: "data set"}, {Name: "documents"}, {Name: "tokens"}, {Name: "evenness of use", Unit: "%", Digits: 1}, {Name: "Gini", Digits: 3},
		{Name: "same first choice", Unit: "%", Digits: 1}, {Name: "an expert in common", Unit: "%", Digits: 1}}}
	groups := append([]trace.GroupSummary{}, r.Datasets...)
	if len(groups) > 1 {
		groups = append(groups, r.Overall)
		groups[len(groups)-1].Dataset = "all"
	}
	for _, g := range groups {
		var even, gini, first, shared float64
		n := float64(max(1, len(g.Layers)))
		for _, l := range g.Layers {
			even += 100 * l.Usage.Normalized / n
			gini += l.Usage.Gini / n
			first += 100 * l.RepeatedFirst / n
			shared += 100 * l.RepeatedAny / n
		}
		t.Rows = append(t.Rows, []any{datasetName(g.Dataset), int(g.Documents), int(g.Tokens), even, gini, first, shared})
	}
	return t
}

func journeySection(r *trace.Summary, docs []Journey) Section {
	return Section{ID: "tokens", Title: "Token journey", Text: []string{
		"Pick a document and a layer: each token takes the colour and the number of its expert there. Pick a token: its way through all layers is drawn below, and kept beside others if you ask for it."},
		Blocks: []Block{Journeys{Info: Info{Name: "journey", Title: "Read a document by its experts",
			Caption: "Full circles are first choices, rings the others; their size is the routing weight. Press an expert in the legend to see its tokens alone; arrow keys move from token to token."},
			Layers: r.Model.Layers, Experts: r.Model.Experts, TopK: r.Model.TopK, Documents: docs}}}
}

func layerSection(r *trace.Summary) Section {
	s := Section{ID: "layers", Title: "From layer to layer", Text: []string{
		"What the choice at one layer says about the next, and which experts are chosen together."}}
	add := func(label string, figs []Figure, options []string) {
		if len(figs) > 0 {
			s.Blocks = append(s.Blocks, Figures{Label: label, List: figs, Options: options})
		}
	}
	figs, options := Flows(r)
	add("Layers", figs, options)
	if len(r.Transitions) > 0 {
		s.Blocks = append(s.Blocks, Figures{List: []Figure{Information(r)}})
	}
	figs, options = TransitionMaps(r)
	add("Layers", figs, options)
	figs, options = CoactivationMaps(r)
	add("Layer", figs, options)
	if len(s.Blocks) == 0 {
		s.Text = append(s.Text, "Nothing to draw: the model has one layer, or its pairs of experts were left out.")
	}
	return s
}

func courseSection(r *trace.Summary) Section {
	s := Section{ID: "course", Title: "From token to token", Text: []string{
		"How much neighbouring tokens share: what a cache of experts lives on."}}
	s.Blocks = append(s.Blocks, Figures{List: []Figure{Repeats(r)}})
	for _, p := range []Panels{Locality(r), Positions(r), Certainty(r)} {
		if len(p.Figures) > 0 {
			s.Blocks = append(s.Blocks, Figures{List: []Figure{p}})
		}
	}
	return s
}
