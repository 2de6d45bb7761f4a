// Guesses before the reveal. A kernel keeps them in a file; on the site the reader's own browser does, and scores them.
//
// `state.questions` are to be guessed, as numbers from 0 to `most`; with `state.score` each has its `truth`, too.

const STORED = "sarsteer-guess";

function inKernel(model) {
  const choose = chooser(model);
  return { keep: (key, value) => choose({ [key]: Number(value) }), guessed: (key) => model.get("chosen")[key] ?? null };
}

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

const inBrowser = { keep, guessed };

function question({ key, words, most }, { keep, guessed }) {
  const before = guessed(key), told = make("span", { role: "status" });
  const range = slider(`${words}:`, { min: 0, max: most }, (value) => range.set(value, `${value} of ${most}`));
  const value = Number(before ?? Math.round(most / 2));
  range.set(value, `${value} of ${most}`);
  function tell() {
    if (guessed(key) !== null) told.replaceChildren(` Kept: ${guessed(key)}. The debrief says what came out.`);
  }
  const button = make("button", { type: "button", "aria-label": `Keep my guess: ${words}` }, "Keep my guess");
  button.addEventListener("click", () => {
    keep(key, range.knob.value);
    tell();
  });
  tell();
  return make("div", { class: "guess" }, range.node, button, told);
}

// How well the kept guesses were made, beside a reader who always names the middle.
function calibrated(questions) {
  const kept = questions.filter(({ key }) => guessed(key) !== null);
  if (!kept.length) return "No guess is kept so far.";
  const misses = kept.map(({ key, truth }) => guessed(key) - truth);
  const mean = (values) => percent(values.reduce((sum, value) => sum + value, 0) / values.length);
  const high = misses.filter((miss) => miss > 0).length, low = misses.filter((miss) => miss < 0).length;
  const off = mean(misses.map((miss, place) => Math.abs(miss) / kept[place].most));
  const middle = mean(kept.map(({ most, truth }) => Math.abs(most / 2 - truth) / most));
  return `Of ${kept.length} guesses ${high} were too high, ${low} too low and ${kept.length - high - low} right. They missed by ${off} of the range on average. The middle of each range would have missed by ${middle}.`;
}

function score({ questions, caption }, el) {
  const rows = questions.map(({ key, words, most, truth }) => {
    const guess = guessed(key);
    const off = guess === null ? "" : `${Math.abs(guess - truth)}`;
    return [words, guess ?? "none kept", `${truth} of ${most}`, off];
  });
  const shown = region("numbers", "your guesses");
  shown.append(table(["question", "your guess", "what came out", "off by"], rows, { caption }));
  const forget = make("button", { type: "button", onclick: () => questions.forEach(({ key }) => keep(key, null)) }, "Forget my guesses");
  fill(el, shown, make("p", { role: "status" }, calibrated(questions)), forget);
}

function render({ model, el }) {
  const state = model.get("state");
  const kept = model.get("live") ? inKernel(model) : inBrowser;
  if (!state.score) return fill(el, ...state.questions.map((each) => question(each, kept)));
  score(state, el);
  window.addEventListener(STORED, () => score(state, el));
}

export default { render };
