// A threshold on readiness to refuse: who lies beyond it, and where it stands on the ROC curve and in the plane of
// requests refused and answered. All of it is counted here, from the readiness of each request.
//
// `state.readings` holds readiness by form and kind of request, `state.defences` the points of defences in the plane
// as [name, harmful refused, others answered]. `chosen`: the form, and the threshold as log-odds.

const LOWEST = -8, HIGHEST = 5;
const logOdds = (share) => Math.min(HIGHEST, Math.max(LOWEST, Math.log(share / (1 - share))));
const shareAt = (odds) => (odds <= LOWEST ? 0 : chance(odds));
const fine = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;

function strips(readings, odds, width) {
  const kinds = Object.entries(readings);
  const xs = [0.001, 0.01, 0.1, 0.5, 0.9].map((share) => [logOdds(share), percent(share) === "0%" ? "0.1%" : percent(share)]);
  const label = "Readiness to refuse of each request, a row for each kind, and the threshold.";
  const frame = chart({ label, width, height: 70 * kinds.length + 40, x: [LOWEST, HIGHEST], y: [kinds.length, 0], xs, xname: "readiness to refuse" });
  const { x, y } = frame;
  const parts = kinds.flatMap(([kind, scores], row) => [
    make("svg:text", { x: x(LOWEST), y: y(row) + 8 }, kind),
    ...scores.map((score, number) => {
      const name = score >= shareAt(odds) ? kind : `${kind} hollow`;
      return point(x(logOdds(score)), y(row + 0.32 + 0.45 * (((number * 7) % 11) / 11)), 5, name);
    }),
  ]);
  parts.push(make("svg:line", { class: "now", x1: x(odds), x2: x(odds), y1: y(0) - 8, y2: y(kinds.length) }));
  parts.push(make("svg:circle", { class: "grip", cx: x(odds), cy: y(kinds.length), r: 9 }));
  return { picture: frame.draw(...parts), back: frame.back };
}

function rocPicture(readings, threshold) {
  const { harmful, ...others } = readings;
  const label = "ROC curves of readiness: harmful against the other kinds.";
  const { x, y, draw } = plane({ label, width: 320, height: 300, xname: "others beyond it", yname: "harmful requests beyond it" });
  const parts = [line([[x(0), y(0)], [x(1), y(1)]], "grid")];
  for (const [kind, scores] of Object.entries(others)) {
    parts.push(line(rocOf(harmful, scores).map(([a, b]) => [x(a), y(b)]), kind));
    const [a, b] = [beyond(scores, threshold) / scores.length, beyond(harmful, threshold) / harmful.length];
    parts.push(point(x(a), y(b), 8, kind));
  }
  return draw(...parts);
}

function planePicture(readings, threshold, defences) {
  const { harmful, ...others } = readings;
  const all = Object.values(others).flat();
  const label = "Harmful requests refused and others answered: the threshold's bound, and defences.";
  const { x, y, draw } = plane({ label, width: 320, height: 300, xname: "others answered", yname: "harmful requests refused" });
  const parts = [line(rocOf(harmful, all).map(([a, b]) => [x(1 - a), y(b)]), "bound")];
  for (const [name, refused, answered] of defences) {
    parts.push(make("svg:path", { class: "defence", d: `M${x(answered) - 5} ${y(refused)}h10m-5 -5v10` }, make("svg:title", {}, name)));
  }
  parts.push(point(x(1 - beyond(all, threshold) / all.length), y(beyond(harmful, threshold) / harmful.length), 8, "bound"));
  return draw(...parts);
}

function render({ model, el }) {
  const state = model.get("state"), choose = chooser(model);
  const forms = chips("Readiness was measured", Object.keys(state.readings), (form) => choose({ form }));
  const range = { min: LOWEST, max: HIGHEST, step: 0.05 };
  const push = slider("Refuse what is readier than", range, (odds) => choose({ odds }));
  const told = make("p", { class: "counts", role: "status" });
  const strip = make("figure", {}), roc = make("figure", {}), both = make("figure", {}), behind = folded();
  let back = (place) => place;
  dragged(strip, (place) => choose({ odds: Math.round(20 * Math.min(HIGHEST, Math.max(LOWEST, back(place)))) / 20 }));

  function draw() {
    const { form, odds } = model.get("chosen");
    const readings = state.readings[form], threshold = shareAt(odds);
    forms.set(form);
    push.set(odds, fine(threshold));
    const counts = Object.entries(readings).map(([kind, scores]) => `${beyond(scores, threshold)} of ${scores.length} ${kind}`);
    told.replaceChildren(`Refused: ${counts.join(", ")}.`);
    const drawn = strips(readings, odds, widthIn(el));
    back = drawn.back;
    strip.replaceChildren(drawn.picture);
    const areas = Object.keys(readings).filter((kind) => kind !== "harmful").map((kind) => [kind, areaOf(readings.harmful, readings[kind])]);
    const legend = keys(Object.fromEntries(areas.map(([kind, area]) => [kind, `against ${kind}: area ${area.toFixed(2)}`])));
    roc.replaceChildren(make("figcaption", { class: "small" }, "ROC curve. ", ...legend), rocPicture(readings, threshold));
    const crosses = state.defences.length ? " Crosses: defences." : "";
    const bound = `The plane. Line: the best that a push which moves all alike can do.${crosses}`;
    both.replaceChildren(make("figcaption", { class: "small" }, bound), planePicture(readings, threshold, state.defences));
    const rows = Object.entries(readings).map(([kind, scores]) => {
      const area = kind === "harmful" ? "" : areaOf(readings.harmful, scores).toFixed(3);
      return [kind, beyond(scores, threshold), scores.length - beyond(scores, threshold), area];
    });
    rows.push(...state.defences.map(([name, refused, answered]) => [name, `${percent(refused)} of harmful`, `${percent(answered)} of others`, ""]));
    behind.set(`Readiness ${form}, threshold ${fine(threshold)}`, ["requests", "refused", "answered", "ROC area"], rows);
  }

  fill(el, forms.node, push.node, told, strip, make("div", { class: "pair" }, roc, both), behind.node);
  return drawOn(model, ["chosen"], draw);
}

export default { render };
