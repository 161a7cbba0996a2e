package viz

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestChromiumLooks checks that reports fit their window, that no labels overlap and
// that axe-core finds no violation, at two widths and in both themes.
func TestChromiumLooks(t *testing.T) {
	b := startBrowser(t)
	h, docs := planted(12, 40)
	stats, results := statistics(t, h, docs), evaluate(t, h, docs)
	study, err := Compare(Study{Name: "whole", Routing: stats, Results: results, Cache: sampleCache(0.25, 0.6, 3.1)},
		Study{Name: "half", Routing: statistics(t, h, docs[:6]), Results: results, Cache: sampleCache(0.25, 0.5, 4)})
	require.NoError(t, err)
	for name, r := range map[string]Report{"sample": sampleReport(), "study": study} {
		file := writeReport(t, r)
		b.mu.Lock()
		b.asked = nil
		b.mu.Unlock()
		for _, v := range []struct {
			w, h int
			dark bool
		}{{1280, 900, false}, {390, 844, true}} {
			b.open(file, v.w, v.h, v.dark)
			// Include what a choice hides.
			b.eval(`document.querySelectorAll("figure").forEach(f => { f.hidden = false; })`, nil)
			b.shot(fmt.Sprintf("%s-%d", name, v.w), true)
			if name == "study" || !v.dark {
				b.axe()
			}
			var overflow int
			b.eval(`document.documentElement.scrollWidth - innerWidth`, &overflow)
			assert.LessOrEqual(t, overflow, 0, "%s, %d wide: the page is %d pixels wider than the window", name, v.w, overflow)
			assert.Empty(t, b.overlaps(), "%d wide", v.w)
			// Check the check: a duplicated label is found.
			b.eval(`(() => { const t = [...document.querySelectorAll("main svg text")].find(t => t.getBoundingClientRect().width > 20); t.after(t.cloneNode(true)); })()`, nil)
			assert.NotEmpty(t, b.overlaps())
		}
		b.checkQuiet(file)
	}
}

// TestChromiumPicture makes the README's picture from an existing report.
func TestChromiumPicture(t *testing.T) {
	if *picture == "" {
		t.Skip("needs -picture REPORT and -shots DIR")
	}
	file, err := filepath.Abs(*picture)
	require.NoError(t, err)
	b := startBrowser(t)
	b.open(file, 1100, 1700, false)
	b.eval(`(() => {
		const set = (n, v, e) => { const x = document.querySelector('[data-j="' + n + '"]'); x.value = v; x.dispatchEvent(new Event(e, {bubbles: true})); };
		set("layer", 13, "input");
		document.querySelectorAll(".tokens span")[17].click();
		document.querySelector(".tokens").style.maxHeight = "13.5rem";
		document.querySelector("#tokens .text").remove();
		const usage = document.querySelector("#fig-usage"), tokens = document.querySelector("#tokens");
		document.querySelector("main").insertBefore(usage, tokens.parentNode === document.querySelector("main") ? document.querySelector("section") : null);
		usage.querySelector(".tools").remove();
		usage.querySelector("figcaption").remove();
		document.querySelector("main").insertBefore(tokens, document.querySelector("section"));
		tokens.style.marginTop = "1rem";
		scrollTo(0, 0);
	})()`, nil)
	b.shot("picture", false)
}

// checkQuiet checks that the page logged no errors and requested nothing but itself.
func (b *browser) checkQuiet(file string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	assert.Empty(b.t, b.errs)
	for _, u := range b.asked {
		if u != "file://"+file && !strings.HasPrefix(u, "data:") && !strings.HasPrefix(u, "blob:") {
			assert.Fail(b.t, "the report requested "+u)
		}
	}
}

// overlaps compares the boxes of all visible text: in each picture each label with
// the others and with the picture's edge.
func (b *browser) overlaps() (bad []string) {
	b.t.Helper()
	b.eval(`(() => {
		const bad = [];
		let n = 0;
		for (const svg of document.querySelectorAll("main svg")) {
			const page = svg.getBoundingClientRect();
			if (!page.width) continue;
			const boxes = [...svg.querySelectorAll("text")].map(t => ({t: t.textContent, r: t.getBoundingClientRect()}));
			n += boxes.length;
			boxes.forEach((a, i) => {
				if (a.r.left < page.left - 1.5 || a.r.right > page.right + 1.5 || a.r.top < page.top - 3 || a.r.bottom > page.bottom + 3)
					bad.push("clipped: " + a.t);
				for (let j = i + 1; j < boxes.length; j++) {
					const o = boxes[j].r;
					const w = Math.min(a.r.right, o.right) - Math.max(a.r.left, o.left);
					// A line box is taller than its letters: half of it must be free.
					const h = Math.min(a.r.bottom, o.bottom) - Math.max(a.r.top, o.top);
					if (w > 1.5 && h > 0.5 * Math.min(a.r.height, o.height)) bad.push(a.t + " over " + boxes[j].t);
				}
			});
		}
		if (n < 50) bad.push("only " + n + " labels found");
		for (const el of document.querySelectorAll("h1,h2,h3,p,dt,dd,label,button,td,th,figcaption,.top a")) {
			if (el.closest(".scroll,.top nav") || !el.getClientRects().length) continue;
			const r = el.getBoundingClientRect();
			if (r.right > innerWidth + 1 || r.left < -1) bad.push("outside the window: " + el.textContent.slice(0, 60));
			if (el.scrollWidth > el.clientWidth + 2 && el.clientWidth && getComputedStyle(el).display !== "inline") bad.push("cut: " + el.textContent.slice(0, 60));
		}
		return bad.slice(0, 20);
	})()`, &bad)
	return bad
}

