package convert

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/internal/pickle"
)

// point is a MixtralGatingDataPoint as it is unpickled.
type point struct{ built bool }

// Kind is the type's name in messages.
func (*point) Kind() string { return "MixtralGatingDataPoint" }

// specmoe collects the points of a pickle as they are built, so that the
// tensors that are not kept can be freed.
type specmoe struct {
	g       *gather
	samples map[trace.Key]int32
	keys    []trace.Key // of the samples
	experts int
	points  int
	budget  pickle.Budget
}

// openSpecMoE reads the pickle of specMoE's collect_mixtral_traces.py: a list of
// MixtralGatingDataPoint, one for each token and layer, with tensors of torch.
// It builds data and never runs code: the pickle may name this class, torch's
// tensors and storages, and dictionaries, and anything else is an error. The
// weights are target_routing (the softmax over all experts) at the chosen
// experts, divided by their sum: the softmax over the selected ones. The file is
// held in memory.
func openSpecMoE(ctx context.Context, path string, o Options) (*source, error) {
	b, err := readAll(ctx, path)
	if err != nil {
		return nil, err
	}
	s, err := readSpecMoE(b)
	if err != nil {
		return nil, &place{file: path, err: err}
	}
	if len(s.g.choices) == 0 {
		for _, err := range s.g.bad {
			return nil, &place{file: path, err: err}
		}
		return nil, &place{file: path, err: errors.New("no data points")}
	}
	src := s.g.source(path, o, trace.Model{Experts: s.experts, TopK: s.g.topK}, func(sample int32) trace.Key { return s.keys[sample] })
	src.notes = []string{"weights are target_routing divided by its sum over the chosen experts",
		"not kept: hidden_states (of the block's input, not the router's), input_embeddings, prev_layer_gates"}
	return src, nil
}

// longestName bounds the names of a data set and a sample, in bytes.
const longestName = 1 << 10

func readSpecMoE(b []byte) (*specmoe, error) {
	s := &specmoe{g: newGather(), samples: map[trace.Key]int32{}, budget: pickle.NewBudget(len(b))}
	u := pickle.NewDecoder(b, &s.budget, s)
	v, err := u.Load()
	if err != nil {
		return nil, err
	}
	l, ok := v.(*pickle.List)
	if !ok {
		return nil, fmt.Errorf("pickle holds %s, expected a list of MixtralGatingDataPoint", pickle.Kind(v))
	}
	for i, item := range l.Items {
		if p, ok := item.(*point); !ok || !p.built {
			return nil, fmt.Errorf("item %d is %s, expected MixtralGatingDataPoint", i, pickle.Kind(item))
		}
	}
	return s, nil
}

// Global returns the functions that the pickle may call.
func (s *specmoe) Global(module, name string) (any, error) {
	switch {
	case name == "MixtralGatingDataPoint": // of __main__ or wherever it was defined
		return pickle.Function(func([]any) (any, error) { return &point{}, nil }), nil
	case module == "torch._utils" && name == "_rebuild_tensor_v2":
		return pickle.Function(newTensor), nil
	case module == "torch.storage" && name == "_load_from_bytes":
		return pickle.Function(s.storage), nil
	case module == "collections" && name == "OrderedDict": // hooks of a tensor
		return pickle.Function(func([]any) (any, error) { return pickle.Dict{}, nil }), nil
	case module == "_codecs" && name == "encode": // bytes in protocol 2
		return pickle.Function(s.latin1), nil
	}
	return nil, pickle.NotAllowed(module, name)
}

func (s *specmoe) storage(args []any) (any, error) {
	if len(args) == 1 {
		if b, ok := args[0].([]byte); ok {
			v, err := loadStorage(b, &s.budget)
			if err != nil {
				err = fmt.Errorf("storage: %w", err)
			}
			return v, err
		}
	}
	return nil, errors.New("storage is not bytes")
}

// latin1 is _codecs.encode(text, "latin1").
func (s *specmoe) latin1(args []any) (any, error) {
	if len(args) != 2 || args[1] != "latin1" {
		return nil, errors.New("encoding other than latin1")
	}
	text, ok := args[0].(string)
	if !ok {
		return nil, fmt.Errorf("encoding of %s", pickle.Kind(args[0]))
	}
	if err := s.budget.Charge(len(text)); err != nil {
		return nil, err
	}
	b := make([]byte, 0, len(text))
	for _, r := range text {
		if r > 255 {
			return nil, errors.New("bytes beyond latin1")
		}
		b = append(b, byte(r))
	}
	return b, nil
}

