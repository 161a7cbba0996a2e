package trace

import (
	"fmt"
	"math"

	"github.com/expertspec/expertspec/trace/internal/pq"
)

// Names of the columns of schema version 1.
const (
	colDataset  = "dataset"
	colDocument = "document"
	colPosition = "position"
	colPhase    = "phase"
	colToken    = "token"
	colExperts  = "experts"
	colWeights  = "weights"
	colDropped  = "dropped"
	colLogits   = "router_logits"
	colInput    = "router_input"
)

// Float is the stored type of router logits and router input.
type Float int

const (
	Float32 Float = iota
	// Float16 is IEEE 754 binary16 with Parquet's logical type FLOAT16. pandas
	// (pyarrow), polars and DuckDB read it; Spark does not yet.
	Float16
)

func (f Float) kind() pq.Kind {
	if f == Float16 {
		return pq.Float16
	}
	return pq.Float32
}

// specs returns the columns of a trace in file order, without weights, dropped,
// logits and input that the header does not have.
func specs(h *Header, float Float, split bool) []pq.Spec {
	m := &h.Model
	experts := pq.Spec{Name: colExperts, Kind: pq.Index16, Width: m.Layers * m.TopK, Values: m.Experts}
	if m.Experts > math.MaxInt16 {
		experts.Kind = pq.Index32
	}
	list := []pq.Spec{
		{Name: colDataset, Kind: pq.String},
		{Name: colDocument, Kind: pq.String},
		{Name: colPosition, Kind: pq.Counter},
		{Name: colPhase, Kind: pq.String},
		{Name: colToken, Kind: pq.Int32},
		experts,
	}
	if !h.NoWeights {
		list = append(list, pq.Spec{Name: colWeights, Kind: pq.Float32, Width: m.Layers * m.TopK, Split: split})
	}
	if h.Dropped {
		list = append(list, pq.Spec{Name: colDropped, Kind: pq.Bool, Width: m.Layers})
	}
	if n := len(h.LogitLayers); n > 0 {
		list = append(list, pq.Spec{Name: colLogits, Kind: float.kind(), Width: n * m.Experts, Split: split && float == Float32})
	}
	if n := len(h.InputLayers); n > 0 {
		list = append(list, pq.Spec{Name: colInput, Kind: float.kind(), Width: n * m.Hidden, Split: split && float == Float32})
	}
	return list
}

// appendDocument appends a valid document's rows to the columns of specs.
func appendDocument(w *pq.Writer, h *Header, d *Document) error {
	n := d.Len()
	w.Column(0).AppendString(d.Dataset, n)
	w.Column(1).AppendString(d.ID, n)
	positions := d.Positions
	if positions == nil {
		positions = make([]int32, n)
		for t := range positions {
			positions[t] = int32(t)
		}
	}
	w.Column(2).AppendInts(positions)
	if d.Phases == nil {
		w.Column(3).AppendString(string(Prefill), n)
	}
	for _, p := range d.Phases {
		w.Column(3).AppendString(string(p), 1)
	}
	w.Column(4).AppendInts(d.Tokens)
	w.Column(5).AppendInts(d.Experts)
	column := 6
	if !h.NoWeights {
		if err := w.Column(column).AppendFloats(d.Weights); err != nil {
			return err
		}
		column++
	}
	if h.Dropped {
		w.Column(column).AppendBools(d.Dropped)
		column++
	}
	for _, f := range []struct {
		have   bool
		values []float32
	}{
		{len(h.LogitLayers) > 0, d.RouterLogits},
		{len(h.InputLayers) > 0, d.RouterInput},
	} {
		if !f.have {
			continue
		}
		if err := w.Column(column).AppendFloats(f.values); err != nil {
			return err
		}
		column++
	}
	return nil
}

// columnsOf finds the columns of a trace in a file by name and sets h.NoWeights
// and h.Dropped. Unknown columns are ignored, among them one of the name of
// colDropped that is no list of booleans.
func columnsOf(f *pq.File, h *Header) (map[string]pq.Column, error) {
	found := map[string]pq.Column{}
	for _, c := range f.Columns() {
		if _, twice := found[c.Path[0]]; twice {
			delete(found, c.Path[0]) // a struct, which no column is
			continue
		}
		found[c.Path[0]] = c
	}
	_, weights := found[colWeights]
	h.NoWeights = !weights
	h.Dropped = found[colDropped].BoolList()
	for _, s := range specs(h, Float32, false) {
		c, ok := found[s.Name]
		if !ok {
			return nil, fmt.Errorf("%w: no column %q", errForeign, s.Name)
		}
		if list := c.MaxRep > 0; list != (s.Width > 0) {
			return nil, fmt.Errorf("%w: column %q is nested in %d lists", errForeign, s.Name, c.MaxRep)
		}
	}
	return found, nil
}