// TestChromiumActs uses tables, figures and the token journey as a reader does.
func TestChromiumActs(t *testing.T) {
	b := startBrowser(t)
	r := sampleReport()
	file := writeReport(t, r)
	b.open(file, 1280, 900, false)
	check := func(what, expr, want string) {
		t.Helper()
		var got any
		b.eval(expr, &got)
		assert.Equal(t, want, fmt.Sprint(got), what)
	}
	// Tables sort, numbers as numbers, both ways, and back.
	cell := `document.querySelector("#table-recall-table tbody tr td").textContent`
	click := func(sel string) { t.Helper(); b.eval(`document.querySelector(`+strconv.Quote(sel)+`).click()`, nil) }
	check("first row", cell, "frequency")
	click("#table-recall-table th:nth-child(4) button")
	check("by parameters, largest first", cell, "ensemble")
	check("the sort is announced", `document.querySelector("#table-recall-table th:nth-child(4)").getAttribute("aria-sort")`, "descending")
	click("#table-recall-table th:nth-child(4) button")
	check("smallest first", cell, "frequency")
	click("#table-recall-table th:nth-child(1) button")
	check("by name", cell, "ensemble")

	// The journey: layer recolours, document changes, keys move the token.
	j := r.Sections[1].Blocks[0].(journeys).Documents
	token := func(n int) string { return fmt.Sprintf(`document.querySelectorAll(".tokens span")[%d]`, n) }
	expert := func(doc, tok, layer, k int) string {
		e, _ := j[doc].choice(tok, layer, k)
		return strconv.Itoa(e)
	}
	set := func(name, value, event string) {
		t.Helper()
		b.eval(`(() => { const e = document.querySelector('[data-j="`+name+`"]'); e.value = "`+value+`"; e.dispatchEvent(new Event("`+event+`", {bubbles: true})); })()`, nil)
	}
	check("tokens", `document.querySelectorAll(".tokens span").length`, "256")
	check("layer 0", token(5)+".dataset.e", expert(0, 5, 0, 0))
	before := ""
	b.eval(`getComputedStyle(`+token(5)+`).backgroundColor`, &before)
	layer := 1
	for expert(0, 5, layer, 0) == expert(0, 5, 0, 0) {
		layer++
	}
	set("layer", strconv.Itoa(layer), "input")
	check("another layer", token(5)+".dataset.e", expert(0, 5, layer, 0))
	after := ""
	b.eval(`getComputedStyle(`+token(5)+`).backgroundColor`, &after)
	assert.NotEqual(t, after, before, "token 5 keeps its colour %s at layer %d", before, layer)
	set("choice", "1", "change")
	check("second choice", token(9)+".dataset.e", expert(0, 9, layer, 1))
	set("choice", "0", "change")
	set("dataset", "code", "change")
	check("another data set", token(7)+".dataset.e", expert(50, 7, layer, 0))
	check("hostile text is text", `document.querySelector(".tokens").textContent.includes("</script><script>alert(1)")`, "true")
	b.eval(`document.querySelector(".tokens").focus()`, nil)
	b.key("ArrowRight")
	b.key("ArrowRight")
	check("two to the right", `document.querySelector(".tokens [aria-selected=true]").dataset.t`, "2")
	check("its path is drawn", `document.querySelectorAll(".path svg circle").length`, "32")
	check("its table", `document.querySelector(".path tbody tr:nth-child(3) td:nth-child(2)").textContent`, expert(50, 2, 2, 0))
	b.key("End")
	check("the last", `document.querySelector(".tokens [aria-selected=true]").dataset.t`, "255")
	click(".pins button")
	b.eval(`document.querySelector(".tokens").focus()`, nil)
	b.key("Home")
	check("a kept path", `document.querySelectorAll(".path svg polyline").length`, "2")
	click(".legend button:nth-child(4)")
	check("one expert alone", `[...document.querySelectorAll(".tokens span")].every(s => s.classList.contains("off") === (s.dataset.e !== "3"))`, "true")

	// A figure by keyboard and by pointer.
	b.eval(`document.querySelector('[data-fig="usage-1"]').focus()`, nil)
	for _, k := range []string{"ArrowRight", "ArrowRight", "ArrowDown"} {
		b.key(k)
	}
	want := r.Sections[0].Blocks[0].(Figures).List[0].(HeatMap).Data[1][1]
	check("value by keys", `document.querySelector("#tip").textContent`, fmt.Sprintf("expert 1, layer 1: %s %%", short(want, 4)))
	b.key("Escape")
	check("closed", `document.querySelector("#tip").hidden`, "true")
	var box struct{ X, Y, W, H float64 }
	b.eval(`(() => { const e = document.querySelector('[data-fig="recall"] .wide svg'); e.scrollIntoView({block: "center"}); const r = e.getBoundingClientRect(); return {x: r.x, y: r.y, w: r.width, h: r.height}; })()`, &box)
	b.call("Input.dispatchMouseEvent", map[string]any{"type": "mouseMoved", "x": box.X + 0.072*box.W, "y": box.Y + 0.21*box.H}, nil)
	check("value by pointer", `/^(ensemble|statistics-aware)\ndistance h \(layers\) 1: [0-9.]+ \[/.test(document.querySelector("#tip").textContent)`, "true")

	// Numbers, choice of figure, theme, downloads.
	click(`[data-tools="recall"] [data-do=table]`)
	check("numbers", `document.querySelector("#fig-recall .numbers tbody").rows.length`, "32")
	check("one of ten shows", `[...document.querySelectorAll("[data-of]")].filter(f => !f.hidden).map(f => f.id).join()`, "fig-usage-10")
	b.eval(`(() => { const e = document.querySelector("[data-pick]"); e.value = "usage-13"; e.dispatchEvent(new Event("change")); })()`, nil)
	check("another of ten", `[...document.querySelectorAll("[data-of]")].filter(f => !f.hidden).map(f => f.id).join()`, "fig-usage-13")
	click("#theme")
	click("#theme")
	check("dark by hand", `getComputedStyle(document.body).backgroundColor`, "rgb(15, 18, 23)")
	b.eval(`window.saved = []; URL.createObjectURL = blob => { blob.text().then(t => saved.push(t)); return "#"; }; HTMLAnchorElement.prototype.click = function () { saved.push(this.download); }`, nil)
	for _, do := range []string{"csv", "json", "svg"} {
		click(`[data-tools="usage-1"] [data-do=` + do + `]`)
	}
	check("three files", `new Promise(r => setTimeout(() => r(saved.filter(s => /^usage-1\.(csv|json|svg)$/.test(s)).length), 200))`, "3")
	click(`[data-table="formulas"] [data-do=csv]`)
	check("a CSV without formulas", `new Promise(r => setTimeout(() => r(saved.find(s => s.startsWith("'=a,b"))), 200))`, "'=a,b\r\n'=1+1,-1\r\n'-x,-2.5\r\n'@SUM(A1),3\r\nplain,0\r\n")
	check("the CSV", `saved.find(s => s.startsWith("expert,layer,")).split("\r\n").length`, strconv.Itoa(8*16+2))
	check("the SVG stands alone", `saved.some(s => s.startsWith("<svg") && !s.includes("var(--"))`, "true")
	b.checkQuiet(file)
}

