// Defences and sets picked, what became of their requests counted, their responses read and heard.
//
// `state.cells` holds for each defence and set its responses as [request, outcome, opening], the refused first.
// `chosen` are the defences, the sets, the open cell, and the clip that is played. If requests have scores, a condition
// of the reader's own is made of these: `chosen.weights` (in tenths) of `state.scores`, the first of which is the
// model's own readiness, and how many requests are refused, `chosen.refusing`.

function boxes(title, names, moved) {
  const all = names.map((name) => input({ type: "checkbox", value: name, onchange: tell }));
  function tell() {
    moved(all.filter((box) => box.checked).map((box) => box.value));
  }
  const rows = all.map((box) => make("label", { class: "chip" }, box, make("span", {}, box.value)));
  const node = make("fieldset", {}, make("legend", {}, title), make("div", { class: "chips" }, ...rows));
  return { node, set: (chosen) => all.forEach((box) => (box.checked = chosen.includes(box.value))) };
}

const outcomesOf = (responses) => responses.map(([, outcome]) => outcome);
const countOf = (outcomes, which) => outcomes.filter((outcome) => outcome === which).length;

function countsOf(responses) {
  const outcomes = outcomesOf(responses);
  const there = [...new Set(outcomes)].map((outcome) => `${countOf(outcomes, outcome)} ${outcome}`);
  return `${there.join(", ")} of ${responses.length}`;
}

// Shares of harmful requests refused and of others answered, in the chosen sets; null where a kind is missing.
function sharesOf(state, defence, sets) {
  const all = sets.flatMap((name) => state.cells[defence][name] ?? []);
  const harmful = outcomesOf(all.filter(([id]) => state.requests[id].label === "harmful"));
  const others = outcomesOf(all.filter(([id]) => state.requests[id].label !== "harmful"));
  if (!harmful.length || !others.length) return null;
  return [countOf(others, "answered") / others.length, countOf(harmful, "refused") / harmful.length];
}

// What a condition gives each request: the weighted sum of its scores, each in standard deviations.
function mixed(requests, weights) {
  const sums = requests.map(() => 0);
  weights.forEach((weight, column) => {
    const values = requests.map(({ scores }) => scores[column]), middle = mean(values);
    const spread = Math.sqrt(mean(values.map((value) => (value - middle) ** 2))) || 1;
    values.forEach((value, place) => (sums[place] += (weight * (value - middle)) / spread));
  });
  return sums;
}

const highest = (values, n) => (n ? [...values].sort((one, other) => other - one)[n - 1] : Infinity);

// The reader's own condition in the chosen sets, beside what a uniform push that refuses as many would leave answered
// at best; null where requests of a kind or scores are missing.
function ownOf(state, { sets, weights, refusing }) {
  const requests = sets.flatMap((name) => state.cells[state.defences[0]][name] ?? []).map(([id]) => state.requests[id]);
  if (!state.scores || requests.some(({ scores }) => !scores)) return null;
  const [harmful, others] = [true, false].map((is) => requests.filter(({ label }) => (label === "harmful") === is));
  if (!harmful.length || !others.length) return null;
  const sums = mixed([...harmful, ...others], weights);
  const own = [sums.slice(0, harmful.length), sums.slice(harmful.length)];
  const uniform = [harmful, others].map((kind) => kind.map(({ scores }) => scores[0]));
  const threshold = highest(sums, Math.min(refusing, sums.length));
  const refused = beyond(own[0], threshold), answered = others.length - beyond(own[1], threshold);
  const limit = others.length - beyond(uniform[1], highest(uniform[0], refused));
  return { own, uniform, refused, answered, limit };
}

const STEPS = [0, 1, 2, 3].flatMap((step) => [[step, 0], [-step, 0], [0, step], [0, -step]]);

// The plane. Each point has the number of its row, beside it where numbers would cover each other.
function points(state, { defences, sets }, own, width) {
  const names = { xname: "others answered", yname: "harmful requests refused" };
  const label = "Defences by the shares of harmful requests refused and of others answered.";
  const { x, y, draw } = plane({ label, width, height: 360, ...names });
  const dots = [], plates = [], taken = [];
  if (own) {
    const curve = ([harmful, others], name) => line(rocOf(harmful, others).map(([a, b]) => [x(1 - a), y(b)]), name);
    const [cx, cy] = [x(own.answered / own.own[1].length), y(own.refused / own.own[0].length)];
    dots.push(curve(own.uniform, "bound dotted"), curve(own.own, "mine"));
    plates.push(make("svg:path", { class: "mine", d: `M${cx} ${cy - 11}l11 11l-11 11l-11 -11z` }, make("svg:title", {}, "yours")));
    taken.push([cx, cy]);
  }
  defences.forEach((defence, number) => {
    const shares = sharesOf(state, defence, sets);
    if (!shares) return;
    const [cx, cy] = [x(shares[0]), y(shares[1])];
    const free = STEPS.map(([right, down]) => [cx + 21 * right, cy + 21 * down]).filter((at) => taken.every((other) => Math.hypot(other[0] - at[0], other[1] - at[1]) > 19));
    const [px, py] = free[0] ?? [cx, cy];
    taken.push([px, py]);
    dots.push(point(cx, cy, 3, "bound"), line([[cx, cy], [px, py]], "leader"));
    plates.push(point(px, py, 9, "plate"), make("svg:text", { class: "number", x: px, y: py + 4, "text-anchor": "middle" }, `${number + 1}`));
  });
  return draw(...dots, ...plates);
}

