// Draws the traces of #data. Whatever came from a span is set as text, never parsed as markup.

/**
 * @typedef {{start: number, took: number, since: "timestamp"|"sent"|"attempt"}} Queue
 * @typedef {{name: string, kind: string, system: string, destination: string, id: string, parent: ?string,
 *   links: [string, string][], start: number, took: number, outcome: string, failed: boolean, error: ?string,
 *   attempt: ?number, process: string, pid: ?number, deaths: ?number, redelivered: ?boolean,
 *   scheduled: boolean, depth: number, orphan: boolean, queue: ?Queue, message: ?number,
 *   trace: Trace, above: ?Span, below: Span[], siblings: Span[], place: number, linkedFrom: Span[], text: string}} Span
 * @typedef {{id: string, start: string, took: number, spans: Span[], failures: number,
 *   processes: Map<string, number>, text: string}} Trace
 * Times are nanoseconds since the start of the trace, which is in nanoseconds since 1970.
 */

const $ = (id) => document.getElementById(id);
const NARROW = matchMedia("(max-width: 48rem)");
const ROOMY = matchMedia("(min-width: 100rem)");
const DARK = matchMedia("(prefers-color-scheme: dark)");
const MICRO = 1e3, MILLI = 1e6, SECOND = 1e9, MINUTE = 60e9, HOUR = 3600e9;
const PALETTE = 10;
const SHOWN_CHARACTERS = 200;
const SHOWN_ATTEMPTS = 20; // before the one of a row: all of them would be a square of them on the page

/** @type {{title: string, traces: Trace[]}} */
const data = JSON.parse($("data").textContent);
/** @type {Map<string, Span>} */
const spans = new Map();
/** @type {Map<number, Span[]>} */
const messages = new Map();
/** @type {Map<string, number>} */
const colours = new Map();

const state = {
  /** @type {?Trace} */ trace: null,
  /** @type {?Span} */ span: null,
  query: "",
  onlyErrors: false,
  detailed: ROOMY.matches,
  from: 0,
  to: 1,
  /** @type {Set<Span>} */ collapsed: new Set(),
  /** @type {Map<Trace, HTMLElement>} */ items: new Map(),
  /** @type {Map<Span, HTMLElement>} */ rows: new Map(),
};

/* Reading */

function read() {
  for (const trace of data.traces) readTrace(trace);
  for (const span of spans.values()) {
    for (const link of span.links) spans.get(link.join("/"))?.linkedFrom.push(span);
  }
  for (const attempts of messages.values()) attempts.sort((a, b) => a.attempt - b.attempt);
}

function readTrace(trace) {
  const path = [], roots = [];
  trace.processes = new Map();
  for (const span of trace.spans) {
    path.length = span.depth;
    Object.assign(span, { trace, above: path.at(-1) ?? null, below: [], linkedFrom: [] });
    span.siblings = span.above?.below ?? roots;
    span.place = span.siblings.push(span);
    path.push(span);
    readSpan(span);
  }
  trace.failures = trace.spans.filter((span) => span.failed).length;
  trace.text = trace.spans.map((span) => span.text).join("\n");
}

function readSpan(span) {
  span.process ||= "(no name)";
  span.text = [span.name, span.process, span.system, span.destination, span.outcome, span.error, span.kind,
    span.trace.id, span.id].join(" ").toLowerCase();
  spans.set(key(span), span);
  span.trace.processes.set(span.process, (span.trace.processes.get(span.process) ?? 0) + 1);
  if (!colours.has(span.process)) colours.set(span.process, colours.size % PALETTE);
  if (span.message === null) return;
  if (messages.has(span.message)) messages.get(span.message).push(span);
  else messages.set(span.message, [span]);
}

const key = (span) => `${span.trace.id}/${span.id}`;
const paint = (span) => `p${colours.get(span.process)}`;
const attempts = (span) => messages.get(span.message) ?? [];
const matches = (span) => (!state.onlyErrors || span.failed) && span.text.includes(state.query);
const isFiltered = () => state.onlyErrors || state.query !== "";

/* Saying */

