package speculate

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/expertspec/expertspec/trace"
)

// Parts are disjoint sets of documents: predictors are fitted on Train, chosen
// and calibrated on Valid, and evaluated on Test.
type Parts struct {
	Train, Valid, Test Data

	// Of Split: the documents of all parts, and its arguments.
	all       *Data
	fractions Fractions
	seed      uint64
}

// Fractions are the shares of documents of a [Split] that are for validation and
// for test. The rest is for training.
type Fractions struct{ Valid, Test float64 }

// MarshalText returns the fractions as ".15,.15", and nothing for the zero value.
func (f Fractions) MarshalText() ([]byte, error) {
	if f == (Fractions{}) {
		return nil, nil
	}
	short := func(x float64) string { return strings.TrimPrefix(strconv.FormatFloat(x, 'f', -1, 64), "0") }
	return []byte(short(f.Valid) + "," + short(f.Test)), nil
}

// UnmarshalText reads what MarshalText returns, so that a flag can set Fractions.
func (f *Fractions) UnmarshalText(text []byte) error {
	*f = Fractions{}
	if len(text) == 0 {
		return nil
	}
	valid, test, ok := strings.Cut(string(text), ",")
	var err, err2 error
	f.Valid, err = strconv.ParseFloat(strings.TrimSpace(valid), 64)
	f.Test, err2 = strconv.ParseFloat(strings.TrimSpace(test), 64)
	if !ok || err != nil || err2 != nil {
		return fmt.Errorf("got %q, expected the shares of validation and of test documents, for example .15,.15", text)
	}
	return f.validate()
}

func (f Fractions) validate() error {
	if !(f.Valid > 0 && f.Test > 0 && f.Valid+f.Test < 1) {
		return fmt.Errorf("shares of %g for validation and %g for test; both must be above 0 and their sum below 1", f.Valid, f.Test)
	}
	return nil
}

// ErrFewDocuments is that of a [Split] into parts of which one would be empty.
var ErrFewDocuments = errors.New("speculate: too few documents to split")

// Split assigns each document to a part, data set by data set, so that each data
// set has its share in every part. The same seed and documents give the same
// parts, in any order of the documents.
//
// Documents with equal token ids always go to the same part, whatever their
// names and data sets, so that no text is on both sides. They count as one
// document: the first of them by data set and id. Documents without token ids
// are split by their names alone, and may share beginnings with those of other
// parts. The error wraps [ErrFewDocuments] if a part would have no documents.
//
// Split reads the names and the token ids once.
func Split(ctx context.Context, d Data, f Fractions, seed uint64) (Parts, error) {
	if err := f.validate(); err != nil {
		return Parts{}, fmt.Errorf("speculate: split: %w", err)
	}
	first := map[uint64]trace.Key{} // of each text, by token ids
	var keys []trace.Key            // of documents to split
	type member struct{ name, text uint64 }
	var members []member // of texts
	for doc, err := range d.names(ctx) {
		if err != nil {
			return Parts{}, err
		}
		key := doc.Key()
		text, ok := tokenHash(doc)
		if !ok {
			keys = append(keys, key)
			continue
		}
		members = append(members, member{nameHash(key), text})
		if k, ok := first[text]; !ok || key.Compare(k) < 0 {
			first[text] = key
		}
	}
	part := assign(slices.AppendSeq(keys, maps.Values(first)), f, seed)
	for _, m := range members {
		part[m.name] = part[nameHash(first[m.text])]
	}
	var sizes [3]int
	for _, p := range part {
		sizes[p]++
	}
	if slices.Contains(sizes[:], 0) {
		return Parts{}, fmt.Errorf("%w: of %d documents %d would be for training, %d for validation and %d for test; long documents can be cut when a trace is converted", ErrFewDocuments, len(part), sizes[0], sizes[1], sizes[2])
	}
	of := func(p uint8) Data {
		return d.Filter(func(doc *trace.Document) bool {
			at, ok := part[nameHash(doc.Key())]
			return ok && at == p
		})
	}
	return Parts{Train: of(0), Valid: of(1), Test: of(2), all: &d, fractions: f, seed: seed}, nil
}

// assign returns the part of each key, by nameHash: 0 training, 1 validation, 2 test.
func assign(keys []trace.Key, f Fractions, seed uint64) map[uint64]uint8 {
	slices.SortFunc(keys, trace.Key.Compare)
	part := make(map[uint64]uint8, len(keys))
	for len(keys) > 0 {
		set := keys[0].Dataset
		n := slices.IndexFunc(keys, func(k trace.Key) bool { return k.Dataset != set })
		if n < 0 {
			n = len(keys)
		}
		h := fnv.New64a()
		h.Write([]byte(set))
		rng := rand.New(rand.NewPCG(seed, h.Sum64()))
		rng.Shuffle(n, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		valid, test := int(float64(n)*f.Valid+.5), int(float64(n)*f.Test+.5)
		if n >= 3 {
			valid, test = max(valid, 1), max(test, 1)
		}
		for i, k := range keys[:n] {
			p := uint8(0)
			if i < test {
				p = 2
			} else if i < test+valid {
				p = 1
			}
			part[nameHash(k)] = p
		}
		keys = keys[n:]
	}
	return part
}

// HoldOut returns parts to measure how predictors do on a data set of which they
// know nothing: Train and Valid without it, and Test of it alone.
func (p Parts) HoldOut(dataset string) Parts {
	others := func(doc *trace.Document) bool { return doc.Dataset != dataset }
	p.Train, p.Valid = p.Train.Filter(others), p.Valid.Filter(others)
	p.Test = p.Test.Filter(func(doc *trace.Document) bool { return doc.Dataset == dataset })
	return p
}

// tokenHash is a hash of the token ids of doc, and false where none is known.
func tokenHash(doc *trace.Document) (uint64, bool) {
	if !slices.ContainsFunc(doc.Tokens, func(id int32) bool { return id != trace.NoToken }) {
		return 0, false
	}
	h := sha256.New()
	var b []byte
	for part := range slices.Chunk(doc.Tokens, 1024) {
		b = b[:0]
		for _, id := range part {
			b = binary.LittleEndian.AppendUint32(b, uint32(id))
		}
		h.Write(b)
	}
	return binary.LittleEndian.Uint64(h.Sum(nil)), true
}
