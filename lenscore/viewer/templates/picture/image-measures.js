// What the colours over the picture can stand for. A measure gives every patch a value, a colour and a place in a legend.
"use strict";

/**
 * @typedef {object} Key  one entry of a legend of kinds
 * @property {string} label
 * @property {readonly number[]} colour
 * @property {string} sign  a letter for the patch, so that colour is not all that tells kinds apart; "" for none
 * @property {number} count  patches of the sheet
 */
/**
 * @typedef {object} Painted
 * @property {(readonly number[] | null)[]} colours  by patch; null leaves the picture as it is
 * @property {string[] | null} signs  by patch
 * @property {string} explanation
 * @property {{low: string, high: string} | null} scale  ends of a ramp
 * @property {Key[]} keys  kinds, for measures that are no scale
 * @property {string} rest  what patches without a colour are, "" if there are none
 */
/**
 * @typedef {object} Asked  what is to be painted
 * @property {Reading} reading
 * @property {number} lensPlace  place of the lens in the reading
 * @property {number} layer  place of the layer
 * @property {number} patch  the chosen one
 * @property {number[]} patches  all that are shown
 * @property {boolean} local  a ramp over the values of this layer alone, not of all layers
 */
/**
 * @typedef {object} Measure
 * @property {string} title
 * @property {(reading: Reading, lens: Lens) => boolean} fits  does it exist here?
 * @property {(asked: Asked) => Painted} paint
 * @property {boolean} [followsPatch]  does another chosen patch change all colours?
 */

/** How sure a lens is of its best word: its score less the score of the best other word among the k.
 *
 * If all k are one word, the gap to the last of them, which is the least that it can be. NaN without two candidates.
 * @param {Lens} lens @param {number} layer @param {number} patch */
function confidence(lens, layer, patch) {
  const best = lens.word(layer, patch, 0);
  if (best < 0) return NaN;
  let last = NaN;
  for (let rank = 1; rank < lens.topK; rank += 1) {
    const word = lens.word(layer, patch, rank);
    if (word < 0) break;
    last = lens.score(layer, patch, rank);
    if (lens.spelling[word] !== lens.spelling[best]) break;
  }
  return lens.score(layer, patch, 0) - last;
}

/** Ramps leave out this share of the values at either end, so that one outlier does not take all the colours. */
const ENDS = 0.01;

/** Where a ramp over these values begins and ends; NaNs are left out. @param {Float32Array} values */
function ends(values) {
  const sorted = values.filter((value) => !Number.isNaN(value)).sort();
  /** @param {number} share */
  const quantile = (share) => (sorted.length ? sorted[Math.round(share * (sorted.length - 1))] : 0);
  return { low: quantile(ENDS), high: quantile(1 - ENDS) };
}

/** Values of a function over all layers and patches, kept for each lens. */
class OverAll {
  /** @param {(lens: Lens, layer: number, patch: number) => number} measure */
  constructor(measure) {
    this.measure = measure;
    /** @type {WeakMap<Lens, {values: Float32Array, low: number, high: number}>} */
    this.known = new WeakMap();
  }

  /** @param {Lens} lens @param {number} layers */
  of(lens, layers) {
    const known = this.known.get(lens);
    if (known) return known;
    const values = new Float32Array(layers * lens.patches);
    for (let layer = 0; layer < layers; layer += 1) {
      for (let patch = 0; patch < lens.patches; patch += 1) {
        values[layer * lens.patches + patch] = this.measure(lens, layer, patch);
      }
    }
    const made = { values, ...ends(values) };
    this.known.set(lens, made);
    return made;
  }
}

const allScores = new OverAll((lens, layer, patch) => lens.score(layer, patch, 0));
const allConfidences = new OverAll(confidence);

/** The layer with the largest confidence, or -1. @param {Lens} lens @param {number} layers @param {number} patch */
function mostConfidentLayer(lens, layers, patch) {
  const { values } = allConfidences.of(lens, layers);
  let best = -1;
  for (let layer = 0; layer < layers; layer += 1) {
    const value = values[layer * lens.patches + patch];
    if (!Number.isNaN(value) && (best < 0 || value > values[best * lens.patches + patch])) best = layer;
  }
  return best;
}

/** @param {OverAll} all @param {number} more  digits than scores have @param {string} explanation
 *  @returns {Measure["paint"]} */
