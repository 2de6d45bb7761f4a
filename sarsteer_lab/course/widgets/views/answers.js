// A request, controls, the answers at their setting, and readiness to refuse over the first control.
//
// `state.controls` names the controls and their values; `chosen` holds a place in them for each, and the request's
// place. `state.requests[...].found` holds the answers found so far, by these places. A kernel computes what is
// lacking; a recording has all of it. Where a kernel answers, one can ask for a request of one's own, too.

const RATE = 16000, LONGEST = 30;
const FORM = { typed: "typed", spoken: "spoken", "without steering": "typed", steered: "spoken" };

function base64(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

async function samplesOf(parts) {
  const bytes = await new Blob(parts).arrayBuffer();
  const sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes);
  const heard = sound.getChannelData(0).slice(0, RATE * LONGEST);
  return base64(new Uint8Array(Int16Array.from(heard, (x) => 32767 * Math.max(-1, Math.min(1, x))).buffer));
}

function recorder(ask) {
  let running = null;
  const button = make("button", { type: "button", class: "record", onclick: toggle }, "Record one");
  async function toggle() {
    if (running) return running.stop();
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true }), parts = [];
    running = new MediaRecorder(stream);
    running.ondataavailable = (event) => parts.push(event.data);
    running.onstop = async () => {
      running = null;
      button.replaceChildren("Record one");
      stream.getTracks().forEach((track) => track.stop());
      ask({ name: "your recording", samples: await samplesOf(parts) });
    };
    running.start();
    button.replaceChildren("Stop");
    setTimeout(() => running?.stop(), 1000 * LONGEST);
  }
  return navigator.mediaDevices && window.MediaRecorder ? [button] : []; // where there is a microphone
}

function ownRequest(ask) {
  const field = { type: "text", placeholder: "a sentence, then Enter: it is spoken at once", "aria-label": "A request of your own" };
  const sentence = input({ ...field, onchange: () => ask({ name: "the sentence", sentence: sentence.value }) });
  async function upload() {
    const [own] = file.files;
    ask({ name: own.name, file: base64(new Uint8Array(await own.arrayBuffer())) });
  }
  const file = input({ type: "file", accept: "audio/*", "aria-label": "A clip of your own", onchange: upload });
  return make("div", { class: "listen own" }, "Or your own: ", sentence, file, ...recorder(ask));
}

// The answers that are known along the first control, the others as they are chosen: pairs of a place and answers.
function along(found, [, ...others], first) {
  const known = first.values.map((_, place) => [place, found[[place, ...others].join()]]);
  return known.filter(([, answers]) => answers);
}

function curve(known, first, now, width) {
  const values = first.values, last = values.length - 1;
  const shown = values.map((value, place) => [place, `${value}`]).filter(([place]) => place % Math.ceil(values.length / 11) === 0);
  const label = `Readiness to refuse over ${first.name}.`;
  const { x, y, draw } = chart({ label, width, height: 230, x: [0, last], y: [0, 1], xs: shown, ys: SHARES, xname: first.name });
  const parts = [make("svg:line", { class: "now", x1: x(now), x2: x(now), y1: y(1) - 8, y2: y(0) })];
  for (const [name, form] of Object.entries(FORM)) {
    const places = known.filter(([, answers]) => answers[name]).map(([place, answers]) => [x(place), y(answers[name].refusal_probability), place]);
    if (!places.length) continue;
    parts.push(line(places.map(([cx, cy]) => [cx, cy]), form), ...places.map(([cx, cy, place]) => point(cx, cy, place === now ? 7 : 4, form)));
  }
  return draw(...parts);
}

// The first token of an answer that the one above does not have there; null if they are the same.
function turnAt(above, tokens) {
  const place = tokens.findIndex((token, number) => token !== above[number]);
  if (place >= 0) return place;
  return above.length === tokens.length ? null : tokens.length;
}

// A row for each strength, up to the first that broke the text; marked is where a row turns away from the one above.
function ladder(known, first, now) {
  const all = known.map(([place, answers]) => [place, Object.values(answers)[0]]);
  const broken = all.findIndex(([, answer]) => answer.outcome === "broken");
  const rows = all.filter(([place], number) => broken < 0 || number <= broken || place === now);
  const cells = rows.map(([place, answer], number) => {
    const turn = number ? turnAt(rows[number - 1][1].tokens, answer.tokens) : null;
    const outcome = `${MARKS[answer.outcome]} ${answer.outcome}`;
    return [first.values[place], answer.refusal_probability.toFixed(2), outcome, answerSpans(answer, turn)];
  });
  const marked = rows.findIndex(([place]) => place === now);
  return table([first.name, "P(refusal)", "outcome", "answer"], cells, { name: "ladder", marked });
}