function duration(nanoseconds) {
  if (nanoseconds === 0) return "0";
  if (nanoseconds >= HOUR) return twoUnits(Math.round(nanoseconds / MINUTE), "h", "min");
  if (nanoseconds >= MINUTE) return twoUnits(Math.round(nanoseconds / SECOND), "min", "s");
  const [unit, name] = unitOf(nanoseconds);
  const value = nanoseconds / unit;
  return `${unit === 1 ? value : value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)} ${name}`;
}

/** Says a number of the smaller of two units, of which 60 make one of the larger. */
function twoUnits(number, larger, smaller) {
  const rest = number % 60;
  return `${Math.floor(number / 60)} ${larger}${rest ? ` ${rest} ${smaller}` : ""}`;
}

function unitOf(nanoseconds) {
  if (nanoseconds >= SECOND) return [SECOND, "s"];
  if (nanoseconds >= MILLI) return [MILLI, "ms"];
  return nanoseconds >= MICRO ? [MICRO, "µs"] : [1, "ns"];
}

/** Returns a moment as UTC, with all its digits if it is to be `exact`. */
function moment(trace, offset, exact) {
  if (!Number.isFinite(offset)) return "beyond all clocks";
  const nanoseconds = BigInt(trace.start) + BigInt(Math.round(offset));
  const whole = new Date(Number(nanoseconds / 1000000n));
  if (Number.isNaN(whole.getTime())) return `${nanoseconds} ns`;
  const [day, time] = whole.toISOString().split("T");
  const fraction = String(nanoseconds % 1000000000n).padStart(9, "0");
  return exact ? `${day} ${time.slice(0, 8)}.${fraction} UTC` : `${day} ${time.slice(0, 8)} UTC`;
}

const count = (number, word, words = `${word}s`) => `${number.toLocaleString("en")} ${number === 1 ? word : words}`;
const short = (text) => text.length > SHOWN_CHARACTERS ? `${text.slice(0, SHOWN_CHARACTERS)}…` : text;
const className = (error) => error.split(".").at(-1);
const say = (text) => { $("said").textContent = text; };

function titleOf(trace) {
  const [root] = trace.spans;
  const more = root.siblings.length - 1;
  const where = root.destination && !root.name.includes(root.destination) ? ` ${root.destination}` : "";
  return short(`${root.name}${where}`) + (more ? ` and ${more} more` : "");
}

function queueText({ took, since }) {
  const waited = took ? duration(took) : "0, or the clocks disagree";
  return {
    timestamp: `${waited}, from the message's own timestamp to the start of this span`,
    sent: `${waited}, from the end of the span that sent it to the start of this one`,
    attempt: `${waited}, from the end of the attempt before to the start of this one`,
  }[since];
}

function tries(span) {
  const all = attempts(span);
  if (all.length) return `attempt ${span.attempt} of ${all.at(-1).attempt}`;
  return span.attempt > 1 ? `attempt ${span.attempt}` : "";
}

/* Making elements */

/** Makes an element with what it has: `class`, `text`, attributes, `on…` listeners; and its children. */
function make(tag, has = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(has)) {
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

const cell = (part, text, ...children) => make("span", { class: part, role: "gridcell", text }, ...children);
const timeCell = (part, time) => time === undefined ? cell(part, "")
  : cell(part, "", make("span", { class: "unseen", text: `${part} ` }), duration(time));
const badge = (text, look = "") => make("span", { class: `badge ${look}`, text: short(text) });

function bar(look, start, took, ...children) {
  const element = make("span", { class: `bar ${look}`, "aria-hidden": "true" }, ...children);
  element.style.setProperty("--s", start);
  element.style.setProperty("--e", start + took);
  return element;
}

function copyable(id) {
  return make("span", {},
    make("span", { class: "id", text: id }),
    make("button", {
      class: "copy", type: "button", text: "Copy", "aria-label": `Copy ${id}`,
      onclick: (event) => copy(id, event.target),
    }));
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied");
    button.textContent = "Copied";
  } catch { // not allowed here: it is marked, for the person's own copying
    getSelection().selectAllChildren(button.previousSibling);
    say("Selected");
  }
}

/* The list of traces */

const ORDERS = {
  start: () => 0, // as they come
  took: (a, b) => b.took - a.took,
  count: (a, b) => b.spans.length - a.spans.length,
  failures: (a, b) => b.failures - a.failures,
};