// TestChromiumEmpty checks that figures, tables and journeys without data load.
func TestChromiumEmpty(t *testing.T) {
	b := startBrowser(t)
	j := func(l, e, k int, d ...Journey) journeys {
		return journeys{Info: Info{Name: fmt.Sprintf("j%d-%d-%d-%d", l, e, k, len(d)), Title: "Journey"}, Layers: l, Experts: e, TopK: k, Documents: d}
	}
	r := Report{Title: "Small", Sections: []Section{{ID: "s", Title: "S", Blocks: []Block{
		j(0, 0, 0), j(1, 1, 1, Journey{Layers: 1, TopK: 1, Pieces: []string{"x"}, Experts: []int32{0}}),
		j(2, 128, 1, Journey{Layers: 2, TopK: 1, Document: "no tokens"}),
		j(3, 300, 2, sampleJourney(1, "d", "wide", 9, 3, 300, 2)),
		Table{Info: Info{Name: "t", Title: "No rows"}, Columns: []Column{{Name: "a"}}},
		Figures{List: []Figure{HeatMap{Info: Info{Name: "h", Title: "Nothing"}}, Lines{Info: Info{Name: "l", Title: "Nothing"}}, Panels{Info: Info{Name: "p", Title: "Nothing"}}}},
	}}}}
	file := writeReport(t, r)
	b.open(file, 390, 844, false)
	b.axe()
	b.shot("empty", true)
	var n int
	b.eval(`document.querySelectorAll(".tokens span").length`, &n)
	assert.Equal(t, 1+9, n)
	b.checkQuiet(file)
}
