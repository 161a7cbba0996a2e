package trace

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Limits of schema version 1. They are far above any known model and bound the
// memory that a corrupt header can ask for.
const (
	MaxLayers  = 4096
	MaxExperts = 1 << 20
	MaxShards  = 100000
	maxRow     = 1 << 24 // values of one token in one column
)

// Validate checks that the model's numbers are in range and consistent.
func (m *Model) Validate() error {
	switch {
	case m.Layers < 1 || m.Layers > MaxLayers:
		return fmt.Errorf("model %q: %d layers, expected 1..%d", m.Name, m.Layers, MaxLayers)
	case m.Experts < 1 || m.Experts > MaxExperts:
		return fmt.Errorf("model %q: %d experts, expected 1..%d", m.Name, m.Experts, MaxExperts)
	case m.TopK < 1 || m.TopK > m.Experts:
		return fmt.Errorf("model %q: top-k %d of %d experts", m.Name, m.TopK, m.Experts)
	case m.Hidden < 0 || m.Hidden > maxRow:
		return fmt.Errorf("model %q: hidden size %d", m.Name, m.Hidden)
	case m.Vocabulary < 0:
		return fmt.Errorf("model %q: vocabulary of %d", m.Name, m.Vocabulary)
	case m.Layers*m.TopK > maxRow:
		return fmt.Errorf("model %q: %d layers with top-k %d", m.Name, m.Layers, m.TopK)
	}
	if len(m.Stacks) == 0 {
		return nil // one stack, "decoder"
	}
	layers := 0
	for i, s := range m.Stacks {
		if s.Name == Encoder && i > 0 {
			return fmt.Errorf("model %q: stack %d is %q, which must be the first", m.Name, i, s.Name)
		}
		if s.Layers < 1 || s.Layers > m.Layers-layers {
			return fmt.Errorf("model %q: stack %d (%q) has %d layers; the stacks must add up to %d", m.Name, i, s.Name, s.Layers, m.Layers)
		}
		layers += s.Layers
		if s.TopK < 0 || s.TopK > m.TopK {
			return fmt.Errorf("model %q: stack %d (%q) has top-k %d, the model %d", m.Name, i, s.Name, s.TopK, m.TopK)
		}
		if s.Blocks != nil && len(s.Blocks) != s.Layers {
			return fmt.Errorf("model %q: stack %d (%q) lists %d blocks for %d layers", m.Name, i, s.Name, len(s.Blocks), s.Layers)
		}
		if err := ascending(s.Blocks, maxRow); err != nil {
			return fmt.Errorf("model %q: blocks of stack %d (%q): %w", m.Name, i, s.Name, err)
		}
	}
	if layers != m.Layers {
		return fmt.Errorf("model %q: stacks have %d layers, the model %d", m.Name, layers, m.Layers)
	}
	return nil
}

// LayerTopK returns the top-k of each layer, [L]: its stack's, or the model's.
func (m *Model) LayerTopK() []int {
	k := make([]int, 0, m.Layers)
	for _, s := range m.Stacks {
		n := s.TopK
		if n == 0 {
			n = m.TopK
		}
		for range s.Layers {
			k = append(k, n)
		}
	}
	for len(k) < m.Layers {
		k = append(k, m.TopK)
	}
	return k
}

// StackOf returns the stack of a layer, and the stack's first layer. A model that
// lists no stacks is one of [Decoder]. It panics if the layer is not below L.
func (m *Model) StackOf(layer int) (s Stack, first int) {
	if layer < 0 || layer >= m.Layers {
		panic(fmt.Sprintf("trace: layer %d of %d", layer, m.Layers))
	}
	for _, s := range m.Stacks {
		if layer < first+s.Layers {
			return s, first
		}
		first += s.Layers
	}
	return Stack{Name: Decoder, Layers: m.Layers}, 0
}

// Routes reports whether tokens of phase p pass a layer: those of phase Encode
// the layers of the stack [Encoder], others those of other stacks.
func (m *Model) Routes(p Phase, layer int) bool { return (p == Encode) == (layer < m.encoder()) }

// encoder returns the number of layers of the stack Encoder, which is the first.
func (m *Model) encoder() int {
	if len(m.Stacks) > 0 && m.Stacks[0].Name == Encoder {
		return m.Stacks[0].Layers
	}
	return 0
}

// ascending checks 0 <= list[0] < list[1] < ... < limit.
func ascending(list []int, limit int) error {
	last := -1
	for i, v := range list {
		if v <= last || v >= limit {
			return fmt.Errorf("entry %d is %d, expected ascending values below %d", i, v, limit)
		}
		last = v
	}
	return nil
}

