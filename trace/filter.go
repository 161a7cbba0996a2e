package trace

import "slices"

// Filter selects what a Reader reads. The zero value selects everything.
type Filter struct {
	// Datasets and Documents, where not empty, are the names of the data sets
	// and the ids of the documents to read. Row groups without them, by the
	// shards' statistics, are skipped unread.
	Datasets  []string
	Documents []string
	// NoLogits and NoInput leave Document.RouterLogits and RouterInput nil
	// without reading them.
	NoLogits bool
	NoInput  bool
	// TokensOnly leaves all arrays of Document except Tokens nil without reading
	// them. Such documents are not valid.
	TokensOnly bool
}

// Select returns a reader of those documents and columns of r that f selects.
func (r *Reader) Select(f Filter) *Reader {
	s := *r
	s.filter.Datasets = narrow(r.filter.Datasets, f.Datasets)
	s.filter.Documents = narrow(r.filter.Documents, f.Documents)
	s.filter.NoLogits = r.filter.NoLogits || f.NoLogits
	s.filter.NoInput = r.filter.NoInput || f.NoInput
	s.filter.TokensOnly = r.filter.TokensOnly || f.TokensOnly
	return &s
}

// narrow returns the names that are in both lists. nil means all names, and so
// does an empty list of a Filter.
func narrow(names, filter []string) []string {
	switch {
	case len(filter) == 0:
		return names
	case names == nil:
		return slices.Clone(filter)
	}
	both := []string{}
	for _, name := range names {
		if slices.Contains(filter, name) {
			both = append(both, name)
		}
	}
	return both
}
