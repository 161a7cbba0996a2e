package comparison

import (
	"fmt"
	"slices"
	"strings"

	"github.com/expertspec/expertspec/speculate/prefetch"
	"github.com/expertspec/expertspec/trace"
)

// Row is a line of the table: a measure, with a value for each column.
type Row struct {
	Section string `json:"section"`
	Name    string `json:"name"`
	Unit    string `json:"unit,omitempty"`
	Cells   []Cell `json:"cells"` // [columns]
	// Meaning is a sentence that says what the row means.
	Meaning string `json:"meaning"`
}

// Cell is a value, or a text instead.
type Cell struct {
	Value Value  `json:"value"`
	Text  string `json:"text,omitempty"`
	// Note is written after the value.
	Note string `json:"note,omitempty"`
}

// The sections of a table.
const (
	secModel       = "Model"
	secBalance     = "Load balance"
	secDropped     = "Dropped tokens"
	secRepetition  = "Repetition"
	secInformation = "Information about the expert"
	secReuse       = "Gate reuse"
	secShare       = "Prediction at equal shares of the experts"
	secBytes       = "Prediction at equal bytes"
	secCache       = "Expert cache"
	secSet         = "Working set"
)

// table builds rows.
type table struct {
	r       *Result
	section string
	rows    []Row
}

func (t *table) add(name, unit, meaning string, cell func(c *Column) Cell) {
	row := Row{Section: t.section, Name: name, Unit: unit, Meaning: meaning}
	for i := range t.r.Columns {
		row.Cells = append(row.Cells, cell(&t.r.Columns[i]))
	}
	t.rows = append(t.rows, row)
}

func (t *table) measure(name, unit, meaning string, k Kind) {
	t.add(name, unit, meaning, func(c *Column) Cell { return Cell{Value: c.Measures[k].Mean} })
}

func count(n int64) Cell { return Cell{Value: exactly(float64(n))} }
func text(format string, a ...any) Cell {
	return Cell{Value: missing(""), Text: fmt.Sprintf(format, a...)}
}
func unknown(why string) Cell { return Cell{Value: missing(why)} }
func (c *Column) known(f func() Cell) Cell { // what a checkpoint says
	if c.model == nil {
		return unknown(notRecorded)
	}
	return f()
}

func (r *Result) rows() []Row {
	t := &table{r: r}
	t.model()
	t.balance()
	t.dropped()
	t.repetition()
	t.information()
	t.reuse()
	t.prediction()
	t.cache()
	t.bound()
	t.workingSet()
	return t.rows
}

func (t *table) model() {
	t.section = secModel
	t.add("routing", "", "How many experts the router chooses for a token, of how many at each MoE layer.", func(c *Column) Cell {
		return text("top-%d of %d", c.TopK, c.Experts)
	})
	t.add("share of experts chosen", "", "K/E: what a predictor reaches that guesses K experts; figures of recall are beside it.", func(c *Column) Cell {
		return Cell{Value: exactly(float64(c.TopK) / float64(c.Experts))}
	})
	t.add("MoE layers", "", "A distance of one MoE layer is as many transformer blocks as the note says: dense blocks between the layers leave more time to fetch.", func(c *Column) Cell {
		x := count(int64(c.Layers))
		if n := len(c.Blocks); n > 1 && (c.Blocks[n-1]-c.Blocks[0])%(n-1) == 0 {
			if step := (c.Blocks[n-1] - c.Blocks[0]) / (n - 1); step == 1 {
				x.Note = "every block"
			} else {
				x.Note = fmt.Sprintf("every %d blocks", step)
			}
		}
		return x
	})
	t.add("expert capacity", "", "The tokens of a text that an expert computes at a layer, C; more are dropped. The capacity factor of a text is C*E/T.", func(c *Column) Cell {
		return c.known(func() Cell {
			if c.model.Capacity == 0 {
				return text("no limit")
			}
			x := count(int64(c.model.Capacity))
			if c.Factors != nil {
				x.Note = fmt.Sprintf("factor %.3g to %.3g", c.Factors[0], c.Factors[1])
			}
			return x
		})
	})
	t.add("parameters", "", "All numbers of the model's checkpoint, of all stacks together.", func(c *Column) Cell {
		return c.known(func() Cell { return count(c.model.Parameters) })
	})
	t.add("active parameters", "", "Those that a token of this stack passes: everything but the experts that are not chosen. The share of all parameters is what computing costs of what memory holds.", func(c *Column) Cell {
		return c.known(func() Cell {
			x := count(c.model.Active[c.at])
			x.Note = fmt.Sprintf("%.1f %%", 100*float64(c.model.Active[c.at])/float64(c.model.Parameters))
			return x
		})
	})
	t.add("one expert", "parameters", "What is copied when an expert is missing: smaller experts make finer caches, but more copies.", func(c *Column) Cell {
		return c.known(func() Cell {
			x := count(c.model.ExpertParameters)
			x.Note = size(c.model.ExpertBytes)
			return x
		})
	})
	t.add("documents", "", "Texts measured; intervals are over them.", func(c *Column) Cell { return count(int64(c.Documents)) })
	t.add("tokens", "", "Tokens measured: an encoder and a decoder divide a text between them.", func(c *Column) Cell {
		x := count(int64(c.Tokens))
		x.Note = fmt.Sprintf("%.0f a text", float64(c.Tokens)/float64(max(1, c.Documents)))
		return x
	})
}

