package viz

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"

	"gonum.org/v1/plot/vg"
)

// Sankey shows the flow of tokens between the experts of successive layers. The
// height of a node is the number of tokens of its expert, the width of a ribbon
// the number of tokens that go from one expert to the other.
type Sankey struct {
	Info
	// Stages name the columns ("layer 0"), one more than Flows.
	Stages []string
	// Flows are the flows from each stage to the next, [E,E] each: row the
	// expert left, column the expert entered; counts or shares, not negative.
	Flows [][][]float64
	// Unit is the unit of the flows ("tokens", "%").
	Unit string
}

func (s Sankey) check() error {
	if len(s.Flows) > 0 && len(s.Stages) != len(s.Flows)+1 {
		return fmt.Errorf("viz: figure %s: got %d stages for %d flows between them", s.Name, len(s.Stages), len(s.Flows))
	}
	for k, f := range s.Flows {
		if err := checkGrid(s.Name, f); err != nil {
			return err
		}
		r, _ := dims(f)
		if k > 0 {
			if _, c := dims(s.Flows[k-1]); c != r {
				return fmt.Errorf("viz: figure %s: %d experts enter %s and %d leave it", s.Name, c, s.Stages[k], r)
			}
		}
		for i, row := range f {
			for j, v := range row {
				if v < 0 {
					return fmt.Errorf("viz: figure %s: the flow from expert %d of %s to expert %d is %g; must not be negative", s.Name, i, s.Stages[k], j, v)
				}
			}
		}
	}
	return nil
}

// Table implements Figure. It has the flows that are drawn, including those of
// "other" experts.
func (s Sankey) Table() Table {
	t := Table{Info: s.Info, Columns: []Column{{Name: "from"}, {Name: "expert"}, {Name: "to"}, {Name: "to expert"}, {Name: "flow", Unit: s.Unit}}}
	if len(s.Flows) == 0 {
		return t
	}
	nodes, of := s.nodes()
	for k, f := range s.Flows {
		sums, _ := flowSums(f, nodes[k], nodes[k+1], of[k], of[k+1])
		for i, from := range nodes[k] {
			for j, to := range nodes[k+1] {
				if sums[i][j] > 0 {
					t.Rows = append(t.Rows, []any{s.Stages[k], from.name, s.Stages[k+1], to.name, sums[i][j]})
				}
			}
		}
	}
	return t
}

// flowSums returns the flows between nodes and the sum that enters each node.
func flowSums(f [][]float64, from, to []node, fromOf, toOf []int) (sums [][]float64, into []float64) {
	sums = newGrid(len(from), len(to), func(i, j int) float64 { return 0 })
	into = make([]float64, len(to))
	for i, row := range f {
		for j, v := range row {
			if !math.IsNaN(v) {
				sums[fromOf[i]][toOf[j]] += v
				into[toOf[j]] += v
			}
		}
	}
	return sums, into
}

// node is an expert of a stage, or its smaller experts together.
type node struct {
	name      string
	expert    int // -1: other
	mass      float64
	y, h      float64
	out, into float64 // the part of the height that has ribbons
}

// maxNodes is the maximum number of nodes of a stage.
const maxNodes = 16

// masses returns the sum of the flows of each expert of stage k.
func (s Sankey) masses(k int) []float64 {
	f, enter := s.Flows[min(k, len(s.Flows)-1)], k == len(s.Flows)
	r, c := dims(f)
	mass := make([]float64, r)
	if enter {
		mass = make([]float64, c)
	}
	for i, row := range f {
		for j, v := range row {
			if math.IsNaN(v) {
				continue
			}
			if enter {
				mass[j] += v
			} else {
				mass[i] += v
			}
		}
	}
	return mass
}

// nodes returns the nodes of each stage and the node of each expert.
func (s Sankey) nodes() (nodes [][]node, of [][]int) {
	for k := range s.Stages {
		mass := s.masses(k)
		keep := make([]int, len(mass))
		for i := range keep {
			keep[i] = i
		}
		if len(mass) > maxNodes {
			slices.SortStableFunc(keep, func(a, b int) int { return cmp.Compare(mass[b], mass[a]) })
			keep = keep[:maxNodes-1]
			slices.Sort(keep)
		}
		var ns []node
		to := make([]int, len(mass))
		for e, m := range mass {
			if i, ok := slices.BinarySearch(keep, e); ok {
				to[e], ns = i, append(ns, node{name: strconv.Itoa(e), expert: e, mass: m})
			} else {
				to[e] = len(keep)
			}
		}
		if len(keep) < len(mass) {
			o := node{name: "other", expert: -1}
			for e, m := range mass {
				if to[e] == len(keep) {
					o.mass += m
				}
			}
			ns = append(ns, o)
		}
		nodes, of = append(nodes, ns), append(of, to)
	}
	return nodes, of
}

