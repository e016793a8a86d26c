"use strict";
// Everything shown enters the page as a text node or an attribute: nothing is parsed as HTML.

// ---- Histograms: the layout of `hyperscale_stats::Histogram`, bucket for bucket. ----
const PAGE = 1024;
/** The largest value in µs that falls into the bucket. */
function highestOf(bucket) {
  if (bucket < 2 * PAGE) return bucket;
  const shift = Math.floor(bucket / PAGE) - 1;
  return (bucket - shift * PAGE + 1) * 2 ** shift - 1;
}
class Histogram {
  constructor() { this.buckets = new Map(); this.count = 0; this.sum = 0; this.min = 0; this.max = 0; this.sorted = null; }
  /** Adds [sum, min, max, bucket, count, distance to the next bucket, count, …], times in ns. */
  merge(sparse) {
    if (!sparse || sparse.length < 5) return this;
    let bucket = 0, added = 0;
    for (let i = 3; i < sparse.length; i += 2) {
      bucket += sparse[i];
      this.buckets.set(bucket, (this.buckets.get(bucket) || 0) + sparse[i + 1]);
      added += sparse[i + 1];
    }
    this.min = this.count === 0 ? sparse[1] : Math.min(this.min, sparse[1]);
    this.max = Math.max(this.max, sparse[2]);
    this.sum += sparse[0];
    this.count += added;
    this.sorted = null;
    return this;
  }
  add(other) {
    if (!other.count) return this;
    for (const [bucket, count] of other.buckets) this.buckets.set(bucket, (this.buckets.get(bucket) || 0) + count);
    this.min = this.count === 0 ? other.min : Math.min(this.min, other.min);
    this.max = Math.max(this.max, other.max);
    this.sum += other.sum;
    this.count += other.count;
    this.sorted = null;
    return this;
  }
  entries() { return this.sorted ||= [...this.buckets].sort((a, b) => a[0] - b[0]); }
  /** In ns: the smallest value that at least `percent` per cent of all do not exceed. */
  percentile(percent) {
    const share = Math.min(1, Math.max(0, percent / 100));
    const rank = Math.min(Math.max(Math.ceil(this.count * share), 1), Math.max(this.count, 1));
    let seen = 0;
    for (const [bucket, count] of this.entries()) {
      seen += count;
      if (seen >= rank) return Math.min(Math.max(highestOf(bucket) * 1000, this.min), this.max);
    }
    return 0;
  }
  mean() { return this.count ? Math.floor(this.sum / this.count) : 0; }
}
// ---- End of histograms. ----

