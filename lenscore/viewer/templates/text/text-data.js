// The data of the page of one text, see lenscore/viewer/text_page.py.
"use strict";

/**
 * @typedef {object} TextWord
 * @property {string} text
 * @property {number} id  of its token in the vocabulary
 * @property {[string, string, string] | null} sentence  before the word, the word, after it
 */
/**
 * @typedef {object} TextLensData  arrays run over layers, then tokens, then candidates
 * @property {string} name
 * @property {string} title
 * @property {string} unit
 * @property {number} topK
 * @property {TextWord[]} words
 * @property {number[]} which  places in words, or -1
 * @property {number[]} scores
 * @property {number[] | null} contexts  layers of the store
 * @property {number[] | null} logNormalizers
 * @property {number[] | null} entropies
 * @property {number[] | null} divergences
 */
/**
 * @typedef {object} TextData
 * @property {string} name
 * @property {string} model
 * @property {string[]} tokens
 * @property {number[]} tokenIds
 * @property {number} promptTokens
 * @property {string[]} layers  their numbers
 * @property {TextLensData[]} lenses
 */
/** @typedef {{word: TextWord, score: number, probability: number, context: number}} TextCandidate  NaN and -1: there is none */

/** The candidates of one lens. */
class TextLens {
  /** @param {TextLensData} data @param {number} tokens */
  constructor(data, tokens) {
    this.data = data;
    this.tokens = tokens;
  }

  /** The candidates of a token at a layer, best first. @param {number} layer @param {number} token @returns {TextCandidate[]} */
  candidates(layer, token) {
    const { topK, which, scores, contexts, logNormalizers, words } = this.data;
    const place = layer * this.tokens + token;
    const found = [];
    for (let at = place * topK; at < (place + 1) * topK && which[at] >= 0; at += 1) {
      found.push({
        word: words[which[at]],
        score: scores[at],
        probability: logNormalizers ? Math.exp(scores[at] - logNormalizers[place]) : NaN,
        context: contexts ? contexts[at] : -1,
      });
    }
    return found;
  }

  /** The best candidate, or undefined. @param {number} layer @param {number} token */
  best(layer, token) {
    return this.candidates(layer, token)[0];
  }

  /** What the colours of the cells can show. @returns {TextMeasure[]} */
  measures() {
    const { logNormalizers, entropies, divergences } = this.data;
    /** @param {number[]} values @returns {TextMeasure["of"]} */
    const from = (values) => (layer, token) => values[layer * this.tokens + token];
    /** @type {TextMeasure[]} */
    const found = [];
    if (logNormalizers)
      found.push({
        name: "probability",
        title: "probability of the best token",
        of: (layer, token) => this.best(layer, token)?.probability ?? NaN,
        limits: [0, 1],
        best: 1,
      });
    if (entropies) found.push({ name: "entropy", title: "entropy (nats)", of: from(entropies), limits: null, best: -1 });
    if (divergences)
      found.push({ name: "divergence", title: "KL from the final distribution (nats)", of: from(divergences), limits: null, best: -1 });
    found.push({
      name: "score",
      title: `score of the best word (${this.data.unit})`,
      of: (layer, token) => this.best(layer, token)?.score ?? NaN,
      limits: null,
      best: 1,
    });
    return found;
  }
}

/**
 * @typedef {object} TextMeasure
 * @property {string} name  in the address
 * @property {string} title
 * @property {(layer: number, token: number) => number} of
 * @property {[number, number] | null} limits  ends of the colours; null for the smallest and largest value
 * @property {1 | -1} best  whether the largest or the smallest value is the most confident
 */