function drawTraces() {
  const shown = data.traces.filter(isTraceShown).sort(ORDERS[$("sort").value]);
  const longest = Math.max(1, ...shown.map((trace) => trace.took));
  state.items = new Map(shown.map((trace) => [trace, traceItem(trace, longest)]));
  const hadFocus = $("list").contains(document.activeElement);
  $("list").replaceChildren(...state.items.values());
  $("found").textContent = isFiltered()
    ? `${shown.length.toLocaleString("en")} of ${count(data.traces.length, "trace")}`
    : count(data.traces.length, "trace");
  if (!state.items.has(state.trace) && shown.length) openTrace(shown[0]);
  else markTrace();
  if (hadFocus) state.items.get(state.trace)?.focus();
}

function isTraceShown(trace) {
  return (!state.onlyErrors || trace.failures > 0) && trace.text.includes(state.query)
    && (!isFiltered() || trace.spans.some(matches));
}

function traceItem(trace, longest) {
  const share = make("i");
  share.style.width = `${100 * trace.took / longest}%`;
  return make("li", { class: "item", role: "option", tabindex: -1, onclick: () => choose(trace.spans[0]) },
    make("span", { class: "title", text: titleOf(trace) }),
    make("span", { class: "end", text: duration(trace.took) }),
    make("span", { class: "quiet", text: moment(trace, 0) }),
    make("span", { class: "end", text: count(trace.spans.length, "span") }),
    make("span", { class: "share", "aria-hidden": "true" }, share),
    make("span", { class: "names", text: short([...trace.processes.keys()].join(", ")) }),
    trace.failures ? make("span", { class: "end bad", text: count(trace.failures, "error") }) : "");
}

function markTrace() {
  for (const [trace, item] of state.items) {
    item.setAttribute("aria-selected", trace === state.trace);
    item.tabIndex = trace === state.trace ? 0 : -1;
  }
  state.items.get(state.trace)?.scrollIntoView({ block: "nearest" });
}

/* One trace */

function openTrace(trace) {
  if (state.trace === trace) return;
  state.trace = trace;
  state.span = null;
  state.collapsed.clear();
  drawAbout(trace);
  state.rows = new Map(trace.spans.map((span) => [span, spanRow(span)]));
  $("rows").replaceChildren(...state.rows.values());
  $("waterfall").setAttribute("aria-rowcount", trace.spans.length + 1);
  fitColumns(trace);
  markTrace();
  fold();
  select(trace.spans.find(matches) ?? trace.spans[0]);
  look(0, trace.took);
  drawMap();
}

/** Makes the columns as narrow as a trace lets them be: the rest is the time line's. */
function fitColumns(trace) {
  const { style } = $("waterfall");
  style.setProperty("--process", `${longest([...trace.processes.keys()], 8, 15) + 2}ch`);
  style.setProperty("--broker", `${longest(trace.spans.map((span) => `${span.system} ${span.destination}`), 8, 14)}ch`);
  style.setProperty("--outcome", isEventful(trace) ? "8rem" : "4rem");
  style.setProperty("--time", trace.took < MINUTE ? "3.6rem" : "5.4rem");
  style.setProperty("--deepest", trace.spans.reduce((deepest, span) => Math.max(deepest, span.depth), 1));
}

/** Tells whether a trace needs a wide column for outcomes. */
const isEventful = (trace) => trace.spans.some((span) => span.outcome !== "ok" || tries(span));
const longest = (texts, least, most) => texts.reduce((length, text) => Math.min(most, Math.max(length, text.length)), least);

function drawAbout(trace) {
  $("trace-name").textContent = titleOf(trace);
  const systems = [...new Set(trace.spans.map((span) => span.system))].filter(Boolean);
  $("facts").replaceChildren(
    ...[moment(trace, 0), duration(trace.took), count(trace.spans.length, "span"), short(`through ${systems.join(", ")}`)]
      .map((text) => make("span", { text })),
    trace.failures ? make("span", { class: "bad", text: count(trace.failures, "error") }) : make("span", { text: "no errors" }),
    make("span", {}, "trace ", copyable(trace.id)));
  $("legend").replaceChildren(...[...trace.processes].map(([name, number]) =>
    make("li", { class: `swatch p${colours.get(name)}` }, short(name), make("span", { class: "quiet", text: ` ${number}` }))));
}

