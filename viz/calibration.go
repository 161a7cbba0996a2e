package viz

import (
	"math"

	"github.com/expertspec/expertspec/speculate"
)

// Calibration counts how often each confidence of a predictor comes true. Its
// Observe is the Each of a speculate.EvaluateOptions, and a [Study] draws it as
// reliability diagrams. The zero value is ready to use.
type Calibration struct {
	predictors []string
	horizons   []speculate.Horizon
	bins       map[calibrationKey]*[calibrationBins]bin
}

type calibrationKey struct {
	predictor string
	horizon   speculate.Horizon
}

// calibrationBins are of equal width, as in speculate.Metrics.ECE.
const calibrationBins = 15

type bin struct{ n, confidence, hits float64 }

// Observe counts the first K experts that a predictor named at one horizon; K is
// the number of experts chosen.
func (c *Calibration) Observe(a *speculate.Answer) error {
	key := calibrationKey{a.Predictor, a.Horizon}
	b := c.bins[key]
	if b == nil {
		if c.bins == nil {
			c.bins = map[calibrationKey]*[calibrationBins]bin{}
		}
		b = new([calibrationBins]bin)
		c.bins[key] = b
		c.predictors, c.horizons = appendNew(c.predictors, a.Predictor), appendNew(c.horizons, a.Horizon)
	}
	k := 0
	for _, e := range a.Actual {
		if e >= 0 {
			k++
		}
	}
	for i := range min(k, len(a.Predicted), len(a.Confidence)) {
		p := float64(a.Confidence[i])
		if math.IsNaN(p) {
			continue
		}
		x := &b[min(max(int(p*calibrationBins), 0), calibrationBins-1)]
		x.n++
		x.confidence += p
		for _, e := range a.Actual {
			if e >= 0 && e == a.Predicted[i] {
				x.hits++
			}
		}
	}
	return nil
}

// figure returns the reliability diagram of one horizon, without bins of fewer
// than 30 answers.
func (c *Calibration) figure(h speculate.Horizon) Lines {
	f := Lines{
		Info: Info{Name: "calibration-" + horizonName(h), Title: "Calibration, " + horizonText(h),
			Caption: "Of the experts named with a confidence, the share that was chosen. On the dashed line, a predictor is right as often as its confidence says."},
		XAxis: "confidence", YAxis: "share that was chosen", Diagonal: true, YRange: [2]float64{0, 1},
	}
	for _, name := range c.predictors {
		bins := c.bins[calibrationKey{name, h}]
		if bins == nil || name == (speculate.Oracle{}).Name() {
			continue
		}
		curve := Curve{Name: name}
		for _, b := range bins {
			if b.n >= 30 {
				p := b.hits / b.n
				d := 1.96 * math.Sqrt(p*(1-p)/b.n)
				curve.addInterval(b.confidence/b.n, p, math.Max(0, p-d), math.Min(1, p+d))
			}
		}
		if len(curve.X) > 0 {
			f.Curves = append(f.Curves, curve)
		}
	}
	return f
}

// section returns the diagrams of all horizons as a section of a report.
func (c *Calibration) section() Section {
	f := Figures{Label: "Known"}
	for _, h := range c.horizons {
		f.add(horizonText(h), c.figure(h))
	}
	return Section{ID: "calibration", Title: "Calibration", Blocks: []Block{f},
		Text: []string{"Whether a predictor's confidence is how often it is right. A prefetcher that weighs the cost of a copy needs this."}}
}

// calibrationError compares the expected calibration error of the predictors by
// horizon, in percentage points.
func calibrationError(r *speculate.Results) bars {
	f := bars{
		Info: Info{Name: "calibration-error", Title: "Calibration error",
			Caption: "Expected calibration error of the confidence in each of the first K experts named (15 bins): the mean distance between a confidence and how often it comes true."},
		Axis: "expected calibration error (percentage points)", Categories: r.Predictors,
	}
	for _, h := range r.Horizons {
		g := Curve{Name: horizonText(h)}
		known := false
		for _, p := range r.Predictors {
			v := math.NaN()
			for _, row := range r.Find(p, h, "all") {
				v, known = 100*row.ECE, true
			}
			g.Y = append(g.Y, v)
		}
		if known {
			f.Groups = append(f.Groups, g)
		}
	}
	return f
}
