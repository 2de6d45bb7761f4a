// The method's vectors on two clouds of points, without a model: all of it is computed here.
//
// A state's first number is its readiness to refuse. `chosen`: the direction's angle, k, lambda and alpha (both in
// tenths), and which push has moved the points.

const PUSHES = { d: "direction d", v: "ablated v", control: "control" };
const COLOURS = { inside: "inside", d: "direction", v: "vectors", control: "bound" };
const add = (a, b, factor = 1) => a.map((value, place) => value + factor * b[place]);
const dot = (a, b) => a.reduce((sum, value, place) => sum + value * b[place], 0);
const norm = (a) => Math.sqrt(dot(a, a));

function vectorsOf(state, { angle, k, lam }) {
  const turn = (angle * Math.PI) / 180, across = Math.sin(turn);
  const d = [Math.cos(turn), across * Math.cos(state.depth), across * Math.sin(state.depth)].map((value) => state.length * value);
  const inside = state.directions.slice(0, k).reduce((sum, u) => add(sum, u, dot(d, u)), [0, 0, 0]);
  const v = add(d, inside, -lam / 10);
  return { inside, d, v, control: d.map((value) => (value * norm(v)) / norm(d)) };
}

// The least share of harmless requests that a push which moves all alike takes along when it refuses so many.
function alongAtBest(clouds, refused) {
  const readiness = clouds.harmful.map(([first]) => first).sort((a, b) => b - a);
  const threshold = refused ? readiness[refused - 1] : Infinity;
  return clouds.harmless.filter(([first]) => first >= threshold).length;
}

function cloudPicture(state, chosen, vectors, up, width) {
  const names = { xname: "readiness to refuse", yname: `what harmless requests vary in (${up})` };
  const label = `Both clouds ${up === 1 ? "from the side" : "from above"}, moved by ${chosen.moved}.`;
  const ticks = [-3, 0, 3].map((value) => [value, `${value}`]);
  const { x, y, draw } = chart({ label, width, height: 340, x: [-3.4, 4.8], y: [-3.6, 3.6], xs: ticks, ys: ticks, ...names });
  const parts = state.directions.slice(0, chosen.k).map((u, place) => {
    const half = u.map((value) => 2 * state.spreads[place] * value);
    return line([[x(-half[0]), y(-half[up])], [x(half[0]), y(half[up])]], "space");
  });
  const push = vectors[chosen.moved].map((value) => (value * chosen.alpha) / 10);
  for (const [kind, cloud] of Object.entries(state.clouds)) {
    for (const before of cloud) {
      const after = add(before, push), beyond = after[0] > state.line;
      parts.push(point(x(after[0]), y(after[up]), 4, `${kind}${beyond ? "" : " hollow"}`));
    }
  }
  parts.push(make("svg:line", { class: "now", x1: x(state.line), x2: x(state.line), y1: y(3.6), y2: y(-3.6) }));
  for (const [name, vector] of Object.entries(vectors)) {
    const end = vector.map((value) => (value * chosen.alpha) / 10);
    if (norm(end) < 0.05) continue;
    const [ex, ey] = [x(end[0]), y(end[up])];
    const tip = (Math.atan2(ey - y(0), ex - x(0)) * 180) / Math.PI;
    parts.push(line([[x(0), y(0)], [ex, ey]], `arrow ${COLOURS[name]}${name === "inside" ? " dotted" : ""}`));
    parts.push(make("svg:path", { class: `arrow ${COLOURS[name]}`, d: "M-11 -6L0 0L-11 6", transform: `translate(${ex},${ey}) rotate(${tip})` }));
  }
  return draw(...parts);
}

function render({ model, el }) {
  const state = model.get("state"), choose = chooser(model), n = state.clouds.harmful.length;
  const range = (name, label, min, max, step = 1) => slider(label, { min, max, step }, (value) => choose({ [name]: value }));
  const angle = range("angle", "Angle of d =", -90, 90, 5), k = range("k", "k =", 0, 3);
  const lam = range("lam", "lambda =", 0, 15), alpha = range("alpha", "alpha =", 0, 30);
  const moved = chips("Moved by", Object.keys(PUSHES), (name) => choose({ moved: name }), (name) => PUSHES[name]);
  const side = make("figure", {}), above = make("figure", {}), told = make("p", { role: "status" }), behind = folded();
  const arrows = Object.fromEntries(Object.entries(PUSHES).map(([name, words]) => [COLOURS[name], words]));

  function draw() {
    const chosen = model.get("chosen"), vectors = vectorsOf(state, chosen);
    angle.set(chosen.angle, `${chosen.angle}°`);
    k.set(chosen.k);
    lam.set(chosen.lam, (chosen.lam / 10).toFixed(1));
    alpha.set(chosen.alpha, (chosen.alpha / 10).toFixed(1));
    moved.set(chosen.moved);
    const width = widthIn(el, 400);
    side.replaceChildren(cloudPicture(state, chosen, vectors, 1, width));
    above.replaceChildren(cloudPicture(state, chosen, vectors, 2, width));
    const over = (vector, kind) => state.clouds[kind].filter(([first]) => first + (vector[0] * chosen.alpha) / 10 > state.line).length;
    const pushes = Object.entries({ "no push": [0, 0, 0], d: vectors.d, v: vectors.v, control: vectors.control });
    const rows = pushes.map(([name, vector]) => [name, over(vector, "harmful"), over(vector, "harmless"), norm(vector).toFixed(3)]);
    const refused = over(vectors[chosen.moved], "harmful"), inside = (norm(vectors.inside) / norm(vectors.d)) ** 2;
    told.replaceChildren(`Refused: ${refused} of ${n} harmful and ${over(vectors[chosen.moved], "harmless")} of ${n} harmless requests. `);
    told.append(`${percent(inside)} of d (of its squared length) lies in the safe space; v is ${percent(norm(vectors.v) / norm(vectors.d))} as long as d. `);
    told.append(`Whichever way it points, a push that gets ${refused} of ${n} harmful requests refused takes at least ${alongAtBest(state.clouds, refused)} `);
    told.append(`of ${n} harmless ones along: it moves all alike, and refusal is read from one number here.`);
    behind.set(`Refused, of ${n} each`, ["push", "harmful", "harmless", "length"], rows);
  }

  const legend = make("p", { class: "small keys" }, ...keys({ harmful: "harmful", harmless: "harmless", ...arrows }), "Dotted: d inside the safe space (bars). Dashed: beyond it is refused.");
  const knobs = make("div", { class: "knobs" }, angle.node, k.node, lam.node, alpha.node);
  fill(el, knobs, moved.node, told, legend, make("div", { class: "pair" }, side, above), behind.node);
  return drawOn(model, ["chosen"], draw);
}

export default { render };
