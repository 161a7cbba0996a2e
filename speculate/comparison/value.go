package comparison

import (
	"encoding/json"
	"math"
)

// Value is a measured number with its 95 % interval over documents.
type Value struct {
	// Value is NaN where it does not exist, for the reason in Missing.
	Value float64
	// Low and High are NaN without an interval.
	Low, High float64
	Missing   string
}

// notRecorded is why a value that needs a signal has none.
const notRecorded = "not recorded"

// missing is a Value without a number.
func missing(why string) Value {
	return Value{Value: math.NaN(), Low: math.NaN(), High: math.NaN(), Missing: why}
}

// exactly is a Value that does not depend on documents.
func exactly(x float64) Value { return Value{Value: x, Low: math.NaN(), High: math.NaN()} }

// OK reports whether there is a number.
func (v Value) OK() bool { return !math.IsNaN(v.Value) }

// HasInterval reports whether there is an interval.
func (v Value) HasInterval() bool { return !math.IsNaN(v.Low) && !math.IsNaN(v.High) }

// scaled returns the value and its interval times a factor.
func (v Value) scaled(by float64) Value {
	v.Value, v.Low, v.High = v.Value*by, v.Low*by, v.High*by
	return v
}

// MarshalJSON writes {"value", "low", "high"}, without what does not exist, or
// {"missing"}.
func (v Value) MarshalJSON() ([]byte, error) {
	if !v.OK() {
		return json.Marshal(map[string]string{"missing": v.Missing})
	}
	m := map[string]float64{"value": v.Value}
	if v.HasInterval() {
		m["low"], m["high"] = v.Low, v.High
	}
	return json.Marshal(m)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (v *Value) UnmarshalJSON(text []byte) error {
	var m struct {
		Value, Low, High *float64
		Missing          string
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return err
	}
	number := func(x *float64) float64 {
		if x == nil {
			return math.NaN()
		}
		return *x
	}
	*v = Value{number(m.Value), number(m.Low), number(m.High), m.Missing}
	return nil
}

// jackknife gathers measures that were computed without one document each, and
// keeps their means and the squares of the distances from them (Welford 1962).
type jackknife struct {
	n            int
	mean, square []float64
}

// add takes the measures without one more document. NaN, for a measure that does not
// exist without it, leaves the measure without an interval.
func (j *jackknife) add(x []float64) {
	if j.n == 0 {
		j.mean, j.square = make([]float64, len(x)), make([]float64, len(x))
	}
	j.n++
	for i, v := range x {
		d := v - j.mean[i]
		j.mean[i] += d / float64(j.n)
		j.square[i] += d * (v - j.mean[i])
	}
}

// value returns estimate with the interval of the i-th measure, within [low, high].
func (j *jackknife) value(i int, estimate, low, high float64) Value {
	v := exactly(estimate)
	if math.IsNaN(estimate) {
		return missing(notRecorded)
	}
	if j.n > 1 && !math.IsNaN(j.square[i]) {
		e := 1.96 * math.Sqrt(j.square[i]*float64(j.n-1)/float64(j.n))
		v.Low, v.High = math.Max(estimate-e, low), math.Min(estimate+e, high)
	}
	return v
}