function ramped(all, more, explanation) {
  return ({ reading, lensPlace, layer, patches, local }) => {
    const lens = reading.lenses[lensPlace];
    const known = all.of(lens, reading.layers.length);
    const { values } = known;
    const { low, high } = local ? ends(values.subarray(layer * reading.patches, (layer + 1) * reading.patches)) : known;
    /** @type {(readonly number[] | null)[]} */
    const colours = new Array(reading.patches).fill(null);
    let without = 0;
    for (const patch of patches) {
      const value = values[layer * reading.patches + patch];
      if (Number.isNaN(value)) without += 1;
      else colours[patch] = ramp(high > low ? (value - low) / (high - low) : 0.5);
    }
    return {
      colours,
      signs: null,
      keys: [],
      explanation: `${explanation} One scale for ${local ? "the patches of this layer" : "all layers of this image"}.`,
      scale: { low: `≤ ${lens.written(low, more)}`, high: `≥ ${lens.written(high, more)}` },
      rest: without ? "no colour: no word" : "",
    };
  };
}

/** Colours for numbers of layers. @param {string} explanation @param {string} rest
 *  @param {(reading: Reading, lens: Lens) => number[]} allOf  the layers there are, ascending
 *  @param {(reading: Reading, lens: Lens, layer: number, patch: number) => number} of  one of them, or -1
 *  @returns {Measure["paint"]} */
function layered(explanation, rest, allOf, of) {
  return ({ reading, lensPlace, layer, patches }) => {
    const lens = reading.lenses[lensPlace];
    const all = allOf(reading, lens);
    const keys = all.map((number, place) => ({
      label: `layer ${number}`,
      colour: rampStep(place, all.length),
      sign: "",
      count: 0,
    }));
    /** @type {(readonly number[] | null)[]} */
    const colours = new Array(reading.patches).fill(null);
    let without = 0;
    for (const patch of patches) {
      const place = all.indexOf(of(reading, lens, layer, patch));
      if (place < 0) without += 1;
      else {
        keys[place].count += 1;
        colours[patch] = keys[place].colour;
      }
    }
    return { colours, signs: null, explanation, scale: null, keys, rest: without ? rest : "" };
  };
}

/** @type {WeakMap<Lens, number[]>} */
const knownContexts = new WeakMap();

/** The contextual layers that any candidate is from, ascending. @param {Lens} lens */
function contextualLayers(lens) {
  const known = knownContexts.get(lens);
  if (known) return known;
  const found = [...new Set(lens.contexts || [])].filter((layer) => layer !== lens.noContext).sort((a, b) => a - b);
  knownContexts.set(lens, found);
  return found;
}

/** By the name that addresses use, in the order of the menu. @type {Object<string, Measure>} */
const MEASURES = {
  score: {
    title: "score of the best word",
    fits: () => true,
    paint: ramped(allScores, 0, "Score of the best word."),
  },
  context: {
    title: "contextual layer of the best word",
    fits: (_, lens) => lens.contexts !== null,
    paint: layered(
      "Layer of the text model at which the best word's sentence was read.",
      "no colour: no word",
      (_, lens) => contextualLayers(lens),
      (_, lens, layer, patch) => lens.context(layer, patch, 0),
    ),
  },
  verdict: {
    title: "verdict",
    fits: (reading) => reading.judged.length > 0,
    paint: paintVerdicts,
  },
  same: {
    title: "where else the word is",
    fits: () => true,
    paint: paintSame,
    followsPatch: true,
  },
  truth: {
    title: "right words (truth)",
    fits: (reading) => reading.things !== null,
    paint: paintTruth,
  },
  confidence: {
    title: "confidence",
    fits: (_, lens) => lens.topK > 1,
    paint: ramped(
      allConfidences,
      1,
      "Confidence: how far the score of the best word is above that of the best other word among those " +
        "shown (if all are one word, above the last).",
    ),
  },
  "best-layer": {
    title: "most confident layer",
    fits: (reading, lens) => lens.topK > 1 && reading.layers.length > 1,
    paint: layered(
      "Visual layer at which the lens is most confident: its best word is furthest above the best other word.",
      "no colour: never two words",
      (reading) => reading.layers,
      (reading, lens, _, patch) => {
        const best = mostConfidentLayer(lens, reading.layers.length, patch);
        return best < 0 ? -1 : reading.layers[best];
      },
    ),
  },
};