function spanRow(span) {
  const row = make("div", {
    class: span.below.length ? "row" : "row leaf", role: "row", tabindex: -1,
    "aria-level": span.depth + 1, "aria-setsize": span.siblings.length, "aria-posinset": span.place,
    onclick: (event) => clickRow(span, event),
  }, nameCell(span), cell(`process swatch ${paint(span)}`, short(span.process)), brokerCell(span), outcomeCell(span),
  timeCell("waited", span.queue?.took), timeCell("took", span.took), lineCell(span));
  row.style.setProperty("--depth", span.depth);
  if (span.below.length) row.setAttribute("aria-expanded", "true");
  return row;
}

function nameCell(span) {
  const to = span.links.length, from = span.linkedFrom.length;
  return make("span", { class: "name", role: "rowheader" },
    make("span", { class: "twist", "aria-hidden": "true" }),
    make("span", { class: "what", text: short(span.name) }),
    span.orphan ? badge("parent not here") : "",
    to ? badge(`→ ${count(to, "link")}`) : "",
    from ? badge(`← linked from ${from}`) : "");
}

function outcomeCell(span) {
  const tried = tries(span);
  return make("span", { class: "outcome", role: "gridcell" }, outcomeBadge(span),
    tried && make("span", { class: "unseen", text: tried }),
    tried && make("span", { "aria-hidden": "true", title: tried, text: tried.replace("attempt ", "").replace(" of ", "/") }));
}

function outcomeBadge(span) {
  if (span.failed) return badge(`✕ ${span.error ? className(span.error) : span.outcome}`, "bad");
  if (span.outcome === "ok") return "";
  return badge(span.outcome === "retry" ? "↻ retry" : span.outcome, "again");
}

function brokerCell(span) {
  return make("span", { class: "broker", role: "gridcell" },
    make("b", { text: short(span.system) }), span.destination ? ` ${short(span.destination)}` : "");
}

function lineCell(span) {
  const { queue } = span;
  const earlier = attempts(span).filter((other) => other.attempt < span.attempt && other.trace === span.trace);
  return make("span", { class: `line ${paint(span)}`, role: "gridcell" },
    make("span", { class: "unseen", text: `starts after ${duration(span.start)}` }),
    queue?.took ? bar("queue", queue.start, queue.took, make("span", { text: `queue ${duration(queue.took)}` })) : "",
    ...earlier.slice(-SHOWN_ATTEMPTS).map((other) => bar("earlier", other.start, other.took)),
    bar(span.failed ? "work failed" : "work", span.start, span.took));
}

function clickRow(span, event) {
  if (event.target.classList.contains("twist")) toggle(span);
  else if (String(getSelection()) === "") state.detailed = true;
  go(span);
}

/* What is shown of it: collapsed and filtered */

function fold() {
  const kept = new Set();
  for (const span of state.trace.spans.filter(matches)) {
    for (let up = span; up && !kept.has(up); up = up.above) kept.add(up);
  }
  let hidden = Infinity; // all that is deeper than this
  for (const [span, row] of state.rows) {
    if (span.depth <= hidden) hidden = state.collapsed.has(span) ? span.depth : Infinity;
    row.hidden = !kept.has(span) || span.depth > hidden;
    row.classList.toggle("passed", isFiltered() && !matches(span));
    if (span.below.length) row.setAttribute("aria-expanded", !state.collapsed.has(span));
  }
  [...state.rows.values()].filter((row) => !row.hidden).forEach((row, index) => row.setAttribute("aria-rowindex", index + 2));
  $("nothing").hidden = kept.size > 0;
}

const shownSpans = () => state.trace.spans.filter((span) => !state.rows.get(span).hidden);

function toggle(span) {
  if (!span.below.length) return;
  if (!state.collapsed.delete(span)) state.collapsed.add(span);
  fold();
}

