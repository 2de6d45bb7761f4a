// A few requests, typed and spoken, under a growing push: answers, readiness to refuse, refusals counted.
//
// In anywidget's form: `state` is the recording (course/recordings.py), `request` and `alpha` are places
// in its lists. Numbers come from the state alone; nothing is computed here but widths and places.

const FORMS = ["typed", "spoken"];
const HEIGHT = 250, LEFT = 52, RIGHT = 16, TOP = 14, BOTTOM = 58;

function card(form, answer) {
  const ready = percent(answer.refusal_probability);
  const bar = make("div", { class: "bar" }, make("div", { class: form, style: `width:${100 * answer.refusal_probability}%` }));
  bar.setAttribute("role", "meter");
  for (const [name, value] of [["min", 0], ["max", 1], ["now", answer.refusal_probability]]) bar.setAttribute(`aria-value${name}`, value);
  bar.setAttribute("aria-label", `readiness to refuse, ${form}`);
  const outcome = make("span", { class: `outcome ${answer.outcome}` }, `${MARKS[answer.outcome]} ${answer.outcome}`);
  const title = make("p", { class: "title" }, make("span", { class: `key ${form}` }), form, " ", outcome);
  const readiness = make("p", { class: "small" }, "readiness to refuse ", make("b", { class: "readiness" }, ready));
  return make("article", { "data-form": form }, title, bar, readiness, make("p", { class: "answer" }, ...answerSpans(answer)));
}

