// Layer by position: how far a request has gone towards refusal, typed, spoken and steered.
//
// `state.films` holds both measures and the likeliest tokens of each cell, by form (the steered one by the place of
// alpha, too). At first only the prompt's last position and what follows is shown, in the layers `state.first`;
// `chosen.all` opens the rest. `chosen.form`, `.layer` and `.column` are a cell.

const MEASURES = {
  projection: "Projection on v, from the layer's median, in lengths of v. Purple: towards refusal.",
  "refusing opening": "Probability that the next token opens a refusal, through the lens; logarithmic. Empty: the answer has left all openings.",
};

function shareOf(measure, value, top) {
  if (measure === "projection") return value / top;
  return value < 0 ? 0 : 1 + Math.log10(Math.max(1e-4, value)) / 4;
}

function render({ model, el }) {
  const first = model.get("state"), choose = chooser(model), live = model.get("live");
  const filmOf = (form, chosen) => model.get("state").films[form === "steered" ? `steered,${chosen.alpha}` : form];
  const measure = chips("Measure", Object.keys(MEASURES), (name) => choose({ measure: name }));
  const extent = chips("Shown", ["from the last position on", "all positions and layers"], (name) => choose({ all: name.startsWith("all") }));
  const alpha = slider("Push: alpha =", { min: 0, max: first.alphas.length - 1 }, (place) => choose({ alpha: place }), live ? "change" : "input");
  const layer = slider("Layer", { min: 0, max: first.layers.length - 1 }, (place) => choose({ layer: place }));
  const position = slider("Position", { min: 0, max: 1 }, (place) => choose(shownCells()[place]));
  const title = make("p", {}, make("b", {}, first.title)), caption = make("p", { class: "small" });
  const told = make("p", { role: "status" }), films = region("films", "heat maps"), behind = folded();

  const columnsOf = (film, chosen) => film.names.map((_, column) => column).filter((column) => chosen.all || column >= film.answer - 1);

  // All columns that are shown, from left to right.
  function shownCells() {
    const chosen = model.get("chosen");
    return first.forms.flatMap((form) => {
      const film = filmOf(form, chosen);
      return film ? columnsOf(film, chosen).map((column) => ({ form, column })) : [];
    });
  }

  function picture(form, film, chosen, layers, top) {
    const columns = columnsOf(film, chosen), values = film[chosen.measure];
    const ys = layers.filter((_, row) => row % Math.ceil(layers.length / 10) === 0).map((each) => [each + 0.5, `${first.layers[each]}`]);
    const width = 72 + (chosen.all ? 15 : 26) * columns.length;
    const size = { width, height: 140 + 16 * layers.length, x: [0, columns.length], y: [layers[0], layers.at(-1) + 1], foot: 92 };
    const { x, y, draw } = chart({ label: `${chosen.measure} of the ${form} request, by layer and position.`, ...size, ys, yname: form });
    const cells = [], names = [];
    columns.forEach((column, place) => {
      for (const row of layers) {
        const here = form === chosen.form && column === chosen.column && row === chosen.layer;
        const share = shareOf(chosen.measure, values[row][column], top);
        const more = { onclick: () => choose({ form, column, layer: row }) };
        cells.push(cell([x(place), x(place + 1)], [y(row), y(row + 1)], share, here, more));
      }
      if (film.names[column] === film.names[columns[place - 1]]) return; // the same tenth of a second
      const where = `translate(${x(place + 0.5) + 5},${y(layers[0]) + 8}) rotate(-90)`;
      names.push(make("svg:text", { transform: where, "text-anchor": "end" }, film.names[column]));
    });
    const begins = x(columns.indexOf(film.answer - 1) + 1); // from here on it is the answer
    const end = make("svg:line", { class: "now", x1: begins, x2: begins, y1: y(layers[0]), y2: y(layers.at(-1) + 1) });
    const svg = draw(...names, end, ...chosenLast(cells));
    svg.setAttribute("style", `width:${width}px;flex:none`);
    return svg;
  }

  function draw() {
    const chosen = model.get("chosen"), cells = shownCells();
    measure.set(chosen.measure);
    extent.set(chosen.all ? "all positions and layers" : "from the last position on");
    alpha.set(chosen.alpha, `${first.alphas[chosen.alpha]}`);
    layer.set(chosen.layer, `${first.layers[chosen.layer]}`);
    caption.replaceChildren(`${MEASURES[chosen.measure]} The dashed line: where the answer begins.`);
    const film = filmOf(chosen.form, chosen);
    if (!film || !filmOf("steered", chosen)) return told.replaceChildren("The model answers …");
    const column = Math.min(chosen.column, film.names.length - 1), name = film.names[column];
    position.knob.max = cells.length - 1;
    const at = cells.findIndex((each) => each.form === chosen.form && each.column === column);
    position.set(Math.max(0, at), `${chosen.form}, at “${name}”`);
    const opening = film["refusing opening"][chosen.layer][column];
    const tokens = film.tokens[chosen.layer][column].map(([token, share]) => `${JSON.stringify(token)} ${share.toFixed(2)}`);
    const measured = [film.projection[chosen.layer][column].toFixed(2), opening < 0 ? "not measured" : opening.toFixed(3)];
    told.replaceChildren(make("b", {}, chosen.form), `, layer ${first.layers[chosen.layer]}, at “${name}”: projection ${measured[0]}, `);
    told.append(`opens a refusal ${measured[1]}. Through the lens the next token is ${tokens.join(", ")}.`);
    const [low, high] = chosen.all ? [0, first.layers.length - 1] : first.first;
    const layers = first.layers.map((_, place) => place).filter((place) => place >= low && place <= high);
    const shown = first.forms.map((form) => [form, filmOf(form, chosen)]);
    const sizes = shown.flatMap(([, each]) => each.projection.flat()).map(Math.abs).sort((a, b) => a - b);
    const top = sizes[Math.floor(0.96 * (sizes.length - 1))] || 1;
    films.replaceChildren(...shown.map(([form, each]) => picture(form, each, chosen, layers, top)));
    const rows = layers.map((row) => [first.layers[row], ...shown.map(([, each]) => each[chosen.measure][row][each.answer - 1].toFixed(3))]);
    behind.set(`${chosen.measure}, at the prompt's last position`, ["layer", ...first.forms], rows);
  }

  const knobs = make("div", { class: "knobs" }, alpha.node, layer.node, position.node);
  fill(el, title, measure.node, extent.node, knobs, caption, films, told, behind.node);
  return drawOn(model, ["chosen", "state"], draw);
}

export default { render };
