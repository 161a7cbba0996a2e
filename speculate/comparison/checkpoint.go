package comparison

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace/safetensors"
)

// Checkpoint is what a trace does not say about its model.
type Checkpoint struct {
	Parameters int64 // numbers, each counted once
	// Active are the parameters that a token of each stack passes: the embedding, the
	// head where the stack has one, and of the stack's blocks all but the experts that
	// are not chosen. [stacks]
	Active           []int64
	ExpertParameters int64 // of one expert
	ExpertBytes      int64 // of one expert, as stored
	// Capacity is the number of tokens of a text that an expert computes at a layer; 0:
	// no limit.
	Capacity int
	// Gates are the routers of all stacks' layers, for gate reuse; nil: not known.
	Gates *speculate.Gates
}

// ReadCheckpoint reads what [Compare] needs of a folder of config.json and safetensors
// or PyTorch files, with the tensors' names of Mixtral or of Switch Transformers: the routers, and of
// other tensors the sizes. The error names the file and the tensor.
func ReadCheckpoint(fsys fs.FS) (*Checkpoint, error) {
	text, err := fs.ReadFile(fsys, "config.json")
	if err != nil {
		return nil, err
	}
	c := checkpointReader{fsys: fsys, names: map[string]bool{}}
	if err := json.Unmarshal(text, &c.config); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	files, err := c.files()
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := c.file(f); err != nil {
			return nil, err
		}
	}
	return c.end()
}

type checkpointReader struct {
	fsys   fs.FS
	config struct {
		ModelType string `json:"model_type"`
		TopK      *int   `json:"num_experts_per_tok"`
		Capacity  int    `json:"expert_capacity"`
		Tied      *bool  `json:"tie_word_embeddings"`
	}
	names       map[string]bool
	tensors     []sized
	routers     []router
	expertBytes int64
}

// sized is a tensor's part of the model, "encoder", "decoder" or "" for all, and its
// number of parameters.
type sized struct {
	name, part string
	expert     bool
	n          int64
}

// router is that of a block, [E,D].
type router struct {
	part            string
	block           int
	experts, hidden int
	weights, bias   []float32
}

// String names the router's block.
func (r router) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s block %d", r.part, r.block))
}

// files returns the checkpoint's files: those of an index, or all; safetensors, or else
// PyTorch's.
func (c *checkpointReader) files() ([]string, error) {
	for _, index := range []string{"model.safetensors.index.json", "", "pytorch_model.bin.index.json"} {
		if index == "" {
			if files, err := fs.Glob(c.fsys, "*.safetensors"); err != nil || len(files) > 0 {
				return files, err
			}
			continue
		}
		text, err := fs.ReadFile(c.fsys, index)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var x struct {
			WeightMap map[string]string `json:"weight_map"`
		}
		if err := json.Unmarshal(text, &x); err != nil {
			return nil, fmt.Errorf("%s: %w", index, err)
		}
		return slices.Compact(slices.Sorted(maps.Values(x.WeightMap))), nil
	}
	if _, err := fs.Stat(c.fsys, torchFile); err != nil {
		return nil, errors.New("no *.safetensors and no " + torchFile)
	}
	return []string{torchFile}, nil
}

const torchFile = "pytorch_model.bin"

var routerName = regexp.MustCompile(`^(?:model\.)?(encoder|decoder|)\.?(?:layers|block)\.(\d+)\..*(?:\.gate|\.router\.classifier)\.(weight|bias)$`)

func (c *checkpointReader) file(name string) error {
	open := safetensors.Open
	if strings.HasSuffix(name, ".bin") {
		open = safetensors.OpenTorch
	}
	r, err := open(c.fsys, name)
	if err != nil {
		return err
	}
	defer r.Close()
	for _, t := range r.Names() {
		info, _ := r.Info(t)
		if c.names[t] {
			return fmt.Errorf("%s: tensor %s is in another file too", name, t)
		}
		c.names[t] = true
		s := sized{name: t, n: int64(info.Len()), expert: strings.Contains(t, ".experts.")}
		for _, part := range []string{"encoder", "decoder"} {
			if strings.HasPrefix(t, part+".") {
				s.part = part
			}
		}
		if s.expert {
			c.expertBytes += info.Size
		}
		if strings.HasSuffix(t, ".SCB") || strings.HasSuffix(t, ".weight_format") { // scales of 8 bits
			continue
		}
		c.tensors = append(c.tensors, s)
		if m := routerName.FindStringSubmatch(t); m != nil {
			if err := c.router(r, t, m[1], m[2], m[3], info.Shape); err != nil {
				return err
			}
		}
	}
	return nil
}