if (typeof document !== "undefined") (() => {
const data = JSON.parse(document.getElementById("data").textContent);
const { summary, windows, steps, checks, outcomes } = data;
const OK = outcomes.indexOf("ok"), CANCELLED = outcomes.indexOf("cancelled");
const isFailure = o => o !== OK && o !== CANCELLED;
const duration = Math.max(summary.duration_ms, ...windows.slice(-1).map(w => w.at + Math.min(w.len, 1)), 1);
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attrs, children) {
  for (const [name, value] of Object.entries(attrs || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value); else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(3)) if (child !== null && child !== undefined && child !== false) node.append(child);
  return node;
}
const h = (tag, attrs, ...children) => fill(document.createElement(tag), attrs, children);
const s = (tag, attrs, ...children) => fill(document.createElementNS(SVG, tag), attrs, children);
const $ = id => document.getElementById(id);

// ---- Figures as people read them. ----
const grouped = n => Math.round(n).toString().replace(/\B(?=(\d{3})+$)/g, ",");
const digits = v => v < 9.995 ? v.toFixed(2) : v < 99.95 ? v.toFixed(1) : v.toFixed(0);
function time(ns) {
  const us = ns / 1e3;
  if (us <= 0) return "0 µs";
  return us < 999.5 ? (us < 99.95 ? digits(us) : us.toFixed(0)) + " µs" : us < 999.5e3 ? digits(us / 1e3) + " ms" : digits(us / 1e6) + " s";
}
const rate = r => (r < 99.95 ? r.toFixed(1) : grouped(r)) + "/s";
const share = (part, all) => !all || !part ? "0.0 %" : part / all < 0.001 ? "<0.1 %" : part < all && part / all >= 0.9995 ? ">99.9 %" : (part / all * 100).toFixed(1) + " %";
function bytes(n) {
  let unit = 0;
  while (n >= 1023.5 && unit < 5) { n /= 1024; unit++; }
  return (unit ? digits(n) : n.toFixed(0)) + " " + ["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit];
}
function jobTime(ms, fine) {
  const t = Math.floor(ms / 1000), two = n => String(n).padStart(2, "0");
  const text = t >= 3600 ? Math.floor(t / 3600) + ":" + two(Math.floor(t / 60) % 60) + ":" + two(t % 60) : two(Math.floor(t / 60)) + ":" + two(t % 60);
  return "+" + text + (fine && ms % 1000 ? "." + String(Math.floor(ms % 1000)).padStart(3, "0").replace(/0+$/, "") : "");
}
const wall = ms => data.started === null ? "" : new Date(data.started + ms).toLocaleTimeString();
const few = count => count > 0 && count < 100 ? "*" : "";

// ---- The state of the page. ----
let range = null, only = -1, isLog = false, sortBy = { key: "order", down: false }, cursor = null;
const visible = () => range || [0, duration];

/** All that was counted in [from, to). */
function merged(from, to) {
  const sum = { from, to, requests: 0, outcomes: outcomes.map(() => 0), iterations: 0, cut: 0, dropped: 0, planned: null, bytesIn: 0, bytesOut: 0,
    retries: 0, latency: new Histogram(), lag: new Histogram(), steps: new Map(), checks: new Map(), statuses: new Map(), vus: 0, busy: 0 };
  for (const w of windows) if (w.at >= from && w.at < to) addWindow(sum, w, true);
  for (const own of sum.steps.values()) sum.latency.add(own.latency);
  return sum;
}
function addWindow(sum, w, withSteps) {
  sum.iterations += w.iterations; sum.cut += w.cut; sum.dropped += w.dropped;
  if (w.planned !== null) sum.planned = (sum.planned || 0) + w.planned;
  sum.vus = Math.max(sum.vus, w.vus); sum.busy = Math.max(sum.busy, w.busy);
  sum.lag.merge(w.lag);
  for (const step of w.steps) {
    if (only >= 0 && !withSteps && step.step !== only) continue;
    const requests = step.outcomes.reduce((a, b) => a + b, 0);
    if (withSteps) {
      let own = sum.steps.get(step.step);
      if (!own) sum.steps.set(step.step, own = { requests: 0, failed: 0, outcomes: outcomes.map(() => 0), bytesIn: 0, bytesOut: 0, retries: 0, latency: new Histogram(), spark: [] });
      own.requests += requests; own.bytesIn += step.in; own.bytesOut += step.out; own.retries += step.retries;
      own.latency.merge(step.latency);
      step.outcomes.forEach((n, o) => { own.outcomes[o] += n; if (isFailure(o)) own.failed += n; });
    }
    sum.requests += requests; sum.bytesIn += step.in; sum.bytesOut += step.out; sum.retries += step.retries;
    step.outcomes.forEach((n, o) => { sum.outcomes[o] += n; });
    for (const [status, n] of step.statuses) sum.statuses.set(status, (sum.statuses.get(status) || 0) + n);
    if (!withSteps) sum.latency.merge(step.latency);
  }
  for (const [check, passed, failed] of w.checks) {
    const own = sum.checks.get(check) || [0, 0];
    sum.checks.set(check, [own[0] + passed, own[1] + failed]);
  }
}
const failedOf = sum => sum.outcomes.reduce((all, n, o) => all + (isFailure(o) ? n : 0), 0);

/** The windows of a range, joined so that no chart has more than some hundred points. */
function columnsOf([from, to]) {
  const inside = windows.filter(w => w.at + w.len > from && w.at < to);
  const width = Math.max((to - from) / 180, 1);
  const columns = [];
  for (const w of inside) {
    let last = columns[columns.length - 1];
    // A last window that has hardly begun would look like a fall of the rate.
    const isStub = w.at + w.len > duration && duration - w.at < w.len / 2;
    if (!last || (w.at + w.len - last.at > width * 1.001 && last.end - last.at >= Math.min(width, w.len) * 0.999 && !isStub)) {
      columns.push(last = { at: w.at, end: w.at, planned: null, plannedVus: null, requests: 0, outcomes: outcomes.map(() => 0), iterations: 0, cut: 0, dropped: 0, bytesIn: 0, bytesOut: 0,
        retries: 0, latency: new Histogram(), lag: new Histogram(), steps: new Map(), checks: new Map(), statuses: new Map(), vus: 0, busy: 0 });
    }
    addWindow(last, w, false);
    if (w.planned_vus !== null) last.plannedVus = Math.max(last.plannedVus || 0, w.planned_vus);
    last.end = Math.min(w.at + w.len, Math.max(duration, w.at + 1));
  }
  for (const c of columns) c.seconds = Math.max(c.end - c.at, 1) / 1000;
  return columns;
}

// ---- Charts. ----
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 2", "1 2"];
const charts = [];
function niceTicks(top, count) {
  if (!(top > 0)) return [0, 1];
  const raw = top / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find(m => m * power >= raw * 0.999) * power;
  const ticks = [];
  for (let v = 0; ; v += step) { ticks.push(v); if (v >= top * 0.999) return ticks; }
}
function timeTicks(from, to, count) {
  const steps = [100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5, 144e5, 288e5];
  const step = steps.find(v => (to - from) / v <= count) || 864e5, ticks = [];
  for (let v = Math.ceil(from / step) * step; v <= to; v += step) ticks.push(v);
  return ticks;
}
function makeChart(box, spec) {
  const legend = h("div", { class: "legend" }), svg = s("svg", { tabindex: 0, role: "img", "aria-label": spec.title + " over time. Arrow keys read values, Shift with arrows picks a range, Enter applies it, Escape shows the whole test." });
  const panel = h("div", { class: "chart" }, h("h3", {}, spec.title), legend, svg);
  box.append(panel);
  const chart = { spec, panel, legend, svg, plot: null, cross: null, pick: null };
  charts.push(chart);
  const at = event => {
    const rect = svg.getBoundingClientRect(), p = chart.plot;
    return p ? Math.min(Math.max(p.from + (event.clientX - rect.left - p.left) / p.width * (p.to - p.from), p.from), p.to) : 0;
  };
  let start = null;
  svg.addEventListener("pointerdown", event => { if (event.button === 0) { start = at(event); if (event.pointerType !== "touch") svg.setPointerCapture(event.pointerId); } });
  svg.addEventListener("pointermove", event => { setCursor(at(event)); if (start !== null) showPick(start, at(event)); });
  svg.addEventListener("pointerup", event => {
    const end = at(event), p = chart.plot;
    if (start !== null && p && Math.abs(end - start) / (p.to - p.from) * p.width > 6) setRange(Math.min(start, end), Math.max(start, end));
    else showPick(null);
    start = null;
  });
  svg.addEventListener("pointercancel", () => { start = null; showPick(null); });
  svg.addEventListener("pointerleave", () => { if (start === null) setCursor(null); });
  svg.addEventListener("dblclick", () => setRange(null));
  let anchor = null;
  svg.addEventListener("keydown", event => {
    const [from, to] = visible(), columns = view.columns;
    if (!columns.length) return;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const now = cursor === null ? -1 : nearest(columns, cursor);
      const next = Math.min(Math.max(now + (event.key === "ArrowLeft" ? -1 : 1), 0), columns.length - 1);
      if (event.shiftKey) { if (anchor === null) anchor = columns[Math.max(now, 0)].at; } else anchor = null;
      setCursor((columns[next].at + columns[next].end) / 2);
      showPick(anchor, event.shiftKey ? columns[next].end : null);
      event.preventDefault();
    } else if (event.key === "Enter" && anchor !== null && cursor !== null) {
      const c = columns[nearest(columns, cursor)];
      setRange(Math.min(anchor, c.at), Math.max(anchor, c.end)); anchor = null;
    } else if (event.key === "Escape") { anchor = null; setRange(null); }
  });
}
const nearest = (columns, t) => { let best = 0; columns.forEach((c, i) => { if (t >= c.at) best = i; }); return best; };
function swatch(color, dash, isArea) {
  return s("svg", { width: 18, height: 8, "aria-hidden": "true" }, isArea ? s("rect", { width: 18, height: 8, fill: color, "fill-opacity": .75 })
    : s("line", { x1: 0, x2: 18, y1: 4, y2: 4, stroke: color, "stroke-width": 2, "stroke-dasharray": dash }));
}
function drawChart(chart, columns) {
  const { spec, svg } = chart, W = Math.max(svg.clientWidth || chart.panel.clientWidth - 20, 240), H = 176;
  const series = spec.series(columns);
  const left = 70, right = 10, top = 8, bottom = 20, width = W - left - right, height = H - top - bottom;
  const [from, to] = visible();
  let stackTop = columns.map(() => 0), max = 0, min = Infinity;
  for (const line of series) {
    line.shown = line.values.map((v, i) => spec.stack && line.stacked !== false ? (line.base ||= [], line.base[i] = stackTop[i], stackTop[i] += v || 0) : v);
    for (const v of line.shown) if (v !== null && isFinite(v)) { max = Math.max(max, v); if (v > 0) min = Math.min(min, v); }
  }
  const log = spec.log && isLog && isFinite(min);
  let ticks, y;
  if (log) {
    const low = Math.floor(Math.log10(min)), high = Math.max(Math.ceil(Math.log10(max * 1.0001)), low + 1);
    ticks = []; for (let e = low; e <= high; e++) ticks.push(10 ** e);
    y = v => top + height * (1 - (Math.log10(Math.max(v, 10 ** low)) - low) / (high - low));
  } else {
    ticks = spec.top ? [0, spec.top / 4, spec.top / 2, spec.top * .75, spec.top] : niceTicks(max, 4);
    const ceiling = Math.max(ticks[ticks.length - 1], 1e-9);
    y = v => top + height * (1 - Math.min(v, ceiling) / ceiling);
  }
  const x = t => left + (t - from) / (to - from) * width;
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`); svg.setAttribute("height", H);
  svg.replaceChildren();
  for (const v of ticks) svg.append(s("line", { class: "grid", x1: left, x2: W - right, y1: y(v), y2: y(v) }), s("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, spec.format(v)));
  for (const t of timeTicks(from, to, Math.max(Math.floor(width / 74), 2)))
    svg.append(s("line", { class: "grid", x1: x(t), x2: x(t), y1: top, y2: top + height }), s("text", { x: Math.min(Math.max(x(t), left + 14), W - right - 18), y: H - 5, "text-anchor": "middle" }, jobTime(t, true)));
  for (const gap of data.gaps) if (gap.to > from && gap.from < to)
    svg.append(s("rect", { class: "gap", x: x(Math.max(gap.from, from)), y: top, width: Math.max(x(Math.min(gap.to, to)) - x(Math.max(gap.from, from)), 2), height }, s("title", {}, gap.text)));
  for (const mark of data.marks) if (mark.at >= from && mark.at <= to)
    svg.append(s("line", { class: "mark " + (mark.bad ? "bad" : ""), x1: x(mark.at), x2: x(mark.at), y1: top, y2: top + height }, s("title", {}, jobTime(mark.at, true) + " " + mark.text)));
  const clip = "clip" + charts.indexOf(chart);
  svg.append(s("clipPath", { id: clip }, s("rect", { x: left, y: top, width, height })));
  const group = s("g", { "clip-path": `url(#${clip})` });
  const mid = c => x((c.at + c.end) / 2);
  for (const line of [...series].reverse()) {
    if (spec.stack && line.stacked !== false) {
      let upper = "", lower = "";
      columns.forEach((c, i) => {
        const [a, b] = [x(c.at), x(c.end)];
        upper += `L${a.toFixed(1)} ${y(line.base[i] + (line.values[i] || 0)).toFixed(1)}L${b.toFixed(1)} ${y(line.base[i] + (line.values[i] || 0)).toFixed(1)}`;
        lower = `L${b.toFixed(1)} ${y(line.base[i]).toFixed(1)}L${a.toFixed(1)} ${y(line.base[i]).toFixed(1)}` + lower;
      });
      if (upper) group.append(s("path", { d: "M" + upper.slice(1) + lower + "Z", fill: line.color, "fill-opacity": .75 }));
    } else {
      let d = "", open = false;
      columns.forEach((c, i) => {
        const v = line.shown[i];
        if (v === null || !isFinite(v)) { open = false; return; }
        d += (open ? "L" : "M") + mid(c).toFixed(1) + " " + y(v).toFixed(1); open = true;
      });
      group.append(s("path", { d, fill: "none", stroke: line.color, "stroke-width": line.thin ? 1.2 : 1.8, "stroke-dasharray": line.dash, "stroke-linejoin": "round" }));
      // A point without neighbours makes no line.
      const isThere = i => i >= 0 && i < columns.length && line.shown[i] !== null && isFinite(line.shown[i]);
      columns.forEach((c, i) => { if (isThere(i) && !isThere(i - 1) && !isThere(i + 1)) group.append(s("circle", { cx: mid(c).toFixed(1), cy: y(line.shown[i]).toFixed(1), r: columns.length > 1 ? 1.6 : 3, fill: line.color })); });
    }
  }
  svg.append(group, s("line", { class: "axis", x1: left, x2: W - right, y1: top + height, y2: top + height }));
  chart.pick = s("rect", { class: "pick", y: top, height, width: 0 });
  chart.cross = s("line", { class: "cross", y1: top, y2: top + height, visibility: "hidden" });
  svg.append(chart.pick, chart.cross);
  chart.plot = { left, width, from, to, x }; chart.lines = series; chart.columns = columns;
  drawLegend(chart);
}
function drawLegend(chart) {
  const at = cursor === null || !chart.columns.length ? -1 : nearest(chart.columns, cursor);
  const items = chart.lines.map(line => h("span", {}, swatch(line.color, line.dash, chart.spec.stack && line.stacked !== false), line.name,
    at >= 0 ? [" ", h("b", {}, line.values[at] === null ? "none" : chart.spec.format(line.values[at], true))] : ""));
  const c = chart.columns[at];
  chart.legend.replaceChildren(...(c ? [h("span", {}, h("b", {}, jobTime(c.at, true)), wall(c.at) && " (" + wall(c.at) + ")")] : []), ...items);
}
function setCursor(t) {
  cursor = t;
  for (const chart of charts) if (chart.plot) {
    if (t === null) chart.cross.setAttribute("visibility", "hidden");
    else { const x = chart.plot.x(t); chart.cross.setAttribute("x1", x); chart.cross.setAttribute("x2", x); chart.cross.setAttribute("visibility", "visible"); }
    drawLegend(chart);
  }
}
function showPick(a, b) {
  for (const chart of charts) if (chart.plot) {
    const isNone = a === null || a === undefined || b === null || b === undefined;
    const [l, r] = isNone ? [0, 0] : [chart.plot.x(Math.min(a, b)), chart.plot.x(Math.max(a, b))];
    chart.pick.setAttribute("x", l); chart.pick.setAttribute("width", r - l);
  }
}
/** Percentiles over the whole distribution: the tail gets as much room as the body. */
function drawDistribution(sum) {
  const svg = $("distribution"), W = Math.max(svg.clientWidth, 240), H = 220, left = 70, right = 14, top = 8, bottom = 22;
  const width = W - left - right, height = H - top - bottom, hist = sum.latency;
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`); svg.setAttribute("height", H); svg.replaceChildren();
  if (!hist.count) { svg.append(s("text", { x: left, y: 40 }, "no latencies in this range")); return; }
  const decades = Math.max(Math.ceil(Math.log10(Math.max(hist.count, 10))), 1);
  const x = share => left + Math.min(-Math.log10(Math.max(1 - share, 10 ** -decades)) / decades, 1) * width;
  const log = isLog, max = hist.max, min = Math.max(hist.percentile(0), 1);
  const low = Math.floor(Math.log10(min)), high = Math.max(Math.ceil(Math.log10(max * 1.0001)), low + 1);
  const ticks = log ? Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i)) : niceTicks(max, 4);
  const ceiling = ticks[ticks.length - 1];
  const y = v => top + height * (1 - (log ? (Math.log10(Math.max(v, 10 ** low)) - low) / (high - low) : v / ceiling));
  for (const v of ticks) svg.append(s("line", { class: "grid", x1: left, x2: W - right, y1: y(v), y2: y(v) }), s("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, time(v)));
  for (const p of [0, 50, 90, 99, 99.9, 99.99, 99.999, 99.9999].filter(p => p === 0 || (-Math.log10(1 - p / 100) < decades + .01 && x(p / 100) - left > 34)))
    svg.append(s("line", { class: "grid", x1: x(p / 100), x2: x(p / 100), y1: top, y2: top + height }), s("text", { x: x(p / 100), y: H - 6, "text-anchor": p === 0 ? "start" : x(p / 100) > W - 30 ? "end" : "middle" }, p === 0 ? "min" : "p" + p));
  let seen = 0, d = "";
  for (const [bucket, count] of hist.entries()) {
    const v = Math.min(Math.max(highestOf(bucket) * 1000, hist.min), hist.max);
    const before = seen / hist.count; seen += count;
    d += (d ? "L" : "M") + x(before).toFixed(1) + " " + y(v).toFixed(1) + "L" + x(seen / hist.count).toFixed(1) + " " + y(v).toFixed(1);
  }
  svg.append(s("path", { d, fill: "none", stroke: "var(--c0)", "stroke-width": 1.8 }));
}
/** How often which latency occurred when; darker is more. */
function drawHeat(columns) {
  const canvas = $("heat"), W = Math.max(canvas.clientWidth, 240), H = 220, ratio = window.devicePixelRatio || 1, css = getComputedStyle(document.documentElement);
  canvas.width = W * ratio; canvas.height = H * ratio; canvas.style.height = H + "px";
  const g = canvas.getContext("2d"); g.scale(ratio, ratio); g.clearRect(0, 0, W, H);
  const left = 70, right = 10, top = 8, bottom = 22, width = W - left - right, height = H - top - bottom, [from, to] = visible();
  g.font = "11px system-ui, sans-serif"; g.fillStyle = css.getPropertyValue("--soft");
  const mins = columns.filter(c => c.latency.count).map(c => Math.max(c.latency.percentile(0), 1000)), maxs = columns.filter(c => c.latency.count).map(c => c.latency.max);
  if (!mins.length) { g.fillText("no latencies in this range", left, 40); return; }
  const low = Math.log10(Math.min(...mins)), high = Math.max(Math.log10(Math.max(...maxs)), low + .3), bands = 36;
  const cells = columns.map(c => {
    const row = new Array(bands).fill(0);
    for (const [bucket, count] of c.latency.entries()) row[Math.min(Math.max(Math.floor((Math.log10(Math.max(highestOf(bucket) * 1000, 1000)) - low) / (high - low) * bands), 0), bands - 1)] += count;
    return row;
  });
  const top1 = Math.max(...cells.flat());
  g.fillStyle = css.getPropertyValue("--c0");
  cells.forEach((row, i) => row.forEach((n, band) => {
    if (!n) return;
    g.globalAlpha = .14 + .86 * Math.log(1 + n) / Math.log(1 + top1);
    const x0 = left + (Math.max(columns[i].at, from) - from) / (to - from) * width, x1 = left + (Math.min(columns[i].end, to) - from) / (to - from) * width;
    g.fillRect(Math.floor(x0), top + height * (1 - (band + 1) / bands), Math.max(Math.floor(x1) - Math.floor(x0), 1), height / bands + .3);
  }));
  g.globalAlpha = 1; g.fillStyle = css.getPropertyValue("--soft"); g.textAlign = "right";
  for (let i = 0; i <= 4; i++) g.fillText(time(10 ** (low + (high - low) * i / 4)), left - 6, top + height * (1 - i / 4) + 4);
  g.textAlign = "center";
  for (const t of timeTicks(from, to, Math.max(Math.floor(width / 74), 2))) g.fillText(jobTime(t, true), Math.min(Math.max(left + (t - from) / (to - from) * width, left + 14), W - right - 18), H - 6);
}

// ---- Tables. ----
function table(heads, rows, caption) {
  return h("div", { class: "scroll" }, h("table", { "aria-label": caption }, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, rows)));
}
const td = (text, attrs) => h("td", attrs || {}, text), n = text => h("td", { class: "n" }, text), th = (text, isNumber) => h("th", { scope: "col", class: isNumber && "n" }, text);
function spark(values, label) {
  const top = Math.max(...values, 1e-9), W = 90, H = 18;
  const d = values.map((v, i) => (i ? "L" : "M") + (values.length > 1 ? i / (values.length - 1) * W : W / 2).toFixed(1) + " " + (H - 1 - v / top * (H - 2)).toFixed(1)).join("");
  return s("svg", { class: "spark", width: W, height: H, viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label }, s("path", { d, fill: "none", stroke: "var(--c0)", "stroke-width": 1.3 }));
}
const COLUMNS = [
  ["step", "step", r => r.name], ["requests", "requests", r => r.own.requests], ["rate", "rate", r => r.own.requests], ["failed", "failed", r => r.own.requests ? r.own.failed / r.own.requests : 0],
  ["mean", "mean", r => r.own.latency.mean()], ["p50", "p50", r => r.p[0]], ["p90", "p90", r => r.p[1]], ["p95", "p95", r => r.p[2]], ["p99", "p99", r => r.p[3]], ["p99.9", "p99.9", r => r.p[4]], ["max", "max", r => r.own.latency.max],
  ["received", "received", r => r.own.bytesIn], ["sent", "sent", r => r.own.bytesOut],
];
function drawSteps(sum) {
  const seconds = Math.max(sum.to - sum.from, 1) / 1000;
  const rows = [...sum.steps].map(([index, own]) => ({ index, own, name: steps[index] ?? String(index), p: [50, 90, 95, 99, 99.9].map(p => own.latency.percentile(p)) })).sort((a, b) => a.index - b.index);
  const by = COLUMNS.find(column => column[0] === sortBy.key);
  if (by) rows.sort((a, b) => { const [x, y] = [by[2](a), by[2](b)]; return (x < y ? -1 : x > y ? 1 : 0) * (sortBy.down ? -1 : 1); });
  const heads = COLUMNS.map(([key, name]) => h("th", { scope: "col", class: key !== "step" && "n", "aria-sort": sortBy.key === key ? (sortBy.down ? "descending" : "ascending") : null },
    h("button", { "data-key": key, onclick: () => {
      sortBy = { key, down: sortBy.key === key ? !sortBy.down : key !== "step" };
      drawSteps(sum);
      document.querySelector(`#steps button[data-key="${key}"]`).focus(); // The table is a new one.
    } }, name + (sortBy.key === key ? (sortBy.down ? " ↓" : " ↑") : ""))));
  // Per second of each column: the same windows as in the charts, so that no window counts double.
  const binned = index => {
    const bins = view.columns.map(() => 0);
    let column = 0;
    for (const w of windows) if (w.at >= sum.from && w.at < sum.to) {
      while (column + 1 < bins.length && view.columns[column + 1].at <= w.at) column++;
      for (const step of w.steps) if (step.step === index && column < bins.length) bins[column] += step.outcomes.reduce((a, b) => a + b, 0) / view.columns[column].seconds;
    }
    return bins;
  };
  $("steps").replaceChildren(rows.length ? table([...heads, th("requests over time"), th("what failed")], rows.map(r => h("tr", {}, h("th", { scope: "row" }, r.name), n(grouped(r.own.requests)), n(rate(r.own.requests / seconds)),
    h("td", { class: "n" + (r.own.failed ? " bad" : "") }, (r.own.failed ? "✗ " : "") + share(r.own.failed, r.own.requests)), n(time(r.own.latency.mean())), r.p.map(p => n(r.own.latency.count ? time(p) + few(r.own.latency.count) : "none")), n(time(r.own.latency.max)),
    n(bytes(r.own.bytesIn)), n(bytes(r.own.bytesOut)), td(spark(binned(r.index), "requests of this step over time")), td(r.own.outcomes.map((count, o) => count && o !== OK ? outcomes[o] + " " + grouped(count) : "").filter(Boolean).join(", ") || "nothing"))), "Steps") : h("p", { class: "empty" }, "No requests in this range."));
  if (rows.some(r => few(r.own.latency.count))) $("steps").append(h("p", { class: "empty" }, "* fewer than 100 requests: such a percentile says little."));
}
function drawOutcomes(sum) {
  const [from, to] = [sum.from, sum.to], statuses = [...sum.statuses].sort((a, b) => a[0] - b[0]).map(([status, count]) => status + " × " + grouped(count)).join(" · ");
  const rows = outcomes.map((name, o) => ({ name, o, count: sum.outcomes[o] })).filter(r => r.count > 0);
  $("outcomes").replaceChildren(table([th("outcome"), th("requests", true), th("share", true), th("steps")], rows.map(r => h("tr", {}, h("th", { scope: "row", class: isFailure(r.o) ? "bad" : r.o === OK ? "good" : "" }, (r.o === OK ? "✓ " : isFailure(r.o) ? "✗ " : "– ") + r.name), n(grouped(r.count)), n(share(r.count, sum.requests)),
    td([...sum.steps].filter(([, own]) => own.outcomes[r.o]).map(([index, own]) => steps[index] + " " + grouped(own.outcomes[r.o])).join(", "), { class: "wrap" }))), "Outcomes"),
    h("p", { class: "soft" }, statuses ? "Answers by status: " + statuses : "No answers."));
  const shown = data.exchanges.filter(e => e.at >= from && e.at < to);
  if (shown.length) $("outcomes").append(h("h3", {}, "Examples"), ...shown.map(e => h("details", {}, h("summary", {}, "✗ " + e.outcome + " in " + (steps[e.step] ?? e.step) + " at " + jobTime(e.at, true) + " after " + time(e.latency) + (e.error ? ": " + e.error : "")), h("pre", { tabindex: 0 }, e.request), h("pre", { tabindex: 0 }, e.answer || "(no answer)"))));
  else if (failedOf(sum)) $("outcomes").append(h("p", { class: "empty" }, "No example of these failures was kept."));
}
function drawKeys(sum) {
  const seconds = Math.max(sum.to - sum.from, 1) / 1000, p = percent => sum.latency.count ? time(sum.latency.percentile(percent)) + few(sum.latency.count) : "none", failed = failedOf(sum);
  const key = (name, value, note) => h("div", {}, h("dt", {}, name), h("dd", {}, value, note && h("small", {}, note)));
  $("keys").replaceChildren(key("Requests", grouped(sum.requests), rate(sum.requests / seconds) + " over " + seconds.toFixed(1) + " s"), key("Failed", sum.requests ? (failed ? "✗ " : "✓ ") + share(failed, sum.requests) : "none", grouped(failed) + " requests"),
    key("Iterations", grouped(sum.iterations), sum.planned !== null ? "planned starts " + grouped(sum.planned) + ", dropped " + grouped(sum.dropped) : rate(sum.iterations / seconds)),
    key("Latency p50", p(50), "of " + grouped(sum.latency.count) + " requests"), key("p90", p(90)), key("p95", p(95)), key("p99", p(99)), key("p99.9", p(99.9), "max " + time(sum.latency.max)),
    key("Users", "up to " + grouped(sum.vus)), key("Received", bytes(sum.bytesIn), bytes(sum.bytesIn / seconds) + "/s"), key("Sent", bytes(sum.bytesOut), bytes(sum.bytesOut / seconds) + "/s"),
    key("Generator", summary.generator.limited ? "✗ limited" : "✓ ok", "lag p99 " + time(sum.lag.percentile(99)) + ", busiest core " + Math.round(sum.busy / 10) + " %"));
}
function drawChecks(sum) {
  const rows = [...sum.checks].sort((a, b) => a[0] - b[0]);
  $("checks").replaceChildren(rows.length ? table([th("step"), th("check"), th("held", true), th("failed", true), th("share failed", true)], rows.map(([index, [passed, failed]]) => h("tr", {}, h("th", { scope: "row" }, checks[index] ? checks[index].step : ""), h("td", { class: "wrap" }, checks[index] ? checks[index].name : String(index)), n(grouped(passed)),
    h("td", { class: "n" + (failed ? " bad" : "") }, (failed ? "✗ " : "") + grouped(failed)), n(share(failed, passed + failed)))), "Checks") : h("p", { class: "empty" }, "None were judged."));
}
function drawTimeline(sum) {
  const gaps = data.gaps.filter(g => g.to > sum.from && g.from < sum.to), events = data.events.filter(e => !range || (e.at_ms >= sum.from && e.at_ms < sum.to));
  $("gaps").replaceChildren(gaps.length ? table([th("from"), th("to"), th("what")], gaps.map(g => h("tr", {}, td(jobTime(g.from, true)), td(jobTime(g.to, true)), td(g.text, { class: "wrap" }))), "Gaps") : h("p", { class: "empty" }, "None: all planned load was sent."));
  $("events").replaceChildren(events.length ? table([th("time"), th("clock"), th("event")], events.map(e => h("tr", {}, td(jobTime(e.at_ms, true)), td(wall(e.at_ms)), td(e.text, { class: "wrap" }))), "Events") : h("p", { class: "empty" }, "None in this range."));
}

