package switchtransformer

import "math"

// bucket returns the bucket of a relative position, the key's minus the query's, in a
// stack: transformers' _relative_position_bucket, whose logarithm is of float32.
func (c *Config) bucket(s Stack, relative int) int {
	n, first := c.Buckets, 0
	if s == Encoder {
		n /= 2
		if relative > 0 {
			first = n
		} else {
			relative = -relative
		}
	} else {
		relative = max(0, -relative)
	}
	exact := n / 2
	if relative < exact {
		return first + relative
	}
	log := float32(math.Log(float64(float32(relative) / float32(exact))))
	scale := float32(math.Log(float64(c.MaxDistance) / float64(exact)))
	return first + min(n-1, exact+int(log/scale*float32(n-exact)))
}
