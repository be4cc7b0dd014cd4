// User input: pointer, keys, controls, links. This script is the last and starts the page.
"use strict";

/** @type {Object<string, [number, number]>} */
const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

const OFFERED_WORDS = 200;

/** @param {"locked" | "mask" | "inside" | "grid" | "table" | "large" | "local"} name */
function toggle(name) {
  change({ [name]: !state[name] });
}

/** @param {number} place */
function goToSheet(place) {
  if (!reading) return;
  const sheet = reading.sheets[place];
  const [left, top, right, bottom] = reading.box(state.patch);
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  const boxes = reading;
  const under = sheet.patches.find((patch) => {
    const box = boxes.box(patch);
    return x >= box[0] && x < box[2] && y >= box[1] && y < box[3];
  });
  change({ patch: under ?? sheet.patches[0] });
}

/** @param {string} key */
function step(key) {
  const [down, right] = STEPS[key];
  change({ patch: picture.neighbour(state.patch, down, right), locked: true }); // locked, so that a resting pointer does not undo it
}

/** @param {number} to */
function goToLayer(to) {
  if (reading && to >= 0 && to < reading.layers.length) change({ layer: to });
}

function nextJudged() {
  if (!reading || !reading.judged.length) return;
  const next = reading.judged.find((patch) => patch > state.patch) ?? reading.judged[0];
  change({ patch: next, locked: true });
}

function mostConfident() {
  if (!reading) return;
  goToLayer(mostConfidentLayer(reading.lenses[state.lens], reading.layers.length, state.patch, state.mask));
}

/** Paint the map of a word: the typed one, or at first the best word of the patch. */
function mapWord() {
  if (!reading) return;
  const word = state.word || reading.lenses[state.lens].candidate(state.layer, state.patch, 0)?.text.trim() || "";
  change({ word, colours: measure()?.ofWord ? state.colours : "word" });
  parts.word.focus();
  parts.word.select();
}

/** Offer the words of the lens, the most frequent first. */
function offerWords() {
  if (!reading) return;
  const words = new Set(reading.lenses[state.lens].words.map(([text]) => text.trim()).filter((text) => text && text.length <= LONGEST_SEARCH));
  byId("words-here", HTMLElement).replaceChildren(...[...words].slice(0, OFFERED_WORDS).map((word) => new Option(word, word)));
}

function nextColours() {
  const names = [...parts.colours.options].map((option) => option.value);
  change({ colours: names[(names.indexOf(parts.colours.value) + 1) % names.length] });
}

async function saveCsv() {
  const button = byId("csv", HTMLButtonElement);
  if (!reading || button.disabled) return;
  const saved = reading;
  button.disabled = true;
  const blobs = [];
  for (const { part, done } of csvParts(saved)) {
    blobs.push(new Blob([part]));
    button.textContent = done < 1 ? `CSV ${Math.round(100 * done)} %` : "CSV";
    await new Promise((resume) => window.setTimeout(resume)); // a large image takes seconds; the page stays responsive
  }
  button.disabled = false;
  download(new Blob(blobs, { type: "text/csv;charset=utf-8" }), fileName(saved, ".csv"));
}

function savePng() {
  if (!reading) return;
  if (!parts.photo.complete) {
    parts.photo.addEventListener("load", savePng, { once: true });
    return;
  }
  const shown = reading;
  const style = getComputedStyle(document.documentElement);
  const names = [
    "paper",
    "raised",
    "ink",
    "faint",
    "line",
    "mark",
    "mark-ink",
    "good",
    "bad",
    "latent",
    "logit",
    "embedding",
    "other",
  ];
  const colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  const view = { ...state, reading: shown, model: run().model, scene: makeScene(shown), photo: parts.photo };
  drawPng(view, colours).toBlob((blob) => {
    if (blob)
      download(blob, fileName(shown, `-layer-${shown.layers[view.layer]}-patch-${shown.placeName(view.patch)}.png`));
  }, "image/png");
}

/** Go to the page that shows this image beside itself at the last layer, or at the first; there another run can be chosen. */
function compare() {
  if (!reading || !document.getElementById("compare")) return;
  const last = reading.layers.length - 1;
  const folder = location.pathname.split("/").at(-2);
  /** @param {number} place */
  const at = (place) => `${folder}/${currentAddress().slice(1).replace(/^(\d+)\/\d+/, `$1/${reading?.layers[place]}`)}`;
  location.href = `../compare.html#left=${at(state.layer)}&right=${at(state.layer === last ? 0 : last)}`;
}