function curve(state, request, alpha, width) {
  const last = state.alphas.length - 1;
  const x = (place) => LEFT + ((width - LEFT - RIGHT) * place) / last;
  const y = (share) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share;
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    parts.push(make("svg:line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(share), y2: y(share) }));
    parts.push(make("svg:text", { x: LEFT - 8, y: y(share) + 5, "text-anchor": "end" }, percent(share)));
  }
  state.alphas.forEach((value, place) => {
    parts.push(make("svg:text", { x: x(place), y: HEIGHT - 34, "text-anchor": "middle" }, `${value}`));
  });
  parts.push(make("svg:text", { x: (LEFT + width - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, "strength of the push, alpha"));
  parts.push(make("svg:line", { class: "now", x1: x(alpha), x2: x(alpha), y1: TOP - 8, y2: HEIGHT - BOTTOM }));
  for (const form of FORMS) {
    const answers = request.answers[form];
    const points = answers.map((answer, place) => `${x(place)},${y(answer.refusal_probability)}`);
    parts.push(make("svg:polyline", { class: form, points: points.join(" ") }));
    answers.forEach((answer, place) => {
      const radius = place === alpha ? 7 : 4;
      const [cx, cy] = [x(place), y(answer.refusal_probability)];
      if (form === "spoken") parts.push(make("svg:circle", { class: form, cx, cy, r: radius }));
      else parts.push(make("svg:rect", { class: form, x: cx - radius, y: cy - radius, width: 2 * radius, height: 2 * radius }));
    });
  }
  const label = `Readiness to refuse “${request.words}” over alpha, typed and spoken. The numbers are in the table below.`;
  return make("svg:svg", { role: "img", "aria-label": label, viewBox: `0 0 ${width} ${HEIGHT}` }, ...parts);
}

function counted(state, alpha, chosen) {
  const rows = Object.entries(state.counts).map(([label, counts]) => {
    const bar = make("div", { class: "bar" });
    for (const outcome of ["refused", "broken"]) {
      bar.append(make("div", { class: outcome, style: `width:${(100 * counts[outcome][alpha]) / counts.n}%` }));
    }
    const broken = counts.broken[alpha] ? `, ${counts.broken[alpha]} broken` : "";
    const said = `${counts.refused[alpha]} of ${counts.n} refused${broken}`;
    const name = make("span", { class: label === chosen ? "name chosen" : "name" }, label);
    return make("div", { class: "count", "data-label": label }, name, bar, make("span", { class: "said" }, said));
  });
  const title = make("p", { class: "title" }, `${Object.values(state.counts)[0].n} spoken requests of each kind, at this alpha`);
  return [title, ...rows];
}

function table(state, request) {
  const heads = ["alpha"];
  for (const form of FORMS) heads.push(`${form}: readiness`, `${form}: outcome`);
  for (const label of Object.keys(state.counts)) heads.push(`${label}, refused`);
  const rows = state.alphas.map((value, place) => {
    const cells = [make("th", { scope: "row" }, `${value}`)];
    for (const form of FORMS) {
      const answer = request.answers[form][place];
      cells.push(make("td", {}, answer.refusal_probability.toFixed(2)), make("td", {}, answer.outcome));
    }
    for (const counts of Object.values(state.counts)) cells.push(make("td", {}, `${counts.refused[place]} of ${counts.n}`));
    return make("tr", {}, ...cells);
  });
  const head = make("tr", {}, ...heads.map((name) => make("th", { scope: "col" }, name)));
  const caption = make("caption", {}, `“${request.words}”, and refusals among spoken requests of each kind`);
  return make("table", {}, caption, make("thead", {}, head), make("tbody", {}, ...rows));
}

function picker(state, name, choose) {
  const groups = new Map();
  state.requests.forEach((request, place) => {
    if (!groups.has(request.label)) groups.set(request.label, make("div", { class: "chips" }));
    groups.get(request.label).append(chip(name, place, request.words, () => choose(place)));
  });
  const kinds = [...groups].map(([kind, chips]) => make("div", { class: "kind" }, make("b", {}, kind), chips));
  return make("fieldset", { class: "requests" }, make("legend", {}, "1. Choose a request"), make("div", { class: "kinds" }, ...kinds));
}

function render({ model, el }) {
  const state = model.get("state");
  const change = changer(model);
  const requests = picker(state, unique("request"), (place) => change("request", place));
  const audio = make("audio", { controls: "", preload: "none" });
  const heard = make("span", { class: "heard" });
  const listen = make("div", { class: "listen" }, audio, heard);
  const slider = input({ type: "range", min: 0, max: state.alphas.length - 1, step: 1, id: unique("alpha") });
  slider.addEventListener("input", () => change("alpha", Number(slider.value)));
  const shown = make("output", { for: slider.id });
  const label = make("label", { for: slider.id }, "2. Push it towards refusing: alpha = ", shown);
  const cards = make("div", { class: "cards" });
  const told = make("p", { class: "told", role: "status" });
  const figure = make("figure", {});
  const counts = make("div", { class: "counts" });
  const numbers = make("div", { class: "numbers" });
  const behind = make("details", {}, make("summary", {}, "The numbers behind it"), numbers);

  function draw() {
    const place = model.get("request"), alpha = model.get("alpha");
    const request = state.requests[place];
    for (const button of requests.querySelectorAll("input")) button.checked = Number(button.value) === place;
    if (audio.getAttribute("src") !== request.clip) audio.setAttribute("src", request.clip);
    audio.setAttribute("aria-label", `The spoken request: ${request.words}`);
    heard.replaceChildren("The model hears: ", make("i", {}, request.heard || "(nothing)"));
    slider.value = alpha;
    slider.setAttribute("aria-valuetext", `alpha ${state.alphas[alpha]}`);
    shown.replaceChildren(`${state.alphas[alpha]}`);
    const outcomes = FORMS.map((form) => `${form}: ${request.answers[form][alpha].outcome}`);
    told.replaceChildren(`At alpha ${state.alphas[alpha]}, ${outcomes.join(", ")}.`);
    cards.replaceChildren(...FORMS.map((form) => card(form, request.answers[form][alpha])));
    const legend = FORMS.map((form) => make("span", {}, make("span", { class: `key ${form}` }), form, " "));
    const caption = make("figcaption", { class: "small" }, "Readiness to refuse this request: ", ...legend);
    const width = el.clientWidth > 0 && el.clientWidth < 500 ? 360 : 640; // so that letters keep their size
    figure.replaceChildren(caption, curve(state, request, alpha, width));
    counts.replaceChildren(...counted(state, alpha, request.label));
    numbers.replaceChildren(table(state, request));
  }

  fill(el, requests, listen, make("div", { class: "push" }, label, slider), told, cards, figure, counts, behind);
  return drawOn(model, ["request", "alpha"], draw);
}

export default { render };