function collapseAll() {
  state.collapsed = new Set(state.trace?.spans.filter((span) => span.below.length));
  if (!state.trace) return;
  fold();
  let root = state.span;
  while (root.above) root = root.above;
  select(root);
}

function expandAll() {
  state.collapsed.clear();
  if (state.trace) fold();
}

/** Marks a span without moving the focus. */
function select(span) {
  const before = state.rows.get(state.span);
  before?.setAttribute("aria-selected", "false");
  if (before) before.tabIndex = -1;
  for (const other of attempts(state.span ?? span)) state.rows.get(other)?.classList.remove("kin");
  state.span = span;
  const row = state.rows.get(span);
  row.setAttribute("aria-selected", "true");
  row.tabIndex = 0;
  for (const other of attempts(span)) state.rows.get(other)?.classList.add("kin");
  drawDetails(span);
}

/** Selects a span and moves the focus to it. */
function go(span) {
  select(span);
  const row = state.rows.get(span);
  row.focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
}

/** Opens the trace of a span and selects it, whatever hides it, without moving the focus. */
function choose(span) {
  openTrace(span.trace);
  for (let up = span.above; up; up = up.above) state.collapsed.delete(up);
  fold();
  select(span);
}

/* The selected span */

function drawDetails(span) {
  $("details").hidden = !state.detailed;
  $("shell").classList.toggle("detailed", state.detailed);
  if (!state.detailed) return;
  $("span-name").textContent = span.name;
  $("span-fields").replaceChildren(fieldList(span), ...others(span));
  $("details").scrollTop = 0;
}

function fieldList(span) {
  const fields = fieldsOf(span).filter(([, value]) => value !== null && value !== "");
  return make("dl", { class: "fields" }, ...fields.map(([name, value, look = ""]) =>
    make("div", {}, make("dt", { text: name }), make("dd", { class: look }, value))));
}

function fieldsOf(span) {
  const yes = (value) => value === null ? null : value ? "yes" : "no";
  return [
    ["process", make("span", { class: `swatch ${paint(span)}`, text: span.process })],
    ["process id", span.pid === null ? null : String(span.pid)],
    ["kind", span.kind],
    ["through", span.system],
    ["destination", span.destination],
    ["outcome", span.outcome, span.failed ? "bad" : span.outcome === "ok" ? "" : "again"],
    ["exception", span.error, "bad"],
    ["started", moment(span.trace, span.start, true)],
    ["ended", moment(span.trace, span.start + span.took, true)],
    ["took", duration(span.took)],
    ["starts after", duration(span.start)],
    ["waited", span.queue && queueText(span.queue)],
    ["attempt", span.attempt === null ? null : tries(span).replace("attempt ", "") || String(span.attempt)],
    ["redelivered", yes(span.redelivered)],
    ["dead-lettered", span.deaths === null ? null : count(span.deaths, "time")],
    ["started by", span.scheduled ? "a clock" : null],
    ["trace id", copyable(span.trace.id)],
    ["span id", copyable(span.id)],
    ["parent id", span.parent === null ? "none: a root" : copyable(span.parent)],
    ["parent", span.orphan ? "not among these spans" : span.above && spanLink(span.above)],
  ];
}

function others(span) {
  const sections = [
    ["Attempts of this message", attempts(span).map((other) => attemptLink(other, span))],
    ["Links to", span.links.map(([trace, id]) => linkTo(trace, id))],
    ["Linked from", span.linkedFrom.map(spanLink)],
  ];
  return sections.filter(([, items]) => items.length).map(([title, items]) => make("section", {},
    make("h3", { text: title }),
    make("ul", { class: "others" }, ...items.map((item) => make("li", {}, item)))));
}

function attemptLink(other, current) {
  const said = `attempt ${other.attempt}: ${other.outcome}, ${duration(other.took)}`;
  return other === current ? make("span", { text: `${said} (this one)` }) : make("a", { href: `#${key(other)}`, text: said });
}

function spanLink(span) {
  const text = `${short(span.name)}, ${short(span.process)}, trace ${span.trace.id.slice(0, 8)}`;
  return make("a", { href: `#${key(span)}`, text });
}

