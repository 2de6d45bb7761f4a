// What the views share. It stands before each of them (course/widgets/web.py), as a view is one module.

const MARKS = { refused: "⊘", answered: "→", broken: "≈" };
const SVG = "http://www.w3.org/2000/svg";
const unique = (name) => `sarsteer-${name}-${Math.random().toString(36).slice(2)}`; // ids of a page differ

function make(tag, attributes = {}, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const percent = (share) => `${Math.round(100 * share)}%`;

// An answer's tokens, a line under each, thicker where it was likelier; the token at `turn` is boxed.
function answerSpans(answer, turn = null) {
  const spans = answer.tokens.map((token, place) => {
    const probability = answer.probabilities[place];
    const style = `border-bottom-width:${(1 + 4 * probability).toFixed(1)}px`;
    const name = place === turn ? "token turn" : "token";
    const span = make("span", { class: name, style, title: `p = ${probability.toFixed(3)}` }, token.replaceAll("\n", "↵"));
    if (place === turn) span.prepend("▼");
    return span;
  });
  if (answer.cut) spans.push(" …");
  if (turn === answer.tokens.length) spans.push(make("span", { class: "turn" }, "▼(ends)"));
  return spans.length ? spans : [make("i", {}, "(nothing)")];
}

// An input that keeps its arrow keys: JupyterLab has shortcuts for them.
function input(attributes) {
  return make("input", { "data-lm-suppress-shortcuts": "true", ...attributes });
}

// Radio buttons that look like chips.
function chip(name, value, words, choose) {
  const button = input({ type: "radio", name, value, onchange: choose });
  return make("label", { class: "chip" }, button, make("span", {}, words));
}

function changer(model) {
  return (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
}

function fill(el, ...parts) {
  el.classList.add("sarsteer-view");
  el.replaceChildren(...parts);
}

// Draw now and whenever one of the model's values changes; gives what ends that.
function drawOn(model, names, draw) {
  for (const name of names) model.on(`change:${name}`, draw);
  draw();
  return () => {
    for (const name of names) model.off(`change:${name}`, draw);
  };
}

