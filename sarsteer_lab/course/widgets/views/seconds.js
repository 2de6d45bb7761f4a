// Which seconds of a clip refusal hangs on: silence in each window, and states put in there, layer by layer. While the
// clip plays its words light up.
//
// `state.maps` holds what was found by request and donor; `chosen` are these two, a window and a layer (their places).
// Changes are of the log-odds of refusal; `so_far` are the log-odds when nothing after a window is heard. A kernel
// computes a map that is lacking.

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

function clipPicture(found, end, width) {
  const label = "The clip's loudness, and about when each word is said. Shaded: what the harmless twin does not share.";
  const { x, y, draw } = chart({ label, width, height: 130, x: [0, end], y: [-1, 3], ys: [[0, ""]] });
  const parts = found.apart.map(([from, to]) => cell([x(from), x(to)], [y(-1), y(3)], -0.25));
  found.loudness.forEach((share, place) => {
    const at = x((end * (place + 0.5)) / found.loudness.length);
    parts.push(make("svg:line", { class: "wave", x1: at, x2: at, y1: y(-share), y2: y(share) }));
  });
  found.words.forEach(([text, from, to], place) => {
    const where = { class: "word", x: x((from + to) / 2), y: y(1.1 + 0.62 * (place % 3)), "text-anchor": "middle" };
    parts.push(make("svg:text", where, text)); // next ones in three rows, so that none covers another
  });
  const cursor = make("svg:line", { class: "cursor", y1: y(-1), y2: y(1) });
  return { picture: draw(...parts, cursor), x };
}

function soFarPicture(found, end, width) {
  const label = "Probability of a refusal when the clip is heard up to there, and the rest is silent.";
  const size = { width, height: 140, x: [0, end], y: [0, 1] };
  const { x, y, draw } = chart({ label, ...size, ys: SHARES, yname: "refuses, when it has heard so much" });
  const places = found.windows.map(([, until], place) => [x(until), y(chance(found.so_far[place]))]);
  const cursor = make("svg:line", { class: "cursor", y1: y(0), y2: y(1) });
  return draw(cursor, line(places, "spoken"), ...places.map(([across, up]) => point(across, up, 4, "spoken")));
}

// Lights up the word that is said at a time, and puts a line there.
function light(pictures, words, x, seconds) {
  pictures.querySelectorAll(".word").forEach((node, place) => {
    const [, from, to] = words[place];
    node.classList.toggle("lit", from <= seconds && seconds < to);
  });
  for (const cursor of pictures.querySelectorAll(".cursor")) {
    cursor.setAttribute("x1", x(seconds));
    cursor.setAttribute("x2", x(seconds));
  }
}

function silencePicture(found, span, chosen, end, width) {
  const label = "Change of the log-odds of refusal when a window is silent.";
  const ys = [-span, 0, span].map((value) => [value, value.toFixed(1)]);
  const { x, y, draw } = chart({ label, width, height: 130, x: [0, end], y: [-span, span], ys, yname: "silent there" });
  const bars = found.windows.map(([from, to], place) => {
    const change = found.silenced[place];
    return cell([x(from) + 1, x(to) - 1], [y(0), y(change)], change < 0 ? -1 : 1, place === chosen);
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
      const here = row === chosen.layer && place === chosen.window;
      const more = { onclick: () => choose({ layer: row, window: place }) };
      return cell([x(from), x(to)], [y(row), y(row + 1)], found.patched[row][place] / span, here, more);
    }),
  );
  return draw(...chosenLast(cells));
}

function render({ model, el }) {
  const { requests, donors, layers } = model.get("state"), choose = chooser(model);
  const asked = picker(requests, (request) => choose({ request }));
  const donor = chips("States are put in from", donors, (name) => choose({ donor: donors.indexOf(name) }));
  const window = slider("Window", { min: 0, max: 1 }, (place) => choose({ window: place }));
  const layer = slider("Put in after layer", { min: 0, max: layers.length - 1 }, (place) => choose({ layer: place }));
  const told = make("p", { role: "status" }), sound = player(model), behind = folded();
  const pictures = make("figure", {});
  let heardTo = () => {};
  whilePlaying(sound.node, (seconds) => heardTo(seconds));

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
    const clip = clipPicture(found, end, width);
    pictures.replaceChildren(
      clip.picture,
      soFarPicture(found, end, width),
      silencePicture(found, span, place, end, width),
      statesPicture(found, layers, span, at, end, width, choose),
    );
    heardTo = (seconds) => light(pictures, found.words, clip.x, seconds);
    heardTo(sound.node.currentTime);
    const heads = ["window", "heard to its end", "silent", ...layers.map((each) => `layer ${each}`)];
    const rows = found.windows.map(([begun, ended], row) => {
      const cells = [found.silenced[row], ...found.patched.map((values) => values[row])].map(signed);
      return [`${begun.toFixed(1)} to ${ended.toFixed(1)} s`, percent(chance(found.so_far[row])), ...cells];
    });
    behind.set("Probability of a refusal, and changes of its log-odds", heads, rows);
  }

  fill(el, asked.node, make("div", { class: "listen" }, sound.node), donor.node, window.node, layer.node, told, pictures, behind.node);
  return drawOn(model, ["chosen", "state", "clips"], draw);
}

export default { render };