// router reads a router's weights or bias.
func (c *checkpointReader) router(r *safetensors.Reader, name, part, block, kind string, shape []int) error {
	b, err := strconv.Atoi(block)
	if err != nil {
		return fmt.Errorf("%s: tensor %s: %w", r.Name(), name, err)
	}
	i := slices.IndexFunc(c.routers, func(x router) bool { return x.part == part && x.block == b })
	if i < 0 {
		i = len(c.routers)
		c.routers = append(c.routers, router{part: part, block: b})
	}
	x := &c.routers[i]
	values, err := r.Float32s(name)
	if err != nil {
		return err
	}
	if kind == "bias" {
		x.bias = values
		return nil
	}
	if len(shape) != 2 {
		return fmt.Errorf("%s: tensor %s has shape %v, expected [E,D]", r.Name(), name, shape)
	}
	x.experts, x.hidden, x.weights = shape[0], shape[1], values
	return nil
}

// end adds everything up.
func (c *checkpointReader) end() (*Checkpoint, error) {
	if len(c.routers) == 0 {
		return nil, fmt.Errorf("no routers in a checkpoint of model type %q", c.config.ModelType)
	}
	slices.SortFunc(c.routers, func(a, b router) int {
		if p := slices.Index(partNames, a.part) - slices.Index(partNames, b.part); p != 0 {
			return p
		}
		return a.block - b.block
	})
	g, err := c.gates()
	if err != nil {
		return nil, err
	}
	out := &Checkpoint{Capacity: c.config.Capacity, Gates: g}
	parts := map[string]int64{} // without experts
	var experts int64
	for _, t := range c.tensors {
		switch {
		case c.copied(t.name):
		case t.expert:
			experts += t.n
			out.Parameters += t.n
		default:
			parts[t.part] += t.n
			out.Parameters += t.n
		}
	}
	all := int64(g.Layers * g.Experts)
	if experts == 0 || experts%all != 0 {
		return nil, fmt.Errorf("%d parameters of %d experts", experts, all)
	}
	out.ExpertParameters, out.ExpertBytes = experts/all, c.expertBytes/all
	out.Active = c.active(parts, out.ExpertParameters)
	return out, nil
}

// partNames are those of stacks, in their order: "" is a model of one.
var partNames = []string{"", "encoder", "decoder"}

// active returns the parameters that a token of each stack passes, of those of the parts
// without experts and of one expert.
func (c *checkpointReader) active(parts map[string]int64, expert int64) (active []int64) {
	topK := 1
	if c.config.TopK != nil {
		topK = *c.config.TopK
	}
	head := int64(0)
	for _, t := range c.tensors {
		if t.name == "lm_head.weight" && !c.copied(t.name) {
			head = t.n
		}
	}
	for _, part := range partNames {
		layers := 0
		for _, r := range c.routers {
			if r.part == part {
				layers++
			}
		}
		if layers == 0 {
			continue
		}
		n := parts[""] + int64(layers*topK)*expert
		if part != "" {
			n += parts[part]
		}
		if part == "encoder" {
			n -= head
		}
		active = append(active, n)
	}
	return active
}

// copied reports whether a tensor repeats another, or is one with the embedding.
func (c *checkpointReader) copied(name string) bool {
	switch name {
	case "encoder.embed_tokens.weight", "decoder.embed_tokens.weight":
		return c.names["shared.weight"]
	case "lm_head.weight":
		tied := c.config.ModelType == "switch_transformers" // the default
		if c.config.Tied != nil {
			tied = *c.config.Tied
		}
		return tied && (c.names["shared.weight"] || c.names["model.embed_tokens.weight"])
	}
	return false
}

// gates joins the routers.
func (c *checkpointReader) gates() (*speculate.Gates, error) {
	first := c.routers[0]
	g := &speculate.Gates{Layers: len(c.routers), Experts: first.experts, Hidden: first.hidden}
	for _, r := range c.routers {
		if r.experts != g.Experts || r.hidden != g.Hidden || r.weights == nil || (r.bias != nil) != (first.bias != nil) || r.bias != nil && len(r.bias) != r.experts {
			return nil, fmt.Errorf("the router of %v has %d experts of hidden size %d and %d biases; that of %v has %d, %d and %d",
				r, r.experts, r.hidden, len(r.bias), first, first.experts, first.hidden, len(first.bias))
		}
		g.Weights = append(g.Weights, r.weights...)
		if r.bias != nil {
			g.Bias = append(g.Bias, r.bias...)
		}
	}
	return g, nil
}
