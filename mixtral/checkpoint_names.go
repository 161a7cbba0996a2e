package mixtral

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/expertspec/expertspec/mixtral/internal/checkpoint"
	"github.com/expertspec/expertspec/trace/safetensors"
)

// Names of single tensors, as on the hub.
const (
	embedName = "model.embed_tokens.weight"
	normName  = "model.norm.weight"
	headName  = "lm_head.weight"
)

// layerPrefix returns the beginning of the names of a layer's tensors.
func layerPrefix(layer int) string { return "model.layers." + strconv.Itoa(layer) + "." }

// expertName returns the hub's name of a matrix, "w1", "w2" or "w3", of an expert.
func expertName(layer, expert int, matrix string) string {
	return fmt.Sprintf("%sblock_sparse_moe.experts.%d.%s.weight", layerPrefix(layer), expert, matrix)
}

// denseShape returns the shape of a tensor outside the experts, by the hub's name
// without the layer's prefix; nil for an unknown name.
func (c Config) denseShape(name string, inLayer bool) []int {
	if !inLayer {
		switch name {
		case embedName, headName:
			return []int{c.VocabSize, c.HiddenSize}
		case normName:
			return []int{c.HiddenSize}
		}
		return nil
	}
	switch name {
	case "input_layernorm.weight", "post_attention_layernorm.weight":
		return []int{c.HiddenSize}
	case "self_attn.q_proj.weight":
		return []int{c.Heads * c.HeadDim, c.HiddenSize}
	case "self_attn.k_proj.weight", "self_attn.v_proj.weight":
		return []int{c.KVHeads * c.HeadDim, c.HiddenSize}
	case "self_attn.o_proj.weight":
		return []int{c.HiddenSize, c.Heads * c.HeadDim}
	case "block_sparse_moe.gate.weight":
		return []int{c.Experts, c.HiddenSize}
	}
	return nil
}

// layerNames are the hub's names of a layer's tensors outside the experts.
var layerNames = []string{
	"input_layernorm.weight",
	"self_attn.q_proj.weight",
	"self_attn.k_proj.weight",
	"self_attn.v_proj.weight",
	"self_attn.o_proj.weight",
	"post_attention_layernorm.weight",
	"block_sparse_moe.gate.weight",
}

// Names of transformers 5: the experts of a layer in two tensors, gate before up
// (transformers 5.23, conversion_mapping.py "mixtral", MixtralExperts.forward).
const (
	fusedGateUp = "mlp.experts.gate_up_proj" // [E,2F,D]
	fusedDown   = "mlp.experts.down_proj"    // [E,D,F]
	fusedRouter = "mlp.gate.weight"          // [E,D]
	hubRouter   = "block_sparse_moe.gate.weight"
)

// A number without leading zeros, short enough for an int32.
const digits = `(0|[1-9]\d{0,8})`

var (
	layerPattern  = regexp.MustCompile(`^model\.layers\.` + digits + `\.(.+)$`)
	expertPattern = regexp.MustCompile(`^block_sparse_moe\.experts\.` + digits + `\.(w[123])\.weight$`)
	bufferPattern = regexp.MustCompile(`^model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq$`)
)

// resolve finds the tensor of one of the hub's names.
func (c *Checkpoint) resolve(name string) (checkpoint.Part, error) {
	m := layerPattern.FindStringSubmatch(name)
	if m == nil {
		shape := c.config.denseShape(name, false)
		if shape == nil {
			return checkpoint.Part{}, c.files.Without(name)
		}
		if name == headName && c.config.TieEmbeddings {
			name = embedName
		}
		return c.whole(name, shape)
	}
	layer, _ := strconv.Atoi(m[1])
	if layer >= c.config.Layers {
		return checkpoint.Part{}, c.files.Without(name)
	}
	if e := expertPattern.FindStringSubmatch(m[2]); e != nil {
		expert, _ := strconv.Atoi(e[1])
		if expert >= c.config.Experts {
			return checkpoint.Part{}, c.files.Without(name)
		}
		return c.expert(layer, expert, e[2])
	}
	shape := c.config.denseShape(m[2], true)
	if shape == nil {
		return checkpoint.Part{}, c.files.Without(name)
	}
	if m[2] == hubRouter {
		if fused := layerPrefix(layer) + fusedRouter; c.has(fused) {
			name = fused
		}
	}
	return c.whole(name, shape)
}