function linkTo(trace, id) {
  const span = spans.get(`${trace}/${id}`);
  if (span) return spanLink(span);
  return make("span", {}, "span ", copyable(id), " of trace ", copyable(trace), " ",
    make("span", { class: "quiet", text: "not in this file" }));
}

function closeDetails() {
  state.detailed = false;
  if (state.span) go(state.span);
}

/* The time line */

/** Shows what is between two moments. */
function look(from, to) {
  const all = Math.max(1, state.trace.took);
  const least = Math.max(1000, all * 1e-12); // below that, steps of the axis would be rounded away
  const width = Math.min(all, Math.max(to - from, least));
  state.from = Math.min(Math.max(0, from), all - width);
  state.to = state.from + width;
  const { style } = $("waterfall");
  style.setProperty("--from", state.from);
  style.setProperty("--scale", 100 / width);
  $("window").style.left = `${100 * state.from / all}%`;
  $("window").style.width = `${100 * width / all}%`;
  $("window").hidden = width === all;
  drawAxis();
}

function zoom(factor, centre = middle()) {
  look(centre - (centre - state.from) * factor, centre + (state.to - centre) * factor);
}

/** Returns the selected span's middle if it is in sight, or that of what is shown. */
function middle() {
  const span = state.span.start + state.span.took / 2;
  return span >= state.from && span <= state.to ? span : (state.from + state.to) / 2;
}

function zoomToSpan() {
  const { start, took, queue } = state.span;
  const first = Math.min(start, queue?.start ?? start);
  const margin = Math.max(1000, (start + took - first) * .08);
  look(first - margin, start + took + margin);
}

function pan(share) {
  const by = share * (state.to - state.from);
  look(state.from + by, state.to + by);
}

function drawAxis() {
  const width = $("axis").clientWidth;
  if (!width) return;
  const perPixel = (state.to - state.from) / width;
  const step = stepOf(perPixel * 76);
  const first = Math.ceil(state.from / step) * step;
  const ticks = [];
  for (let at = first; at < state.to; at += step) ticks.push(tick(at, step));
  $("axis").replaceChildren(...ticks);
  $("waterfall").style.setProperty("--step", `${step / perPixel}px`);
  $("waterfall").style.setProperty("--shift", `${(first - step - state.from) / perPixel}px`);
}

function tick(at, step) {
  const element = make("span", { class: "tick", text: mark(at, step) });
  element.style.left = `${100 * (at - state.from) / (state.to - state.from)}%`;
  return element;
}

function mark(at, step) {
  if (at === 0) return "0";
  if (step >= MINUTE) return at >= HOUR ? duration(at) : `${at / MINUTE} min`;
  const [unit, name] = unitOf(state.to);
  const digits = Math.max(0, Math.ceil(-Math.log10(step / unit) - 1e-9));
  return `${(at / unit).toFixed(digits)} ${name}`;
}

/** Returns the round step that is not below *least*. */
function stepOf(least) {
  if (least > 5 * SECOND) {
    const minutes = [10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600].map((seconds) => seconds * SECOND);
    return minutes.find((step) => step >= least) ?? Math.ceil(least / HOUR) * HOUR;
  }
  const power = 10 ** Math.floor(Math.log10(least));
  return Math.max(1, [1, 2, 5, 10].find((digit) => digit * power >= least) * power);
}

function drawMap() {
  const canvas = $("map"), { clientWidth: width, clientHeight: height } = canvas;
  if (!state.trace || !width) return;
  canvas.width = width * devicePixelRatio;
  canvas.height = height * devicePixelRatio;
  const brush = canvas.getContext("2d");
  brush.scale(devicePixelRatio, devicePixelRatio);
  const paints = mapPaints();
  const across = width / Math.max(1, state.trace.took), down = (height - 6) / state.trace.spans.length;
  const thick = Math.min(4, Math.max(1, down * .7));
  state.trace.spans.forEach((span, index) => {
    const top = 3 + index * down;
    brush.fillStyle = paints[colours.get(span.process)];
    if (span.queue) {
      brush.globalAlpha = .35;
      brush.fillRect(span.queue.start * across, top, span.queue.took * across, thick);
      brush.globalAlpha = 1;
    }
    if (span.failed) brush.fillStyle = paints.bad;
    const [least, high] = span.failed ? [4, Math.max(2, thick)] : [1.5, thick];
    brush.fillRect(Math.min(span.start * across, width - least), top, Math.max(least, span.took * across), high);
  });
}

