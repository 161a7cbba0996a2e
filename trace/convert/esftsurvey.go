package convert

import (
	"context"
	"fmt"
	"slices"
)

// esftGuess is what all the lines say about the model.
type esftGuess struct {
	blocks        []int
	topK, experts int
	notes         []string
}

// surveyESFT reads all files. Where top-k is not given it is the largest number
// that divides the experts of every line so that no token has one twice.
func surveyESFT(ctx context.Context, path string, o Options) (*esftGuess, error) {
	g := &esftGuess{topK: o.TopK, experts: o.Experts}
	visit := func(check func(ids []int32)) error {
		f, err := openESFTFolder(ctx, path)
		if err != nil {
			return err
		}
		defer f.close()
		g.blocks = f.blocks
		for _, l := range f.layers {
			for l.Scan() {
				if c, err := esftLine(l.Bytes()); err == nil { // errors are reported later
					check(c.ids)
				}
			}
			if err := l.Err(); err != nil {
				return err
			}
		}
		return nil
	}
	common, largest := 0, int32(-1)
	lengths := map[int]bool{}
	err := visit(func(ids []int32) {
		common = gcd(common, len(ids))
		largest = max(largest, slices.Max(ids))
		if len(lengths) < 100 {
			lengths[len(ids)] = true
		}
	})
	if err != nil {
		return nil, err
	}
	if common == 0 {
		return nil, fmt.Errorf("%s: no line is well-formed", path)
	}
	if g.experts == 0 {
		g.experts = int(largest) + 1
		g.notes = append(g.notes, noteExperts(g.experts))
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
		return nil, fmt.Errorf("%s: too few lines to infer top-k; it must be given (%d fits)", path, candidates[0])
	}
	g.topK = candidates[0]
	g.notes = append(g.notes, fmt.Sprintf("top-k %d: the largest with which no token has an expert twice", g.topK))
	return g, nil
}

// repeats reports whether a group of k ids has one twice.
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

// divisors returns the divisors of n up to limit, the largest first.
func divisors(n, limit int) []int {
	var d []int
	for k := min(n, limit); k >= 1; k-- {
		if n%k == 0 {
			d = append(d, k)
		}
	}
	return d
}
