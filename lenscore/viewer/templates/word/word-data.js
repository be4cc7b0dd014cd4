// The data of the page of chosen words, see lenscore/viewer/word_page.py.
"use strict";

/**
 * @typedef {object} WordLensData
 * @property {string} name
 * @property {string} title
 * @property {string} unit
 * @property {string[]} sought  what was looked up for each word; "" if the lens does not have it
 * @property {number} candidates
 * @property {PackedArray} scores  float32 [words, layers, patches]
 * @property {PackedArray} ranks
 * @property {PackedArray | null} probabilities
 * @property {PackedArray | null} contexts
 */
/** @typedef {{model: string, words: string[], lenses: WordLensData[], explanation: string}} WordData */
/** @typedef {"score" | "probability" | "rank"} MapName */

const NO_NUMBER = 2 ** 32 - 1;
const SMALLEST_SHARE = 1e-30; // a float32 is 0 soon below it

/** The numbers of one lens for every word, layer and patch. */
class WordLens {
  /** @param {WordLensData} data @param {Uint8Array} bytes @param {number} layers @param {number} patches */
  constructor(data, bytes, layers, patches) {
    this.name = data.name;
    this.title = data.title;
    this.unit = data.unit;
    this.sought = data.sought;
    this.candidates = data.candidates;
    this.layers = layers;
    this.patches = patches;
    this.scores = unpackFloats(bytes, data.scores);
    this.ranks = unpackNumbers(bytes, data.ranks);
    this.probabilities = data.probabilities && unpackFloats(bytes, data.probabilities);
    this.contexts = data.contexts && unpackNumbers(bytes, data.contexts);
  }

  /** A number of a map, or NaN. @param {MapName} map @param {number} word @param {number} layer @param {number} patch */
  value(map, word, layer, patch) {
    const at = (word * this.layers + layer) * this.patches + patch;
    if (map === "score") return this.scores[at];
    if (map === "probability") return this.probabilities ? this.probabilities[at] : NaN;
    return this.ranks[at] === NO_NUMBER ? NaN : this.ranks[at];
  }

  /** The layer of the text model where the best row was read, or -1. @param {number} word @param {number} layer @param {number} patch */
  context(word, layer, patch) {
    const found = this.contexts ? this.contexts[(word * this.layers + layer) * this.patches + patch] : NO_NUMBER;
    return found === NO_NUMBER ? -1 : found;
  }

  /** Whether there is such a map of a word. @param {MapName} map @param {number} word */
  has(map, word) {
    return !Number.isNaN(this.value(map, word, 0, 0));
  }
}

/** @param {Uint8Array} bytes @param {PackedArray} packed */
function unpackFloats(bytes, packed) {
  return new Float32Array(Uint32Array.from(unpackNumbers(bytes, packed)).buffer);
}

/**
 * @typedef {object} WordMap  how a number becomes a colour and a text
 * @property {string} title
 * @property {(value: number) => number} place  on the ramp, in any unit
 * @property {(place: number) => number} value  the number at a place
 * @property {(value: number) => string} written
 * @property {(lens: WordLens) => string} explain
 */
/** @type {Record<MapName, WordMap>} */
const WORD_MAPS = {
  score: {
    title: "score",
    place: (value) => value,
    value: (place) => place,
    written: (value) => value.toPrecision(3).replace("-", "−"),
    explain: (lens) => `Score of the word (${lens.unit}); of a word of several tokens, their mean.`,
  },
  probability: {
    title: "probability",
    place: (value) => Math.log10(Math.max(value, SMALLEST_SHARE)),
    value: (place) => 10 ** place,
    written: (value) => {
      if (value <= 1.01 * SMALLEST_SHARE) return "≤ 1e−30";
      return value >= 0.001 ? value.toPrecision(2) : value.toExponential(0).replace("-", "−");
    },
    explain: () => "Probability of the word as the next token, on a logarithmic scale.",
  },
  rank: {
    title: "rank",
    place: (value) => -Math.log10(value),
    value: (place) => Math.round(10 ** -place),
    written: (value) => value.toLocaleString("en"),
    explain: (lens) =>
      `Rank of the word among ${lens.candidates.toLocaleString("en")} candidates, on a logarithmic scale; 1 is best.`,
  },
};
