// Typed and spoken requests on a map of their states, layer by layer; each can be read and heard.
//
// `state.layers` holds a place for each point and layer, the typed requests first, then the spoken ones;
// `chosen` a layer and a point.

function render({ model, el }) {
  const { requests, layers } = model.get("state"), choose = chooser(model), n = requests.length;
  const layer = slider("Layer", { min: 0, max: layers.length - 1 }, (value) => choose({ layer: value }));
  const which = slider("Request", { min: 0, max: 2 * n - 1 }, (value) => choose({ point: value }));
  const figure = make("figure", {}), sound = player(model), words = make("p", { role: "status" }), behind = folded();
  const typed = { typed: "typed, harmful", "typed hollow": "typed, others" };
  const spoken = { spoken: "spoken, harmful", "spoken hollow": "spoken, others" };
  const legend = keys({ ...typed, ...spoken });

  function draw() {
    const chosen = model.get("chosen"), places = layers[chosen.layer];
    layer.set(chosen.layer);
    const request = requests[chosen.point % n], form = chosen.point < n ? "typed" : "spoken";
    which.set(chosen.point, `${form}, ${(chosen.point % n) + 1} of ${n}`);
    const label = `Typed and spoken requests by their states after layer ${chosen.layer}.`;
    const width = widthIn(el), height = 24 + (0.38 / 0.55) * (width - 24); // both axes of one scale
    const { x, y, draw: picture } = chart({ label, width, height, x: [-0.55, 0.55], y: [-0.38, 0.38] });
    const points = places.map(([across, up], place) => {
      const { label: kind, words: said } = requests[place % n];
      const name = `${place < n ? "typed" : "spoken"}${kind === "harmful" ? "" : " hollow"}`;
      const more = { onclick: () => choose({ point: place }) };
      const node = point(x(across), y(up), place === chosen.point ? 10 : 6, name, more);
      node.append(make("svg:title", {}, said));
      return node;
    });
    const joined = [chosen.point % n, (chosen.point % n) + n].map((place) => [x(places[place][0]), y(places[place][1])]);
    figure.replaceChildren(make("figcaption", { class: "small" }, ...legend), picture(line(joined, "now"), ...points));
    sound.set(request.clip, request.words);
    const voice = request.voice ? `, voice ${request.voice}` : "";
    words.replaceChildren(make("b", {}, request.words), ` (${form}, ${request.label}, ${request.topic}${voice})`);
    const rows = requests.map((each, place) => [each.words, each.label, ...places[place], ...places[place + n]]);
    behind.set(`After layer ${chosen.layer}`, ["request", "kind", "typed, across", "typed, up", "spoken, across", "spoken, up"], rows);
  }

  fill(el, layer.node, figure, which.node, words, make("div", { class: "listen" }, sound.node), behind.node);
  return drawOn(model, ["chosen", "clips"], draw);
}

export default { render };
