package speculate

import (
	"maps"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Every predictor depends on nothing but its view, and answers step by step as it
// does for a whole document.
func TestPredictorsAreCausal(t *testing.T) {
	doc := testDoc(40, 9)
	for _, p := range fitted(t) {
		if p == (Oracle{}) {
			continue
		}
		t.Run(p.Name(), func(t *testing.T) {
			assert.NoError(t, CheckCausality(p, testHeader(), doc, testHorizons))
			assert.NoError(t, CheckStepwise(p, testHeader(), doc, testHorizons))
		})
	}
}

// predict is a predictor that is a function.
type predict struct {
	name string
	f    func(views []View, out []float32) // out is zeros
}

func (predict) Name() string           { return "function" }
func (predict) Requires() Requirements { return Requirements{History: -1} }
func (predict) Supports(Horizon) bool  { return true }
func (p *predict) Predict(views []View, out []float32) error {
	clear(out)
	p.f(views, out)
	return nil
}

// single returns an answer about each view that is a function of it.
func single(f func(v View) float32) func([]View, []float32) {
	return func(views []View, out []float32) {
		for i, v := range views {
			out[i*tE] = f(v)
		}
	}
}

func sum[T int32 | float32](x []T) (s float32) {
	for i, v := range x {
		s += float32(v) * float32(i+1)
	}
	return s / 100
}

// answer puts the routing of (t, layer) as v shows it into row.
func answer(v View, t, layer int, row []float32) {
	for _, e := range v.Experts(t, layer) {
		row[e] = .9
	}
}

// Predictors that know more than they may. The first found its way past the
// earlier check, with a recall of .98.
func TestCheckCausalityFindsCheats(t *testing.T) {
	var owner, other int
	views := map[[2]int]View{}
	seen := map[[3]int][]int32{}
	for _, p := range []*predict{
		{"rows filled from the view of the last token", func(views []View, out []float32) {
			last := views[len(views)-1]
			_, rows := last.Memory(&owner, tL*tE, func(begin []View, first int, rows []float32) {
				for _, b := range begin {
					for l := range tL {
						answer(last, b.Token(), l, rows[((b.Token()-first)*tL+l)*tE:][:tE])
					}
				}
			})
			for i, v := range views {
				copy(out[i*tE:(i+1)*tE], rows[min((v.Token()*tL+v.Layer())*tE, len(rows)):])
			}
		}},
		{"rows filled by a question about a later layer", func(views []View, out []float32) {
			for i, v := range views {
				_, rows := v.Memory(&other, tL*tE, func(begin []View, first int, rows []float32) {
					for l := range tL {
						answer(v, v.Token(), l, rows[min(((v.Token()-first)*tL+l)*tE, len(rows)):])
					}
				})
				copy(out[i*tE:(i+1)*tE], rows[min((v.Token()*tL+v.Layer())*tE, len(rows)):])
			}
		}},
		{"the view of the next token", func(views []View, out []float32) {
			for i := range len(views) - 1 {
				answer(views[i+1], views[i].Token(), views[i].Layer(), out[i*tE:(i+1)*tE])
			}
		}},
		{"views kept from other questions", func(vs []View, out []float32) {
			for i, v := range vs {
				for _, kept := range views {
					answer(kept, v.Token(), v.Layer(), out[i*tE:(i+1)*tE])
				}
				if k := [2]int{v.Token(), v.Layer()}; v.Layer() == tL-1 {
					views[k] = v
				}
			}
		}},
		{"experts kept from other questions", func(vs []View, out []float32) {
			for i, v := range vs {
				for _, e := range seen[[3]int{v.Token(), v.Layer()}] {
					out[i*tE+int(e)] = .9
				}
				for l := range tL {
					if x := v.Experts(v.Token(), l); x != nil {
						seen[[3]int{v.Token(), l}] = x
					}
				}
			}
		}},
		{"the router input of the answer", single(func(v View) float32 { return sum(v.seq.inputs[(v.t*tL+v.l)*tD:][:tD]) })},
		{"the next token's id", single(func(v View) float32 { return sum(v.seq.tokens[min(v.t+1, v.seq.n-1):][:1]) })},
	} {
		t.Run(p.name, func(t *testing.T) {
			maps.DeleteFunc(views, func([2]int, View) bool { return true })
			err := CheckCausality(p, testHeader(), testDoc(40, 9), testHorizons)
			require.ErrorContains(t, err, "depends on what comes later")
			assert.ErrorContains(t, err, "function at ")
		})
	}
}

// An honest predictor sees nothing of what is not known yet, and passes, though it
// keeps rows.
func TestCheckCausalityPassesHonest(t *testing.T) {
	var owner int
	p := &predict{"honest", single(func(v View) float32 {
		assert.Nil(t, v.Input(v.Token(), v.Layer()))
		assert.Nil(t, v.Experts(v.Token()+1, 0))
		assert.Nil(t, v.Logits(v.Token(), tL-1))
		assert.LessOrEqual(t, cap(v.Experts(v.Token()-1, tL-1)), tK)
		_, rows := v.Memory(&owner, 1, func(begin []View, first int, rows []float32) {
			for _, b := range begin {
				id, known := b.ID(b.Token())
				assert.True(t, known)
				assert.Nil(t, b.Experts(b.Token(), 0))
				rows[b.Token()-first] = float32(id) + sum(b.Experts(b.Token()-1, tL-1))
			}
		})
		if v.Horizon() == (Horizon{}) {
			assert.Len(t, rows, v.Token(), "the token's id is unknown")
		} else {
			assert.Len(t, rows, v.Token()+1)
		}
		return sum(rows)
	})}
	assert.NoError(t, CheckCausality(p, testHeader(), testDoc(40, 9), testHorizons))
}

func TestViewShowsWhatIsKnown(t *testing.T) {
	doc := testDoc(12, 4)
	views, err := NewViews(testHeader(), doc)
	require.NoError(t, err)
	for _, c := range []struct {
		h      Horizon
		layers int // of token 7 known when layer 3 is asked for
		id     bool
	}{{Horizon{Layers: 1}, 3, true}, {Horizon{Layers: 2}, 2, true}, {Horizon{}, 0, false}, {Horizon{KnownID: true}, 0, true}} {
		v := views.At(7, 3, c.h)
		for l := range tL {
			assert.Equal(t, l < c.layers, v.Experts(7, l) != nil, "%v: layer %d", c.h, l)
		}
		assert.Equal(t, doc.RouterInput[(6*tL+tL-1)*tD:7*tL*tD], v.Input(6, tL-1), "%v", c.h)
		id, ok := v.ID(7)
		assert.Equal(t, c.id, ok, "%v", c.h)
		if ok {
			assert.Equal(t, doc.Tokens[7], id)
		}
		_, ok = v.ID(8)
		assert.False(t, ok, "%v: the id of the next token", c.h)
	}
}