/** Keys, their labels, descriptions and actions. @type {[string[], string, string, () => void][]} */
const ACTIONS = [
  [Object.keys(STEPS), "← ↑ ↓ →", "next patch; in the table, next cell", () => undefined],
  [[","], ",", "layer before", () => goToLayer(state.layer - 1)],
  [["."], ".", "layer after", () => goToLayer(state.layer + 1)],
  [["b"], "b", "layer at which the chosen lens is most confident about the patch", mostConfident],
  [["Enter"], "Enter or click", "lock or unlock the patch", () => toggle("locked")],
  [["Escape"], "Esc", "unlock the patch", () => change({ locked: false })],
  [["n"], "n", "next image", () => leaf(1)],
  [["p"], "p", "previous image", () => leaf(-1)],
  [
    ["l"],
    "l",
    "next lens, for the colours and the table",
    () => reading && change({ lens: (state.lens + 1) % reading.lenses.length }),
  ],
  [["c"], "c", "next colours", nextColours],
  [["f"], "f", "map of a word that you type", mapWord],
  [["m"], "m", "hide patches whose best word is blank or only punctuation", () => toggle("mask")],
  [["w"], "w", "words in the picture", () => toggle("inside")],
  [["g"], "g", "grid", () => toggle("grid")],
  [["z"], "z", "large picture", () => toggle("large")],
  [["j"], "j", "next judged patch", nextJudged],
  [["v"], "v", "next view", () => reading && goToSheet((reading.sheetOf(state.patch) + 1) % reading.sheets.length)],
  [["t"], "t", "table of patches and layers", () => toggle("table")],
  [["e"], "e", "export this view as PNG", savePng],
  [["x"], "x", "compare: this image beside another layer or another model", compare],
  [["?"], "?", "this list", () => parts.help.showModal()],
];

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || parts.help.open || !(event.target instanceof Element)) return;
  const { target } = event;
  if (target.closest("select, #word")) return;
  if (event.key in STEPS) {
    if (target.closest("input")) return;
    step(event.key);
  } else {
    if (event.key === "Enter" && target.closest("button, a, summary")) return;
    const found = ACTIONS.find(([keys]) => keys.includes(event.key));
    if (!found) return;
    found[3]();
  }
  event.preventDefault();
});

parts.photo.addEventListener("load", () => {
  if (reading) drawCloseUp(parts.closeUp, parts.photo, reading, state.patch);
});
parts.stage.addEventListener("pointermove", (event) => {
  if (state.locked || event.pointerType === "touch") return;
  const patch = picture.patchUnder(event);
  if (patch >= 0 && patch !== state.patch) change({ patch });
});
parts.stage.addEventListener("click", (event) => {
  const patch = picture.patchUnder(event);
  if (patch >= 0) change({ patch, locked: !(state.locked && patch === state.patch) });
});
parts.layer.addEventListener("input", () => change({ layer: Number(parts.layer.value) }));
parts.lens.addEventListener("change", () => change({ lens: Number(parts.lens.value) }));
parts.colours.addEventListener("change", () => {
  const colours = parts.colours.value;
  change({ colours });
  if (MEASURES[colours]?.ofWord && !state.word) mapWord();
});
parts.word.addEventListener("focus", offerWords);
parts.word.addEventListener("input", () => change({ word: parts.word.value }));
parts.word.addEventListener("keydown", ({ key }) => {
  if (key === "Escape" || key === "Enter") parts.stage.focus();
});
parts.image.addEventListener("change", () => goToImage(Number(parts.image.value)));
byId("local", HTMLInputElement).addEventListener("change", () => toggle("local"));
parts.strength.addEventListener("input", () => {
  strength = Number(parts.strength.value) / 100;
  drawScene();
});
/** @type {[string, () => void][]} */
const BUTTONS = [
  ...TOGGLES.map((name) => /** @type {[string, () => void]} */ ([name, () => toggle(name)])),
  ["table-button", () => toggle("table")],
  ["png", savePng],
  ["csv", () => void saveCsv()],
  ["previous", () => leaf(-1)],
  ["next", () => leaf(1)],
  ["help-button", () => parts.help.showModal()],
];
for (const [id, act] of BUTTONS) byId(id, HTMLElement).addEventListener("click", act);
for (const button of document.querySelectorAll("#pad button")) {
  button.addEventListener("click", () => button instanceof HTMLElement && step(button.dataset.step || "ArrowRight"));
}
byId("keys", HTMLElement).append(
  ...ACTIONS.flatMap(([, keys, meaning]) => [element("dt", "", element("kbd", "", keys)), element("dd", "", meaning)]),
);

/** Show the image of the address: at the start, after an edit, and when the browser goes back. */
function followAddress() {
  if (reading && location.hash === currentAddress()) return;
  window.clearTimeout(addressTimer);
  addressTimer = 0;
  const address = readAddress(location.hash);
  const { images } = run();
  if (!images.length) {
    notice(["run.js is missing or holds no image. Is the folder complete?"]);
    return;
  }
  const ids = images.map(([id]) => id);
  const id = address.image === undefined ? ids[0] : ids[nearest(ids, address.image)];
  if (address.image !== undefined && address.image !== id)
    address.problems.push(`There is no image ${address.image} in this viewer; image ${id} is shown.`);
  void openImage(id, address);
}
window.addEventListener("hashchange", followAddress);
followAddress();
