// Which seconds of a clip refusal hangs on: silence in each window, and states put in there, layer by layer.
//
// `state.maps` holds what was found by request and donor; `chosen` are these two, a window and a layer (their places).
// Changes are of the log-odds of refusal. A kernel computes a map that is lacking.

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

function clipPicture(found, end, width) {
  const label = "The clip's loudness, and about when each word is said. Shaded: what the harmless twin does not share.";
  const { x, y, draw } = chart({ label, width, height: 130, x: [0, end], y: [-1, 3], ys: [[0, ""]] });
  const parts = found.apart.map(([from, to]) => cell([x(from), x(to)], [y(-1), y(3)], 0.25, { class: "below" }));
  found.loudness.forEach((share, place) => {
    const at = x((end * (place + 0.5)) / found.loudness.length);
    parts.push(make("svg:line", { class: "wave", x1: at, x2: at, y1: y(-share), y2: y(share) }));
  });
  found.words.forEach(([text, from, to], place) => {
    const where = { x: x((from + to) / 2), y: y(1.1 + 0.62 * (place % 3)), "text-anchor": "middle" };
    parts.push(make("svg:text", where, text)); // next ones in three rows, so that none covers another
  });
  return draw(...parts);
}

function silencePicture(found, span, chosen, end, width) {
  const label = "Change of the log-odds of refusal when a window is silent.";
  const ys = [-span, 0, span].map((value) => [value, value.toFixed(1)]);
  const { x, y, draw } = chart({ label, width, height: 130, x: [0, end], y: [-span, span], ys, yname: "silent there" });
  const bars = found.windows.map(([from, to], place) => {
    const more = place === chosen ? { class: `${found.silenced[place] < 0 ? "below" : "above"} chosen` } : {};
    return cell([x(from) + 1, x(to) - 1], [y(0), y(found.silenced[place])], found.silenced[place] < 0 ? -1 : 1, more);
  });
  return draw(...bars);
}

function statesPicture(found, layers, span, chosen, end, width, choose) {
  const label = "Change of the log-odds of refusal when states are put in there, by layer and window.";
  const ys = layers.map((layer, row) => [row + 0.5, `${layer}`]);
  const xs = Array.from({ length: Math.floor(end) + 1 }, (_, second) => [second, `${second} s`]);
  const size = { width, height: 88 + 30 * layers.length, x: [0, end], y: [0, layers.length] };
  const { x, y, draw } = chart({ label, ...size, xs, ys, xname: "seconds", yname: "put in after layer" });
  const cells = layers.flatMap((_, row) =>
    found.windows.map(([from, to], place) => {
      const mark = row === chosen.layer && place === chosen.window ? " chosen" : "";
      const value = found.patched[row][place];
      const more = { class: `${value < 0 ? "below" : "above"}${mark}`, onclick: () => choose({ layer: row, window: place }) };
      return cell([x(from), x(to)], [y(row), y(row + 1)], value / span, more);
    }),
  );
  cells.sort((one, other) => one.classList.contains("chosen") - other.classList.contains("chosen")); // its frame on top
  return draw(...cells);
}

function render({ model, el }) {
  const { requests, donors, layers } = model.get("state"), choose = chooser(model);
  const asked = picker(requests, (request) => choose({ request }));
  const donor = chips("States are put in from", donors, (name) => choose({ donor: donors.indexOf(name) }));
  const window = slider("Window", { min: 0, max: 1 }, (place) => choose({ window: place }));
  const layer = slider("Put in after layer", { min: 0, max: layers.length - 1 }, (place) => choose({ layer: place }));
  const told = make("p", { role: "status" }), sound = player(model), behind = folded();
  const pictures = make("figure", { class: "stack" });

  function draw() {
    const chosen = model.get("chosen"), { maps } = model.get("state");
    const found = maps[`${chosen.request},${chosen.donor}`];
    asked.set(chosen.request);
    donor.set(donors[chosen.donor]);
    layer.set(chosen.layer, `${layers[chosen.layer]}`);
    sound.set(requests[chosen.request].clip, requests[chosen.request].words);
    if (!found) return told.replaceChildren("The model is asked, window by window …");
    const place = Math.min(chosen.window, found.windows.length - 1), [from, to] = found.windows[place];
    window.knob.max = found.windows.length - 1;
    window.set(place, `${from.toFixed(1)} to ${to.toFixed(1)} s`);
    const [silent, put] = [found.silenced[place], found.patched[chosen.layer][place]].map(signed);
    const plain = `The clip as it is: log-odds of refusal ${found.plain.toFixed(2)}. Silent there: ${silent}. `;
    told.replaceChildren(plain, `States of ${donors[chosen.donor]} put in there after layer ${layers[chosen.layer]}: ${put}.`);
    const span = Math.max(0.001, ...[found.silenced, ...found.patched].flat().map(Math.abs));
    const end = found.windows.at(-1)[1], width = widthIn(el), at = { layer: chosen.layer, window: place };
    pictures.replaceChildren(
      clipPicture(found, end, width),
      silencePicture(found, span, place, end, width),
      statesPicture(found, layers, span, at, end, width, choose),
    );
    const heads = ["window", "silent", ...layers.map((each) => `layer ${each}`)];
    const rows = found.windows.map(([begun, ended], row) => {
      const cells = [found.silenced[row], ...found.patched.map((values) => values[row])].map(signed);
      return [`${begun.toFixed(1)} to ${ended.toFixed(1)} s`, ...cells];
    });
    behind.set("Changes of the log-odds of refusal", heads, rows);
  }

  fill(el, asked.node, make("div", { class: "listen" }, sound.node), donor.node, window.node, layer.node, told, pictures, behind.node);
  return drawOn(model, ["chosen", "state", "clips"], draw);
}

export default { render };
