package viz

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func embedded(t *testing.T, html string) map[string]map[string]json.RawMessage {
	t.Helper()
	_, rest, ok := strings.Cut(html, `<script type="application/json" id="data">`)
	require.True(t, ok, "no data in the report")
	raw, _, _ := strings.Cut(rest, "</script>")
	var data map[string]map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(raw), &data))
	return data
}

func TestReport(t *testing.T) {
	var a, b bytes.Buffer
	r := sampleReport()
	require.NoError(t, r.WriteHTML(&a))
	require.NoError(t, sampleReport().WriteHTML(&b))
	assert.Equal(t, b.Bytes(), a.Bytes())
	assert.LessOrEqual(t, a.Len(), 5_000_000)
	// The page has the routing at the same token, layer and choice.
	data := embedded(t, a.String())
	var j journeysJSON
	require.NoError(t, json.Unmarshal(data["journeys"]["journey"], &j))
	src := r.Sections[1].Blocks[0].(journeys)
	for _, d := range []int{0, 57, 99} {
		raw, err := base64.StdEncoding.DecodeString(j.Documents[d].Experts)
		require.NoError(t, err)
		for _, at := range [][3]int{{0, 0, 0}, {3, 15, 1}, {255, 7, 1}} {
			want, _ := src.Documents[d].choice(at[0], at[1], at[2])
			assert.Equal(t, want, int(raw[(at[0]*16+at[1])*2+at[2]]), "document %d, token, layer, choice %v", d, at)
		}
	}
	var f figureJSON
	require.NoError(t, json.Unmarshal(data["figures"]["usage-1"], &f))
	want := r.Sections[0].Blocks[0].(Figures).List[0].(HeatMap).Data[3][11]
	assert.InDelta(t, want, float64(f.Cells[0].Values[3*16+11]), 1e-4*want)
}

// TestHostileText checks that the page has the same elements whatever text a data set
// contains.
func TestHostileText(t *testing.T) {
	shape := func(s string) (n int, html string) {
		r := Report{
			Title: s, Lead: s, Facts: []Fact{{s, s, s}}, Source: []Fact{{s, s, s}},
			Sections: []Section{{ID: "s", Title: s, Text: []string{s}, Blocks: []Block{
				journeys{Info: Info{Name: "j", Title: s, Caption: s}, Layers: 1, Experts: 1, TopK: 1, Documents: []Journey{
					{Dataset: s, Document: s, Layers: 1, TopK: 1, Pieces: []string{s}, Experts: []int32{0}}}},
				Table{Info: Info{Name: "t", Title: s, Caption: s}, Columns: []Column{{Name: s, Unit: s}}, Rows: [][]any{{s}}},
				Figures{Label: s, Options: []string{s, s, s}, List: []Figure{
					Lines{Info: Info{Name: "l", Title: s, Caption: s}, XAxis: s, YAxis: s, Curves: []Curve{{Name: s, X: []float64{1}, Y: []float64{1}}}, References: []Reference{{1, s}}},
					HeatMap{Info: Info{Name: "h", Title: s, Caption: s}, Data: [][]float64{{1}}, Rows: []string{s}, Columns: []string{s}, Value: s, Unit: s},
					TokenText{Info: Info{Name: "x", Title: s}, Journey: Journey{Layers: 1, TopK: 1, Pieces: []string{s}, Experts: []int32{0}}, Experts: 1},
				}},
			}}},
		}
		var b strings.Builder
		require.NoError(t, r.WriteHTML(&b))
		embedded(t, b.String())
		_, data, _ := strings.Cut(b.String(), `id="data">`)
		assert.False(t, strings.ContainsAny(data, "\u2028\u2029"), "%q: a line separator in the script", s)
		for _, tag := range []string{"<script", "</script", "<img", "<b>", "<style", "onerror=", "<!--", "<svg", "javascript:"} {
			n = n*7 + strings.Count(strings.ToLower(b.String()), tag)
		}
		return n, b.String()
	}
	plain, _ := shape("plain words")
	for _, s := range []string{
		`</script><script>alert(1)</script>`, `<!--<script>`, `"><img src=x onerror=alert(1)>`, `'><b>x</b>`, `</style><style>*{display:none}`,
		`</svg><svg onload=alert(1)>`, "\u2028\u2029\u202e", "\x00\x01\xff\xfe", `]]>`, `${alert(1)}`, `{{.Title}}`, `</title>`, `&lt;b&gt;`,
	} {
		n, html := shape(s)
		assert.False(t, n != plain && !strings.Contains(s, "onerror") && !strings.Contains(s, "onload"), "%q changes the elements of the page", s)
		for _, bad := range []string{"<img src=x", "<b>x</b>", "<script>alert", "<svg onload", "\x00"} {
			assert.NotContains(t, html, bad)
		}
	}
}

func TestReportRefuses(t *testing.T) {
	l := Lines{Info: Info{Name: "x"}}
	for i, r := range []Report{
		{Sections: []Section{{ID: "Not an id"}}},
		{Sections: []Section{{ID: "a"}, {ID: "a"}}},
		{Sections: []Section{{ID: "a", Blocks: []Block{nil}}}},
		{Sections: []Section{{ID: "a", Blocks: []Block{Figures{List: []Figure{l, l}}}}}},
		{Sections: []Section{{ID: "a", Blocks: []Block{Figures{List: []Figure{l}, Options: []string{"p", "q"}}}}}},
		{Sections: []Section{{ID: "a", Blocks: []Block{journeys{Info: Info{Name: "j"}, Layers: 1, TopK: 1, Experts: 2, Documents: []Journey{
			{Layers: 1, TopK: 1, Pieces: []string{"x"}, Experts: []int32{2}}}}}}}},
		{Sections: []Section{{ID: "a", Blocks: []Block{journeys{Info: Info{Name: "j"}, Layers: 1, TopK: 1, Experts: 2, Documents: []Journey{
			{Layers: 2, TopK: 1, Pieces: []string{"x"}, Experts: []int32{1, 1}}}}}}}},
	} {
		assert.Error(t, r.WriteHTML(io.Discard), "case %d", i)
	}
}

// TestJourneysBounded checks that documents of all data sets are included while there
// is room, and that the page says how many.
func TestJourneysBounded(t *testing.T) {
	j := journeys{Info: Info{Name: "j"}, Layers: 1, Experts: 300, TopK: 1, MaxTokens: 50}
	for i := range 9 {
		j.Documents = append(j.Documents, sampleJourney(uint64(i), "set "+strconv.Itoa(i/5), strconv.Itoa(i), 10+i, 1, 300, 1))
	}
	docs, left := j.choose()
	var ids []string
	for _, d := range docs {
		ids = append(ids, d.Document)
	}
	assert.Equal(t, []string{"0", "1", "2", "5"}, ids) // 10 + 11 + 12 + 15 of 50 tokens: no other document fits
	assert.Equal(t, 5, left)
	p := &page{used: map[string]bool{}, jour: map[string]journeysJSON{}}
	h, err := j.block(p)
	require.NoError(t, err)
	assert.Contains(t, h.Note, "4 of 9 documents")
	raw, err := base64.StdEncoding.DecodeString(p.jour["j"].Documents[1].Experts)
	require.NoError(t, err)
	require.Len(t, raw, 2*11)
	got, want := int(raw[6])|int(raw[7])<<8, int(docs[1].Experts[3])
	assert.Equal(t, want, got)
}
