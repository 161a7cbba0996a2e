package tokenizer

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

// score reads a number as the Hugging Face tokenizers do.
func (j value) score() float64 {
	n, ok := j.v.(json.Number)
	if !ok {
		j.mustBe("a number")
	}
	f, ok := serdeFloat(n.String())
	if !ok {
		j.fail("is %s, which no 64-bit float represents", n)
	}
	return f
}

// serdeFloat reads a JSON number as Rust's serde_json does by default, which is not
// the nearest float: one number in seven of 16 or 17 digits is read as a neighbour of
// that. The sums of equal scores in another order differ as much, so it may decide
// between two ways to split a word. Digits beyond those of a 64-bit integer are
// ignored; the others as an integer are multiplied or divided by a power of ten.
func serdeFloat(s string) (float64, bool) {
	s, negative := strings.CutPrefix(s, "-")
	mantissa, exponentText, _ := strings.Cut(strings.ToLower(s), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits, exponent, full := uint64(0), 0, false
	for i := range len(whole) {
		full = full || overflows(digits, whole[i])
		if full {
			exponent++
		} else {
			digits = 10*digits + uint64(whole[i]-'0')
		}
	}
	for i := 0; i < len(fraction) && !overflows(digits, fraction[i]); i++ {
		digits = 10*digits + uint64(fraction[i]-'0')
		exponent--
	}
	if exponentText != "" {
		// What is out of range of 32 bits is so for any digits.
		e, err := strconv.Atoi(exponentText)
		if err != nil && strings.HasPrefix(exponentText, "-") {
			e = -math.MaxInt32
		} else if err != nil {
			e = math.MaxInt32
		}
		exponent += max(-math.MaxInt32, min(e, math.MaxInt32))
	}
	f, ok := scale(float64(digits), exponent)
	if negative {
		f = -f
	}
	return f, ok
}

// overflows reports whether another digit makes a number larger than 64 bits.
func overflows(digits uint64, next byte) bool {
	return digits >= math.MaxUint64/10 && (digits > math.MaxUint64/10 || uint64(next-'0') > math.MaxUint64%10)
}

// scale multiplies f by a power of ten.
func scale(f float64, exponent int) (float64, bool) {
	for ; exponent < -308 && f != 0; exponent += 308 {
		f /= 1e308
	}
	switch {
	case f == 0:
	case exponent > 308:
		return 0, false
	case exponent >= 0:
		f *= powerOfTen(exponent)
	default:
		f /= powerOfTen(-exponent)
	}
	return f, !math.IsInf(f, 0)
}

// powerOfTen returns the float nearest to 10^n, for n in [0, 308].
func powerOfTen(n int) float64 {
	f, err := strconv.ParseFloat("1e"+strconv.Itoa(n), 64)
	if err != nil {
		return math.Inf(1)
	}
	return f
}
