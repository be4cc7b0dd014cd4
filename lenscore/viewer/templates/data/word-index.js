// The word index of lenscore/viewer/word_index.py: the words and where each appears. It is loaded on demand by script
// elements, because only scripts load from file://.
"use strict";

/** @typedef {{images: PackedArray, patches: PackedArray, firsts: number[]}} VocabularyData */
/**
 * @typedef {object} PlacesData
 * @property {number} number  of the file
 * @property {number} first  place of its first word in the vocabulary
 * @property {PackedArray} imagesOfWord
 * @property {PackedArray} image
 * @property {PackedArray} patches
 * @property {PackedArray} cellsOfImage
 * @property {PackedArray} cell  layer place * lenses + lens place
 * @property {PackedArray} count
 * @property {PackedArray} view
 * @property {PackedArray} row
 * @property {PackedArray} col
 */
/** @typedef {{cell: number, count: number, place: string}} FoundCell  patches there, and the best one's view-row-column */
/** @typedef {{image: number, patches: number, cells: FoundCell[]}} FoundImage */
/** @typedef {{word: string, images: number, patches: number, place: number}} KnownWord */

/** Receives the data of the scripts of a model's folder. */
const handedOver = {
  /** @type {{model: string, layers: number[], lenses: {name: string, title: string}[], topK: number,
   *          images: [number, string, string | null][]} | null} */
  run: null,
  /** @type {{data: VocabularyData, arrays: PackedBytes, words: PackedBytes} | null} */
  vocabulary: null,
  /** @type {Map<number, {data: PlacesData, arrays: PackedBytes}>} */
  places: new Map(),
};
Object.assign(window, {
  lenscore: {
    run: (/** @type {any} */ data) => { handedOver.run = data; },
    vocabulary: (
      /** @type {VocabularyData} */ data, /** @type {PackedBytes} */ arrays, /** @type {PackedBytes} */ words,
    ) => {
      handedOver.vocabulary = { data, arrays, words };
    },
    places: (/** @type {PlacesData} */ data, /** @type {PackedBytes} */ arrays) => {
      handedOver.places.set(data.number, { data, arrays });
    },
  },
});

/** @param {string} address */
async function loadOrTell(address) {
  await loadScript(address).catch((error) => { throw new Error(`${error.message}; is the folder complete?`); });
}

class WordIndex {
  /** @param {VocabularyData} data @param {Uint8Array} bytes @param {string[]} words */
  constructor(data, bytes, words) {
    this.words = words;
    this.firsts = data.firsts;
    this.images = unpackNumbers(bytes, data.images);
    this.patches = unpackNumbers(bytes, data.patches);
    /** @type {Map<string, number>} */
    this.placeOf = new Map(words.map((word, place) => [word, place]));
  }

  static async open() {
    if (!handedOver.vocabulary) await loadOrTell("words/vocabulary.js");
    if (!handedOver.vocabulary) throw new Error("words/vocabulary.js holds no vocabulary");
    const { data, arrays, words } = handedOver.vocabulary;
    return new WordIndex(data, await inflate(arrays), JSON.parse(new TextDecoder().decode(await inflate(words))));
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

  /** The most frequent words with three letters in a row. @param {number} limit @returns {KnownWord[]} */
  frequent(limit) {
    const places = [];
    for (let place = 0; place < this.words.length && places.length < limit; place += 1) {
      if (/\p{L}{3}/u.test(this.words[place])) places.push(place);
    }
    return places.map((place) => this.known(place));
  }

  /** @param {number} place @returns {KnownWord} */
  known(place) {
    return { word: this.words[place], images: this.images[place], patches: this.patches[place], place };
  }

  /** Where a word appears, image by image. @param {KnownWord} word @returns {Promise<FoundImage[]>} */
  async places({ place }) {
    let file = this.firsts.length - 1;
    while (file > 0 && this.firsts[file] > place) file -= 1;
    if (!handedOver.places.has(file)) await loadOrTell(`words/${String(file).padStart(4, "0")}.js`);
    const script = handedOver.places.get(file);
    if (!script) throw new Error(`words/${String(file).padStart(4, "0")}.js holds no places`);
    return unpackPlaces(script.data, await inflate(script.arrays), place - script.data.first);
  }
}

/** @param {PlacesData} data @param {Uint8Array} bytes @param {number} word @returns {FoundImage[]} */
function unpackPlaces(data, bytes, word) {
  const imagesOfWord = unpackNumbers(bytes, data.imagesOfWord);
  const cellsOfImage = unpackNumbers(bytes, data.cellsOfImage);
  const [image, patches, cell, count, view, row, col] =
    [data.image, data.patches, data.cell, data.count, data.view, data.row, data.col].map((packed) => unpackNumbers(bytes, packed));
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