// Validate checks the model and that the recorded layers exist.
func (h *Header) Validate() error {
	if err := h.Model.Validate(); err != nil {
		return err
	}
	if n := h.Source.Shards; n < 0 || n > MaxShards {
		return fmt.Errorf("a trace of %d shards, expected at most %d", n, MaxShards)
	}
	if err := ascending(h.LogitLayers, h.Model.Layers); err != nil {
		return fmt.Errorf("layers of the router logits: %w", err)
	}
	if err := ascending(h.InputLayers, h.Model.Layers); err != nil {
		return fmt.Errorf("layers of the router input: %w", err)
	}
	if len(h.InputLayers) > 0 && h.Model.Hidden == 0 {
		return errors.New("router input needs the model's hidden size")
	}
	if n := len(h.LogitLayers) * h.Model.Experts; n > maxRow {
		return fmt.Errorf("%d router logits per token are too many", n)
	}
	if n := len(h.InputLayers) * h.Model.Hidden; n > maxRow {
		return fmt.Errorf("%d values of router input per token are too many", n)
	}
	return nil
}

// AllLayers returns 0..L-1, for Header.LogitLayers and Header.InputLayers.
func (m *Model) AllLayers() []int {
	all := make([]int, m.Layers)
	for i := range all {
		all[i] = i
	}
	return all
}

// Equal reports whether two headers have the same model, source and recorded
// layers, and both or neither have routing weights and dropped tokens, so that
// their shards can be read as one trace.
func (h *Header) Equal(o *Header) bool { return h.difference(o) == "" }

// difference describes a difference between two headers, or returns "".
func (h *Header) difference(o *Header) string {
	a, b := h.keys(), o.keys()
	for i := range a {
		if a[i].Value != b[i].Value {
			return fmt.Sprintf("%s is %s, elsewhere %s", a[i].Key, b[i].Value, a[i].Value)
		}
	}
	if h.NoWeights != o.NoWeights {
		return "only one of two shards has routing weights"
	}
	if h.Dropped != o.Dropped {
		return "only one of two shards has dropped tokens"
	}
	return ""
}

// Keys of the key-value metadata of a shard.
const (
	keySchema  = "expertspec.schema"
	keyModel   = "expertspec.model"
	keySource  = "expertspec.source"
	keyColumns = "expertspec.columns"
)

type keyValue struct{ Key, Value string }

// columnsJSON is the value of keyColumns: the layers of the optional lists.
type columnsJSON struct {
	RouterLogits []int `json:"router_logits,omitempty"`
	RouterInput  []int `json:"router_input,omitempty"`
}

// keys returns the key-value metadata of a shard.
func (h *Header) keys() []keyValue {
	model := h.Model
	if len(model.Stacks) == 0 {
		model.Stacks = []Stack{{Name: Decoder, Layers: model.Layers}}
	}
	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err) // plain structs of strings and integers
		}
		return string(b)
	}
	return []keyValue{
		{keySchema, fmt.Sprint(schemaVersion)},
		{keyModel, text(model)},
		{keySource, text(h.Source)},
		{keyColumns, text(columnsJSON{h.LogitLayers, h.InputLayers})},
	}
}

// errForeign is wrapped by errors about Parquet files that are not traces.
var errForeign = errors.New("not an expertspec trace")

// parseHeader reads the key-value metadata of a shard. Unknown fields of JSON
// values are ignored: additions keep the version, changes of meaning increase it.
func parseHeader(lookup func(string) (string, bool)) (*Header, error) {
	version, ok := lookup(keySchema)
	if !ok {
		return nil, fmt.Errorf("%w: no %q in the file's metadata", errForeign, keySchema)
	}
	var v int
	if err := json.Unmarshal([]byte(version), &v); err != nil || v < 1 {
		return nil, fmt.Errorf("%w: %s is %q", errForeign, keySchema, clip(version))
	}
	if v > schemaVersion {
		return nil, fmt.Errorf("trace has schema version %d; this program reads versions up to %d", v, schemaVersion)
	}
	var h Header
	var columns columnsJSON
	for key, dst := range map[string]any{keyModel: &h.Model, keySource: &h.Source, keyColumns: &columns} {
		text, ok := lookup(key)
		if !ok {
			if key == keyColumns {
				continue
			}
			return nil, fmt.Errorf("%w: no %q in the file's metadata", errForeign, key)
		}
		if err := json.Unmarshal([]byte(text), dst); err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	h.LogitLayers = slices.Clip(columns.RouterLogits)
	h.InputLayers = slices.Clip(columns.RouterInput)
	return &h, h.Validate()
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "..."
	}
	return s
}
