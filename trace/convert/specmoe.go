package convert

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/expertspec/expertspec/trace"
)

// point is a MixtralGatingDataPoint as it is unpickled.
type point struct{ built bool }

var sampleName = regexp.MustCompile(`^(.*)_seq_(\d+)$`)

// specmoe collects the points of a pickle as they are built, so that the
// tensors that are not kept go away.
type specmoe struct {
	g       *gather
	samples map[trace.Key]int32
	keys    []trace.Key
	experts int
	bad     map[int32]error
	points  int
}

// openSpecMoE reads the pickle of specMoE's collect_mixtral_traces.py: a list of
// MixtralGatingDataPoint, one for each token and layer, with tensors of torch.
// It builds data and never runs code: the pickle may name this class, torch's
// tensors and storages, and dictionaries, and anything else is an error. The
// weights are target_routing (the softmax over all experts) at the chosen
// experts, divided by their sum: the softmax over the selected ones. The file is
// held in memory.
func openSpecMoE(path string, o Options) (*source, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s, err := readSpecMoE(b)
	if err != nil {
		return nil, &Error{File: path, Err: err}
	}
	b = nil
	if len(s.g.choices) == 0 {
		for _, err := range s.bad {
			return nil, &Error{File: path, Err: err}
		}
		return nil, &Error{File: path, Err: errors.New("no data points")}
	}
	s.g.sort()
	blocks := s.g.blocks()
	m := trace.Model{Layers: len(blocks), Stacks: stack(blocks), Experts: s.experts, TopK: int(s.g.topK)}
	if o.Experts != 0 {
		m.Experts = o.Experts
	}
	if o.TopK != 0 {
		m.TopK = o.TopK
	}
	notes := []string{"weights are target_routing divided by its sum over the chosen experts",
		"not kept: hidden_states (of the block's input, not the router's), input_embeddings, prev_layer_gates"}
	return &source{header: header(o, m, nil), notes: notes, documents: func(yield func(*trace.Document, error) bool) {
		for _, sample := range slices.Sorted(mapKeys(s.bad)) {
			if !yield(nil, leftOut{&Error{File: path, Item: fmt.Sprintf("sample %q", s.keys[sample].Document), Err: s.bad[sample]}}) {
				return
			}
		}
		s.g.documents(&m, blocks, func(sample int32, d *trace.Document, err error) bool {
			if s.bad[sample] != nil {
				return true
			}
			key := s.keys[sample]
			if err != nil {
				err = leftOut{&Error{File: path, Item: fmt.Sprintf("sample %q", key.Document), Err: err}}
			} else {
				d.Dataset, d.ID = datasetOr(o, key.Dataset), key.Document
			}
			return yield(d, err)
		})
	}}, nil
}

func readSpecMoE(b []byte) (*specmoe, error) {
	// A byte of a pickle can make a value of many bytes. An honest file, most of
	// which is tensors, stays far below this.
	const free = 256 << 20
	s := &specmoe{g: newGather(), samples: map[trace.Key]int32{}, bad: map[int32]error{}}
	u := newUnpickler(b, free+2*len(b), s)
	v, err := u.load()
	if err != nil {
		return nil, err
	}
	l, ok := v.(*list)
	if !ok {
		return nil, fmt.Errorf("pickle holds %T, want a list of MixtralGatingDataPoint", v)
	}
	for i, item := range l.items {
		if p, ok := item.(*point); !ok || !p.built {
			return nil, fmt.Errorf("item %d is %T, want MixtralGatingDataPoint", i, item)
		}
	}
	return s, nil
}

// call makes the objects that the pickle may name.
func (s *specmoe) call(f global, args []any) (any, error) {
	switch {
	case f.name == "MixtralGatingDataPoint" && len(args) == 0:
		return &point{}, nil
	case f == global{"torch._utils", "_rebuild_tensor_v2"}:
		return newTensor(args)
	case f == global{"torch.storage", "_load_from_bytes"}:
		if len(args) == 1 {
			if b, ok := args[0].([]byte); ok {
				return loadStorage(b, 1<<16+2*len(b))
			}
		}
		return nil, errors.New("storage that is no bytes")
	case f == global{"collections", "OrderedDict"} && len(args) == 0:
		return &dict{}, nil
	case f == global{"copyreg", "_reconstructor"} || f == global{"copy_reg", "_reconstructor"}: // protocols 0 and 1
		if len(args) == 3 && args[2] == nil {
			if class, ok := args[0].(global); ok && class.name == "MixtralGatingDataPoint" {
				return &point{}, nil
			}
		}
	case f == global{"_codecs", "encode"}: // bytes in protocols below 3
		if len(args) == 2 && args[1] == "latin1" {
			if text, ok := args[0].(string); ok {
				return latin1(text)
			}
		}
	}
	return nil, fmt.Errorf("%s is not allowed", f)
}

