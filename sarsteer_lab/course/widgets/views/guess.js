// Guesses before the reveal: kept in the reader's own browser, and scored at the end of the chapter.
//
// `state.questions` are to be guessed, as numbers from 0 to `most`; with `state.score` each has its `truth`, too.

const STORED = "sarsteer-guess";

function keep(key, value) {
  try {
    if (value === null) localStorage.removeItem(`${STORED}-${key}`);
    else localStorage.setItem(`${STORED}-${key}`, value);
  } catch {
    // A browser that keeps nothing: the guess is forgotten.
  }
  window.dispatchEvent(new Event(STORED));
}

function guessed(key) {
  try {
    return localStorage.getItem(`${STORED}-${key}`);
  } catch {
    return null;
  }
}

function question({ key, words, most }) {
  const before = guessed(key), told = make("span", { role: "status" });
  const range = slider(words, { min: 0, max: most }, (value) => range.set(value, `${value} of ${most}`));
  const value = Number(before ?? Math.round(most / 2));
  range.set(value, `${value} of ${most}`);
  function tell() {
    if (guessed(key) !== null) told.replaceChildren(` Kept: ${guessed(key)}. It is scored at the end of the chapter.`);
  }
  const button = make("button", { type: "button", "aria-label": `Keep my guess: ${words}` }, "Keep my guess");
  button.addEventListener("click", () => {
    keep(key, range.knob.value);
    tell();
  });
  tell();
  return make("div", { class: "guess" }, range.node, button, told);
}

function score(questions, el) {
  const rows = questions.map(({ key, words, most, truth }) => {
    const guess = guessed(key);
    const off = guess === null ? "" : `${Math.abs(guess - truth)}`;
    return [words, guess ?? "none kept", `${truth} of ${most}`, off];
  });
  const shown = region("numbers", "your guesses");
  shown.append(table(["question", "your guess", "what came out", "off by"], rows, { caption: "Your guesses in this chapter" }));
  const forget = make("button", { type: "button", onclick: () => questions.forEach(({ key }) => keep(key, null)) }, "Forget my guesses");
  fill(el, shown, forget);
}

function render({ model, el }) {
  const state = model.get("state");
  if (!state.score) return fill(el, ...state.questions.map(question));
  score(state.questions, el);
  window.addEventListener(STORED, () => score(state.questions, el));
}

export default { render };
