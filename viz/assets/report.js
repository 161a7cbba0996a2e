"use strict";
(() => {
const $ = (sel, el = document) => el.querySelector(sel);
const $$ = (sel, el = document) => [...el.querySelectorAll(sel)];
const SVG = "http://www.w3.org/2000/svg";
const data = JSON.parse($("#data").textContent);
const make = (tag, attrs = {}, text) => {
  const el = document.createElement(tag);
  for (const [k, v] of Object.entries(attrs)) el.setAttribute(k, v);
  if (text !== undefined) el.textContent = text;
  return el;
};
const draw = (tag, attrs = {}, text) => {
  const el = document.createElementNS(SVG, tag);
  for (const [k, v] of Object.entries(attrs)) el.setAttribute(k, v);
  if (text !== undefined) el.textContent = text;
  return el;
};
const show = v => v === null ? "no value" : typeof v === "number" ? String(+v.toPrecision(4)) : String(v);

// Theme.
const themes = ["system", "light", "dark"];
const themeButton = $("#theme");
let theme = "system";
try { theme = localStorage.getItem("expertspec-theme") || "system"; } catch { /* no storage */ }
const setTheme = t => {
  theme = themes.includes(t) ? t : "system";
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  themeButton.textContent = "Theme: " + theme;
  try { localStorage.setItem("expertspec-theme", theme); } catch { /* no storage */ }
};
themeButton.hidden = false;
themeButton.addEventListener("click", () => setTheme(themes[(themes.indexOf(theme) + 1) % 3]));
setTheme(theme);

// The value under the pointer or the keyboard cursor.
const tip = $("#tip");
const showTip = (text, x, y) => {
  if (tip.textContent !== text) tip.textContent = text;
  tip.hidden = false;
  const r = tip.getBoundingClientRect();
  let left = x + 14, top = y + 14;
  if (left + r.width > innerWidth - 8) left = x - r.width - 14;
  if (top + r.height > innerHeight - 8) top = y - r.height - 14;
  tip.style.left = Math.max(4, left) + "px";
  tip.style.top = Math.max(4, top) + "px";
};
const hideTip = () => { tip.hidden = true; };

// Downloads and tables of numbers.
const save = (name, type, text) => {
  const a = make("a", {href: URL.createObjectURL(new Blob([text], {type})), download: name});
  document.body.append(a);
  a.click();
  a.remove();
  setTimeout(() => URL.revokeObjectURL(a.href), 10000);
};
// As Table.WriteCSV: an apostrophe before texts that a spreadsheet would run as a formula.
const csv = t => [t.columns, ...t.rows].map(r => r.map(v => {
  const s = v === null ? "" : typeof v === "string" && /^[=+\-@\t\r\n＝＋－＠]/.test(v) ? "'" + v : String(v);
  return /[",\r\n]/.test(s) ? '"' + s.replaceAll('"', '""') + '"' : s;
}).join(",")).join("\r\n") + "\r\n";
const tableOf = fig => {
  if (fig.table) return fig.table;
  const cells = fig.cells, panels = cells.length > 1 || cells[0].title;
  const g = cells[0];
  const t = {columns: [...(panels ? ["panel"] : []), g.row || "row", g.col || "column", fig.value + (g.unit ? ` (${g.unit})` : "")], rows: []};
  for (const c of cells) c.rows.forEach((r, i) => c.cols.forEach((k, j) =>
    t.rows.push([...(panels ? [c.title || ""] : []), r, k, c.values[i * c.cols.length + j]])));
  return t;
};
const bestFirst = v => typeof v === "number";
const buildTable = (t, name) => {
  const box = make("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Numbers of " + name});
  const table = make("table", {"aria-label": "Numbers of " + name}), head = make("tr"), body = make("tbody");
  const numeric = t.columns.map((_, j) => t.rows.some(r => bestFirst(r[j])));
  t.columns.forEach((c, j) => head.append(make("th", numeric[j] ? {scope: "col", class: "n"} : {scope: "col"}, c)));
  for (const r of t.rows.slice(0, 2000)) {
    const tr = make("tr");
    r.forEach((v, j) => tr.append(make("td", numeric[j] ? {class: "n", "data-v": v === null ? "" : v} : {}, v === null ? "–" : show(v))));
    body.append(tr);
  }
  const thead = make("thead");
  thead.append(head);
  table.append(thead, body);
  box.append(table);
  sortable(table);
  const out = document.createDocumentFragment();
  out.append(box);
  if (t.rows.length > 2000) out.append(make("p", {class: "caption"}, `The first 2,000 of ${t.rows.length.toLocaleString("en")} rows. CSV and JSON have all.`));
  return out;
};
function sortable(table) {
  const heads = $$("th", table);
  heads.forEach((th, j) => {
    const b = make("button", {type: "button"}, th.textContent);
    th.replaceChildren(b);
    b.addEventListener("click", () => {
      const numeric = th.classList.contains("n");
      const now = th.getAttribute("aria-sort");
      const up = now ? now === "descending" : !numeric;
      heads.forEach(h => h.removeAttribute("aria-sort"));
      th.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0];
      const rows = [...body.rows].map((r, i) => {
        const c = r.cells[j];
        const v = numeric ? (c.dataset.v === undefined || c.dataset.v === "" ? NaN : +c.dataset.v) : c.textContent;
        return {r, i, v};
      });
      rows.sort((a, b) => {
        if (numeric) {
          if (Number.isNaN(a.v) || Number.isNaN(b.v)) return Number.isNaN(a.v) - Number.isNaN(b.v) || a.i - b.i;
          return (up ? a.v - b.v : b.v - a.v) || a.i - b.i;
        }
        return (up ? 1 : -1) * a.v.localeCompare(b.v, "en", {numeric: true}) || a.i - b.i;
      });
      body.append(...rows.map(x => x.r));
    });
  });
}
$$("table").forEach(sortable);
$$("[data-table]").forEach(p => {
  p.hidden = false;
  const name = p.dataset.table, t = data.tables[name];
  $("[data-do=csv]", p).addEventListener("click", () => save(name + ".csv", "text/csv", csv(t)));
  $("[data-do=json]", p).addEventListener("click", () => save(name + ".json", "application/json", JSON.stringify(t)));
});
const svgText = svg => {
  const copy = svg.cloneNode(true), css = getComputedStyle(document.documentElement);
  $$(".ring", copy).forEach(r => r.remove());
  const [, , w, h] = svg.getAttribute("viewBox").split(" ");
  copy.setAttribute("width", w);
  copy.setAttribute("height", h);
  copy.prepend(draw("rect", {width: w, height: h, fill: "var(--ground)"}));
  return new XMLSerializer().serializeToString(copy).replace(/var\(--([a-z0-9]+)\)/g, (_, n) => css.getPropertyValue("--" + n).trim());
};
$$("[data-tools]").forEach(p => {
  p.hidden = false;
  const name = p.dataset.tools, fig = data.figures[name], figure = p.closest("figure");
  if (!fig.table && !fig.cells) $$("[data-do]:not([data-do=svg])", p).forEach(b => b.remove()); // no numbers
  p.addEventListener("click", e => {
    const b = e.target.closest("button");
    if (!b) return;
    switch (b.dataset.do) {
    case "csv": save(name + ".csv", "text/csv", csv(tableOf(fig))); break;
    case "json": save(name + ".json", "application/json", JSON.stringify(tableOf(fig))); break;
    case "svg": save(name + ".svg", "image/svg+xml", svgText($(".wide svg", figure))); break;
    case "table": {
      const box = $(".numbers", figure), open = box.hidden;
      if (open && !box.firstChild) box.append(buildTable(tableOf(fig), $("h3", figure).textContent));
      box.hidden = !open;
      b.setAttribute("aria-expanded", String(open));
    }
    }
  });
});

// Choices of a figure.
$$("[data-pick]").forEach(sel => {
  const figs = $$(`[data-of="${sel.dataset.pick}"]`);
  const pick = () => figs.forEach(f => { f.hidden = f.id !== "fig-" + sel.value; });
  sel.disabled = false;
  sel.addEventListener("change", pick);
  pick();
});

// Hover values.
$$(".plot").forEach(plot => {
  const fig = data.figures[plot.dataset.fig];
  if (!fig) return;
  let at = null;
  const view = () => {
    const narrow = getComputedStyle($(".wide", plot)).display === "none";
    return {svg: $((narrow ? ".narrow" : ".wide") + " svg", plot), side: narrow ? 1 : 0};
  };
  const place = (cur, side) => {
    if (cur.spot !== undefined) {
      const [x, y, w, h] = fig.spots[cur.spot].p.slice(4 * side, 4 * side + 4);
      return {x, y, w, h, text: fig.spots[cur.spot].t};
    }
    const c = fig.cells[cur.cell], [bx, by, bw, bh] = c.box.slice(4 * side, 4 * side + 4);
    const w = bw / c.cols.length, h = bh / c.rows.length;
    const v = c.values[cur.i * c.cols.length + cur.j];
    const text = (c.title ? c.title + "\n" : "") + `${c.row} ${c.rows[cur.i]}, ${c.col} ${c.cols[cur.j]}: ${show(v)}` + (c.unit && v !== null ? " " + c.unit : "");
    return {x: bx + cur.j * w, y: by + cur.i * h, w, h, text};
  };
  const mark = cur => {
    $$(".ring", plot).forEach(r => r.remove());
    at = cur;
    if (!cur) { hideTip(); return; }
    const {svg, side} = view(), p = place(cur, side);
    svg.append(p.w ? draw("rect", {class: "ring", x: p.x, y: p.y, width: p.w, height: p.h}) : draw("circle", {class: "ring", cx: p.x, cy: p.y, r: 6}));
    const box = svg.getBoundingClientRect(), k = box.width / svg.viewBox.baseVal.width;
    showTip(p.text, box.left + (p.x + p.w / 2) * k, box.top + (p.y + p.h / 2) * k);
  };
  const find = (x, y, side) => {
    for (let n = 0; n < (fig.cells || []).length; n++) {
      const c = fig.cells[n], [bx, by, bw, bh] = c.box.slice(4 * side, 4 * side + 4);
      if (x >= bx && x < bx + bw && y >= by && y < by + bh)
        return {cell: n, i: Math.floor((y - by) / bh * c.rows.length), j: Math.floor((x - bx) / bw * c.cols.length)};
    }
    let best = null, near = 24;
    (fig.spots || []).forEach((s, n) => {
      const [sx, sy, w, h] = s.p.slice(4 * side, 4 * side + 4);
      const dx = Math.max(sx - x, 0, x - sx - w), dy = Math.max(sy - y, 0, y - sy - h), d = Math.hypot(dx, dy);
      if (d < near || (d === 0 && near === 0)) { near = d; best = {spot: n}; }
    });
    return best;
  };
  plot.addEventListener("pointermove", e => {
    const {svg, side} = view(), box = svg.getBoundingClientRect(), k = svg.viewBox.baseVal.width / box.width;
    mark(find((e.clientX - box.left) * k, (e.clientY - box.top) * k, side));
  });
  plot.addEventListener("pointerleave", () => mark(null));
  plot.addEventListener("blur", () => mark(null));
  const start = () => fig.cells && fig.cells.length ? {cell: 0, i: 0, j: 0} : fig.spots && fig.spots.length ? {spot: 0} : null;
  const step = (cur, dx, dy) => {
    if (cur.cell !== undefined) {
      const c = fig.cells[cur.cell], i = cur.i + dy, j = cur.j + dx;
      if (i >= 0 && j >= 0 && i < c.rows.length && j < c.cols.length) return {cell: cur.cell, i, j};
    }
    // Outside a grid: the nearest value in that direction.
    const side = view().side, p = place(cur, side), px = p.x + p.w / 2, py = p.y + p.h / 2;
    let best = null, near = Infinity;
    const consider = (x, y, c) => {
      const along = (x - px) * dx + (y - py) * dy, across = Math.abs((x - px) * dy) + Math.abs((y - py) * dx);
      if (along < 0.5) return;
      const d = along + 3 * across;
      if (d < near) { near = d; best = c; }
    };
    (fig.spots || []).forEach((s, n) => { const [x, y, w, h] = s.p.slice(4 * side, 4 * side + 4); consider(x + w / 2, y + h / 2, {spot: n}); });
    (fig.cells || []).forEach((c, n) => {
      if (n === cur.cell) return;
      const [bx, by, bw, bh] = c.box.slice(4 * side, 4 * side + 4);
      consider(bx + bw / 2, by + bh / 2, {cell: n, i: dy < 0 ? c.rows.length - 1 : 0, j: dx < 0 ? c.cols.length - 1 : 0});
    });
    return best || cur;
  };
  plot.addEventListener("keydown", e => {
    const d = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[e.key];
    if (e.key === "Escape") { mark(null); return; }
    if (!d) return;
    const next = at ? step(at, ...d) : start();
    if (next) { e.preventDefault(); mark(next); }
  });
});

// Token journey.
const bytes = s => Uint8Array.from(atob(s), c => c.charCodeAt(0));
$$("[data-journey]").forEach(root => {
  const J = data.journeys[root.dataset.journey];
  if (!J || !J.documents.length) { $(".tokens", root).remove(); return; }
  const part = n => $(`[data-j="${n}"]`, root);
  const ui = Object.fromEntries(["dataset", "document", "layer", "layername", "choice", "numbers", "legend", "tokens", "path"].map(n => [n, part(n)]));
  const {layers: L, experts: E, topK: K} = J;
  const none = J.wide ? 65535 : 255;
  const name = l => J.names ? J.names[l] : l; // of a layer
  const state = {doc: null, layer: 0, choice: 0, only: -1, token: 0, pins: []};
  $(".controls", root).hidden = false;
  const decode = d => {
    if (d.experts) return;
    const b = bytes(d.e);
    d.experts = J.wide ? new Uint16Array(b.buffer) : b;
    d.weights = d.w ? bytes(d.w) : null;
  };
  const expert = (d, t, l, k) => { const e = d.experts[(t * L + l) * K + k]; return e === none ? -1 : e; };
  const weight = (d, t, l, k) => {
    if (!d.weights) return NaN;
    if (!d.rest) return d.weights[(t * L + l) * K + k] / 255;
    const at = (t * L + l) * (K - 1);
    if (k < K - 1) return d.weights[at + k] / 255;
    let sum = 0;
    for (let i = 0; i < K - 1; i++) sum += d.weights[at + i];
    return Math.max(0, 255 - sum) / 255;
  };
  const sets = [...new Set(J.documents.map(d => d.dataset))];
  sets.forEach(s => ui.dataset.append(make("option", {value: s}, s || "(unnamed)")));
  for (let k = 0; k < K; k++) ui.choice.append(make("option", {value: k}, ["first choice", "second choice", "third choice"][k] || `choice ${k + 1}`));
  ui.layer.max = Math.max(0, L - 1);
  const pieceText = s => s.replaceAll("\n", "⏎").trim() || (s.includes(" ") ? "␣" : s === "" ? "(empty)" : "⏎");

  const paint = () => {
    const d = state.doc, l = state.layer;
    ui.layername.textContent = J.names ? name(l) : `${l} of 0–${L - 1}`;
    ui.layer.setAttribute("aria-valuetext", "layer " + name(l));
    const count = new Array(E).fill(0);
    $$("span", ui.tokens).forEach((el, t) => {
      const e = expert(d, t, l, state.choice);
      if (e >= 0) count[e]++;
      el.dataset.e = e < 0 ? "" : e;
      el.style.backgroundColor = e < 0 ? "" : `var(--e${e})`;
      el.classList.toggle("off", state.only >= 0 && state.only !== e);
    });
    const total = count.reduce((a, b) => a + b, 0) || 1;
    $$("button", ui.legend).forEach((b, e) => {
      b.textContent = `${e} · ${Math.round(100 * count[e] / total)}%`;
      b.setAttribute("aria-label", `${b.textContent}: expert ${e}, ${count[e]} of ${total} tokens`);
      b.setAttribute("aria-pressed", String(state.only === e));
    });
  };
  for (let e = 0; e < E; e++) {
    const b = make("button", {type: "button", "aria-pressed": "false"});
    b.style.backgroundColor = `var(--e${e})`;
    b.addEventListener("click", () => { state.only = state.only === e ? -1 : e; paint(); });
    ui.legend.append(b);
  }
  const select = (t, scroll) => {
    const spans = $$("span", ui.tokens);
    if (!spans.length) { ui.path.replaceChildren(make("p", {class: "note"}, "This document has no tokens.")); return; }
    state.token = Math.max(0, Math.min(spans.length - 1, t));
    $$("[aria-selected=true]", ui.tokens).forEach(s => s.setAttribute("aria-selected", "false"));
    const el = spans[state.token];
    el.setAttribute("aria-selected", "true");
    ui.tokens.setAttribute("aria-activedescendant", el.id);
    if (scroll) el.scrollIntoView({block: "nearest"});
    drawPath();
  };
  const open = i => {
    state.doc = J.documents[i];
    state.pins = [];
    decode(state.doc);
    const frag = document.createDocumentFragment();
    state.doc.pieces.forEach((p, t) => {
      const s = make("span", {role: "option", id: `${root.dataset.journey}-t${t}`, "aria-selected": "false"}, p);
      if (!p.trim()) s.setAttribute("aria-label", pieceText(p));
      s.dataset.t = t;
      frag.append(s);
    });
    ui.tokens.replaceChildren(frag);
    paint();
    select(0);
  };
  const fillDocuments = () => {
    ui.document.replaceChildren();
    J.documents.forEach((d, i) => { if (d.dataset === ui.dataset.value) ui.document.append(make("option", {value: i}, `${d.id} (${d.pieces.length} tokens)`)); });
    open(+ui.document.value);
  };

  const drawPath = () => {
    const d = state.doc, narrow = innerWidth <= 700, W = narrow ? 358 : 760;
    const rowH = Math.max(1.2, Math.min(26, 520 / E)), x0 = 46, y0 = 8, H = rowH * E, colW = (W - x0 - 8) / L;
    const svg = draw("svg", {viewBox: `0 0 ${W} ${y0 + H + 44}`, role: "img", "aria-label": `Experts of token ${state.token} through ${L} layers`});
    const X = l => x0 + colW * (l + .5), Y = e => y0 + rowH * (e + .5);
    const every = (n, px) => Math.max(1, Math.ceil(px / n));
    svg.append(draw("rect", {x: X(state.layer) - colW / 2, y: y0, width: colW, height: H, fill: "var(--grid)"}));
    for (let e = 0; e < E; e++) {
      if (rowH >= 8) svg.append(draw("line", {x1: x0, x2: W - 8, y1: Y(e), y2: Y(e), stroke: "var(--grid)"}));
      if (e % every(rowH, 13) === 0) svg.append(draw("text", {x: x0 - 8, y: Y(e) + 4, "text-anchor": "end", "font-size": 11, fill: "var(--soft)"}, e));
    }
    for (let l = 0; l < L; l++) if (l % every(colW, J.names ? 64 : 20) === 0)
      svg.append(draw("text", {x: X(l), y: y0 + H + 16, "text-anchor": "middle", "font-size": 11, fill: "var(--soft)"}, name(l)));
    svg.append(draw("text", {x: (W + x0) / 2, y: y0 + H + 37, "text-anchor": "middle", "font-size": 12, fill: "var(--ink)"}, "layer"));
    svg.append(draw("text", {x: 12, y: y0 + H / 2, "text-anchor": "middle", "font-size": 12, fill: "var(--ink)", transform: `rotate(-90 12 ${y0 + H / 2})`}, "expert"));
    const tokens = [...state.pins.filter(t => t !== state.token), state.token];
    const colour = t => t === state.token ? "var(--ink)" : `var(--s${state.pins.indexOf(t) % 8})`;
    const R = Math.max(2, Math.min(9, rowH * .42, colW * .42));
    for (const t of tokens) {
      const pts = [];
      for (let l = 0; l < L; l++) { const e = expert(d, t, l, 0); if (e >= 0) pts.push(`${X(l).toFixed(1)},${Y(e).toFixed(1)}`); }
      svg.append(draw("polyline", {points: pts.join(" "), fill: "none", stroke: colour(t), "stroke-width": 1.6}));
      for (let l = 0; l < L; l++) for (let k = K - 1; k >= 0; k--) {
        const e = expert(d, t, l, k);
        if (e < 0) continue;
        const w = weight(d, t, l, k), r = Math.max(1.5, R * Math.sqrt(Number.isNaN(w) ? 1 / K : w));
        svg.append(draw("circle", k === 0 ? {cx: X(l), cy: Y(e), r, fill: colour(t)} : {cx: X(l), cy: Y(e), r, fill: "var(--ground)", stroke: colour(t), "stroke-width": 1.6}));
      }
    }
    const cellAt = e => {
      const box = svg.getBoundingClientRect(), k = W / box.width;
      return {l: Math.floor(((e.clientX - box.left) * k - x0) / colW)};
    };
    const describe = (t, l) => `token ${t} “${pieceText(d.pieces[t])}”, layer ${name(l)}` + Array.from({length: K}, (_, k) => {
      const e = expert(d, t, l, k), w = weight(d, t, l, k);
      return e < 0 ? "" : `\n${k + 1}. expert ${e}` + (Number.isNaN(w) ? "" : `, weight ${w.toFixed(2)}`);
    }).join("");
    svg.addEventListener("pointermove", e => { const {l} = cellAt(e); if (l >= 0 && l < L) showTip(tokens.slice().reverse().map(t => describe(t, l)).join("\n"), e.clientX, e.clientY); else hideTip(); });
    svg.addEventListener("pointerleave", hideTip);
    svg.addEventListener("click", e => { const {l} = cellAt(e); if (l >= 0 && l < L) setLayer(l); });
    const head = make("h4", {}, `Token ${state.token}: “${pieceText(d.pieces[state.token])}”`);
    const pins = make("div", {class: "pins"});
    const keep = make("button", {type: "button"}, "Keep this path");
    keep.style.setProperty("--c", "var(--ink)");
    keep.disabled = state.pins.includes(state.token) || state.pins.length >= 5;
    keep.addEventListener("click", () => { state.pins.push(state.token); drawPath(); $("button", ui.path).focus(); });
    pins.append(keep);
    state.pins.forEach(t => {
      const b = make("button", {type: "button"}, `${t} “${pieceText(d.pieces[t])}” ×`);
      b.style.setProperty("--c", `var(--s${state.pins.indexOf(t) % 8})`);
      b.setAttribute("aria-label", `Remove the path of token ${t}`);
      b.addEventListener("click", () => { state.pins = state.pins.filter(x => x !== t); drawPath(); $("button", ui.path).focus(); });
      pins.append(b);
    });
    const t = {columns: ["layer"], rows: []};
    for (let k = 0; k < K; k++) t.columns.push(K === 1 ? "expert" : `expert ${k + 1}`, "weight" + (K === 1 ? "" : ` ${k + 1}`));
    for (let l = 0; l < L; l++) {
      const row = [name(l)];
      for (let k = 0; k < K; k++) { const e = expert(d, state.token, l, k), w = weight(d, state.token, l, k); row.push(e < 0 ? null : e, Number.isNaN(w) ? null : +w.toFixed(2)); }
      t.rows.push(row);
    }
    const more = make("details"), openBefore = $("details", ui.path)?.open;
    more.append(make("summary", {}, "Experts and weights by layer"), buildTable(t, "token " + state.token));
    more.open = Boolean(openBefore);
    ui.path.replaceChildren(head, pins, svg, more);
  };
  const setLayer = l => { state.layer = Math.max(0, Math.min(L - 1, l)); ui.layer.value = state.layer; paint(); drawPath(); };

  ui.dataset.addEventListener("change", fillDocuments);
  ui.document.addEventListener("change", () => open(+ui.document.value));
  ui.layer.addEventListener("input", () => setLayer(+ui.layer.value));
  ui.choice.addEventListener("change", () => { state.choice = +ui.choice.value; paint(); });
  ui.numbers.addEventListener("change", () => ui.tokens.classList.toggle("numbers-on", ui.numbers.checked));
  ui.tokens.addEventListener("click", e => { const s = e.target.closest("span"); if (s) select(+s.dataset.t); });
  ui.tokens.addEventListener("pointermove", e => {
    const s = e.target.closest("span");
    if (!s) { hideTip(); return; }
    const t = +s.dataset.t, d = state.doc, l = state.layer;
    showTip(`token ${t}, layer ${name(l)}` + Array.from({length: K}, (_, k) => {
      const x = expert(d, t, l, k), w = weight(d, t, l, k);
      return x < 0 ? "" : `\n${k + 1}. expert ${x}` + (Number.isNaN(w) ? "" : `, weight ${w.toFixed(2)}`);
    }).join(""), e.clientX, e.clientY);
  });
  ui.tokens.addEventListener("pointerleave", hideTip);
  ui.tokens.addEventListener("keydown", e => {
    const n = state.doc.pieces.length;
    const to = {ArrowLeft: state.token - 1, ArrowUp: state.token - 1, ArrowRight: state.token + 1, ArrowDown: state.token + 1, Home: 0, End: n - 1, PageUp: state.token - 20, PageDown: state.token + 20}[e.key];
    if (to === undefined) return;
    e.preventDefault();
    select(to, true);
  });
  let wasNarrow = innerWidth <= 700;
  addEventListener("resize", () => { if ((innerWidth <= 700) !== wasNarrow) { wasNarrow = !wasNarrow; drawPath(); } });
  fillDocuments();
});
document.documentElement.dataset.ready = "true";
})();
