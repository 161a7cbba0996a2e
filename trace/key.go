package trace

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"strings"
)

// Key names a document of a trace.
type Key struct{ Dataset, Document string }

// Key returns the document's name.
func (d *Document) Key() Key { return Key{d.Dataset, d.ID} }

// Compare orders keys by data set, then by document.
func (k Key) Compare(o Key) int {
	return cmp.Or(strings.Compare(k.Dataset, o.Dataset), strings.Compare(k.Document, o.Document))
}

// sum is a hash that two keys never share in practice.
func (k Key) sum() (sum [16]byte) {
	f := fnv.New128a()
	fmt.Fprintf(f, "%d %s%s", len(k.Dataset), k.Dataset, k.Document)
	f.Sum(sum[:0])
	return sum
}
