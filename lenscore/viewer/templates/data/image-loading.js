// Loading images: scripts call lenscore.run(...), lenscore.image(...) and lenscore.candidates(...).
"use strict";

/**
 * @typedef {object} RunData  what all images of a run share
 * @property {string} model
 * @property {number[]} layers
 * @property {{name: string, title: string, unit: string}[]} lenses
 * @property {number} topK
 * @property {[number, string, string | null][]} images  id, name, thumbnail
 * @property {boolean} hasTexts  whether there is a page of prompt and answer for each image
 */
/** @typedef {{candidates: number, data: PackedArray, arrays: PackedBytes, picture: PackedBytes | null}} ImageScript
 *  `candidates` is the number of the file with its words, `data` the place of its ImageData_ as JSON in the arrays */
/**
 * @typedef {object} Candidates  the words of many images
 * @property {string[][]} words  [text], [text, token] or [text, token, before, mark, after]
 * @property {Set<number>} empty  places of words that are blank or only punctuation
 */
/** Called by the data scripts. */
const lenscore = {
  /** @type {RunData | null} */
  runData: null,
  /** @type {Map<number, ImageScript>} */
  images: new Map(),
  /** @type {Map<number, Promise<Candidates>>} */
  candidateFiles: new Map(),
  /** @param {RunData} data */
  run(data) {
    lenscore.runData = data;
  },
  /** @param {number} id @param {number} candidates @param {PackedArray} data @param {PackedBytes} arrays
   *  @param {PackedBytes | null} picture */
  image(id, candidates, data, arrays, picture) {
    lenscore.images.set(id, { candidates, data, arrays, picture });
  },
  /** @param {number} number @param {PackedBytes} packed */
  candidates(number, packed) {
    lenscore.candidateFiles.set(number, readCandidates(packed));
  },
};
Object.assign(window, { lenscore });

/** The script of an image and of its words, loaded if necessary; rejects if a file is missing.
 *  @param {number} id @returns {Promise<ImageScript>} */
async function loadImage(id) {
  const address = `images/${String(id).padStart(6, "0")}.js`;
  if (!lenscore.images.has(id)) await loadScript(address);
  const script = lenscore.images.get(id);
  if (!script) throw new Error(`${address} cannot be read`);
  const { candidates } = script;
  if (!lenscore.candidateFiles.has(candidates)) await loadScript(`candidates/${String(candidates).padStart(4, "0")}.js`);
  return script;
}

/** @param {number} id @returns {Promise<Reading>} */
async function readImage(id) {
  const script = await loadImage(id);
  const candidates = await lenscore.candidateFiles.get(script.candidates);
  if (!candidates) throw new Error("the file of its words cannot be read");
  const bytes = await inflate(script.arrays);
  /** @type {ImageData_} */
  const data = JSON.parse(new TextDecoder().decode(unpackNumbers(bytes, script.data)));
  const picture = script.picture && new Blob([unpackBytes(script.picture)], { type: data.mediaType || "" });
  return new Reading(data, bytes, candidates, picture && (await dataAddress(picture)));
}

/** @param {PackedBytes} packed @returns {Promise<Candidates>} */
async function readCandidates(packed) {
  const { words, empty } = JSON.parse(new TextDecoder().decode(await inflate(packed)));
  return { words, empty: new Set(empty) };
}

/** A data: address, which pages from the disk may also draw into a file. @param {Blob} blob @returns {Promise<string>} */
function dataAddress(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(String(reader.result)));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(blob);
  });
}

/** The data of the run; empty if run.js is missing. @returns {RunData} */
function run() {
  return lenscore.runData || { model: "", layers: [], lenses: [], topK: 0, images: [], hasTexts: false };
}
