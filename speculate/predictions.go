package speculate

import (
	"io"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"
)

// PredictionRow is a row of a predictions file: one prediction about a token and
// a layer. All figures can be computed from these rows.
type PredictionRow struct {
	Dataset  string `parquet:"dataset,dict"`
	Document string `parquet:"document,dict"`
	Position int32  `parquet:"position"`
	Phase    string `parquet:"phase,dict"`
	Layer    int32  `parquet:"layer"`
	// Distance is h in layers; 0 is one token ahead with a known id, -1 with an
	// unknown id.
	Distance  int32  `parquet:"distance"`
	Predictor string `parquet:"predictor,dict"`
	// Predicted are the likeliest experts in order, at most MaxRank or K of them,
	// and Confidence is the probability of each to be chosen.
	Predicted  []int32   `parquet:"predicted,list"`
	Confidence []float32 `parquet:"confidence,list"`
	// Actual are the experts chosen, first choice first.
	Actual []int32 `parquet:"actual,list"`
}

// PredictionWriter writes a Parquet file of predictions.
type PredictionWriter struct {
	w    *parquet.GenericWriter[PredictionRow]
	rows []PredictionRow
	n    int // rows in the group so far
}

// NewPredictionWriter returns a writer to w. Close completes the file and does not
// close w.
func NewPredictionWriter(w io.Writer) *PredictionWriter {
	return &PredictionWriter{w: parquet.NewGenericWriter[PredictionRow](w, parquet.Compression(&zstd.Codec{}))}
}

// groupRows is the maximum number of rows in a row group, which bounds memory.
const groupRows = 1 << 19

// Write adds an answer. It can be [EvaluateOptions].Each.
func (p *PredictionWriter) Write(a *Answer) error {
	d := int32(a.Horizon.Layers)
	if d == 0 && !a.Horizon.KnownID {
		d = -1
	}
	n := min(len(a.Predicted), max(MaxRank, len(a.Actual)))
	actual := a.Actual
	for i, e := range actual {
		if e < 0 {
			actual = actual[:i]
			break
		}
	}
	p.rows = append(p.rows, PredictionRow{Dataset: a.Dataset, Document: a.Document, Position: a.Position, Phase: string(a.Phase), Layer: int32(a.Layer),
		Distance: d, Predictor: a.Predictor, Predicted: a.Predicted[:n], Confidence: a.Confidence[:n], Actual: actual})
	if len(p.rows) < 1024 {
		return nil
	}
	return p.write()
}

func (p *PredictionWriter) write() error {
	_, err := p.w.Write(p.rows)
	p.n += len(p.rows)
	p.rows = p.rows[:0]
	if err == nil && p.n >= groupRows {
		p.n = 0
		err = p.w.Flush()
	}
	return err
}

// Close writes the remaining rows and the footer.
func (p *PredictionWriter) Close() error {
	if err := p.write(); err != nil {
		return err
	}
	return p.w.Close()
}