func latin1(s string) ([]byte, error) {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		if r > 255 {
			return nil, errors.New("bytes beyond latin1")
		}
		b = append(b, byte(r))
	}
	return b, nil
}

func (s *specmoe) persistent(any) (any, error) {
	return nil, errors.New("persistent id is not allowed")
}

// build takes the fields of a data point.
func (s *specmoe) build(object, state any) error {
	p, ok := object.(*point)
	if !ok {
		return fmt.Errorf("state for %T", object)
	}
	fields, ok := state.(*dict)
	if !ok || p.built {
		return fmt.Errorf("data point %d: state is %T", s.points, state)
	}
	p.built = true
	s.points++
	dataset, _ := fields.get("dataset_name")
	sample, _ := fields.get("sample_id")
	name, ok1 := sample.(string)
	set, ok2 := dataset.(string)
	if !ok1 || !ok2 {
		return fmt.Errorf("data point %d: no sample_id or dataset_name", s.points-1)
	}
	part := sampleName.FindStringSubmatch(name)
	if part == nil {
		return fmt.Errorf("data point %d: sample_id %q does not end in _seq_N", s.points-1, clip([]byte(name)))
	}
	key := trace.Key{Dataset: strings.Clone(set), Document: strings.Clone(part[1])}
	id, ok := s.samples[key]
	if !ok {
		id = int32(len(s.keys))
		s.samples[key] = id
		s.keys = append(s.keys, key)
	}
	if err := s.add(id, part[2], fields); err != nil && s.bad[id] == nil {
		s.bad[id] = fmt.Errorf("data point %d: %w", s.points-1, err)
	}
	fields.keys, fields.values = nil, nil // the memo would keep them
	return nil
}

// add takes the choices of one token at one layer.
func (s *specmoe) add(id int32, position string, fields *dict) error {
	at, err := strconv.ParseInt(position, 10, 32)
	if err != nil {
		return err
	}
	value, _ := fields.get("layer_id")
	layer, ok := value.(int64)
	if !ok || layer < 0 || layer >= trace.MaxLayers {
		return fmt.Errorf("layer_id is %v", value)
	}
	value, _ = fields.get("target_top_k")
	chosen, ok1 := value.(*tensor)
	value, _ = fields.get("target_routing")
	routing, ok2 := value.(*tensor)
	if !ok1 || !ok2 || chosen == nil || routing == nil {
		return errors.New("no tensors target_top_k and target_routing")
	}
	// One sequence a batch: shapes [1,K] and [1,E], or without the 1.
	k, e := chosen.len(), routing.len()
	if !oneRow(chosen) || !oneRow(routing) || k < 1 || k > e {
		return fmt.Errorf("target_top_k of shape %v, target_routing of %v", chosen.shape, routing.shape)
	}
	token := trace.NoToken
	value, _ = fields.get("token_ids")
	if ids, ok := value.(*tensor); ok && ids.len() == 1 {
		if token, err = ids.integer(0); err != nil {
			return fmt.Errorf("token_ids: %w", err)
		}
	}
	if s.experts == 0 {
		s.experts = e
	} else if s.experts != e {
		return fmt.Errorf("target_routing of %d experts, before %d", e, s.experts)
	}
	choices := make([]choice, k)
	var sum float64
	for i := range choices {
		expert, err := chosen.integer(i)
		if err != nil || expert < 0 || int(expert) >= e {
			return fmt.Errorf("expert %g of %d", chosen.at(i), e)
		}
		w := routing.at(int(expert))
		sum += w
		choices[i] = choice{doc: id, position: int32(at), layer: int32(layer), slot: int32(i), expert: expert, weight: float32(w), token: token}
	}
	if !(sum > 0) {
		return fmt.Errorf("target_routing is %g at the chosen experts", sum)
	}
	for _, c := range choices {
		c.weight = float32(float64(c.weight) / sum)
		if err := s.g.add(c); err != nil {
			return err
		}
	}
	return nil
}

func oneRow(t *tensor) bool {
	for _, d := range t.shape[:max(0, len(t.shape)-1)] {
		if d != 1 {
			return false
		}
	}
	return len(t.shape) > 0
}