/** Returns the colours that the style sheet has right now. */
function mapPaints() {
  const probe = make("i", { hidden: "" });
  $("overview").append(probe);
  const resolve = (look, value) => { probe.className = look; probe.style.color = value; return getComputedStyle(probe).color; };
  const paints = { bad: resolve("", "var(--bad)") };
  for (let number = 0; number < PALETTE; number += 1) paints[number] = resolve(`p${number}`, "var(--paint)");
  probe.remove();
  return paints;
}

/** Lets a drag over an element zoom to it; `range` returns the moments at its left and right edge. */
function draggable(element, range) {
  const at = (event) => {
    const box = element.getBoundingClientRect(), [from, to] = range();
    return from + (to - from) * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  };
  let began = null;
  element.addEventListener("pointerdown", (event) => {
    began = { x: event.clientX, at: at(event) };
    element.setPointerCapture(event.pointerId);
  });
  element.addEventListener("pointerup", (event) => {
    if (began && Math.abs(event.clientX - began.x) > 4) look(Math.min(began.at, at(event)), Math.max(began.at, at(event)));
    began = null;
  });
  element.addEventListener("pointercancel", () => { began = null; });
}

function turnWheel(event) {
  if (!event.ctrlKey || !state.trace) return;
  event.preventDefault();
  const box = $("axis").getBoundingClientRect();
  const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  zoom(event.deltaY < 0 ? .7 : 1 / .7, state.from + share * (state.to - state.from));
}

/* Filters */

function filter() {
  const hadFocus = $("rows").contains(document.activeElement);
  drawTraces();
  if (!state.trace) return;
  fold();
  const shown = shownSpans();
  if (shown.length && !(shown.includes(state.span) && matches(state.span))) select(shown.find(matches) ?? shown[0]);
  if (hadFocus) (shown.length ? state.rows.get(state.span) : $("errors")).focus();
}

function setErrors(isOn) {
  state.onlyErrors = isOn;
  $("errors").setAttribute("aria-pressed", isOn);
  filter();
}

function setQuery(text) {
  state.query = text.trim().toLowerCase();
  filter();
}

/* Themes */

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : DARK.matches;
}

function showTheme() {
  $("theme").textContent = isDark() ? "Light" : "Dark";
  $("theme").setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  drawMap();
}

function switchTheme() {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
}

/* Keys */

const PAGE_OF_ROWS = 10;

const GLOBAL_KEYS = {
  "/": () => { $("search").focus(); $("search").select(); },
  "e": () => setErrors(!state.onlyErrors),
  "t": switchTheme,
  "?": () => $("help").showModal(),
};

const TIME_KEYS = {
  "+": () => zoom(.5),
  "=": () => zoom(.5),
  "-": () => zoom(2),
  "0": () => look(0, state.trace.took),
  "z": zoomToSpan,
  "[": () => pan(-.4),
  "]": () => pan(.4),
  "*": expandAll,
};

const MOVES = {
  ArrowDown: (at) => at + 1,
  ArrowUp: (at) => at - 1,
  PageDown: (at) => at + PAGE_OF_ROWS,
  PageUp: (at) => at - PAGE_OF_ROWS,
  Home: () => 0,
  End: () => Infinity,
};

const SPAN_KEYS = {
  ArrowRight: (span) => {
    if (state.collapsed.has(span)) toggle(span);
    else { const child = span.below.find((other) => !state.rows.get(other).hidden); if (child) go(child); }
  },
  ArrowLeft: (span) => {
    if (span.below.length && !state.collapsed.has(span)) toggle(span);
    else if (span.above) go(span.above);
  },
  Enter: openDetails,
  " ": openDetails,
  Escape: () => { if (state.detailed) closeDetails(); else state.items.get(state.trace)?.focus(); },
};

function openDetails(span) {
  state.detailed = true;
  drawDetails(span);
  $("details").focus({ preventScroll: !NARROW.matches });
}

const isPlain = (event) => !event.ctrlKey && !event.altKey && !event.metaKey && !event.defaultPrevented;

