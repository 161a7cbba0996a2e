package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/expertspec/expertspec/examples/internal/cli"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/expertspec/expertspec/viz"
)

// figures is what -json writes and -costs reads.
type figures struct {
	Model   string           `json:"model"`
	Backend string           `json:"backend"`
	Runs    []*cli.Telemetry `json:"runs"`
	Advice  *advice          `json:"advice,omitempty"`
}

// report prints and writes what was measured.
func (o *options) report(out io.Writer, all []*cli.Telemetry) error {
	var a *advice
	if columns := max(1, len(o.grid.loads)) * max(1, len(o.grid.resident)); columns > 1 {
		a = newAdvice(all, columns)
		if err := a.write(out); err != nil {
			return err
		}
	} else if err := cli.WriteTable(out, all); err != nil {
		return err
	}
	if len(all) == 1 {
		fmt.Fprintln(out)
		if err := all[0].Write(out); err != nil {
			return err
		}
	}
	if o.json != "" {
		err := cli.WriteFile(o.json, func(w io.Writer) error {
			e := json.NewEncoder(w)
			e.SetIndent("", " ")
			return e.Encode(figures{o.model.Name(), o.model.Backend, all, a})
		})
		if err != nil {
			return err
		}
	}
	if o.figures == "" {
		return nil
	}
	if a != nil {
		return o.save(a.section())
	}
	return o.draw(all)
}

// draw writes the report of runs.
func (o *options) draw(all []*cli.Telemetry) error {
	var runs []viz.OffloadRun
	for _, t := range all {
		r := viz.OffloadRun{Name: t.Label, Measured: t.Decode}
		if t.Store == nil {
			r.Measured, r.Simulated = nil, t.Decode
		}
		runs = append(runs, r)
	}
	d := all[0].Decode
	text := fmt.Sprintf("Decoding %d tokens of %d documents with %d experts in device memory, %.3g %% of all.", d.Tokens, d.Documents, d.Capacity, 100*d.Resident)
	section, err := viz.OffloadSection([]string{text}, runs)
	if err != nil {
		return err
	}
	return o.save(section)
}

// save writes a report of one section.
func (o *options) save(section viz.Section) error {
	if err := os.MkdirAll(o.figures, 0o777); err != nil {
		return err
	}
	r := viz.Report{Title: "Experts elsewhere: " + o.model.Name(), Sections: []viz.Section{section}, Source: []viz.Fact{{Label: "backend", Value: o.model.Backend}}}
	if o.simulate != "" {
		r.Source = []viz.Fact{{Label: "simulated on", Value: o.simulate}}
	}
	return r.Save(filepath.Join(o.figures, "report.html"), o.figures)
}

// output is a tensor's bytes.
type output struct {
	name  string
	dtype safetensors.DType
	bytes []byte
}

// read returns the bytes of tensors, and tensors of them: those of made can be read once.
func read(made []safetensors.Tensor) (outputs []output, again []safetensors.Tensor, err error) {
	for _, t := range made {
		var b bytes.Buffer
		if err := t.Data(&b); err != nil {
			return nil, nil, err
		}
		outputs, again = append(outputs, output{t.Name, t.DType, b.Bytes()}), append(again, safetensors.Bytes(t.Name, t.DType, t.Shape, b.Bytes()))
	}
	return outputs, again, nil
}

// tolerance is how much numbers may differ if the host computed some experts.
const tolerance = 1e-4

// equal compares the outputs of two runs, floating-point numbers within a tolerance
// if that is asked for.
func equal(a, b []output, tolerant bool) error {
	if len(a) != len(b) {
		return errors.New("not the same documents were computed")
	}
	for i := range a {
		if a[i].name != b[i].name || len(a[i].bytes) != len(b[i].bytes) {
			return fmt.Errorf("tensor %s", a[i].name)
		}
		if !tolerant || a[i].dtype != safetensors.F32 {
			if !bytes.Equal(a[i].bytes, b[i].bytes) {
				return fmt.Errorf("tensor %s", a[i].name)
			}
			continue
		}
		for j := 0; j < len(a[i].bytes); j += 4 {
			x, y := float32At(a[i].bytes, j), float32At(b[i].bytes, j)
			if !(math.Abs(x-y) <= tolerance*max(1, math.Abs(x))) {
				return fmt.Errorf("tensor %s, element %d: %g and %g", a[i].name, j/4, x, y)
			}
		}
	}
	return nil
}

func float32At(b []byte, i int) float64 {
	return float64(math.Float32frombits(binary.LittleEndian.Uint32(b[i:])))
}