func (t *table) balance() {
	t.section = secBalance
	t.measure("entropy / log E", "", "How evenly experts are used, mean over layers: 1 is even; the share of log E is comparable for any E.", Entropy)
	t.measure("maximum / mean", "", "The busiest expert's load by the mean load: 1 is even; what a device that holds it computes more than others.", MaxOverMean)
	t.measure("Gini coefficient", "", "0 for equal loads, near 1 where few experts have all: higher means a more uneven load.", Gini)
	t.measure("auxiliary loss", "", "E sum f_e P_e of each layer, mean over layers, without its factor: 1 is even; what training for balance minimizes. f_e adds up to 1 over all choices, also for top-2.", Auxiliary)
	t.measure("router's top probability", "", "The mean of the largest of softmax(router logits): higher means a surer router; 1/E is undecided.", TopProbability)
}

func (t *table) dropped() {
	t.section = secDropped
	t.add("dropped tokens", "", "Tokens whose expert was full, which pass the layer unchanged, as recorded. Higher means that more of the text is not computed by any expert.", func(c *Column) Cell {
		x := Cell{Value: c.Measures[Dropped].Mean}
		if !x.Value.OK() && c.model != nil && c.model.Capacity == 0 {
			x.Value.Missing = "no limit"
		}
		return x
	})
	bins := map[[2]float64]bool{}
	for _, c := range t.r.Columns {
		for _, b := range c.Drops {
			bins[[2]float64{b.From, b.To}] = true
		}
	}
	keys := make([][2]float64, 0, len(bins))
	for k := range bins {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b [2]float64) int { return int(8 * (a[0] - b[0])) })
	for _, k := range keys {
		name := fmt.Sprintf("of texts of factor %g to %g", k[0], k[1])
		if k[1] == 0 {
			name = fmt.Sprintf("of texts of factor %g or more", k[0])
		}
		t.add(name, "", "The same for texts of this capacity factor C*E/T: lower factors, of longer texts, drop more.", func(c *Column) Cell {
			for _, b := range c.Drops {
				if b.From == k[0] {
					return Cell{Value: b.Share, Note: fmt.Sprintf("%d texts", b.Texts)}
				}
			}
			return unknown("-")
		})
	}
	for i, k := range [][2]Kind{{Overflow1, Overflow1Chance}, {Overflow125, Overflow125Chance}, {Overflow2, Overflow2Chance}} {
		t.add(fmt.Sprintf("at a factor of %g", factors[i]), "", "Choices beyond this many times the mean load of their text, from the recorded routing: what such a capacity would drop. Independent tokens with the same load would drop what the note says, the more the fewer tokens an expert has; the rest is of texts that prefer experts.", func(c *Column) Cell {
			x := Cell{Value: c.Measures[k[0]].Mean}
			if v := c.Measures[k[1]].Mean; v.OK() {
				x.Note = "independent " + number(v.Value)
			}
			return x
		})
	}
}

func (t *table) repetition() {
	t.section = secRepetition
	t.measure("same first choice as the token before", "", "Share of tokens, mean over layers, to compare with chance in the next row: higher means that a token needs what is there already.", Repetition)
	t.measure("by chance", "", "sum f_e^2: the same for tokens that choose independently by the layer's shares.", RepetitionChance)
	t.measure("times chance", "x", "The one by the other: 1 is no memory from token to token; higher means that caches gain.", RepetitionLift)
}