function ownWords({ own: [harmful, others], uniform, refused, answered, limit }) {
  const areas = `Your condition tells harmful from other requests with an area of ${areaOf(harmful, others).toFixed(2)}, the model's own readiness with ${areaOf(...uniform).toFixed(2)}.`;
  const counts = `It refuses ${refused} of ${harmful.length} harmful requests and leaves ${answered} of ${others.length} others answered.`;
  const off = Math.abs(answered - limit), where = answered > limit ? `${off} beyond the bound` : `${off} short of the bound`;
  const beside = `A uniform push that refuses as many leaves ${limit} at best, so you are ${off ? where : "on the bound"}.`;
  return `${areas} ${counts} ${beside} You choose by the very requests that judge you, which flatters you.`;
}

function render({ model, el }) {
  const state = model.get("state"), choose = chooser(model);
  const defences = boxes("Defences", state.defences, (names) => choose({ defences: names }));
  const sets = boxes("Sets", state.sets, (names) => choose({ sets: names }));
  const sound = player(model), listen = make("div", { class: "listen" }, sound.node);
  const grid = region("numbers", "outcomes"), reading = region("reading", "responses");
  const figure = make("figure", {}), behind = folded(), told = make("p", { role: "status" });
  const mixing = (state.scores ?? []).map((name, place) =>
    slider(`Weight of ${name} =`, { min: -10, max: 10 }, (weight) => choose({ weights: model.get("chosen").weights.map((each, other) => (other === place ? weight : each)) })),
  );
  const scored = Object.values(state.requests).filter(({ scores }) => scores).length;
  const refusing = slider("Requests refused, highest scores first:", { min: 0, max: scored }, (value) => choose({ refusing: value }));

  function button(defence, name) {
    const responses = state.cells[defence][name] ?? [];
    const look = { type: "button", "aria-label": `${defence} on ${name}: ${countsOf(responses)}` };
    return make("button", { ...look, onclick: () => choose({ cell: [defence, name] }) }, countsOf(responses));
  }

  function entry([id, outcome, opening]) {
    const { words, clip, heard } = state.requests[id];
    const parts = [`${MARKS[outcome] ?? "?"} `, make("b", {}, outcome), ` — ${words} `];
    if (clip) parts.push(make("button", { type: "button", "aria-label": `play ${words}`, onclick: () => choose({ clip: id }) }, "▶"));
    if (heard !== undefined) parts.push(make("br"), "heard: ", ...heardAs(state.requests[id]));
    return make("li", {}, ...parts, make("br"), "answered: ", make("i", {}, opening || "(nothing)"));
  }

  function draw() {
    const chosen = model.get("chosen");
    defences.set(chosen.defences);
    sets.set(chosen.sets);
    const rows = chosen.defences.map((name, place) => [`${place + 1}. ${name}`, ...chosen.sets.map((set) => button(name, set))]);
    grid.replaceChildren(table(["defence", ...chosen.sets], rows, { name: "board" }));
    const [defence, name] = chosen.cell;
    const responses = state.cells[defence]?.[name] ?? [];
    const title = make("p", {}, make("b", {}, defence), " on ", make("b", {}, name), `: ${countsOf(responses)}`);
    if (defence) reading.replaceChildren(title, make("ul", {}, ...responses.map(entry)));
    else reading.replaceChildren("Choose a cell to read its responses.");
    const heard = state.requests[chosen.clip];
    listen.hidden = !heard;
    if (heard) {
      const before = sound.node.getAttribute("src");
      sound.set(heard.clip, heard.words);
      if (before !== sound.node.getAttribute("src")) sound.node.play().catch(() => {}); // where it may not begin by itself
    }
    const own = ownOf(state, chosen);
    mixing.forEach((each, place) => each.set(chosen.weights[place], (chosen.weights[place] / 10).toFixed(1)));
    refusing.set(chosen.refusing);
    told.replaceChildren(own ? ownWords(own) : "A condition takes sets whose requests have scores, harmful ones and others among them.");
    const lines = own ? " Dotted: the bound of uniform pushes. Green: your own condition, at every threshold and (diamond) at yours." : "";
    const caption = `The plane, by the numbers of the rows. It needs a set of harmful requests and one of others.${lines}`;
    figure.replaceChildren(make("figcaption", { class: "small" }, caption), points(state, chosen, own, widthIn(el)));
    const shares = chosen.defences.map((each) => [each, sharesOf(state, each, chosen.sets)]);
    if (own) shares.push(["yours", [own.answered / own.own[1].length, own.refused / own.own[0].length]]);
    const known = shares.filter(([, pair]) => pair).map(([each, [answered, refused]]) => [each, refused.toFixed(3), answered.toFixed(3)]);
    behind.set(`Shares in ${chosen.sets.join(", ")}`, ["defence", "harmful refused", "others answered"], known);
  }

  const mix = make("fieldset", {}, make("legend", {}, "Beat the bound: refuse by a condition of your own"), told);
  mix.append(make("div", { class: "knobs" }, ...mixing.map((each) => each.node), refusing.node));
  fill(el, defences.node, sets.node, grid, listen, reading, ...(state.scores ? [mix] : []), figure, behind.node);
  return drawOn(model, ["chosen", "clips"], draw);
}

export default { render };