function press(keys, event, argument) {
  const action = isPlain(event) && Object.hasOwn(keys, event.key) ? keys[event.key] : null;
  if (!action) return;
  event.preventDefault();
  action(argument);
}

function moved(event, all, current) {
  if (!isPlain(event) || !Object.hasOwn(MOVES, event.key) || !all.length) return null;
  event.preventDefault();
  return all[Math.min(all.length - 1, Math.max(0, MOVES[event.key](all.indexOf(current))))];
}

function pressInTree(event) {
  const next = moved(event, shownSpans(), state.span);
  if (next) go(next);
  else press(SPAN_KEYS, event, state.span);
}

function pressInList(event) {
  const next = moved(event, [...state.items.keys()], state.trace);
  if (next) { choose(next.spans.find(matches) ?? next.spans[0]); state.items.get(next).focus(); }
  else press({ Enter: () => go(state.span), " ": () => go(state.span), ArrowRight: () => go(state.span) }, event);
}

function pressInSearch(event) {
  const leave = () => (state.items.get(state.trace) ?? $("search")).focus();
  press({
    Enter: leave,
    ArrowDown: leave,
    Escape: () => { if (!$("search").value) leave(); $("search").value = ""; setQuery(""); },
  }, event);
}

function pressAnywhere(event) {
  const isTyping = event.target.closest("input[type=search], select, dialog");
  if (isTyping || !$("single-keys").checked) return;
  press(GLOBAL_KEYS, event);
  if (state.trace) press(TIME_KEYS, event);
}

/* Beginning */

function follow() {
  const span = spans.get(location.hash.slice(1));
  if (!span) return;
  if (isFiltered() && !matches(span)) clearFilters();
  state.detailed = true;
  choose(span);
  go(span);
}

/** Makes the way back from a link lead to the span that has it. */
function remember() {
  history.replaceState(null, "", `#${key(state.span)}`);
}

function clearFilters() {
  $("search").value = state.query = "";
  setErrors(false);
}

function listen() {
  const onClick = {
    "theme": switchTheme, "help-button": GLOBAL_KEYS["?"], "errors": GLOBAL_KEYS.e, "close": closeDetails,
    "zoom-in": TIME_KEYS["+"], "zoom-out": TIME_KEYS["-"], "zoom-all": TIME_KEYS["0"], "zoom-span": zoomToSpan,
    "collapse-all": collapseAll, "expand-all": expandAll,
    "skip": (event) => { event.preventDefault(); if (state.span) go(state.span); },
  };
  for (const [id, action] of Object.entries(onClick)) $(id).addEventListener("click", action);
  $("search").addEventListener("input", (event) => setQuery(event.target.value));
  $("sort").addEventListener("change", drawTraces);
  $("rows").addEventListener("keydown", pressInTree);
  $("list").addEventListener("keydown", pressInList);
  $("search").addEventListener("keydown", pressInSearch);
  $("details").addEventListener("click", (event) => { if (event.target.hash) remember(); });
  $("details").addEventListener("keydown", (event) => press({ Escape: closeDetails }, event));
  document.addEventListener("keydown", pressAnywhere);
  document.querySelector(".scroll").addEventListener("wheel", turnWheel, { passive: false });
  DARK.addEventListener("change", showTheme);
  window.addEventListener("hashchange", follow);
  draggable($("overview"), () => [0, state.trace?.took ?? 1]);
  draggable($("axis"), () => [state.from, state.to]);
  const sizes = new ResizeObserver(() => { if (state.trace) { drawAxis(); drawMap(); } });
  sizes.observe($("axis"));
  sizes.observe($("overview"));
}

function begin() {
  read();
  const failing = data.traces.filter((trace) => trace.failures).length;
  $("title").textContent = data.title;
  $("summary").textContent = [
    count(data.traces.length, "trace"), count(spans.size, "span"), count(colours.size, "process", "processes"),
    failing ? `${failing.toLocaleString("en")} with errors` : "no errors",
  ].join(" · ");
  $("shell").hidden = !data.traces.length;
  $("no-spans").hidden = data.traces.length > 0;
  listen();
  drawTraces();
  showTheme();
  follow();
}

begin();
