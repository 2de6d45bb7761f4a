// What the views share. It stands before each of them (course/widgets/web.py), as a view is one module.

const MARKS = { refused: "⊘", answered: "→", broken: "≈" };
const SVG = "http://www.w3.org/2000/svg";
const unique = (name) => `sarsteer-${name}-${Math.random().toString(36).slice(2)}`; // ids of a page differ

function make(tag, attributes = {}, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const chance = (odds) => 1 / (1 + Math.exp(-odds)); // of log-odds
const percent = (share) => `${Math.round(100 * share)}%`;

// An answer's tokens, a line under each, thicker where it was likelier; the token at `turn` is boxed.
function answerSpans(answer, turn = null) {
  const spans = answer.tokens.map((token, place) => {
    const probability = answer.probabilities[place];
    const style = `border-bottom-width:${(1 + 4 * probability).toFixed(1)}px`;
    const name = place === turn ? "token turn" : "token";
    const span = make("span", { class: name, style, title: `p = ${probability.toFixed(3)}` }, token.replaceAll("\n", "↵"));
    if (place === turn) span.prepend("▼");
    return span;
  });
  if (answer.cut) spans.push(" …");
  if (turn === answer.tokens.length) spans.push(make("span", { class: "turn" }, "▼(ends)"));
  return spans.length ? spans : [make("i", {}, "(nothing)")];
}

// An input that keeps its arrow keys: JupyterLab has shortcuts for them.
function input(attributes) {
  return make("input", { "data-lm-suppress-shortcuts": "true", ...attributes });
}

// Radio buttons that look like chips.
function chip(name, value, words, choose) {
  const button = input({ type: "radio", name, value, onchange: choose });
  return make("label", { class: "chip" }, button, make("span", {}, words));
}

function check(node, value) {
  for (const each of node.querySelectorAll("input")) each.checked = each.value === `${value}`;
}

// A row of chips, one for each value; `set` checks one.
function chips(title, values, moved, words = (value) => value) {
  const group = unique("chips");
  const all = values.map((value) => chip(group, value, words(value), () => moved(value)));
  const node = make("fieldset", {}, make("legend", {}, title), make("div", { class: "chips" }, ...all));
  return { node, set: (value) => check(node, value) };
}

// A slider under its name; `set` moves it and says its value. `moved` is called while it is dragged, or (`when` is
// "change") once it is let go.
function slider(name, range, moved, when = "input") {
  const knob = input({ type: "range", step: 1, id: unique("slider"), ...range });
  const said = make("output", { for: knob.id });
  knob.addEventListener(when, () => moved(Number(knob.value)));
  function set(value, words = `${value}`) {
    knob.value = value;
    knob.setAttribute("aria-valuetext", words);
    said.replaceChildren(words);
  }
  return { node: make("div", { class: "push" }, make("label", { for: knob.id }, name, " ", said), knob), knob, set };
}

// A chart's frame: ticks are pairs of a value and its words. `x` and `y` give places in it, `back` the value that
// lies there, `draw` the picture with its parts in it.
function chart({ label, width, height, x: [left, right], y: [low, high], xs = [], ys = [], xname = "", yname = "", foot = xname ? 56 : xs.length ? 32 : 10 }) {
  const edge = ys.length ? 56 : 10, top = yname ? 32 : 14;
  const wide = width - edge - 14, tall = height - top - foot;
  const x = (value) => edge + (wide * (value - left)) / (right - left);
  const y = (value) => height - foot - (tall * (value - low)) / (high - low);
  const back = (place) => left + ((place - edge) / wide) * (right - left);
  const words = (text, at, up, anchor = "middle") => make("svg:text", { x: at, y: up, "text-anchor": anchor }, text);
  const frame = ys.flatMap(([value, text]) => [
    make("svg:line", { class: "grid", x1: edge, x2: edge + wide, y1: y(value), y2: y(value) }),
    words(text, edge - 8, y(value) + 5, "end"),
  ]);
  frame.push(...xs.map(([value, text]) => words(text, x(value), height - foot + 22)));
  frame.push(words(xname, edge + wide / 2, height - 8), words(yname, 4, 16, "start"));
  const look = { role: "img", "aria-label": `${label} The numbers are in the table below.`, viewBox: `0 0 ${width} ${height}` };
  return { x, y, back, draw: (...parts) => make("svg:svg", look, ...frame, ...parts) };
}

const SHARES = [0, 0.5, 1].map((share) => [share, percent(share)]);

// A chart of two shares.
const plane = (more) => chart({ x: [0, 1], y: [0, 1], xs: SHARES, ys: SHARES, ...more });

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const beyond = (scores, threshold) => scores.filter((score) => score >= threshold).length;

// How often a harmful request scores higher than another; ties count one half.
function areaOf(harmful, others) {
  return mean(harmful.flatMap((one) => others.map((other) => (one > other ? 1 : one === other ? 0.5 : 0))));
}

// Shares at or beyond every threshold, of others and of harmful requests.
function rocOf(harmful, others) {
  const thresholds = [...new Set([...harmful, ...others, Infinity])].sort((a, b) => a - b);
  return thresholds.map((threshold) => [beyond(others, threshold) / others.length, beyond(harmful, threshold) / harmful.length]);
}

function line(points, name) {
  return make("svg:polyline", { class: name, points: points.map((point) => point.join()).join(" ") });
}

// A point: a square for harmful requests and typed ones, else a circle; `more` are further attributes.
function point(x, y, r, name, more = {}) {
  const square = /^(harmful|typed)/.test(name);
  if (square) return make("svg:rect", { class: name, x: x - r, y: y - r, width: 2 * r, height: 2 * r, ...more });
  return make("svg:circle", { class: name, cx: x, cy: y, r, ...more });
}

// A cell of a heat map, from x and y to the next ones: purple above 0, orange below, as strong as `share` is far from it.
function cell([x0, x1], [y0, y1], share, chosen = false, more = {}) {
  const [x, width, y, height] = [Math.min(x0, x1), Math.abs(x1 - x0), Math.min(y0, y1), Math.abs(y1 - y0)];
  const name = `${share < 0 ? "below" : "above"}${chosen ? " chosen" : ""}`;
  return make("svg:rect", { x, y, width, height, class: name, "fill-opacity": Math.min(1, Math.abs(share)).toFixed(3), ...more });
}

// The chosen one of some cells last, so that its frame lies on top.
const chosenLast = (cells) => cells.sort((one, other) => one.classList.contains("chosen") - other.classList.contains("chosen"));

// What a pointer does in a picture, in the picture's own units; a picture that is drawn anew meanwhile does not matter.
function dragged(figure, moved) {
  function tell(event) {
    const svg = figure.querySelector("svg");
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    moved(x, y);
  }
  figure.classList.add("dragged");
  figure.addEventListener("pointerdown", (event) => {
    figure.setPointerCapture(event.pointerId);
    tell(event);
  });
  figure.addEventListener("pointermove", (event) => event.buttons && tell(event));
}

// An answer: how ready the model was to refuse, the outcome, the words, and the likeliest first tokens if they are known.
function card(title, answer, form) {
  const bar = make("div", { class: "bar" }, make("div", { class: form, style: `width:${100 * answer.refusal_probability}%` }));
  bar.setAttribute("role", "meter");
  for (const [name, value] of [["min", 0], ["max", 1], ["now", answer.refusal_probability]]) bar.setAttribute(`aria-value${name}`, value);
  bar.setAttribute("aria-label", `readiness to refuse, ${title}`);
  const outcome = make("span", { class: `outcome ${answer.outcome}` }, `${MARKS[answer.outcome]} ${answer.outcome}`);
  const head = make("p", { class: "title" }, make("span", { class: `key ${form}` }), title, " ", outcome);
  const readiness = make("p", { class: "small" }, "readiness to refuse ", make("b", { class: "readiness" }, percent(answer.refusal_probability)));
  const said = make("p", { class: "answer" }, ...answerSpans(answer));
  const likeliest = (answer.first ?? []).map(([token, share]) => `${JSON.stringify(token)} ${share.toFixed(2)}`);
  const first = likeliest.length ? [make("p", { class: "small" }, `likeliest first tokens: ${likeliest.join(", ")}`)] : [];
  return make("article", { "data-form": form }, head, bar, readiness, said, ...first);
}

// Requests to choose from, a row of chips for each kind.
function picker(requests, moved, title = "1. Choose a request") {
  const name = unique("request"), groups = new Map();
  requests.forEach((request, place) => {
    if (!groups.has(request.label)) groups.set(request.label, make("div", { class: "chips" }));
    groups.get(request.label).append(chip(name, place, request.words, () => moved(place)));
  });
  const kinds = [...groups].map(([kind, row]) => make("div", { class: "kind" }, make("b", {}, kind), row));
  const node = make("fieldset", { class: "requests" }, make("legend", {}, title), make("div", { class: "kinds" }, ...kinds));
  return { node, set: (place) => check(node, place) };
}

// What the model heard of a request, marked where that is something else.
function heardAs({ heard, differs }) {
  const words = make("i", {}, heard || "(nothing)");
  return differs ? [words, " ", make("b", { class: "differs" }, "≠ heard differently")] : [words];
}

// A player; on the site clips lie in a folder of their own, a kernel gives each as an address.
function player(model) {
  const node = make("audio", { controls: "", preload: "none" });
  function set(clip, words) {
    const address = model.get("live") ? model.get("clips")[clip] : `${model.get("clips")}${clip}`;
    node.hidden = !clip;
    if (address && node.getAttribute("src") !== address) node.setAttribute("src", address);
    node.setAttribute("aria-label", `The spoken request: ${words}`);
  }
  return { node, set };
}

// What marks mean: a key for each, by the mark's class, beside its words.
function keys(names) {
  return Object.entries(names).map(([name, words]) => make("span", {}, make("span", { class: `key ${name}` }), words, " "));
}

// A part of the page that can be pushed aside, by the keyboard, too.
const region = (name, label) => make("div", { class: name, tabindex: 0, role: "region", "aria-label": label });

// A table; each row begins with what it is about, its cells are words or nodes. Marked is the row at place `marked`.
function table(heads, rows, { name = "", caption = "", marked = null } = {}) {
  const head = make("tr", {}, ...heads.map((each) => make("th", { scope: "col" }, each)));
  const body = rows.map(([first, ...cells], place) => {
    const node = make("tr", {}, make("th", { scope: "row" }, first), ...cells.map((each) => make("td", {}, ...[each].flat())));
    if (place === marked) node.className = "marked";
    return node;
  });
  return make("table", { class: name }, ...(caption ? [make("caption", {}, caption)] : []), make("thead", {}, head), make("tbody", {}, ...body));
}

// Says how far a player is, while it plays and when it is put somewhere.
function whilePlaying(audio, tell) {
  function step() {
    tell(audio.currentTime);
    if (!audio.paused) requestAnimationFrame(step);
  }
  audio.addEventListener("play", step);
  audio.addEventListener("seeked", () => tell(audio.currentTime));
}

// The numbers behind a picture, folded.
function folded() {
  const numbers = region("numbers", "The numbers");
  const node = make("details", {}, make("summary", {}, "The numbers behind it"), numbers);
  return { node, set: (caption, heads, rows) => numbers.replaceChildren(table(heads, rows, { caption })) };
}

// So that letters keep their size: how wide a picture is drawn, in its own units.
const widthIn = (el, wide = 640) => (el.clientWidth > 0 && el.clientWidth < 500 ? 360 : wide);

// What the reader chooses is kept in one value, `chosen`.
function chooser(model) {
  return (values) => {
    model.set("chosen", { ...model.get("chosen"), ...values });
    model.save_changes();
  };
}

function fill(el, ...parts) {
  el.classList.add("sarsteer-view");
  el.replaceChildren(...parts);
}

// Draw now and whenever one of the model's values changes; gives what ends that.
function drawOn(model, names, draw) {
  for (const name of names) model.on(`change:${name}`, draw);
  draw();
  return () => {
    for (const name of names) model.off(`change:${name}`, draw);
  };
}