// ---- All together. ----
const view = { columns: [] };
function draw() {
  const [from, to] = visible(), isFirst = !view.columns.length;
  view.columns = columnsOf([from, to]);
  const sum = merged(range ? from : -Infinity, range ? to : Infinity);
  sum.from = from; sum.to = to;
  if (isFirst) {
    // A tail that is far from the body would press the body flat.
    isLog = sum.latency.count > 0 && sum.latency.max > 50 * sum.latency.percentile(50);
    $("log").checked = isLog;
  }
  const ofStep = { ...sum };
  if (only >= 0) ofStep.latency = sum.steps.get(only) ? sum.steps.get(only).latency : new Histogram();
  drawKeys(sum); charts.forEach(chart => drawChart(chart, view.columns)); drawDistribution(ofStep); drawHeat(view.columns); drawSteps(sum); drawOutcomes(sum); drawChecks(sum); drawTimeline(sum);
  $("from").value = jobTime(from, true); $("to").value = jobTime(to, true); $("whole").disabled = !range;
  $("said").textContent = range ? "Only " + jobTime(from, true) + " to " + jobTime(to, true) + ": every figure, table and chart below." : "The whole test. Drag over a chart to narrow everything to a time.";
}
function setRange(from, to) {
  if (from === null) range = null;
  else {
    // Whole windows only: their figures cannot be split.
    const inside = windows.filter(w => w.at + w.len > from && w.at < to);
    if (inside.length) range = [inside[0].at, Math.max(Math.min(inside[inside.length - 1].at + inside[inside.length - 1].len, duration), inside[0].at + 1)];
  }
  setCursor(null); draw();
  // A range can be linked to. Some browsers forbid this for local files: the page works without.
  try { history.replaceState(null, "", range ? `#t=${range[0] / 1000},${range[1] / 1000}` : "#"); } catch { /* see above */ }
}
function readTime(text) {
  const parts = text.trim().replace(/^\+/, "").split(":").map(Number);
  return parts.some(p => !isFinite(p)) ? NaN : parts.reduce((sum, p) => sum * 60 + p, 0) * 1000;
}
const color = i => `var(--c${i % 8})`;
const line = (name, i, values, more) => ({ name, color: color(i), dash: DASHES[i % DASHES.length], values, ...more });
const box = $("charts");
makeChart(box, { title: "Requests and starts per second", format: v => rate(v), series: columns => [line("requests", 0, columns.map(c => c.requests / c.seconds)), line("iterations ended", 2, columns.map(c => c.iterations / c.seconds)),
  ...(windows.some(w => w.planned !== null) ? [{ name: "starts planned", color: "var(--plan)", dash: "5 4", values: columns.map(c => c.planned === null ? null : c.planned / c.seconds) }] : []),
  ...(summary.totals.dropped ? [line("starts dropped", 1, columns.map(c => c.dropped / c.seconds))] : [])] });