func (s *specmoe) Persistent(any) (any, error) {
	return nil, errors.New("persistent id is not allowed")
}

// Build takes the fields of a data point.
func (s *specmoe) Build(object, state any) error {
	p, ok := object.(*point)
	if !ok {
		return fmt.Errorf("state for %s", pickle.Kind(object))
	}
	fields, ok := state.(pickle.Dict)
	if !ok || p.built {
		return fmt.Errorf("data point %d: state is %s", s.points, pickle.Kind(state))
	}
	p.built = true
	err := s.point(fields)
	if err != nil {
		err = fmt.Errorf("data point %d: %w", s.points, err)
	}
	s.points++
	clear(fields) // the memo keeps them
	return err
}

// point takes one data point. An error in the routing omits the sample, another
// ends the file.
func (s *specmoe) point(fields pickle.Dict) error {
	name, ok1 := fields["sample_id"].(string)
	set, ok2 := fields["dataset_name"].(string)
	if !ok1 || !ok2 || len(name) > longestName || len(set) > longestName {
		return fmt.Errorf("no sample_id and dataset_name of at most %d bytes", longestName)
	}
	at := strings.LastIndex(name, "_seq_")
	if at < 0 {
		return errors.New("sample_id does not end in _seq_N")
	}
	position, err := strconv.ParseUint(name[at+len("_seq_"):], 10, 31)
	if err != nil {
		return errors.New("sample_id does not end in _seq_N")
	}
	if err := s.budget.Charge(len(name) + len(set)); err != nil {
		return err
	}
	key := trace.Key{Dataset: set, Document: name[:at]}
	id, ok := s.samples[key]
	if !ok {
		id = int32(len(s.keys))
		s.samples[key] = id
		s.keys = append(s.keys, key)
	}
	err = s.add(choice{doc: id, position: int32(position)}, fields)
	if errors.Is(err, pickle.ErrBudget) {
		return err
	}
	if err != nil {
		s.g.omit(id, fmt.Errorf("data point %d: %w", s.points, err))
	}
	return nil
}

// costChoice is the memory that a choice takes while the list of them grows.
const costChoice = 192

// add takes the choices of one token at one layer, which are like c.
func (s *specmoe) add(c choice, fields pickle.Dict) error {
	layer, ok := fields["layer_id"].(int64)
	if !ok || layer < 0 || layer >= trace.MaxLayers {
		return fmt.Errorf("layer_id is not an integer in 0..%d", trace.MaxLayers-1)
	}
	chosen, ok1 := fields["target_top_k"].(*tensor)
	routing, ok2 := fields["target_routing"].(*tensor)
	if !ok1 || !ok2 {
		return errors.New("no tensors target_top_k and target_routing")
	}
	// One sequence a batch: shapes [1,K] and [1,E], or without the 1.
	k, e := chosen.Len(), routing.Len()
	if !oneRow(chosen) || !oneRow(routing) || k < 1 || k > e {
		return fmt.Errorf("target_top_k of shape %v, target_routing of %v", chosen.Shape, routing.Shape)
	}
	if s.experts == 0 {
		s.experts = e
	} else if s.experts != e {
		return fmt.Errorf("target_routing of %d experts, before %d", e, s.experts)
	}
	c.layer, c.token = int32(layer), trace.NoToken
	var err error
	if ids, ok := fields["token_ids"].(*tensor); ok && ids.Len() == 1 {
		if c.token, err = ids.integer(0); err != nil {
			return fmt.Errorf("token_ids: %w", err)
		}
	}
	if err := s.budget.Charge(costChoice * k); err != nil {
		return err
	}
	choices := make([]choice, k)
	weights := make([]float64, k)
	var sum float64
	for i := range choices {
		c.slot = int32(i)
		if c.expert, err = chosen.integer(i); err != nil || c.expert < 0 || int(c.expert) >= e {
			return fmt.Errorf("choice %d is not an expert in 0..%d", i, e-1)
		}
		if weights[i], err = routing.at(int(c.expert)); err != nil {
			return err
		}
		sum += weights[i]
		choices[i] = c
	}
	if !(sum > 0) {
		return errors.New("target_routing does not add up to a positive number at the chosen experts")
	}
	for i, c := range choices {
		c.weight = float32(weights[i] / sum)
		if err := s.g.add(c); err != nil {
			return err
		}
	}
	return nil
}

func oneRow(t *tensor) bool {
	n := len(t.Shape)
	return n > 0 && t.Len() == int(t.Shape[n-1])
}
