// A few requests, typed and spoken, under a growing push: answers, readiness to refuse, refusals counted.
//
// In anywidget's form: `state` is the recording (course/recordings.py), `request` and `alpha` are places
// in its lists. Numbers come from the state alone; nothing is computed here but widths and places.

const FORMS = ["typed", "spoken"];

function curve(state, request, alpha, width) {
  const label = `Readiness to refuse “${request.words}” over alpha, typed and spoken.`;
  const ends = { x: [0, state.alphas.length - 1], y: [0, 1], xs: state.alphas.map((value, place) => [place, `${value}`]), ys: SHARES };
  const { x, y, draw } = chart({ label, width, height: 250, xname: "strength of the push, alpha", ...ends });
  const parts = [make("svg:line", { class: "now", x1: x(alpha), x2: x(alpha), y1: y(1) - 8, y2: y(0) })];
  for (const form of FORMS) {
    const places = request.answers[form].map((answer, place) => [x(place), y(answer.refusal_probability)]);
    parts.push(line(places, form), ...places.map(([cx, cy], place) => point(cx, cy, place === alpha ? 7 : 4, form)));
  }
  return draw(...parts);
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
  const heads = ["alpha", ...FORMS.flatMap((form) => [`${form}: readiness`, `${form}: outcome`])];
  heads.push(...Object.keys(state.counts).map((label) => `${label}, refused`));
  const rows = state.alphas.map((value, place) => {
    const answers = FORMS.map((form) => request.answers[form][place]);
    const cells = answers.flatMap((answer) => [answer.refusal_probability.toFixed(2), answer.outcome]);
    return [value, ...cells, ...Object.values(state.counts).map((counts) => `${counts.refused[place]} of ${counts.n}`)];
  });
  return [`“${request.words}”, and refusals among spoken requests of each kind`, heads, rows];
}

function render({ model, el }) {
  const state = model.get("state");
  const change = changer(model);
  const requests = picker(state.requests, (place) => change("request", place));
  const audio = make("audio", { controls: "", preload: "none" });
  const heard = make("span", { class: "heard" });
  const listen = make("div", { class: "listen" }, audio, heard);
  const range = { min: 0, max: state.alphas.length - 1 };
  const push = slider("2. Push it towards refusing: alpha =", range, (place) => change("alpha", place));
  const cards = make("div", { class: "cards" });
  const told = make("p", { class: "told", role: "status" });
  const figure = make("figure", {});
  const counts = make("div", { class: "counts" });
  const behind = folded();

  function draw() {
    const place = model.get("request"), alpha = model.get("alpha");
    const request = state.requests[place];
    requests.set(place);
    if (audio.getAttribute("src") !== request.clip) audio.setAttribute("src", request.clip);
    audio.setAttribute("aria-label", `The spoken request: ${request.words}`);
    heard.replaceChildren("The model hears: ", make("i", {}, request.heard || "(nothing)"));
    push.set(alpha, `${state.alphas[alpha]}`);
    const outcomes = FORMS.map((form) => `${form}: ${request.answers[form][alpha].outcome}`);
    told.replaceChildren(`At alpha ${state.alphas[alpha]}, ${outcomes.join(", ")}.`);
    cards.replaceChildren(...FORMS.map((form) => card(form, request.answers[form][alpha], form)));
    const legend = FORMS.map((form) => make("span", {}, make("span", { class: `key ${form}` }), form, " "));
    const caption = make("figcaption", { class: "small" }, "Readiness to refuse this request: ", ...legend);
    figure.replaceChildren(caption, curve(state, request, alpha, widthIn(el)));
    counts.replaceChildren(...counted(state, alpha, request.label));
    behind.set(...table(state, request));
  }

  fill(el, requests.node, listen, push.node, told, cards, figure, counts, behind.node);
  return drawOn(model, ["request", "alpha"], draw);
}

export default { render };
