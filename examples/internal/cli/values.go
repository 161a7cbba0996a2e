package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/expertspec/expertspec/speculate"
	"github.com/expertspec/expertspec/trace"
)

// List splits the value of a flag at commas; nil for "".
func List(value string) []string {
	if value == "" {
		return nil
	}
	list := strings.Split(value, ",")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return list
}

// Part reads "i/n", i from 0 to n and n at least 1; ok is false for anything else.
func Part(value string) (i, n int, ok bool) {
	a, b, cut := strings.Cut(value, "/")
	i, err := strconv.Atoi(a)
	n, err2 := strconv.Atoi(b)
	return i, n, cut && err == nil && err2 == nil && n >= 1 && 0 <= i && i <= n
}

// HorizonsUsage is what -horizons says of its default, "".
const HorizonsUsage = " (default 1,2,4, without those that the model's stacks are too short for)"

// Horizons reads the value of -horizons; nil for "".
func Horizons(value string) ([]speculate.Horizon, error) {
	var hs []speculate.Horizon
	for _, s := range List(value) {
		h, err := speculate.ParseHorizon(s)
		if err != nil {
			return nil, fmt.Errorf("-horizons: %w", err)
		}
		hs = append(hs, h)
	}
	return hs, nil
}

// HorizonsOf returns hs, or if they are nil, those that fit the model: 1, 2 and 4
// layers, or one token where a stack has a single layer.
func HorizonsOf(hs []speculate.Horizon, m trace.Model) []speculate.Horizon {
	if hs != nil {
		return hs
	}
	for _, h := range speculate.LayersAhead(1, 2, 4) {
		if h.Validate(speculate.ShapeOf(m).Depth()) == nil {
			hs = append(hs, h)
		}
	}
	if hs == nil {
		hs = []speculate.Horizon{{KnownID: true}}
	}
	return hs
}

// Requirement is what a predictor reads beyond the routing of a trace.
type Requirement struct{ Model, Inputs, Logits bool }

// RequirementOf returns the requirement of a predictor by its name.
func RequirementOf(predictor string) (r Requirement) {
	switch predictor {
	case "gate reuse", "corrected gate", "hidden transformer":
		r.Model, r.Inputs = true, true
	case "hidden state":
		r.Inputs = true
	case "router logits", "router-logit transformer":
		r.Logits = true
	}
	return r
}

// String returns the end of an error about a predictor that is not available;
// "" if it requires nothing.
func (r Requirement) String() string {
	var list []string
	if r.Model {
		list = append(list, "-model")
	}
	if r.Inputs {
		list = append(list, "router inputs in the trace (collect -router-input)")
	}
	if r.Logits {
		list = append(list, "router logits in the trace (collect -logits)")
	}
	if list == nil {
		return ""
	}
	return ": it requires " + strings.Join(list, " and ")
}

// WriteFile creates a file, and the folder that it is in, with what write writes:
// whole, or not at all.
func WriteFile(path string, write func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	temp := path + ".tmp"
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		temp = path // a device or pipe
	}
	f, err := os.Create(temp)
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Close())
	if temp != path {
		if err == nil {
			return os.Rename(temp, path)
		}
		os.Remove(temp)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// maxLine bounds a line of input, in bytes, so that a file without line ends (a
// device, say) does not fill the memory.
const maxLine = 64 << 20

// ReadLine returns the next line of r with its end, as bufio.Reader.ReadBytes
// does. A line of more than 64 MiB is an error.
func ReadLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if line = append(line, part...); len(line) > maxLine {
			return nil, fmt.Errorf("a line is longer than %d MiB", maxLine>>20)
		}
		if err != bufio.ErrBufferFull {
			return line, err
		}
	}
}