makeChart(box, { title: "Latency percentiles", log: true, format: v => time(v), series: columns => [["p50", 50, 0], ["p90", 90, 2], ["p95", 95, 3], ["p99", 99, 1], ["max", 100, 7]].map(([name, p, i]) => line(name, i, columns.map(c => c.latency.count ? c.latency.percentile(p) : null), { thin: name === "max" })) });
makeChart(box, { title: "Outcomes per second, stacked", stack: true, format: v => rate(v), series: columns => outcomes.map((name, o) => ({ name, o })).filter(({ o }) => o === OK || columns.some(c => c.outcomes[o])).map(({ name, o }, i) => line((o === OK ? "✓ " : isFailure(o) ? "✗ " : "") + name, i, columns.map(c => c.outcomes[o] / c.seconds), { dash: "" })) });
makeChart(box, { title: "Users", format: v => grouped(v), series: columns => [line("active", 0, columns.map(c => c.vus)), ...(windows.some(w => w.planned_vus !== null) ? [{ name: "planned", color: "var(--plan)", dash: "5 4", values: columns.map(c => c.plannedVus) }] : [])] });
makeChart(box, { title: "Bytes per second", format: v => bytes(v) + "/s", series: columns => [line("received", 0, columns.map(c => c.bytesIn / c.seconds)), line("sent", 1, columns.map(c => c.bytesOut / c.seconds))] });
makeChart(box, { title: "Generator: busiest core", top: 100, format: v => Math.round(v) + " %", series: columns => [line("busiest core", 0, columns.map(c => c.busy / 10))] });
makeChart(box, { title: "Generator: lag of starts", log: true, format: v => time(v), series: columns => [line("p99", 0, columns.map(c => c.lag.count ? c.lag.percentile(99) : null)), line("max", 7, columns.map(c => c.lag.count ? c.lag.max : null), { thin: true })] });

