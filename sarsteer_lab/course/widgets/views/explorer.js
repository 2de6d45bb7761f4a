// What safe-space ablation removes from a refusal direction, by k, lambda and layer, and which tokens that raises.
//
// `state.inside` holds how long the part inside the space is, by k and layer, `state.lengths` the direction's length.
// `state.tokens` are those found so far, by k, lambda (in tenths) and layer; a recording has some, and the nearest is shown.

function sharesPicture(state, { k, layer }, choose, width) {
  const label = `Share of the direction inside the safe space of k = ${k}, by layer.`;
  const xs = state.lengths.map((_, place) => [place, `${place}`]).filter(([place]) => place % 5 === 0);
  const ends = { x: [-0.6, state.lengths.length - 0.4], y: [0, 1], xs, ys: SHARES, xname: "layer", yname: "share of squared length inside" };
  const { x, y, draw } = chart({ label, width, height: 260, ...ends });
  const bars = state.lengths.map((length, place) => {
    const share = (state.inside[k][place] / length) ** 2;
    return cell([x(place - 0.4), x(place + 0.4)], [y(0), y(share)], 1, place === layer, { onclick: () => choose({ layer: place }) });
  });
  const random = y(k / state.width);
  bars.push(make("svg:line", { class: "now", x1: x(-0.6), x2: x(state.lengths.length - 0.4), y1: random, y2: random }));
  return draw(...bars);
}

function trianglePicture(across, up, kept, width) {
  const reach = 1.15 * Math.max(across, up, Math.abs(kept), 1e-6);
  const label = "The direction and what ablation leaves of it, in the plane of its parts inside and outside.";
  const names = { xname: "along its part inside", yname: "along its part outside" };
  const { x, y, draw } = chart({ label, width, height: 260, x: [-reach / 2, reach], y: [0, reach], xs: [[0, "0"]], ys: [[0, "0"]], ...names });
  const arrow = (to, name) => line([[x(0), y(0)], [x(to), y(up)]], `arrow ${name}`);
  return draw(line([[x(across), y(up)], [x(kept), y(up)]], "now"), arrow(across, "direction"), arrow(kept, "vectors"));
}

function nearestTokens(tokens, { k, lam, layer }) {
  const keys = Object.keys(tokens).map((key) => key.split(",").map(Number)).filter((each) => each[2] === layer);
  const far = (each) => Math.abs(each[0] - k) + Math.abs(each[1] - lam) / 10;
  return keys.reduce((best, each) => (!best || far(each) < far(best) ? each : best), null);
}

function render({ model, el }) {
  const first = model.get("state"), choose = chooser(model), live = model.get("live");
  const when = live ? "change" : "input";
  const k = slider("k =", { min: 0, max: first.inside.length - 1 }, (value) => choose({ k: value }), when);
  const lam = slider("lambda =", { min: 0, max: 15 }, (value) => choose({ lam: value }), when);
  const layer = slider("Layer", { min: 0, max: first.lengths.length - 1 }, (value) => choose({ layer: value }), when);
  const shares = make("figure", {}), triangle = make("figure", {}), told = make("p", { role: "status" });
  const raised = make("div", { class: "raised" }), behind = folded();
  const legend = make("p", { class: "small keys" }, "Dashed: in a random space of this size. Right: ");
  legend.append(...keys({ direction: "the direction", vectors: "after ablation" }));

  function draw() {
    const state = model.get("state"), chosen = model.get("chosen");
    k.set(chosen.k);
    lam.set(chosen.lam, (chosen.lam / 10).toFixed(1));
    layer.set(chosen.layer);
    const across = state.inside[chosen.k][chosen.layer], length = state.lengths[chosen.layer];
    const up = Math.sqrt(Math.max(0, length ** 2 - across ** 2)), kept = (1 - chosen.lam / 10) * across;
    const left = Math.hypot(kept, up) / length;
    told.replaceChildren(`Layer ${chosen.layer}: ablation (k = ${chosen.k}, lambda = ${(chosen.lam / 10).toFixed(1)}) leaves ${percent(left)} of the direction's length.`);
    const width = widthIn(el, 400);
    shares.replaceChildren(sharesPicture(state, chosen, choose, width));
    triangle.replaceChildren(trianglePicture(across, up, kept, width));
    const near = nearestTokens(state.tokens, chosen), exact = near && near[0] === chosen.k && near[1] === chosen.lam;
    const note = exact ? "" : live ? "The model reads …" : `Recorded nearest: k = ${near[0]}, lambda = ${near[1] / 10}.`;
    const lines = Object.entries(near && (exact || !live) ? state.tokens[near.join()] : {}).map(([part, tokens]) =>
      make("p", {}, "What is ", make("b", {}, part), ` in layer ${chosen.layer} raises: `, ...tokens.flatMap((token) => [make("code", {}, JSON.stringify(token)), " "])),
    );
    raised.replaceChildren(make("p", { class: "small" }, note), ...lines);
    const rows = state.lengths.map((each, place) => [place, ((state.inside[chosen.k][place] / each) ** 2).toFixed(4), each.toFixed(3)]);
    behind.set(`Inside the safe space of k = ${chosen.k}`, ["layer", "share of squared length", "length of the direction"], rows);
  }

  const knobs = make("div", { class: "knobs" }, k.node, lam.node, layer.node);
  fill(el, knobs, told, legend, make("div", { class: "pair" }, shares, triangle), raised, behind.node);
  return drawOn(model, ["chosen", "state"], draw);
}

export default { render };
