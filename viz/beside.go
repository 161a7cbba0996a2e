package viz

import "github.com/expertspec/expertspec/speculate"

// beside draws each figure that both studies have as two panels.
func beside(a, b Study) Figures {
	choice := Figures{Label: "Side by side"}
	ahead := speculate.Horizon{Layers: 1}
	evaluated := func(figure func(*speculate.Results, speculate.Horizon) Lines) func(Study) Figure {
		return func(s Study) Figure {
			if s.Results == nil {
				return nil
			}
			return figure(withoutOracle(s.Results), ahead)
		}
	}
	for _, k := range []struct {
		name, title string
		figure      func(Study) Figure
	}{
		{"usage", "Usage", func(s Study) Figure { return usageMap(s.Routing.Model, &s.Routing.Overall, "panel", "") }},
		{"balance", "Balance", func(s Study) Figure { return balance(s.Routing) }},
		{"entropy", "Evenness of use by data set", func(s Study) Figure { return entropyMap(s.Routing) }},
		{"proportions", "Data sets and their experts", func(s Study) Figure { return proportions(s.Routing) }},
		{"repeats", "Repeated assignment", func(s Study) Figure { return repeats(s.Routing) }},
		{"locality", "Consistency within windows", func(s Study) Figure { return locality(s.Routing) }},
		{"positions", "Along the document", func(s Study) Figure { return positions(s.Routing) }},
		{"certainty", "Certainty of the router", func(s Study) Figure { return certainty(s.Routing) }},
		{"information", "Information about the next layer", func(s Study) Figure { return information(s.Routing) }},
		{"transition", "Transitions, in the middle of the model", func(s Study) Figure { return transitionMaps(s.Routing).middle() }},
		{"flow", "Flow, in the middle of the model", func(s Study) Figure { return flows(s.Routing).middle() }},
		{"together", "Chosen together, in the middle of the model", func(s Study) Figure { return coactivationMaps(s.Routing).middle() }},
		{"recall-by-layer", "Recall by layer, 1 layer ahead", evaluated(recallByLayer)},
		{"recall-by-k", "Recall by number of experts named", evaluated(recallByK)},
	} {
		if many := max(len(a.Routing.Datasets), len(b.Routing.Datasets)) > maxDatasets; many && (k.name == "entropy" || k.name == "proportions") {
			continue
		}
		x, y := k.figure(a), k.figure(b)
		if !hasData(x) || !hasData(y) {
			continue
		}
		choice.add(k.title, Panels{
			Info:    Info{Name: "beside-" + k.name, Title: k.title + ": " + a.Name + " and " + b.Name, Caption: x.Describe().Caption},
			Figures: []Figure{titled{x, a.Name}, titled{y, b.Name}},
		})
	}
	return choice
}

// middle returns the figure in the middle of the list, or nil.
func (f Figures) middle() Figure {
	if len(f.List) == 0 {
		return nil
	}
	return f.List[len(f.List)/2]
}

// hasData reports whether a figure has anything to draw.
func hasData(f Figure) bool {
	if p, ok := f.(Panels); ok {
		return len(p.Figures) > 0
	}
	return f != nil && len(f.Table().Rows) > 0
}

// titled is a figure with another title.
type titled struct {
	Figure
	title string
}

// Describe implements Figure.
func (t titled) Describe() Info {
	i := t.Figure.Describe()
	i.Title = t.title
	return i
}
