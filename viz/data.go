package viz

import (
	"fmt"
	"math"
	"slices"

	"github.com/expertspec/expertspec/trace"
)

// Curve is one line of a figure.
type Curve struct {
	Name string
	// X and Y are the coordinates of the points, of equal length. NaN in Y
	// interrupts the line.
	X, Y []float64
	// Low and High are the ends of an interval around each Y, of the length of
	// Y, or nil. NaN means that a point has no interval.
	Low, High []float64
}

func (c *Curve) add(x, y float64) { c.X, c.Y = append(c.X, x), append(c.Y, y) }

func (c *Curve) addInterval(x, y, low, high float64) {
	c.add(x, y)
	c.Low, c.High = append(c.Low, low), append(c.High, high)
}

// interval returns the interval of point i, NaN for a curve without intervals.
func (c Curve) interval(i int) (low, high float64) {
	if c.Low == nil || c.High == nil {
		return math.NaN(), math.NaN()
	}
	return c.Low[i], c.High[i]
}

// check reports slices that do not have n elements and values that cannot be drawn.
func (c Curve) check(n int) error {
	if len(c.Y) != n || (c.Low != nil && len(c.Low) != n) || (c.High != nil && len(c.High) != n) {
		return fmt.Errorf("%q has %d values, %d low and %d high for %d places", c.Name, len(c.Y), len(c.Low), len(c.High), n)
	}
	for i, y := range c.Y {
		if lo, hi := c.interval(i); math.IsInf(y, 0) || math.IsInf(lo, 0) || math.IsInf(hi, 0) {
			return fmt.Errorf("%q: value %d is %g [%g, %g]; must be finite", c.Name, i, y, lo, hi)
		}
	}
	return nil
}

// Reference is a known value, such as chance, that a figure marks.
type Reference struct {
	Value float64
	Label string
}

// maxSide is the maximum number of rows or columns of a picture.
const maxSide = 4096

// newGrid returns a matrix [r,c] of values.
func newGrid(r, c int, value func(i, j int) float64) [][]float64 {
	g := make([][]float64, r)
	for i := range g {
		g[i] = make([]float64, c)
		for j := range c {
			g[i][j] = value(i, j)
		}
	}
	return g
}

func dims(g [][]float64) (r, c int) {
	if len(g) == 0 {
		return 0, 0
	}
	return len(g), len(g[0])
}

func checkGrid(name string, g [][]float64) error {
	r, c := dims(g)
	if r > maxSide || c > maxSide {
		return fmt.Errorf("viz: figure %s: got %d x %d values, expected at most %d rows and columns", name, r, c, maxSide)
	}
	for i, row := range g {
		if len(row) != c {
			return fmt.Errorf("viz: figure %s: row %d has %d values, row 0 has %d", name, i, len(row), c)
		}
		for j, v := range row {
			if math.IsInf(v, 0) {
				return fmt.Errorf("viz: figure %s: row %d, column %d is %g; must be finite", name, i, j, v)
			}
		}
	}
	return nil
}

// Journey is the routing of one document of T tokens, L layers and K experts
// per token. [Sampler] makes journeys from documents of a trace.
type Journey struct {
	Dataset, Document string
	Layers, TopK      int
	// Pieces are the texts of the tokens, [T], with their spaces.
	Pieces []string
	// Experts are the selected experts, [T,L,K], first choice first. Negative
	// marks a missing choice.
	Experts []int32
	// Weights are their routing weights, [T,L,K]; nil if not known.
	Weights []float32
}

// journeyOf returns the journey of a document, which shares its slices. pieces
// are the texts of its tokens, [T]; nil: token ids, or positions where the
// document has no token ids.
func journeyOf(doc *trace.Document, model trace.Model, pieces []string) (Journey, error) {
	j := Journey{
		Dataset: doc.Dataset, Document: doc.ID, Layers: model.Layers, TopK: model.TopK,
		Pieces: pieces, Experts: doc.Experts, Weights: doc.Weights,
	}
	if pieces == nil {
		if n := model.Layers * model.TopK; n > 0 {
			j.Pieces = make([]string, len(doc.Experts)/n)
		}
		for i := range j.Pieces {
			if i < len(doc.Tokens) && doc.Tokens[i] != trace.NoToken {
				j.Pieces[i] = fmt.Sprintf(" %d", doc.Tokens[i])
			} else {
				j.Pieces[i] = fmt.Sprintf(" @%d", i)
			}
		}
	}
	return j, j.check()
}

// check reports slices whose lengths do not agree.
func (j Journey) check() error {
	n := len(j.Pieces) * j.Layers * j.TopK
	if j.Layers < 0 || j.TopK < 0 || len(j.Experts) != n || (j.Weights != nil && len(j.Weights) != n) {
		return fmt.Errorf("viz: document %s/%s: %d tokens, %d layers and top-%d require %d experts; got %d, and %d weights",
			j.Dataset, j.Document, len(j.Pieces), j.Layers, j.TopK, n, len(j.Experts), len(j.Weights))
	}
	return nil
}

// choice returns the k-th expert of token t at layer l, negative where there is
// none, and its routing weight, NaN where it is not known.
func (j Journey) choice(t, l, k int) (expert int, weight float64) {
	i := (t*j.Layers+l)*j.TopK + k
	weight = math.NaN()
	if j.Weights != nil {
		weight = float64(j.Weights[i])
	}
	return int(j.Experts[i]), weight
}

// appendNew appends v to s unless s contains it.
func appendNew[T comparable](s []T, v T) []T {
	if slices.Contains(s, v) {
		return s
	}
	return append(s, v)
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