func (t *table) information() {
	t.section = secInformation
	t.measure("H(expert)", "bits", "Entropy of the first choice: what there is to know; log2 E where the load is even.", ExpertBits)
	for _, x := range []struct {
		name, meaning       string
		bits, chance, share Kind
	}{
		{"data set", "the text's data set", DomainBits, DomainChance, DomainShare},
		{"token id", "the id of the token itself", TokenBits, TokenChance, TokenShare},
		{"previous layer's expert", "the first choice at the MoE layer before", PreviousBits, PreviousChance, PreviousShare},
	} {
		t.add("from "+x.name, "bits", "Mutual information of the first choice with "+x.meaning+", less what chance gives: higher means that it says more.", func(c *Column) Cell {
			cell := Cell{Value: c.Measures[x.bits].Mean}
			if v := c.Measures[x.chance].Mean; v.OK() {
				cell.Note = fmt.Sprintf("chance %.3f", v.Value)
			}
			return cell
		})
		t.measure("from "+x.name+", share of H", "", "The same as a share of what there is to know: 1 would determine the expert; comparable for any E.", x.share)
	}
}

// lift says what a recall is beside chance and frequency: "3.3x, 2.5x".
func lift(r Recall) string {
	s := fmt.Sprintf("%.3gx", r.Lift.Value)
	if r.Gain.OK() && r.Predictor != frequencyName {
		s += fmt.Sprintf(", %.3gx", r.Gain.Value)
	}
	return s
}

// parentheses explains what lift writes.
const parentheses = " In parentheses: times chance, and times naming the experts that are chosen most often; where fewer than K are named, what is possible."

// recall returns a predictor's recall, or the reason why it does not exist.
func (c *Column) recall(predictor string, d distance, named int) Cell {
	for _, r := range c.Recalls {
		if r.Predictor == predictor && r.Layers == d.layers && r.Blocks == d.blocks && r.Named == named {
			note := lift(r)
			if named < c.TopK { // of K chosen, so many can be named
				note += fmt.Sprintf("; at most %.3g", float64(named)/float64(c.TopK))
			}
			return Cell{Value: r.Recall, Note: note}
		}
	}
	evaluated := slices.ContainsFunc(c.Recalls, func(r Recall) bool { return r.Predictor == predictor })
	if evaluated {
		return unknown("no such distance")
	}
	switch {
	case predictor == gateReuse:
		return unknown(notRecorded)
	case c.Stack == trace.Encoder:
		return unknown("no token before") // all tokens come together
	}
	return unknown("-")
}

func (t *table) reuse() {
	t.section = secReuse
	for _, d := range distances {
		name := fmt.Sprintf("recall@K, %d MoE layers ahead", d.layers)
		if d.layers == 1 {
			name = "recall@K, 1 MoE layer ahead"
		}
		if d.blocks > 0 {
			name = fmt.Sprintf("recall@K, %d blocks ahead", d.blocks)
		}
		t.add(name, "", "A layer's router applied to the router input that far before: the chosen experts among its K likeliest. Higher means that the hidden state changes less on the way; equal blocks are about equal time."+parentheses, func(c *Column) Cell {
			return c.recall(gateReuse, d, c.TopK)
		})
	}
}

// Predictors are the names of those evaluated for any column, in order.
func (r *Result) Predictors() []string {
	var names []string
	for _, c := range r.Columns {
		for _, x := range c.Recalls {
			if !slices.Contains(names, x.Predictor) {
				names = append(names, x.Predictor)
			}
		}
	}
	return names
}

// fraction writes a share of the experts: "1/8 of the experts".
func fraction(x float64) string { return fmt.Sprintf("1/%g of the experts", 1/x) }

func (t *table) prediction() {
	t.section = secShare
	ahead := distance{layers: 1}
	for _, x := range Shares {
		for _, p := range t.r.Predictors() {
			t.add(p+", "+fraction(x), "", "Recall of the chosen experts, one MoE layer ahead, when this share of a layer's experts is named: chance is the share itself. Higher means that fewer experts must be fetched to have the right ones."+parentheses, func(c *Column) Cell {
				return c.recall(p, ahead, c.share(x))
			})
		}
	}
	t.section = secBytes
	for _, b := range t.r.Budgets.Layer {
		for _, p := range t.r.Predictors() {
			t.add(p+", "+size(b), "", "Recall when as many experts of a layer are named as fit into these bytes: what a prefetch of equal cost at each layer is worth. The note begins with their number."+parentheses, func(c *Column) Cell {
				n := c.fit(b)
				if n == 0 {
					return unknown("no expert fits")
				}
				x := c.recall(p, ahead, n)
				if x.Value.OK() {
					x.Note = fmt.Sprintf("%d of %d; %s", n, c.Experts, x.Note)
				}
				return x
			})
		}
	}
	if len(t.r.Budgets.Layer) == 0 {
		t.add("recall", "", "Recall when as many experts are named as fit into equal bytes requires the sizes of both models' experts.", func(*Column) Cell { return unknown(notRecorded) })
	}
}

