package neural

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/safetensors"
	"github.com/gomlx/gomlx/core/tensors"
)

// digest is a hash of arrays and texts in order. A change of one number always
// changes it. It is not cryptographic.
type digest uint64

func (d *digest) add(x uint64) { *d = digest(bits.RotateLeft64((uint64(*d)^x)*0x9e3779b97f4a7c15, 29)) }

func (d *digest) floats(x []float32) {
	d.add(uint64(len(x)))
	for ; len(x) > 1; x = x[2:] {
		d.add(uint64(math.Float32bits(x[0])) | uint64(math.Float32bits(x[1]))<<32)
	}
	for _, v := range x {
		d.add(uint64(math.Float32bits(v)))
	}
}

func (d *digest) ints(x []int32) {
	d.add(uint64(len(x)))
	for _, v := range x {
		d.add(uint64(uint32(v)))
	}
}

func (d *digest) text(s string) {
	d.add(uint64(len(s)))
	for _, c := range []byte(s) {
		d.add(uint64(c))
	}
}

func (d *digest) document(doc *trace.Document) {
	d.text(doc.Dataset)
	d.text(doc.ID)
	d.ints(doc.Tokens)
	d.ints(doc.Experts)
	d.floats(doc.Weights)
	d.floats(doc.RouterLogits)
	d.floats(doc.RouterInput)
}

// stateKey is the metadata entry of a training's state.
const stateKey = "expertspec.training"

// interrupted is the JSON of a training's state. The arrays of the loop's state
// and best are tensors beside it.
type interrupted struct {
	Version  int                        `json:"version"`
	Identity map[string]json.RawMessage `json:"identity"`
	Progress progress                   `json:"progress"`
	Arrays   digest                     `json:"arrays"`
}

// stateFile returns the name of a training's file in TrainOptions.Resume.
func (l *loop[B]) stateFile() (string, error) {
	name := strings.ReplaceAll(l.name, " ", "-") + ".training.safetensors"
	if !fs.ValidPath(name) || strings.ContainsAny(name, `/\:`) {
		return "", fmt.Errorf("neural: %q cannot be a file name", l.name)
	}
	return name, nil
}

// common returns what the training that wrote a state must have in common with l.
func (l *loop[B]) common() (map[string]json.RawMessage, error) {
	o := l.o
	var start digest
	for _, p := range l.params {
		start.text(p.name)
		start.floats(p.value)
	}
	all := map[string]any{"seed": o.Seed, "steps": l.steps, "batch": o.Batch, "accumulate": o.Accumulate, "devices": o.Devices, "rate": o.Rate, "decay": weightDecay, "clip": clipNorm, "warm-up": warmup,
		"checks": o.Checks, "patience": o.Patience, "validation tokens": o.ValidTokens, "pool size": o.PoolBytes, "backend": o.Backend.Name(), "initial values": start}
	maps.Copy(all, l.identity)
	out := map[string]json.RawMessage{}
	for k, v := range all {
		text, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("neural: %s: %s: %w", l.name, k, err)
		}
		out[k] = text
	}
	return out, nil
}

// array is a stored array of a training's state.
type array struct {
	name string
	dims []int
	read func(func(flat []float32)) error
}

// arrays returns values, moments and the best values.
func (l *loop[B]) arrays() []array {
	var as []array
	for i, p := range l.params {
		for j, what := range []string{"value", "moment", "second"} {
			x := l.state[j*len(l.params)+i]
			as = append(as, array{what + "." + p.name, p.dims, func(f func([]float32)) error { return tensors.ConstFlatData(x, f) }})
		}
		as = append(as, array{"best." + p.name, p.dims, func(f func([]float32)) error { f(l.best[i]); return nil }})
	}
	return as
}

// write stores the state of the training.
func (l *loop[B]) write() error {
	if l.o.Resume == "" {
		return nil
	}
	name, err := l.stateFile()
	if err != nil {
		return err
	}
	st := interrupted{Version: 1, Progress: l.progress}
	st.Progress.Before = l.elapsed()
	if st.Identity, err = l.common(); err != nil {
		return err
	}
	var out []safetensors.Tensor
	for _, a := range l.arrays() {
		if err := a.read(st.Arrays.floats); err != nil {
			return err
		}
		out = append(out, safetensors.Tensor{Name: a.name, DType: safetensors.F32, Shape: a.dims, Data: func(w io.Writer) (err error) {
			if e := a.read(func(flat []float32) { err = safetensors.Float32s(a.name, a.dims, flat).Data(w) }); e != nil {
				return e
			}
			return err
		}})
	}
	text, err := json.Marshal(st)
	if err != nil {
		return err
	}
	err = safetensors.WriteFile(filepath.Join(l.o.Resume, name), out, map[string]string{stateKey: string(text)})
	for _, x := range l.state {
		x.FinalizeLocal() // where it is a copy of the backend's
	}
	return err
}