// expert finds one matrix of one expert.
func (c *Checkpoint) expert(layer, expert int, matrix string) (checkpoint.Part, error) {
	f, d := c.config.IntermediateSize, c.config.HiddenSize
	fused, stack, row := fusedGateUp, []int{c.config.Experts, 2 * f, d}, 2*f*expert
	shape := []int{f, d}
	switch matrix {
	case "w2":
		fused, stack, row = fusedDown, []int{c.config.Experts, d, f}, d*expert
		shape = []int{d, f}
	case "w3":
		row += f
	}
	if name := layerPrefix(layer) + fused; c.has(name) {
		p, err := c.whole(name, stack)
		if err != nil {
			return checkpoint.Part{}, err
		}
		p.Offset = int64(row) * int64(shape[1]) * int64(p.Info.DType.Size())
		p.Shape = shape
		return p, nil
	}
	return c.whole(expertName(layer, expert, matrix), shape)
}

// whole finds a stored tensor and checks its shape and type.
func (c *Checkpoint) whole(name string, shape []int) (checkpoint.Part, error) {
	p, err := c.files.Whole(name, shape)
	if err != nil {
		return checkpoint.Part{}, err
	}
	if p.Info.DType == safetensors.I8 && linearPattern.MatchString(name) {
		return p, c.checkInt8(name, p.Stored)
	}
	if err := p.CheckFloat(); err != nil {
		return checkpoint.Part{}, err
	}
	return p, nil
}

func (c *Checkpoint) has(name string) bool { return c.files.Has(name) }

// check returns an error unless there are all tensors that the model needs, and no
// others. It stops at the first that is missing, so that its work is bounded by
// the files, whatever the configuration is.
func (c *Checkpoint) check() error {
	used := map[string]bool{}
	need := func(name string) error {
		p, err := c.resolve(name)
		if err == nil {
			used[p.Info.Name] = true
			if p.Info.DType == safetensors.I8 {
				base := strings.TrimSuffix(p.Info.Name, weightSuffix)
				used[base+scaleSuffix], used[base+formatSuffix] = true, true
			}
		}
		return err
	}
	for _, name := range []string{embedName, normName, headName} {
		if err := need(name); err != nil {
			return err
		}
	}
	for layer := range c.config.Layers {
		prefix := layerPrefix(layer)
		for _, name := range layerNames {
			if err := need(prefix + name); err != nil {
				return err
			}
		}
		if err := c.checkExperts(layer, need); err != nil {
			return err
		}
	}
	return c.checkSurplus(used)
}

func (c *Checkpoint) checkExperts(layer int, need func(string) error) error {
	prefix := layerPrefix(layer)
	for expert := range c.config.Experts {
		for _, matrix := range []string{"w1", "w2", "w3"} {
			if err := need(expertName(layer, expert, matrix)); err != nil {
				return err
			}
		}
		if expert == 0 && c.has(prefix+fusedGateUp) && c.has(prefix+fusedDown) {
			return nil // the other experts are in the same two tensors
		}
	}
	return nil
}

func (c *Checkpoint) checkSurplus(used map[string]bool) error {
	for _, name := range checkpoint.SortedKeys(c.files.Tensors) {
		t := c.files.Tensors[name]
		switch {
		case used[name] || bufferPattern.MatchString(name):
		case name == headName && c.config.TieEmbeddings:
			if err := c.checkTied(t); err != nil {
				return err
			}
		default:
			return &safetensors.Error{File: t.File.Name(), Tensor: name,
				Err: errors.New("is surplus: the model has no such tensor, or it also exists under its other name")}
		}
	}
	return nil
}

// checkTied returns an error if a stored head differs from the embedding in spite
// of tie_word_embeddings: one of the two is then not the trained model's.
func (c *Checkpoint) checkTied(head checkpoint.Stored) error {
	embed, err := c.resolve(embedName)
	if err != nil {
		return err
	}
	if !slices.Equal(head.Info.Shape, embed.Info.Shape) || head.Info.DType != embed.Info.DType {
		return &safetensors.Error{File: head.File.Name(), Tensor: headName, Err: fmt.Errorf(
			"differs in shape or type from %s, but tie_word_embeddings is true", embedName)}
	}
	a, b := make([]byte, checkpoint.ChunkSize), make([]byte, checkpoint.ChunkSize)
	for offset := int64(0); offset < head.Info.Size; offset += checkpoint.ChunkSize {
		n := min(checkpoint.ChunkSize, head.Info.Size-offset)
		if err := head.File.ReadAt(headName, a[:n], offset); err != nil {
			return err
		}
		if err := embed.File.ReadAt(embedName, b[:n], offset); err != nil {
			return err
		}
		if string(a[:n]) != string(b[:n]) {
			return &safetensors.Error{File: head.File.Name(), Tensor: headName, Err: fmt.Errorf(
				"differs from %s, but tie_word_embeddings is true", embedName)}
		}
	}
	return nil
}
