// From the state to the page: a new layer or lens draws the scene, a new patch only its words.
"use strict";

const SPEAK_AFTER = 200; // milliseconds

/** Buttons that switch the part of the state of the same name. @type {("mask" | "inside" | "grid" | "large")[]} */
const TOGGLES = ["mask", "inside", "grid", "large"];

const parts = {
  stage: byId("stage", HTMLElement),
  photo: byId("photo", HTMLImageElement),
  gone: byId("gone", HTMLElement),
  paint: byId("paint", HTMLCanvasElement),
  halo: byId("halo", HTMLElement),
  closeUp: byId("close-up", HTMLCanvasElement),
  layer: byId("layer", HTMLInputElement),
  strength: byId("strength", HTMLInputElement),
  lens: byId("lens", HTMLSelectElement),
  colours: byId("colours", HTMLSelectElement),
  word: byId("word", HTMLInputElement),
  image: byId("image", HTMLSelectElement),
  views: byId("views", HTMLElement),
  lenses: byId("lenses", HTMLElement),
  table: byId("table", HTMLElement),
  help: byId("help", HTMLDialogElement),
};
const picture = new Picture(parts);
const table = new WordTable(parts.table, {
  onCell: (patch, layer) => change({ patch, layer, locked: true }),
  onPoint: (patch) => picture.frame(patch ?? state.patch, state.locked),
});

/** Change the state and draw no more than necessary. @param {Partial<typeof state>} changes */
function change(changes) {
  if (!reading) return;
  const sheet = reading.sheetOf(state.patch);
  const before = { ...state };
  Object.assign(state, changes);
  const others = /** @type {(keyof typeof state)[]} */ (Object.keys(state)).filter(
    (key) => key !== "patch" && key !== "locked",
  );
  const follows = state.patch !== before.patch && measure()?.followsPatch;
  if (follows || others.some((key) => state[key] !== before[key]) || reading.sheetOf(state.patch) !== sheet) drawScene();
  else drawPatch();
  writeAddressSoon();
  tell("chosen");
}

/** @returns {Measure | null} the chosen colours, if the lens has them */
function measure() {
  const chosen = state.colours && reading ? measuresOf(reading)[state.colours] : null;
  return chosen && reading && chosen.fits(reading, reading.lenses[state.lens]) ? chosen : null;
}

/** @param {Reading} shown @returns {Scene} */
function makeScene(shown) {
  const lens = shown.lenses[state.lens];
  const { patches } = shown.sheets[shown.sheetOf(state.patch)];
  const chosen = measure();
  const all = { length: shown.patches };
  /** @param {number} patch */
  const bestWord = (patch) => {
    const best = lens.candidate(state.layer, patch, 0);
    return best && !(state.mask && best.empty) ? best.text : "";
  };
  return {
    reading: shown,
    patches,
    painted: chosen && chosen.paint({ ...state, reading: shown, lensPlace: state.lens, patches }),
    strength,
    hidden: state.mask ? Array.from(all, (_, patch) => lens.saysNothing(state.layer, patch)) : null,
    words: state.inside ? Array.from(all, (_, patch) => bestWord(patch)) : null,
    grid: state.grid,
  };
}

/** Draw everything that depends on the layer, the lens and the options. */
function drawScene() {
  if (!reading) return;
  const shown = reading;
  const made = makeScene(shown);
  picture.show(made);
  showLegend(byId("legend", HTMLElement), made, shown.lenses[state.lens], picture.patchWidth());
  byId("local-row", HTMLElement).hidden = !made.painted || !made.painted.scale;
  byId("local", HTMLInputElement).checked = state.local;
  parts.layer.value = String(state.layer);
  parts.layer.setAttribute("aria-valuetext", `layer ${shown.layers[state.layer]}`);
  byId("layer-name", HTMLElement).textContent = String(shown.layers[state.layer]);
  parts.lens.value = String(state.lens);
  const fitting = Object.entries(measuresOf(shown)).filter(([, one]) => one.fits(shown, shown.lenses[state.lens]));
  parts.colours.replaceChildren(new Option("none", ""), ...fitting.map(([name, { title }]) => new Option(title, name)));
  parts.colours.value = measure() ? state.colours : "";
  parts.strength.disabled = !measure();
  byId("word-row", HTMLElement).hidden = !measure()?.ofWord;
  if (parts.word.value !== state.word) parts.word.value = state.word;
  for (const name of TOGGLES) press(name, state[name]);
  document.body.classList.toggle("large", state.large);
  press("table-button", state.table);
  [...parts.views.children].forEach((button, place) =>
    button.setAttribute("aria-pressed", String(place === shown.sheetOf(state.patch))),
  );
  parts.table.hidden = !state.table;
  if (state.table) table.open(shown, state.lens);
  drawPatch();
  const card = /** @type {HTMLElement} */ (parts.lenses.children[state.lens]);
  const before = parts.lenses.scrollLeft;
  const room = parts.lenses.clientWidth - card.offsetWidth;
  const left = card.offsetLeft - parts.lenses.offsetLeft;
  if (left < before || left > before + room) parts.lenses.scrollLeft = left; // scroll to the chosen lens
}

const LENS_ACTS = {
  onLens: (/** @type {number} */ lens) => change({ lens }),
  onLayer: (/** @type {number} */ layer) => change({ layer }),
};

/** Draw everything that depends on the patch. */
function drawPatch() {
  if (!reading) return;
  const shown = reading;
  const { patch, layer } = state;
  picture.frame(patch, state.locked);
  drawCloseUp(parts.closeUp, parts.photo, shown, patch);
  const place = byId("place", HTMLElement);
  place.replaceChildren(element("strong", "", placeText(shown, patch)), ` at layer ${shown.layers[layer]}`);
  if (!shown.isVisible(patch)) place.append(" (padding: no part of the image)");
  if (state.locked) place.append(" ", element("span", "lock", "locked"));
  byId("truth", HTMLElement).replaceChildren(...truthLine(shown, patch));
  const focused = [...parts.lenses.children].findIndex((card) => card.contains(document.activeElement));
  const cards = shown.lenses.map((_, lens) => lensCard(shown, lens, layer, patch, lens === state.lens, LENS_ACTS));
  parts.lenses.replaceChildren(...cards);
  const again = focused < 0 ? null : parts.lenses.children[focused].querySelector("button");
  if (again) again.focus({ preventScroll: true });
  if (state.table) table.choose(patch, layer);
  speakSoon();
}

/** @param {string} id @param {boolean} pressed */
function press(id, pressed) {
  byId(id, HTMLElement).setAttribute("aria-pressed", String(pressed));
}

let speakTimer = 0;

/** Announce a patch to screen readers after a pause. */
function speakSoon() {
  window.clearTimeout(speakTimer);
  speakTimer = window.setTimeout(() => {
    if (reading) byId("live", HTMLElement).textContent = spoken(reading, state.layer, state.patch);
  }, SPEAK_AFTER);
}
