package viz

import (
	"fmt"
	"math"
	"slices"
)

// timeline shows what ran when: layers computed, experts copied, waits.
type timeline struct {
	Info
	Unit   string // of Start and End: "ms"
	Lanes  []string
	Events []event
}

// event is an interval of time in a lane.
type event struct {
	Lane       int
	Start, End float64
	// Kind determines the colour and is named in the legend: "compute", "copy".
	Kind string
	// Label is written into the event where there is room.
	Label string
}

// maxEvents is the maximum number of events of a picture.
const maxEvents = 20000

func (t timeline) check() error {
	if len(t.Events) > maxEvents {
		return fmt.Errorf("viz: figure %s: got %d events, expected at most %d", t.Name, len(t.Events), maxEvents)
	}
	for i, e := range t.Events {
		if e.Lane < 0 || e.Lane >= len(t.Lanes) || !(e.End >= e.Start) || math.IsInf(e.Start, 0) || math.IsInf(e.End, 0) {
			return fmt.Errorf("viz: figure %s: event %d (%s) is from %g to %g in lane %d of %d", t.Name, i, e.Label, e.Start, e.End, e.Lane, len(t.Lanes))
		}
	}
	return nil
}

// Table implements Figure.
func (t timeline) Table() Table {
	out := Table{Info: t.Info, Columns: []Column{{Name: "lane"}, {Name: "kind"}, {Name: "label"}, {Name: "start", Unit: t.Unit}, {Name: "end", Unit: t.Unit}}}
	for _, e := range t.Events {
		out.Rows = append(out.Rows, []any{t.Lanes[e.Lane], e.Kind, e.Label, e.Start, e.End})
	}
	return out
}

// kinds returns the kinds of events, sorted.
func (t timeline) kinds() []string {
	var kinds []string
	for _, e := range t.Events {
		kinds = appendNew(kinds, e.Kind)
	}
	slices.Sort(kinds)
	return kinds
}

func (t timeline) keys(s Style) []key {
	var keys []key
	for i, k := range t.kinds() {
		keys = append(keys, key{text: label(k, 40), tone: s.series(i), mark: -1})
	}
	return keys
}

const laneHeight = 30

func (t timeline) size(width float64, s Style) float64 {
	if len(t.Events) == 0 {
		return 60
	}
	return legendHeight(s, t.keys(s), width) + laneHeight*float64(len(t.Lanes)) + 4 + bottomMargin("time")
}

func (t timeline) draw(p *pen, at rect) hover {
	if len(t.Events) == 0 {
		p.drawAbsent(at, "Nothing to draw: no events were given.")
		return hover{}
	}
	keys := t.keys(p.style)
	head := legendHeight(p.style, keys, at.w)
	p.drawLegend(keys, at)
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, e := range t.Events {
		lo, hi = math.Min(lo, e.Start), math.Max(hi, e.End)
	}
	if !wider(lo, hi) {
		hi = lo + 1
	}
	box := p.drawCategories(t.Lanes, at, head, 8, laneHeight, 0.3)
	name := "time"
	if t.Unit != "" {
		name += " (" + t.Unit + ")"
	}
	x := axis{label: name, min: lo, max: hi, ticks: linearTicks(lo, hi, int(math.Max(2, box.w/80))), from: box.x, to: box.x + box.w}
	p.drawX(&x, box, true)
	for i := range t.Lanes {
		y := box.y + laneHeight*float64(i+1)
		p.line(box.x, y, box.x+box.w, y, 1, p.style.tone("grid"))
	}
	tone := map[string]tone{}
	for i, k := range t.kinds() {
		tone[k] = p.style.series(i)
	}
	small := textStyle{size: 10, h: 0.5, v: 0.5}
	var h hover
	for _, e := range t.Events {
		x0, x1 := x.at(e.Start), x.at(e.End)
		y, w := box.y+laneHeight*float64(e.Lane)+5, math.Max(0.8, x1-x0-0.6)
		c := tone[e.Kind]
		p.rect(x0, y, w, laneHeight-10, c)
		if e.Label != "" && w > small.measure(e.Label)+4 {
			small.tone = p.style.tone("ground")
			p.text(x0+w/2, y+(laneHeight-10)/2, e.Label, small)
		}
		h.Spots = append(h.Spots, spot{X: x0, Y: y, W: w, H: laneHeight - 10,
			Text: fmt.Sprintf("%s: %s %s\n%s to %s %s", t.Lanes[e.Lane], e.Kind, e.Label, short(e.Start, 4), short(e.End, 4), t.Unit)})
	}
	return h
}
