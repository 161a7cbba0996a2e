package switchtransformer

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/expertspec/expertspec/mixtral/internal/checkpoint"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/gomlx/compute/dtypes"
)

// Checkpoint is a Switch Transformer's weights on disk. Opening it reads the
// configuration and the headers of the files; Read reads a tensor's data. All methods
// except Close may be called concurrently.
type Checkpoint struct {
	config Config
	files  *checkpoint.Files
}

// OpenCheckpoint opens the checkpoint at the root of a file system: config.json beside
// weights, in one file or in shards that an index names, as mixtral.OpenCheckpoint
// does. Tensors are F32, F16 or BF16, also mixed in one model, and have the model hub's
// names (see Shape).
//
// All tensors of the model must exist in their shapes, and no others. The exceptions
// are the embeddings of the stacks, encoder.embed_tokens and decoder.embed_tokens,
// which are shared.weight where they are not stored, and lm_head.weight, which is so
// if tie_word_embeddings is true; and the bias of attention to the encoder that T5's
// first programs wrote, which is ignored.
//
// Errors name file and tensor or field; most are of type *safetensors.Error. If
// the folder or one of its files does not exist, they wrap fs.ErrNotExist. NaN and
// infinite weights are found by Read. Close the checkpoint after use.
func OpenCheckpoint(fsys fs.FS) (*Checkpoint, error) {
	text, err := checkpoint.ReadConfig(fsys)
	if err != nil {
		return nil, err
	}
	config, err := parseConfig(text)
	if err != nil {
		return nil, err
	}
	files, err := checkpoint.Open(fsys, text)
	if err != nil {
		return nil, err
	}
	c := &Checkpoint{config: config, files: files}
	if err := c.check(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close closes the checkpoint's files.
func (c *Checkpoint) Close() error { return c.files.Close() }

// Config returns the model's configuration.
func (c *Checkpoint) Config() Config {
	config := c.config
	config.EOS = slices.Clone(config.EOS)
	return config
}

// Hash returns an identifier of the checkpoint: see mixtral.Checkpoint.Hash.
func (c *Checkpoint) Hash() (string, error) { return c.files.Hash() }

// Shape returns the shape of a tensor by its name, for example
//
//	shared.weight                                                               [V,D]
//	encoder.embed_tokens.weight                                                 [V,D]
//	lm_head.weight                                                              [V,D]
//	encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight        [Buckets,H]
//	encoder.block.2.layer.0.SelfAttention.q.weight                              [H*HeadDim,D]
//	encoder.block.2.layer.0.SelfAttention.o.weight                              [D,H*HeadDim]
//	encoder.block.2.layer.0.layer_norm.weight                                   [D]
//	decoder.block.2.layer.1.EncDecAttention.k.weight                            [H*HeadDim,D]
//	encoder.block.2.layer.1.mlp.wi.weight                                       [F,D]
//	decoder.block.3.layer.2.mlp.router.classifier.weight                        [E,D]
//	decoder.block.3.layer.2.mlp.router.classifier.bias                          [E]
//	decoder.block.3.layer.2.mlp.experts.expert_5.wo.weight                      [D,F]
//	decoder.final_layer_norm.weight                                             [D]
//
// For any other name it returns an error.
func (c *Checkpoint) Shape(name string) ([]int, error) {
	p, err := c.resolve(name)
	return slices.Clone(p.Shape), err
}

// Read fills dst with a tensor's elements as dtype (Float32, BFloat16 or Float16),
// row-major and little-endian; dst must have exactly their size. The names are those
// of Shape. Narrowing rounds to nearest, ties to even.
//
// An element that is NaN, infinite or too large for dtype is an error that names
// file, tensor and the element's flat index. The contents of dst are then undefined.
// Besides dst, memory is bounded by one chunk.
func (c *Checkpoint) Read(name string, dtype dtypes.DType, dst []byte) error {
	p, err := c.resolve(name)
	if err != nil {
		return err
	}
	return p.Read(name, dtype, dst)
}

// Names of single tensors.
const (
	sharedName = "shared.weight"
	headName   = "lm_head.weight"
)

// leftover is a tensor of T5's first programs, in files converted by them; no attention
// to the encoder has a bias, and transformers does not read it either.
const leftover = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"

func embedName(s Stack) string { return s.String() + ".embed_tokens.weight" }

func finalNormName(s Stack) string { return s.String() + ".final_layer_norm.weight" }

// layerPrefix returns the beginning of the names of a block's layer, in transformers'
// sense: 0 self-attention, then in the decoder 1 cross-attention, then feed-forward.
func layerPrefix(s Stack, block, layer int) string {
	return fmt.Sprintf("%s.block.%d.layer.%d.", s, block, layer)
}

// feedForward returns the beginning of the names of a block's feed-forward.
func feedForward(s Stack, block int) string { return layerPrefix(s, block, 1+int(s)) }

// expertPrefix returns the beginning of the names of an expert's matrices.
func expertPrefix(s Stack, block, expert int) string {
	return fmt.Sprintf("%smlp.experts.expert_%d.", feedForward(s, block), expert)
}

// A number without leading zeros, short enough for an int32.
const digits = `(0|[1-9]\d{0,8})`

var (
	blockPattern  = regexp.MustCompile(`^(encoder|decoder)\.block\.` + digits + `\.layer\.([012])\.(.+)$`)
	expertPattern = regexp.MustCompile(`^mlp\.experts\.expert_` + digits + `\.(wi|wo)\.weight$`)
)

// resolve finds a tensor by name.
func (c *Checkpoint) resolve(name string) (checkpoint.Part, error) {
	shape := c.config.shape(name)
	if shape == nil {
		return checkpoint.Part{}, c.files.Without(name)
	}
	stored := name
	if !c.files.Has(name) && (name == embedName(Encoder) || name == embedName(Decoder) || name == headName && c.config.TieEmbeddings) {
		stored = sharedName
	}
	p, err := c.files.Whole(stored, shape)
	if err == nil {
		err = p.CheckFloat()
	}
	if err != nil {
		return checkpoint.Part{}, err
	}
	return p, nil
}

// shape returns the shape of a tensor; nil for an unknown name.
func (c *Config) shape(name string) []int {
	switch name {
	case sharedName, headName, embedName(Encoder), embedName(Decoder):
		return []int{c.VocabSize, c.HiddenSize}
	case finalNormName(Encoder), finalNormName(Decoder):
		return []int{c.HiddenSize}
	}
	m := blockPattern.FindStringSubmatch(name)
	if m == nil {
		return nil
	}
	s := Encoder
	if m[1] == "decoder" {
		s = Decoder
	}
	block, _ := strconv.Atoi(m[2])
	layer, _ := strconv.Atoi(m[3])
	if block >= c.Blocks(s) {
		return nil
	}
	switch layer {
	case 1 + int(s):
		return c.feedForwardShape(m[4], c.sparse(s, block))
	case 0:
		if m[4] == "SelfAttention.relative_attention_bias.weight" && block == 0 {
			return []int{c.Buckets, c.Heads}
		}
		return c.attentionShape(m[4], "SelfAttention.")
	case 1:
		return c.attentionShape(m[4], "EncDecAttention.")
	}
	return nil
}

func (c *Config) attentionShape(name, prefix string) []int {
	inner := c.Heads * c.HeadDim
	if name == "layer_norm.weight" {
		return []int{c.HiddenSize}
	}
	matrix, ok := strings.CutPrefix(name, prefix)
	switch {
	case !ok:
		return nil
	case matrix == "q.weight", matrix == "k.weight", matrix == "v.weight":
		return []int{inner, c.HiddenSize}
	case matrix == "o.weight":
		return []int{c.HiddenSize, inner}
	}
	return nil
}

func (c *Config) feedForwardShape(name string, sparse bool) []int {
	d, f := c.HiddenSize, c.IntermediateSize
	switch {
	case name == "layer_norm.weight":
		return []int{d}
	case !sparse && name == "mlp.wi.weight":
		return []int{f, d}
	case !sparse && name == "mlp.wo.weight":
		return []int{d, f}
	case sparse && name == "mlp.router.classifier.weight":
		return []int{c.Experts, d}
	case sparse && c.RouterBias && name == "mlp.router.classifier.bias":
		return []int{c.Experts}
	}
	m := expertPattern.FindStringSubmatch(name)
	if m == nil || !sparse {
		return nil
	}
	if e, _ := strconv.Atoi(m[1]); e >= c.Experts {
		return nil
	}
	if m[2] == "wi" {
		return []int{f, d}
	}
	return []int{d, f}
}

// blockNames returns the names of a block's tensors.
func (c *Config) blockNames(s Stack, block int) []string {
	var names []string
	for i, attention := range []string{"SelfAttention.", "EncDecAttention."}[:1+int(s)] {
		prefix := layerPrefix(s, block, i)
		names = append(names, prefix+"layer_norm.weight")
		for _, matrix := range []string{"q", "k", "v", "o"} {
			names = append(names, prefix+attention+matrix+".weight")
		}
		if i == 0 && block == 0 {
			names = append(names, prefix+attention+"relative_attention_bias.weight")
		}
	}
	prefix := feedForward(s, block)
	names = append(names, prefix+"layer_norm.weight")
	if !c.sparse(s, block) {
		return append(names, prefix+"mlp.wi.weight", prefix+"mlp.wo.weight")
	}
	names = append(names, prefix+"mlp.router.classifier.weight")
	if c.RouterBias {
		names = append(names, prefix+"mlp.router.classifier.bias")
	}
	return names
}

// check returns an error unless there are all tensors that the model needs, and no
// others. It stops at the first that is missing, so that its work is bounded by
// the files, whatever the configuration is.
func (c *Checkpoint) check() error {
	used := map[string]bool{}
	need := func(name string) error {
		p, err := c.resolve(name)
		if err == nil {
			used[p.Info.Name] = true
		}
		return err
	}
	for _, name := range []string{sharedName, embedName(Encoder), embedName(Decoder), headName, finalNormName(Encoder), finalNormName(Decoder)} {
		if err := need(name); err != nil {
			return err
		}
	}
	for s := range Stack(stacks) {
		for block := range c.config.Blocks(s) {
			if err := c.checkBlock(s, block, need); err != nil {
				return err
			}
		}
	}
	for _, name := range checkpoint.SortedKeys(c.files.Tensors) {
		if !used[name] && name != leftover {
			return &safetensors.Error{File: c.files.Tensors[name].File.Name(), Tensor: name,
				Err: fmt.Errorf("is surplus: the model of %s has no such tensor", checkpoint.ConfigFile)}
		}
	}
	return nil
}

func (c *Checkpoint) checkBlock(s Stack, block int, need func(string) error) error {
	for _, name := range c.config.blockNames(s, block) {
		if err := need(name); err != nil {
			return err
		}
	}
	if !c.config.sparse(s, block) {
		return nil
	}
	for e := range c.config.Experts {
		prefix := expertPrefix(s, block, e)
		if err := errors.Join(need(prefix+"wi.weight"), need(prefix+"wo.weight")); err != nil {
			return err
		}
	}
	return nil
}

// source returns the first of others that holds the same values as name, or else name,
// so that a matrix that is stored twice is loaded once.
func (c *Checkpoint) source(name string, others ...string) (string, error) {
	for _, other := range others {
		same, err := c.same(name, other)
		if err != nil {
			return "", err
		}
		if same {
			return other, nil
		}
	}
	return name, nil
}

// same reports whether two tensors of one shape have the same type and values.
func (c *Checkpoint) same(a, b string) (bool, error) {
	p, err := c.resolve(a)
	if err != nil {
		return false, err
	}
	q, err := c.resolve(b)
	if err != nil {
		return false, err
	}
	if p.Info.Name == q.Info.Name {
		return true, nil
	}
	if p.Info.DType != q.Info.DType {
		return false, nil
	}
	x, y := make([]byte, checkpoint.ChunkSize), make([]byte, checkpoint.ChunkSize)
	for offset := int64(0); offset < p.Info.Size; offset += checkpoint.ChunkSize {
		n := min(checkpoint.ChunkSize, p.Info.Size-offset)
		if err := p.File.ReadAt(p.Info.Name, x[:n], offset); err != nil {
			return false, err
		}
		if err := q.File.ReadAt(q.Info.Name, y[:n], offset); err != nil {
			return false, err
		}
		if !bytes.Equal(x[:n], y[:n]) {
			return false, nil
		}
	}
	return true, nil
}
