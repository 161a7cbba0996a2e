package mixtral

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"runtime"
	"strings"
	"sync"

	"github.com/expertspec/expertspec/mixtral/internal/checkpoint"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/gomlx/compute/dtypes"
)

// QuantizeMode is the form of the attention and expert matrices in memory. Router,
// norms, embeddings and head are not quantized.
type QuantizeMode int

const (
	// AsStored keeps the checkpoint's form: int8 where it stores int8, and
	// Options.DType elsewhere.
	AsStored QuantizeMode = iota
	// Int8 is 8-bit integers with one float32 scale per output row, the row's
	// largest absolute value / 127 (Dettmers et al. 2022, LLM.int8(), vector-wise
	// quantization without its outliers).
	Int8
)

// String returns the form's name: none or int8.
func (q QuantizeMode) String() string {
	switch q {
	case AsStored:
		return "none"
	case Int8:
		return "int8"
	}
	return fmt.Sprintf("QuantizeMode(%d)", int(q))
}

// MarshalText returns the form's name, so that it can be a flag (flag.TextVar).
func (q QuantizeMode) MarshalText() ([]byte, error) { return []byte(q.String()), nil }

// UnmarshalText sets the form by its name.
func (q *QuantizeMode) UnmarshalText(name []byte) error {
	for _, known := range []QuantizeMode{AsStored, Int8} {
		if known.String() == string(name) {
			*q = known
			return nil
		}
	}
	return fmt.Errorf("quantization %q: must be none or int8", name)
}

// On disk, an 8-bit matrix has the form of bitsandbytes' Linear8bitLt: beside the
// I8 tensor NAME.weight [O,I] there are NAME.SCB [O], F32, the rows' largest
// absolute values, and NAME.weight_format, a U8 of 0 (by row); a weight is
// weight*SCB/127 (bitsandbytes 0.50, nn/modules.py and functional.py,
// int8_vectorwise_dequant).
const (
	weightSuffix = ".weight"
	scaleSuffix  = ".SCB"
	formatSuffix = ".weight_format"
)

// perStep is the float32 by which bitsandbytes multiplies SCB.
const perStep = float32(7.874015718698502e-3)

// linearPattern are the tensors that may be stored in 8 bits: those of nn.Linear.
var linearPattern = regexp.MustCompile(
	`(^lm_head|\.self_attn\.[qkvo]_proj|\.block_sparse_moe\.gate|\.block_sparse_moe\.experts\.\d+\.w[123])\.weight$`)

// checkInt8 returns an error if a stored I8 tensor has no valid SCB or format.
func (c *Checkpoint) checkInt8(name string, t checkpoint.Stored) error {
	fail := func(t checkpoint.Stored, format string, args ...any) error {
		return &safetensors.Error{File: t.File.Name(), Tensor: t.Info.Name, Err: fmt.Errorf(format, args...)}
	}
	base := strings.TrimSuffix(name, weightSuffix)
	scale, ok := c.files.Tensors[base+scaleSuffix]
	if !ok {
		return fail(t, "is I8, but its scales, %s, are missing", base+scaleSuffix)
	}
	if scale.Info.DType != safetensors.F32 || len(scale.Info.Shape) != 1 || scale.Info.Shape[0] != t.Info.Shape[0] {
		return fail(scale, "is %s of shape %v, expected F32 of %v", scale.Info.DType, scale.Info.Shape, t.Info.Shape[:1])
	}
	format, ok := c.files.Tensors[base+formatSuffix]
	if !ok {
		return nil
	}
	if format.Info.DType != safetensors.U8 || format.Info.Len() != 1 {
		return fail(format, "is %s of shape %v, expected one U8", format.Info.DType, format.Info.Shape)
	}
	var code [1]byte
	if err := format.File.ReadAt(format.Info.Name, code[:], 0); err != nil {
		return err
	}
	if code[0] != 0 {
		return fail(format, "is %d; only 0, by row, is implemented", code[0])
	}
	return nil
}

// int8Class reports which matrices of the checkpoint are stored in 8 bits, any of
// the attention's and any of the experts'.
func (c *Checkpoint) int8Class() (attention, experts bool) {
	for name, t := range c.files.Tensors {
		if t.Info.DType == safetensors.I8 {
			attention = attention || strings.Contains(name, ".self_attn.")
			experts = experts || strings.Contains(name, ".experts.")
		}
	}
	return attention, experts
}

// readScales returns the factors by which rows of a tensor stored in 8 bits are
// multiplied, [O].
func (c *Checkpoint) readScales(p checkpoint.Part) ([]float32, error) {
	name := strings.TrimSuffix(p.Info.Name, weightSuffix) + scaleSuffix
	t := c.files.Tensors[name]
	raw := make([]byte, t.Info.Size)
	if err := t.File.ReadAt(name, raw, 0); err != nil {
		return nil, err
	}
	scales := make([]float32, len(raw)/4)
	for i := range scales {
		v := math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		if !(v >= 0 && v <= math.MaxFloat32) {
			return nil, &safetensors.Error{File: t.File.Name(), Tensor: name, Err: fmt.Errorf("element %d is %v", i, v)}
		}
		scales[i] = v * perStep
	}
	return scales, nil
}

