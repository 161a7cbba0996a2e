package neural

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/gomlx/compute/dtypes/bfloat16"
)

// scaleSuffix ends the name of the tensor of an array's scales.
const scaleSuffix = ".scale"

// lines describes how an array is stored in 8 bits: weights that have a scale in
// common are n, stride apart. They are a column of a matrix [in,out], which one
// output reads, or a row of the embedding, of one id.
func (p *param) lines() (n, stride int, scales []int) {
	last := len(p.dims) - 1
	if p.name == "embed" {
		return p.dims[last], 1, p.dims[:last]
	}
	scales = append(append(scales, p.dims[:last-1]...), p.dims[last])
	return p.dims[last-1], p.dims[last], scales
}

// eachLine calls f with the number of each line of weights and the index of its
// first weight.
func (p *param) eachLine(f func(line, first int)) {
	n, stride, _ := p.lines()
	for line := range p.size() / n {
		f(line, line/stride*stride*n+line%stride)
	}
}

// quantize returns w, an array's weights, in 8 bits: weight i of a line is
// scale b, b from -127 to 127. A scale is a bfloat16, so that the largest weight of
// a line, 127 scale, is exact in float32, and quantizing what dequantize returns
// changes nothing.
func (p *param) quantize(w []float32) (b []int8, scales []float32) {
	n, stride, _ := p.lines()
	b, scales = make([]int8, len(w)), make([]float32, len(w)/n)
	p.eachLine(func(line, first int) {
		most := float32(0)
		for i := range n {
			most = max(most, w[first+i*stride], -w[first+i*stride])
		}
		s := bfloat16.FromFloat32(most / 127).Float32()
		if scales[line] = s; s == 0 {
			return
		}
		for i := range n {
			x := math.RoundToEven(float64(w[first+i*stride] / s))
			b[first+i*stride] = int8(min(max(x, -127), 127))
		}
	})
	return b, scales
}

// dequantize returns the weights of an array in 8 bits.
func (p *param) dequantize(b []int8, scales []float32) []float32 {
	n, stride, _ := p.lines()
	w := make([]float32, len(b))
	p.eachLine(func(line, first int) {
		for i := range n {
			w[first+i*stride] = float32(b[first+i*stride]) * scales[line]
		}
	})
	return w
}

// rounded returns the weights of arrays with those of matrices rounded to 8 bits.
func rounded(w map[string][]float32, arrays []*param) map[string][]float32 {
	r := map[string][]float32{}
	for _, p := range arrays {
		r[p.name] = w[p.name]
		if p.decay {
			r[p.name] = p.dequantize(p.quantize(w[p.name]))
		}
	}
	return r
}

// int8Tensors returns the stored form of a matrix in 8 bits.
func (p *param) int8Tensors(w []float32) []safetensors.Tensor {
	b, scales := p.quantize(w)
	_, _, dims := p.lines()
	var data, halves []byte
	for _, x := range b {
		data = append(data, byte(x))
	}
	for _, s := range scales {
		halves = binary.LittleEndian.AppendUint16(halves, bfloat16.FromFloat32(s).Bits())
	}
	return []safetensors.Tensor{safetensors.Bytes(p.name, safetensors.I8, p.dims, data),
		safetensors.Bytes(p.name+scaleSuffix, safetensors.BF16, dims, halves)}
}

// readScales reads the scales of a matrix in 8 bits.
func (p *param) readScales(r *safetensors.Reader) ([]float32, error) {
	_, _, dims := p.lines()
	scales, err := readTensor(r, p.name+scaleSuffix, dims)
	for i, s := range scales {
		if s < 0 || s > 1e30 {
			return nil, fmt.Errorf("tensor %q: value %d is %v, expected 0 to 1e30", p.name+scaleSuffix, i, s)
		}
	}
	return scales, err
}

// readInt8 reads a matrix in 8 bits.
func (p *param) readInt8(r *safetensors.Reader, scales []float32) ([]float32, error) {
	if err := checkTensor(r, p.name, p.dims); err != nil {
		return nil, err
	}
	if info, _ := r.Info(p.name); info.DType != safetensors.I8 {
		return nil, fmt.Errorf("tensor %q: is %s, expected %s in a network of 8 bits", p.name, info.DType, safetensors.I8)
	}
	data := make([]byte, p.size())
	if err := r.Read(p.name, data); err != nil {
		return nil, err
	}
	b := make([]int8, len(data))
	for i, x := range data {
		if b[i] = int8(x); b[i] == -128 {
			return nil, fmt.Errorf("tensor %q: value %d is -128, expected -127 to 127", p.name, i)
		}
	}
	return p.dequantize(b, scales), nil
}