// forget removes the state of a training that is complete.
func (l *loop[B]) forget() error {
	if l.o.Resume == "" {
		return nil
	}
	name, err := l.stateFile()
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(l.o.Resume, name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// restore resumes from the state of an interrupted training, if there is one. It
// draws the batches again that were drawn then.
func (l *loop[B]) restore(ctx context.Context) error {
	if l.o.Resume == "" {
		return nil
	}
	name, err := l.stateFile()
	if err != nil {
		return err
	}
	// An error now is better than at the first check.
	if err := os.MkdirAll(l.o.Resume, 0o777); err != nil {
		return err
	}
	r, err := safetensors.Open(os.DirFS(l.o.Resume), name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		defer r.Close()
		err = l.continueFrom(ctx, r)
	}
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("neural: state of a training, %s: %w", filepath.Join(l.o.Resume, name), err)
	}
	return err
}

func (l *loop[B]) continueFrom(ctx context.Context, r *safetensors.Reader) error {
	var st interrupted
	if err := json.Unmarshal([]byte(r.Metadata()[stateKey]), &st); err != nil {
		return fmt.Errorf("%s in its metadata: %w", stateKey, err)
	}
	if st.Version != 1 {
		return fmt.Errorf("got version %d, expected 1", st.Version)
	}
	want, err := l.common()
	if err != nil {
		return err
	}
	var other []string
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if !bytes.Equal(st.Identity[k], want[k]) {
			other = append(other, k)
		}
	}
	if len(other) > 0 {
		return fmt.Errorf("it is of a training that differs in %s; remove it to start again", strings.Join(other, ", "))
	}
	if p := st.Progress; p.Done < 1 || p.Done >= l.steps || p.Since < 0 || p.Since >= l.o.Patience || p.Before < 0 || math.IsNaN(p.BestLoss) {
		return fmt.Errorf("damaged: %d of %d steps done, %d checks since the best", p.Done, l.steps, p.Since)
	}
	if err := l.readArrays(r, st.Arrays); err != nil {
		return err
	}
	var at position
	for range st.Progress.Done * l.o.Accumulate * l.o.Devices {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if at, err = l.job.skip(); err != nil {
			return err
		}
	}
	if at != st.Progress.Position {
		return errors.New("it is of a training on other documents; remove it to start again")
	}
	l.progress = st.Progress
	return nil
}

func (l *loop[B]) readArrays(r *safetensors.Reader, want digest) error {
	var got digest
	l.best = nil
	state := make([][]float32, 3*len(l.params))
	for i, p := range l.params {
		for j, what := range []string{"value", "moment", "second", "best"} {
			x, err := readTensor(r, what+"."+p.name, p.dims)
			if err != nil {
				return err
			}
			if got.floats(x); what == "best" {
				l.best = append(l.best, x)
			} else {
				state[j*len(l.params)+i] = x
			}
		}
	}
	if got != want {
		return errors.New("damaged: the arrays differ from those that were written")
	}
	for _, x := range l.state {
		if err := x.FinalizeAll(); err != nil {
			return err
		}
	}
	l.state = l.copies(state)
	return nil
}

// readTensor reads a tensor of this shape.
func readTensor(r *safetensors.Reader, name string, dims []int) ([]float32, error) {
	if err := checkTensor(r, name, dims); err != nil {
		return nil, err
	}
	x, err := r.Float32s(name)
	if err != nil {
		return nil, err
	}
	for i, v := range x {
		if v-v != 0 {
			return nil, fmt.Errorf("tensor %q: value %d is %v", name, i, v)
		}
	}
	return x, nil
}

// checkTensor reports a tensor that is missing or of another shape.
func checkTensor(r *safetensors.Reader, name string, dims []int) error {
	info, ok := r.Info(name)
	if !ok {
		return fmt.Errorf("tensor %q is missing", name)
	}
	if !slices.Equal(info.Shape, dims) {
		return fmt.Errorf("tensor %q: shape %v, expected %v", name, info.Shape, dims)
	}
	return nil
}