func (c *Column) hitRate(p prefetch.Policy, experts int) Cell {
	if len(c.Caches) == 0 {
		return unknown("one step a text")
	}
	for _, x := range c.Caches {
		if x.Policy == p && x.Experts == experts {
			note := fmt.Sprintf("%d of %d", experts, c.Layers*c.Experts)
			if c.ExpertBytes > 0 {
				note += "; " + size(int64((1-x.HitRate.Value)*float64(c.Layers*c.TopK)*float64(c.ExpertBytes))) + " a token"
			}
			return Cell{Value: x.HitRate, Note: note}
		}
	}
	return unknown("no expert fits")
}

func (t *table) cache() {
	t.section = secCache
	meaning := "Hit rate of a cache that all layers of the stack share, empty at the start of each text, whose tokens are computed one by one: higher means fewer copies. The note says how many experts fit and what is copied for a token, which depends on the layers too. LRU has no hits where fewer fit than a token uses in all layers. OPT knows the future and bounds all policies."
	if len(t.r.Budgets.Cache) == 0 {
		for _, x := range Shares {
			for _, p := range policies {
				t.add(string(p)+", "+fraction(x), "", meaning, func(c *Column) Cell { return c.hitRate(p, c.cacheShare(x)) })
			}
		}
	}
	for _, b := range t.r.Budgets.Cache {
		for _, p := range policies {
			t.add(string(p)+", "+size(b), "", meaning, func(c *Column) Cell { return c.hitRate(p, c.cacheFit(b)) })
		}
	}
}

// bound is the hit rate of a cache that holds every expert.
func (t *table) bound() {
	t.add("all experts", "", "The hit rate where everything fits: the rest is the first use of each expert in a text, which more experts and shorter texts have more of. No cache without prefetching is better.", func(c *Column) Cell {
		return c.hitRate(prefetch.OPT, c.Layers*c.Experts)
	})
}

func (t *table) workingSet() {
	t.section = secSet
	first := fmt.Sprintf("first %d tokens: ", prefix)
	t.measure(first+"share of the experts", "", "Different experts of a layer that the first tokens of a text use, by E, mean over texts and layers: what a short prompt brings into memory, compared at one length.", PrefixShare)
	t.measure(first+"times independent tokens", "x", "The same by what as many tokens that choose independently would use: lower means that a text keeps to its own experts.", PrefixRelative)
	t.measure("whole text: experts of a layer", "", "Different experts that the stack's part of a text uses; parts have the lengths that they have.", WorkingSet)
	t.measure("whole text: share of the experts", "", "The same by E: 1 means that encoding, or a prompt, needs every expert, so that no prediction saves reading one.", WorkingShare)
	t.measure("whole text: times independent tokens", "x", "The same by what as many independent tokens would use: lower means that a text keeps to its own experts.", WorkingRelative)
	t.add("whole text: bytes of experts", "", "Of all layers of the stack: what is read at least once for a text; higher means a slower first token where experts are elsewhere.", func(c *Column) Cell {
		return c.known(func() Cell {
			v := c.Measures[WorkingSet].Mean.scaled(float64(c.Layers) * float64(c.model.ExpertBytes) / 1e6)
			return Cell{Value: v, Note: "MB"}
		})
	})
}

// size writes bytes for people.
func size(n int64) string {
	switch x := float64(n); {
	case x >= 1e9:
		return trim(fmt.Sprintf("%.2f", x/1e9)) + " GB"
	case x >= 1e6:
		return trim(fmt.Sprintf("%.2f", x/1e6)) + " MB"
	default:
		return trim(fmt.Sprintf("%.1f", x/1e3)) + " kB"
	}
}

func trim(s string) string { return strings.TrimSuffix(strings.TrimRight(s, "0"), ".") }
