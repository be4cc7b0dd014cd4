// The word index of lenscore/viewer/word_index.py: the words and where each appears. It is loaded on demand by script
// elements, because only scripts load from file://.
"use strict";

/** @typedef {[number, string]} PackedNumbers  bytes a number, and base64 */
/** @typedef {{words: string[], images: PackedNumbers, patches: PackedNumbers, firsts: number[]}} VocabularyData */
/**
 * @typedef {object} PlacesData
 * @property {number} first  place of its first word in the vocabulary
 * @property {PackedNumbers} imagesOfWord
 * @property {PackedNumbers} image
 * @property {PackedNumbers} patches
 * @property {PackedNumbers} cellsOfImage
 * @property {PackedNumbers} cell  layer place * lenses + lens place
 * @property {PackedNumbers} count
 * @property {PackedNumbers} view
 * @property {PackedNumbers} row
 * @property {PackedNumbers} col
 */
/** @typedef {{cell: number, count: number, place: string}} FoundCell  patches there, and the best one's view-row-column */
/** @typedef {{image: number, patches: number, cells: FoundCell[]}} FoundImage */
/** @typedef {{word: string, images: number, patches: number, place: number}} KnownWord */

/** @param {PackedNumbers} packed @returns {Uint8Array | Uint16Array | Uint32Array} */
function unpackNumbers([width, base64]) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer;
  return width === 1 ? new Uint8Array(bytes) : width === 2 ? new Uint16Array(bytes) : new Uint32Array(bytes);
}

/** Receives the data of the scripts of a model's folder. */
const handedOver = {
  /** @type {{model: string, layers: number[], lenses: {name: string, title: string}[], topK: number,
   *          images: [number, string, string | null][]} | null} */
  run: null,
  /** @type {VocabularyData | null} */
  vocabulary: null,
  /** @type {Map<number, PlacesData>} */
  places: new Map(),
};
Object.assign(window, {
  lenscore: {
    run: (/** @type {any} */ data) => { handedOver.run = data; },
    vocabulary: (/** @type {VocabularyData} */ data) => { handedOver.vocabulary = data; },
    places: (/** @type {number} */ number, /** @type {PlacesData} */ data) => { handedOver.places.set(number, data); },
  },
});

/** @param {string} address @returns {Promise<void>} */
function loadScript(address) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = address;
    script.addEventListener("load", () => { script.remove(); resolve(); });
    script.addEventListener("error", () => { script.remove(); reject(new Error(`${address} cannot be read; is the folder complete?`)); });
    document.head.append(script);
  });
}

class WordIndex {
  /** @param {VocabularyData} data */
  constructor(data) {
    this.words = data.words;
    this.firsts = data.firsts;
    this.images = unpackNumbers(data.images);
    this.patches = unpackNumbers(data.patches);
    /** @type {Map<string, number>} */
    this.placeOf = new Map(data.words.map((word, place) => [word, place]));
  }

  static async open() {
    if (!handedOver.vocabulary) await loadScript("words/vocabulary.js");
    if (!handedOver.vocabulary) throw new Error("words/vocabulary.js holds no vocabulary");
    return new WordIndex(handedOver.vocabulary);
  }

  /** As `word_index.folded` in Python. @param {string} text */
  static folded(text) {
    return text.trim().toLowerCase().normalize("NFC");
  }

  /** A word, exact or without regard to case and surrounding blanks. @param {string} text @returns {KnownWord | null} */
  find(text) {
    const place = this.placeOf.get(text) ?? this.placeOf.get(WordIndex.folded(text));
    return place === undefined ? null : this.known(place);
  }

  /** Words that begin with a text, then words that contain it, the most frequent first.
   *  @param {string} text @param {number} limit @returns {KnownWord[]} */
  suggest(text, limit) {
    const folded = WordIndex.folded(text);
    /** @type {number[]} */
    const begin = [];
    /** @type {number[]} */
    const hold = [];
    if (!folded) return [];
    const exact = this.placeOf.get(folded);
    if (exact !== undefined) begin.push(exact);
    for (let place = 0; place < this.words.length && begin.length < limit; place += 1) {
      if (place === exact) continue;
      const at = this.words[place].indexOf(folded);
      if (at === 0) begin.push(place);
      else if (at > 0 && hold.length < limit) hold.push(place);
    }
    return [...begin, ...hold].slice(0, limit).map((place) => this.known(place));
  }

  /** @param {number} place @returns {KnownWord} */
  known(place) {
    return { word: this.words[place], images: this.images[place], patches: this.patches[place], place };
  }

  /** Where a word appears, image by image. @param {KnownWord} word @returns {Promise<FoundImage[]>} */
  async places({ place }) {
    let file = this.firsts.length - 1;
    while (file > 0 && this.firsts[file] > place) file -= 1;
    if (!handedOver.places.has(file)) await loadScript(`words/${String(file).padStart(4, "0")}.js`);
    const data = handedOver.places.get(file);
    if (!data) throw new Error(`words/${String(file).padStart(4, "0")}.js holds no places`);
    return unpackPlaces(data, place - data.first);
  }
}

/** @param {PlacesData} data @param {number} word @returns {FoundImage[]} */
function unpackPlaces(data, word) {
  const imagesOfWord = unpackNumbers(data.imagesOfWord);
  const cellsOfImage = unpackNumbers(data.cellsOfImage);
  const [image, patches, cell, count, view, row, col] =
    [data.image, data.patches, data.cell, data.count, data.view, data.row, data.col].map(unpackNumbers);
  let first = 0;
  for (let other = 0; other < word; other += 1) first += imagesOfWord[other];
  let at = 0;
  for (let other = 0; other < first; other += 1) at += cellsOfImage[other];
  const found = [];
  for (let line = first; line < first + imagesOfWord[word]; line += 1) {
    const cells = [];
    for (const end = at + cellsOfImage[line]; at < end; at += 1) {
      cells.push({ cell: cell[at], count: count[at], place: `${view[at]}-${row[at]}-${col[at]}` });
    }
    found.push({ image: image[line], patches: patches[line], cells });
  }
  return found;
}