func (s Sankey) size(width float64, st Style) float64 {
	if len(s.Flows) == 0 {
		return 60
	}
	most := 0
	nodes, _ := s.nodes()
	for _, n := range nodes {
		most = max(most, len(n))
	}
	return math.Max(160, math.Min(520, 40*float64(most))) + 26
}

func (s Sankey) draw(p *pen, at rect) hover {
	if len(s.Flows) == 0 {
		p.drawAbsent(at, "Nothing to draw: a flow requires two layers.")
		return hover{}
	}
	nodes, of := s.nodes()
	top, body := at.y+22, at.h-26
	const gap, wide = 5, 18
	total := 0.0
	for k := range nodes {
		sum := 0.0
		for _, n := range nodes[k] {
			sum += n.mass
		}
		total = math.Max(total, sum)
	}
	if total == 0 {
		p.drawAbsent(at, "Nothing to draw: every flow is 0.")
		return hover{}
	}
	experts := 1
	for k := range nodes {
		experts = max(experts, len(of[k]))
		unit := (body - gap*float64(len(nodes[k])-1)) / total
		y := top
		for i := range nodes[k] {
			n := &nodes[k][i]
			n.y, n.h = y, n.mass*unit
			y += n.h + gap
		}
	}
	colX := func(k int) float64 { return at.x + (at.w-wide)*float64(k)/float64(len(nodes)-1) }
	var h hover
	for k, f := range s.Flows {
		h.Spots = append(h.Spots, s.ribbons(p, f, nodes[k], nodes[k+1], of[k], of[k+1], colX(k)+wide, colX(k+1), experts, k)...)
	}
	l := labelStyle(p.style)
	for k := range nodes {
		l.h = 0.5
		x := colX(k)
		switch k {
		case 0:
			l.h = 0
		case len(nodes) - 1:
			l.h, x = 1, x+wide
		default:
			x += wide / 2
		}
		p.text(x, at.y+4, l.fit(s.Stages[k], at.w/float64(len(nodes))-6), l)
		for _, n := range nodes[k] {
			p.drawNode(n, colX(k), wide, n.color(p.style, experts))
			h.Spots = append(h.Spots, spot{X: colX(k), Y: n.y, W: wide, H: math.Max(1, n.h),
				Text: s.Stages[k] + ", expert " + n.name + ": " + short(n.mass, 4) + " " + s.Unit})
		}
	}
	return h
}

func (n node) color(s Style, experts int) tone {
	if n.expert < 0 {
		return s.tone("missing")
	}
	return plain(expertLine(n.expert, experts, s.Dark))
}

// drawNode draws a node and, if there is room, its name.
func (p *pen) drawNode(n node, x, width float64, c tone) {
	p.rect(x, n.y, width, math.Max(1, n.h), c)
	t := textStyle{size: math.Min(11, n.h), bold: true, h: 0.5, v: 0.5, tone: textOn(c.c)}
	if n.expert < 0 {
		t.size, t.rotate = 11, 0.25
	}
	if long := t.measure(n.name); t.size >= 7.5 && (t.rotate == 0 && long < width || t.rotate > 0 && long < n.h) {
		p.text(x+width/2, n.y+n.h/2, n.name, t)
	}
}

// ribbons draws the flows between two stages.
func (s Sankey) ribbons(p *pen, f [][]float64, from, to []node, fromOf, toOf []int, x0, x1 float64, experts, stage int) []spot {
	sums, into := flowSums(f, from, to, fromOf, toOf)
	var spots []spot
	for i := range from {
		for j := range to {
			v := sums[i][j]
			if v <= 0 || from[i].mass <= 0 || into[j] <= 0 {
				continue
			}
			h0, h1 := from[i].h*v/from[i].mass, to[j].h*v/into[j]
			y0, y1 := from[i].y+from[i].out, to[j].y+to[j].into
			from[i].out += h0
			to[j].into += h1
			if math.Max(h0, h1) < 0.15 || (from[i].expert < 0 && to[j].expert < 0) {
				continue // invisible, or between smaller experts
			}
			p.ribbon(x0, y0, h0, x1, y1, h1, from[i].color(p.style, experts).fade(0.42))
			spots = append(spots, spot{X: (x0 + x1) / 2, Y: (y0 + y1 + (h0+h1)/2) / 2,
				Text: fmt.Sprintf("%s expert %s → %s expert %s\n%s %s", s.Stages[stage], from[i].name, s.Stages[stage+1], to[j].name, short(v, 4), s.Unit)})
		}
	}
	return spots
}

func (p *pen) ribbon(x0, y0, h0, x1, y1, h1 float64, t tone) {
	m := (x0 + x1) / 2
	var path vg.Path
	path.Move(p.pt(x0, y0))
	path.CubeTo(p.pt(m, y0), p.pt(m, y1), p.pt(x1, y1))
	path.Line(p.pt(x1, y1+h1))
	path.CubeTo(p.pt(m, y1+h1), p.pt(m, y0+h0), p.pt(x0, y0+h0))
	path.Close()
	p.c.SetColor(t)
	p.c.Fill(path)
}