// readDequantized fills dst with a tensor stored in 8 bits as floating-point
// numbers.
func (c *Checkpoint) readDequantized(p checkpoint.Part, name string, dtype safetensors.DType, dst []byte) error {
	scales, err := c.readScales(p)
	if err != nil {
		return err
	}
	columns := p.Shape[1]
	raw, row := make([]byte, columns), make([]byte, 4*columns)
	for i, scale := range scales {
		if err := p.File.ReadAt(p.Info.Name, raw, int64(i*columns)); err != nil {
			return err
		}
		for j, b := range raw {
			binary.LittleEndian.PutUint32(row[4*j:], math.Float32bits(float32(int8(b))*scale))
		}
		out := dst[i*columns*dtype.Size():][:columns*dtype.Size()]
		if err := safetensors.Convert(out, dtype, row, safetensors.F32); err != nil {
			return p.Errorf(name, "%w", err)
		}
		if j := safetensors.FirstNonFinite(out, dtype); j >= 0 {
			return p.Errorf(name, "element %d is too large for %s", i*columns+j, dtype)
		}
	}
	return nil
}

// readInt8 reads a matrix [O,I] as int8 rows and their scales, which it quantizes
// unless it is stored so. space returns scratch memory.
func (c *Checkpoint) readInt8(name string, dst []byte, scales []float32, space func(int) []byte) error {
	p, err := c.resolve(name)
	if err != nil {
		return err
	}
	if p.Info.DType == safetensors.I8 {
		stored, err := c.readScales(p)
		if err != nil {
			return err
		}
		copy(scales, stored)
		return p.File.ReadAt(p.Info.Name, dst, 0)
	}
	wide := space(4 * p.Elements())
	if err := c.Read(name, dtypes.Float32, wide); err != nil {
		return err
	}
	largest := quantizeRows(dst, words[float32](wide), p.Shape[1])
	for i, v := range largest {
		scales[i] = v * perStep
	}
	return nil
}

// quantizeRows writes w [O,I] as int8 and returns its rows' largest absolute
// values. As in bitsandbytes (backends/default/ops.py, int8_vectorwise_quant), a
// weight becomes w * (127/largest), in float32, to nearest, ties to even; unlike
// there, w is not rounded to float16 first.
func quantizeRows(dst []byte, w []float32, columns int) []float32 {
	largest := make([]float32, len(w)/columns)
	parallel(len(largest), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			row, out := w[i*columns:][:columns], dst[i*columns:][:columns]
			top := float32(0)
			for _, v := range row {
				top = max(top, math.Float32frombits(math.Float32bits(v)&^(1<<31)))
			}
			largest[i] = top
			factor := 127 / top
			if top == 0 || math.IsInf(float64(factor), 0) { // nothing, or too small to be scaled
				largest[i] = 0
				clear(out)
				continue
			}
			for j, v := range row {
				out[j] = byte(int8(roundEven(float32(v * factor)))) // not fused
			}
		}
	})
	return largest
}

// roundEven rounds |x| < 2^22 to nearest, ties to even.
func roundEven(x float32) int32 {
	const magic = 3 << 22 // at its size, float32 have steps of 1
	return int32(math.Float32bits(x+magic)) - int32(math.Float32bits(magic))
}

// checkQuantization reports a quantization_config that this package does not
// implement. Which tensors have 8 bits is up to them.
func (f fields) checkQuantization() {
	const name = "quantization_config"
	if f.Absent(name) || f.Null(name) {
		return
	}
	q, err := parseFields(f.Values[name])
	if err != nil {
		f.Fail(name, "%v", err)
		return
	}
	q.Prefix = name + "."
	if method := q.String("quant_method", "bitsandbytes"); method != "bitsandbytes" {
		q.Fail("quant_method", `%q is not implemented; must be "bitsandbytes"`, method)
	}
	if !q.Bool("load_in_8bit", q.Bool("_load_in_8bit", false)) {
		q.Fail("load_in_8bit", "is not true; other quantizations are not implemented")
	}
	if q.Bool("llm_int8_has_fp16_weight", false) {
		q.Fail("llm_int8_has_fp16_weight", "true is not implemented")
	}
	if f.Err == nil {
		f.Err = q.Err
	}
}

// quantizedConfig returns the text of a config.json with a quantization_config as
// transformers writes it, for matrices that quantizedName reports.
func quantizedConfig(text []byte) ([]byte, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(text, &object); err != nil {
		return nil, err
	}
	if q, ok := object["quantization_config"]; ok && string(q) != "null" {
		return nil, errors.New("the checkpoint is quantized already")
	}
	config, err := json.Marshal(map[string]any{
		"quant_method": "bitsandbytes", "load_in_8bit": true, "load_in_4bit": false,
		"_load_in_8bit": true, "_load_in_4bit": false,
		"llm_int8_threshold":               json.RawMessage("6.0"), // transformers refuses an integer
		"llm_int8_skip_modules":            []string{"lm_head", "gate"},
		"llm_int8_enable_fp32_cpu_offload": false, "llm_int8_has_fp16_weight": false,
		"bnb_4bit_compute_dtype": "float32", "bnb_4bit_quant_storage": "uint8",
		"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": false,
	})
	if err != nil {
		return nil, err
	}
	object["quantization_config"] = config
	return json.MarshalIndent(object, "", "  ")
}

// parallel calls f for parts of [0,n), on all processors.
func parallel(n int, f func(lo, hi int)) {
	parts := min(runtime.GOMAXPROCS(0), n)
	var group sync.WaitGroup
	for i := range parts {
		group.Go(func() { f(i*n/parts, (i+1)*n/parts) })
	}
	group.Wait()
}
