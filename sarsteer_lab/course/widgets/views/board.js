// Defences and sets picked, what became of their requests counted, their responses read and heard.
//
// `state.cells` holds for each defence and set its responses as [request, outcome, opening], the refused first.
// `chosen` are the defences, the sets, the open cell, and the clip that is played.

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

const STEPS = [0, 1, 2, 3].flatMap((step) => [[step, 0], [-step, 0], [0, step], [0, -step]]);

// The plane. Each point has the number of its row, beside it where numbers would cover each other.
function plane(state, defences, sets, width) {
  const names = { xname: "others answered", yname: "harmful requests refused" };
  const label = "Defences by the shares of harmful requests refused and of others answered.";
  const { x, y, draw } = chart({ label, width, height: 360, x: [0, 1], y: [0, 1], xs: SHARES, ys: SHARES, ...names });
  const dots = [], plates = [], taken = [];
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

function render({ model, el }) {
  const state = model.get("state"), choose = chooser(model);
  const defences = boxes("Defences", state.defences, (names) => choose({ defences: names }));
  const sets = boxes("Sets", state.sets, (names) => choose({ sets: names }));
  const sound = player(model), listen = make("div", { class: "listen" }, sound.node);
  const grid = make("div", { class: "numbers" }), reading = make("div", { class: "reading", role: "region", "aria-label": "responses", tabindex: 0 });
  const figure = make("figure", {}), behind = folded();

  function cell(defence, name) {
    const responses = state.cells[defence][name] ?? [];
    const button = { type: "button", "aria-label": `${defence} on ${name}: ${countsOf(responses)}` };
    return make("td", {}, make("button", { ...button, onclick: () => choose({ cell: [defence, name] }) }, countsOf(responses)));
  }

  function entry([id, outcome, opening]) {
    const { words, clip, heard, differs } = state.requests[id];
    const parts = [`${MARKS[outcome] ?? "?"} `, make("b", {}, outcome), ` — ${words} `];
    if (clip) parts.push(make("button", { type: "button", "aria-label": `play ${words}`, onclick: () => choose({ clip: id }) }, "▶"));
    if (heard !== undefined) parts.push(make("br"), "heard: ", make("i", {}, heard || "(nothing)"));
    if (differs) parts.push(" ", make("b", { class: "differs" }, "≠ heard differently"));
    return make("li", {}, ...parts, make("br"), "answered: ", make("i", {}, opening || "(nothing)"));
  }

  function draw() {
    const chosen = model.get("chosen");
    defences.set(chosen.defences);
    sets.set(chosen.sets);
    const heads = ["", ...chosen.sets].map((name) => make("th", { scope: "col" }, name || "defence"));
    const rows = chosen.defences.map((name, place) =>
      make("tr", {}, make("th", { scope: "row" }, `${place + 1}. ${name}`), ...chosen.sets.map((set) => cell(name, set))),
    );
    grid.replaceChildren(make("table", { class: "board" }, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows)));
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
    const shares = chosen.defences.map((each) => [each, sharesOf(state, each, chosen.sets)]);
    const caption = make("figcaption", { class: "small" }, "The plane, by the numbers of the rows. It needs a set of harmful requests and one of others.");
    figure.replaceChildren(caption, plane(state, chosen.defences, chosen.sets, widthIn(el)));
    const known = shares.filter(([, pair]) => pair).map(([each, [answered, refused]]) => [each, refused.toFixed(3), answered.toFixed(3)]);
    behind.set(`Shares in ${chosen.sets.join(", ")}`, ["defence", "harmful refused", "others answered"], known);
  }

  fill(el, defences.node, sets.node, grid, listen, reading, figure, behind.node);
  return drawOn(model, ["chosen", "clips"], draw);
}

export default { render };