const select = $("only");
select.append(h("option", { value: -1 }, "all steps"), ...steps.map((name, i) => h("option", { value: i }, name)));
select.addEventListener("change", () => { only = Number(select.value); draw(); });
$("log").addEventListener("change", event => { isLog = event.target.checked; draw(); });
$("whole").addEventListener("click", () => setRange(null));
$("range").addEventListener("submit", event => {
  event.preventDefault();
  const [from, to] = [readTime($("from").value), readTime($("to").value)];
  if (to > from) setRange(from, to); else $("said").textContent = "Write times of the test, the earlier one first, such as +00:10 and +01:30.";
});
let pending = 0;
addEventListener("resize", () => { cancelAnimationFrame(pending); pending = requestAnimationFrame(draw); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
addEventListener("beforeprint", () => { document.querySelectorAll("details").forEach(d => { d.open = true; }); draw(); });
const known = windows.reduce((sum, w) => sum + w.steps.reduce((all, step) => all + step.outcomes.reduce((a, b) => a + b, 0), 0), 0);
if (known < summary.totals.requests) $("notes").append(h("li", {}, "The windows of this page hold " + grouped(known) + " of " + grouped(summary.totals.requests) + " requests: older ones are only in the totals."));
const linked = /^#t=([0-9.]+),([0-9.]+)$/.exec(location.hash);
if (linked) setRange(Number(linked[1]) * 1000, Number(linked[2]) * 1000); else draw();
})();
if (typeof module !== "undefined") module.exports = { Histogram, highestOf };
