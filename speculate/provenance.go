package speculate

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/expertspec/expertspec/trace"
)

// Provenance identifies the documents that predictors were fitted on, so that
// [Provenance.Check] finds them among documents to evaluate on. It is stored
// with the predictors, as hashes.
type Provenance struct{ provenance }

// provenance is the JSON of Provenance.
type provenance struct {
	// Seed and Split are the arguments of [Split]; zero where training and
	// validation documents come from different traces.
	Seed  uint64     `json:"seed"`
	Split Fractions  `json:"split"`
	Train identities `json:"train"`
	Valid identities `json:"valid"`
}

// identities are hashes of documents: of their names, and of their token ids
// where these are known.
type identities struct {
	Names    hashes `json:"names"`
	TokenIDs hashes `json:"token_ids,omitempty"`
}

// hashes are in ascending order. Their text is base64 of 8 bytes each.
type hashes []uint64

// MarshalText implements [encoding.TextMarshaler].
func (h hashes) MarshalText() ([]byte, error) {
	var b []byte
	for _, x := range h {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (h *hashes) UnmarshalText(text []byte) error {
	b, err := base64.StdEncoding.AppendDecode(nil, text)
	if err != nil || len(b)%8 != 0 {
		return fmt.Errorf("hashes of documents: %d characters are not base64 of 8 bytes each", len(text))
	}
	*h = nil
	for ; len(b) > 0; b = b[8:] {
		*h = append(*h, binary.LittleEndian.Uint64(b))
	}
	slices.Sort(*h)
	return nil
}

func (h hashes) has(x uint64) bool {
	_, ok := slices.BinarySearch(h, x)
	return ok
}

// add returns the union of h and o.
func (h hashes) add(o hashes) hashes {
	h = append(slices.Clone(h), o...)
	slices.Sort(h)
	return slices.Compact(h)
}

func nameHash(k trace.Key) uint64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s%s", len(k.Dataset), k.Dataset, k.Document))
	return binary.LittleEndian.Uint64(sum[:])
}

// has reports whether doc is among i, by its name or by its token ids.
func (i *identities) has(doc *trace.Document) bool {
	h, ok := tokenHash(doc)
	return ok && i.TokenIDs.has(h) || i.Names.has(nameHash(doc.Key()))
}

func identify(ctx context.Context, d Data) (i identities, err error) {
	for doc, err := range d.names(ctx) {
		if err != nil {
			return i, err
		}
		i.Names = append(i.Names, nameHash(doc.Key()))
		if h, ok := tokenHash(doc); ok {
			i.TokenIDs = append(i.TokenIDs, h)
		}
	}
	i.Names, i.TokenIDs = i.Names.add(nil), i.TokenIDs.add(nil)
	return i, nil
}

// NewProvenance returns the provenance of predictors that are fitted on
// parts.Train and parts.Valid. It reads their names and token ids once.
func NewProvenance(ctx context.Context, parts Parts) (*Provenance, error) {
	p := &Provenance{provenance{Seed: parts.seed, Split: parts.fractions}}
	var err error
	if p.Train, err = identify(ctx, parts.Train); err != nil {
		return nil, err
	}
	p.Valid, err = identify(ctx, parts.Valid)
	return p, err
}

// Add adds the documents of o, for predictors that depend on those of an earlier
// training. A nil o adds nothing.
func (p *Provenance) Add(o *Provenance) {
	if o == nil {
		return
	}
	p.Train = identities{p.Train.Names.add(o.Train.Names), p.Train.TokenIDs.add(o.Train.TokenIDs)}
	p.Valid = identities{p.Valid.Names.add(o.Valid.Names), p.Valid.TokenIDs.add(o.Valid.TokenIDs)}
}

// Check compares parts, of which predictors are to be evaluated on Test, with
// the documents that they were fitted on. It returns an error if parts are of
// the trace that p is of, but split by other fractions or by another seed, and a
// warning if some documents of Test were fitted or calibrated on, under whatever
// name. A nil p, for predictors stored without provenance, is a warning too.
func (p *Provenance) Check(ctx context.Context, parts Parts) (warning string, err error) {
	if p == nil {
		return "the predictors do not record which documents they were fitted on", nil
	}
	if none := (Fractions{}); parts.all != nil && p.Split != none && (p.Split != parts.fractions || p.Seed != parts.seed) {
		for doc, err := range parts.all.names(ctx) {
			if err != nil {
				return "", err
			}
			if p.Train.has(doc) || p.Valid.has(doc) {
				was, _ := p.Split.MarshalText()
				is, _ := parts.fractions.MarshalText()
				return "", fmt.Errorf("speculate: the predictors were fitted on a split of this trace by %s with seed %d; got %s with seed %d", was, p.Seed, is, parts.seed)
			}
		}
	}
	n, trained, calibrated := 0, 0, 0
	for doc, err := range parts.Test.names(ctx) {
		if err != nil {
			return "", err
		}
		n++
		if p.Train.has(doc) {
			trained++
		} else if p.Valid.has(doc) {
			calibrated++
		}
	}
	if trained+calibrated == 0 {
		return "", nil
	}
	return fmt.Sprintf("of %d documents to evaluate on, the predictors were fitted on %d and calibrated on %d", n, trained, calibrated), nil
}
