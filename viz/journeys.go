package viz

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

type journeysJSON struct {
	Layers    int           `json:"layers"`
	Experts   int           `json:"experts"`
	TopK      int           `json:"topK"`
	Wide      bool          `json:"wide"`            // experts as uint16
	Names     []string      `json:"names,omitempty"` // of the layers, [L]; none: their numbers
	Documents []journeyJSON `json:"documents"`
}

type journeyJSON struct {
	Dataset string   `json:"dataset"`
	ID      string   `json:"id"`
	Pieces  []string `json:"pieces"`
	Experts string   `json:"e"`
	Weights string   `json:"w,omitempty"`    // with Rest, without the last choice
	Rest    bool     `json:"rest,omitempty"` // the weights of a token add up to 1
}

func (j journeys) block(p *page) (blockHTML, error) {
	if err := p.claim(j.Info); err != nil {
		return blockHTML{}, err
	}
	if j.Experts < 0 || j.Experts > maxSide {
		return blockHTML{}, fmt.Errorf("viz: journeys %s: got %d experts, expected 0 to %d", j.Name, j.Experts, maxSide)
	}
	out := blockHTML{ID: j.Name, Title: j.Title, Caption: j.Caption}
	data := journeysJSON{Layers: j.Layers, Experts: j.Experts, TopK: j.TopK, Wide: j.Experts > 255, Names: j.names, Documents: []journeyJSON{}}
	for _, d := range j.Documents {
		if err := d.check(); err != nil {
			return out, err
		}
		if d.Layers != j.Layers || d.TopK != j.TopK {
			return out, fmt.Errorf("viz: journeys %s: document %s/%s has %d layers and top-%d, expected %d and top-%d",
				j.Name, d.Dataset, d.Document, d.Layers, d.TopK, j.Layers, j.TopK)
		}
	}
	docs, left := j.choose()
	for _, d := range docs {
		enc, err := d.encode(j.Experts, data.Wide)
		if err != nil {
			return out, err
		}
		data.Documents = append(data.Documents, enc)
	}
	switch {
	case len(j.Documents) == 0 || j.Layers == 0 || j.TopK == 0:
		out.Note = "No journeys: no document was given."
		data.Documents = []journeyJSON{}
	case left > 0:
		out.Note = fmt.Sprintf("%d of %d documents are included, taken from each data set in turn; more would make the file too large.", len(docs), len(j.Documents))
	}
	p.jour[j.Name] = data
	p.experts = max(p.experts, j.Experts)
	return out, nil
}

// journeyTokens returns how many tokens of a model fit into 2.5 MB of a report:
// a choice takes two bytes, in base64, and the text of a token about ten.
func journeyTokens(layers, topK int) int {
	return int(2.5e6 / (8.0/3*float64(layers*topK) + 10))
}

// choose selects documents from the data sets in turn while MaxTokens permits,
// and returns them in their original order, and the number of the others.
func (j journeys) choose() (docs []Journey, left int) {
	limit := j.MaxTokens
	if limit <= 0 {
		limit = journeyTokens(j.Layers, j.TopK)
	}
	var names []string
	by := map[string][]int{}
	for i, d := range j.Documents {
		if by[d.Dataset] == nil {
			names = append(names, d.Dataset)
		}
		by[d.Dataset] = append(by[d.Dataset], i)
	}
	take := make([]bool, len(j.Documents))
	for round, more := 0, true; more; round++ {
		more = false
		for _, n := range names {
			if round >= len(by[n]) {
				continue
			}
			more = true
			if i := by[n][round]; len(j.Documents[i].Pieces) <= limit {
				take[i], limit = true, limit-len(j.Documents[i].Pieces)
			}
		}
	}
	for i, d := range j.Documents {
		if take[i] {
			docs = append(docs, d)
		} else {
			left++
		}
	}
	return docs, left
}

// encode packs the routing: experts as bytes (255: none) or, with wide, as
// little-endian uint16 (65535: none), weights as multiples of 1/255.
func (j Journey) encode(experts int, wide bool) (journeyJSON, error) {
	out := journeyJSON{Dataset: j.Dataset, ID: j.Document, Pieces: make([]string, len(j.Pieces))}
	for i, s := range j.Pieces {
		out.Pieces[i] = strings.ToValidUTF8(s, "\uFFFD")
	}
	e := make([]byte, 0, 2*len(j.Experts))
	for i, x := range j.Experts {
		if int(x) >= experts {
			return out, fmt.Errorf("viz: document %s/%s: token %d, layer %d: expert %d of %d",
				j.Dataset, j.Document, i/(j.Layers*j.TopK), i/j.TopK%j.Layers, x, experts)
		}
		switch {
		case wide && x < 0:
			e = binary.LittleEndian.AppendUint16(e, math.MaxUint16)
		case wide:
			e = binary.LittleEndian.AppendUint16(e, uint16(x))
		case x < 0:
			e = append(e, math.MaxUint8)
		default:
			e = append(e, byte(x))
		}
	}
	out.Experts = base64.StdEncoding.EncodeToString(e)
	if j.Weights == nil {
		return out, nil
	}
	out.Rest = j.TopK > 1
	for i := 0; i < len(j.Weights) && out.Rest; i += j.TopK {
		var sum float64
		for k := range j.TopK {
			sum += float64(j.Weights[i+k])
			out.Rest = out.Rest && j.Experts[i+k] >= 0
		}
		out.Rest = out.Rest && math.Abs(sum-1) < 0.002
	}
	w := make([]byte, 0, len(j.Weights))
	for i, x := range j.Weights {
		if !out.Rest || i%j.TopK < j.TopK-1 {
			w = append(w, byte(math.Round(255*math.Min(1, math.Max(0, float64(x))))))
		}
	}
	out.Weights = base64.StdEncoding.EncodeToString(w)
	return out, nil
}
