package host

import "github.com/expertspec/expertspec/mixtral/internal/kernel"

// Width is the rows of a panel.
const Width = kernel.Lanes

// FewBytes is the bytes of weights that one lane reads in the time that it takes to
// wake another.
const FewBytes = 64 << 10

// Sized returns *s with n elements, whose values are undefined.
func Sized(s *[]float32, n int) []float32 {
	if cap(*s) < n {
		*s = make([]float32, n)
	}
	*s = (*s)[:n]
	return *s
}

// Panel returns panel p of x [P,K,16].
func Panel(x []float32, p, k int) []float32 { return x[p*k*Width:][:k*Width] }

// PackRow writes row t of panels [P,K,16].
func PackRow(panels, row []float32, t int) {
	to := panels[t/Width*len(row)*Width+t%Width:]
	for i, v := range row {
		to[i*Width] = v
	}
}

// UnpackRow is the inverse of PackRow.
func UnpackRow(row, panels []float32, t int) {
	from := panels[t/Width*len(row)*Width+t%Width:]
	for i := range row {
		row[i] = from[i*Width]
	}
}

// CopyRow copies row t of panels from [P,K,16] to row j of panels to.
func CopyRow(to []float32, j int, from []float32, t, k int) {
	to, from = to[j/Width*k*Width+j%Width:], from[t/Width*k*Width+t%Width:]
	for i := range k {
		to[i*Width] = from[i*Width]
	}
}

// Add adds from to to.
func Add(to, from []float32) {
	from = from[:len(to)]
	for i, v := range from {
		to[i] += v
	}
}

// Divide writes x/sum to y, both [hd,16].
func Divide(y, x []float32, sum *[Width]float32) {
	var inverse [Width]float32
	for i, v := range sum {
		inverse[i] = 1 / v
	}
	for ; len(y) >= Width; y, x = y[Width:], x[Width:] {
		to, from := (*[Width]float32)(y), (*[Width]float32)(x)
		for i, v := range from {
			to[i] = v * inverse[i]
		}
	}
}

// FitPanels returns x [P,I,16] in the form that Panels of w require, in buf where
// that is another.
func (t *Team) FitPanels(w *kernel.Matrix, buf *[]float32, x []float32, p int) []float32 {
	if !w.PairPanels() {
		return x
	}
	size := w.PanelWidth()
	y := Sized(buf, p*size*Width)
	t.Each(p, func(_, i int) { kernel.PairPanel(Panel(y, i, size), Panel(x, i, w.Columns)) })
	return y
}

// FitRows is FitPanels of rows [n,I] for Dots.
func FitRows(w *kernel.Matrix, buf *[]float32, x []float32, n int) []float32 {
	if !w.PairRows() {
		return x
	}
	size := w.RowWidth()
	y := Sized(buf, n*size)
	for i := range n {
		kernel.PairRow(y[i*size:(i+1)*size], x[i*w.Columns:(i+1)*w.Columns])
	}
	return y
}