// How many of many requests of each kind came out how, at a place of the first control.
function counted(counts, place, kind) {
  const rows = Object.entries(counts).map(([label, { n, refused, broken }]) => {
    const parts = Object.entries({ refused, broken }).map(([name, found]) => make("div", { class: name, style: `width:${(100 * found[place]) / n}%` }));
    const said = `${refused[place]} of ${n} refused${broken[place] ? `, ${broken[place]} broken` : ""}`;
    const name = make("span", { class: label === kind ? "name chosen" : "name" }, label);
    return make("div", { class: "count", "data-label": label }, name, make("div", { class: "bar" }, ...parts), make("span", { class: "said" }, said));
  });
  return [make("p", { class: "title" }, "Spoken requests of each kind, at this setting"), ...rows];
}

function control({ name, label = name, values }, choose, live) {
  const moved = (place) => choose({ [name]: place });
  if (typeof values[0] === "string") {
    const row = chips(name, values, (value) => moved(values.indexOf(value)));
    return { node: row.node, set: (place) => row.set(values[place]) };
  }
  const range = slider(`${label} =`, { min: 0, max: values.length - 1 }, moved, live ? "change" : "input");
  return { node: range.node, set: (place) => range.set(place, `${values[place]}`) };
}

function render({ model, el }) {
  const live = model.get("live"), choose = chooser(model);
  const { controls } = model.get("state"), [first] = controls;
  const moving = controls.map((each) => control(each, choose, live));
  const sound = player(model), heard = make("span", { class: "heard" }), asked = make("div", {});
  const { rungs, counts } = model.get("state"), many = make("div", { class: "counts" });
  const cards = make("div", { class: rungs ? "numbers" : "cards" }), told = make("p", { class: "told", role: "status" });
  const figure = make("figure", {}), behind = folded();
  const sweep = make("button", { type: "button", onclick: () => choose({ sweep: true }) }, "Try all values");
  const own = live && !rungs ? [ownRequest((request) => choose({ asked: request }))] : [];
  let requests = null, shown = 0;

  function draw() {
    const chosen = model.get("chosen"), state = model.get("state");
    if (shown !== state.requests.length) {
      requests = picker(state.requests, (request) => choose({ request }));
      asked.replaceChildren(state.requests.length > 1 ? requests.node : make("p", {}, make("b", {}, state.requests[0].words)));
      shown = state.requests.length;
    }
    const request = state.requests[chosen.request], places = controls.map(({ name }) => chosen[name]);
    requests.set(chosen.request);
    sound.set(request.clip, request.words);
    heard.replaceChildren(...("heard" in request ? ["The model hears: ", ...heardAs(request)] : []));
    moving.forEach((each, number) => each.set(places[number]));
    const answers = request.found[places.join()] ?? {};
    const said = Object.entries(answers).map(([name, answer]) => `${name}: ${answer.outcome}`);
    told.replaceChildren(said.length ? `${first.name} ${first.values[places[0]]}: ${said.join(", ")}.` : "");
    const known = along(request.found, places, first);
    if (counts) many.replaceChildren(...counted(counts, places[0], request.label));
    const hint = "▼ and a box: the first token that differs from the row above. The thicker the line, the likelier the token was.";
    if (rungs) {
      cards.dataset.form = Object.keys(answers)[0];
      cards.replaceChildren(ladder(known, first, places[0]));
    } else cards.replaceChildren(...Object.entries(answers).map(([name, answer]) => card(name, answer, FORM[name])));
    if (!said.length) cards.append("The model answers …");
    if (rungs) return figure.replaceChildren(make("figcaption", { class: "small" }, hint));
    const legend = keys(Object.fromEntries(Object.keys(answers).map((name) => [FORM[name], name])));
    figure.replaceChildren(make("figcaption", { class: "small" }, "Readiness to refuse this request: ", ...legend), curve(known, first, places[0], widthIn(el)));
    const refused = Object.entries(counts ?? {});
    const rows = known.flatMap(([place, each]) =>
      Object.entries(each).map(([name, answer]) => [
        ...[first.values[place], name, answer.refusal_probability.toFixed(2), answer.outcome],
        ...refused.map(([, each]) => `${each.refused[place]} of ${each.n}`),
      ]),
    );
    behind.set(`“${request.words}”`, [first.name, "form", "readiness", "outcome", ...refused.map(([label]) => `${label}, refused`)], rows);
  }

  const extra = rungs ? [] : [many, ...(live ? [sweep] : []), behind.node];
  const several = moving.filter((_, place) => controls[place].values.length > 1);
  const knobs = make("div", { class: "knobs" }, ...several.map((each) => each.node));
  fill(el, asked, ...own, make("div", { class: "listen" }, sound.node, heard), knobs, told, cards, figure, ...extra);
  return drawOn(model, ["chosen", "state", "clips"], draw);
}

export default { render };
