package convert

import (
	"fmt"
	"slices"
)

// esftGuess is what all the lines say about top-k and experts.
type esftGuess struct {
	topK, experts int
	notes         []string
}

// survey reads all files once. Where top-k is not given it is the largest number
// that divides the experts of every line so that no token has one twice.
func (f *esftFolder) survey(o Options) (*esftGuess, error) {
	common, most := 0, int32(-1)
	lengths := map[int]bool{}
	visit := func(check func(ids []int32)) error {
		if err := f.rewind(); err != nil {
			return err
		}
		for _, l := range f.layers {
			for {
				line, ok, err := l.next()
				if err != nil {
					return err
				}
				if !ok {
					break
				}
				if c, err := esftLine(line); err == nil {
					check(c.ids)
				}
			}
		}
		return nil
	}
	err := visit(func(ids []int32) {
		common = gcd(common, len(ids))
		most = max(most, slices.Max(ids))
		if len(lengths) < 100 {
			lengths[len(ids)] = true
		}
	})
	if err != nil {
		return nil, err
	}
	if common == 0 {
		return nil, fmt.Errorf("%s: no line is well-formed", f.path)
	}
	g := &esftGuess{topK: o.TopK, experts: o.Experts}
	if g.experts == 0 {
		g.experts = int(most) + 1
		g.notes = append(g.notes, fmt.Sprintf("%d experts: the largest id and one", g.experts))
	}
	if g.topK != 0 {
		return g, nil
	}
	candidates := divisors(common, g.experts)
	ruledOut := 0
	err = visit(func(ids []int32) {
		for len(candidates) > 1 && repeats(ids, candidates[0]) {
			candidates = candidates[1:]
			ruledOut++
		}
	})
	if err != nil {
		return nil, err
	}
	if ruledOut == 0 && len(lengths) < 3 {
		return nil, fmt.Errorf("%s: too few lines tell top-k: give it (%d fits)", f.path, candidates[0])
	}
	g.topK = candidates[0]
	g.notes = append(g.notes, fmt.Sprintf("top-k %d: the largest with which no token has an expert twice", g.topK))
	return g, nil
}

// repeats says whether a group of k ids has one twice.
func repeats(ids []int32, k int) bool {
	for at := 0; at+k <= len(ids); at += k {
		for i, v := range ids[at : at+k] {
			if slices.Contains(ids[at:at+i], v) {
				return true
			}
		}
	}
	return false
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// divisors returns the divisors of n up to limit, falling.
func divisors(n, limit int) []int {
	var d []int
	for k := min(n, limit); k >= 1; k-- {
		if n%k == 0 {
			d = append(d, k)
		}
	}
	return d
}
