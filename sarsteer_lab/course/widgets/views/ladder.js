// One request's answers under a growing push, a row for each strength; marked is where a row turns away
// from the one above.
//
// In anywidget's form: `rungs` holds the rows of each form, `form` is the one that is shown, and `alpha` a
// strength that is asked for. A kernel (`live`) computes it; a recording shows the nearest, and says so.

function turnAt(above, tokens) {
  const place = tokens.findIndex((token, number) => token !== above[number]);
  if (place >= 0) return place;
  return above.length === tokens.length ? null : tokens.length;
}

function ladderRows(rungs, marked) {
  return rungs.map((rung, number) => {
    const turn = number ? turnAt(rungs[number - 1].tokens, rung.tokens) : null;
    const row = make(
      "tr",
      { "data-alpha": rung.alpha },
      make("th", { scope: "row" }, `${rung.alpha}`),
      make("td", {}, rung.refusal_probability.toFixed(2)),
      make("td", {}, `${MARKS[rung.outcome]} ${rung.outcome}`),
      make("td", { class: "answer" }, ...answerSpans(rung, turn)),
    );
    if (rung === marked) row.setAttribute("class", "marked");
    return row;
  });
}

function nearest(rungs, alpha) {
  return rungs.reduce((best, rung) => (Math.abs(rung.alpha - alpha) < Math.abs(best.alpha - alpha) ? rung : best));
}

function render({ model, el }) {
  const change = changer(model);
  const forms = chips("The request is", model.get("forms"), (form) => change("form", form));
  const name = model.get("live") ? "One more strength: alpha =" : "Look up a strength: alpha =";
  const range = { min: 0, max: model.get("most"), step: 0.01 };
  const push = slider(name, range, (alpha) => change("alpha", alpha), "change");
  const note = make("p", { class: "small", role: "status" });
  const title = make("p", {}, make("b", {}, model.get("title")));
  const legend = make("p", { class: "small" });
  legend.append("▼ and a box: the first token that differs from the row above. The thicker the line, the likelier the token was. ");
  legend.append("P(refusal): the answer opens as a refusal.");
  const heads = ["alpha", "P(refusal)", "outcome", "answer"].map((head) => make("th", { scope: "col" }, head));
  const body = make("tbody", {});
  const table = make("table", { class: "ladder" }, make("thead", {}, make("tr", {}, ...heads)), body);

  function draw() {
    const form = model.get("form"), alpha = model.get("alpha");
    const rungs = model.get("rungs")[form] ?? [];
    forms.set(form);
    push.set(alpha, alpha.toFixed(2));
    const near = rungs.length ? nearest(rungs, alpha) : null;
    const lacking = !near || Math.abs(near.alpha - alpha) > 0.001;
    const nearby = near ? `alpha ${alpha.toFixed(2)} was not recorded; the nearest that was is ${near.alpha}.` : "";
    note.replaceChildren(lacking ? (model.get("live") ? "The model answers …" : nearby) : "");
    body.replaceChildren(...ladderRows(rungs, near));
  }

  fill(el, title, forms.node, push.node, note, legend, make("div", { class: "numbers" }, table));
  return drawOn(model, ["form", "alpha", "rungs"], draw);
}

export default { render };
