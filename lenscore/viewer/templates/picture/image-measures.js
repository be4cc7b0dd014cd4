// The measures for the colours over the picture. A measure gives every patch a value, a colour and a legend entry.
"use strict";

/**
 * @typedef {object} Key  one entry of a legend of kinds
 * @property {string} label
 * @property {readonly number[]} colour
 * @property {string} sign  a letter for the patch, so that kinds differ not only in colour; "" for none
 * @property {number} count  patches of the sheet
 */
/**
 * @typedef {object} Painted
 * @property {(readonly number[] | null)[]} colours  by patch; null leaves the picture as it is
 * @property {string[] | null} signs  by patch
 * @property {string} explanation
 * @property {{low: string, high: string} | null} scale  ends of a ramp
 * @property {Key[]} keys  kinds; empty for a scale
 * @property {string} rest  the meaning of no colour; "" if all patches have one
 * @property {string} [command]  what to type for more, below `rest`
 */
/**
 * @typedef {object} PaintRequest  what to paint
 * @property {Reading} reading
 * @property {number} lensPlace  place of the lens in the reading
 * @property {number} layer  place of the layer
 * @property {number} patch  the chosen one
 * @property {number[]} patches  all that are shown
 * @property {boolean} local  whether the ramp covers this layer only, not all layers
 * @property {boolean} mask  whether empty words are hidden
 * @property {string} word  the word of somebody's choice; "" for none
 */
/**
 * @typedef {object} Measure
 * @property {string} title
 * @property {(reading: Reading, lens: Lens) => boolean} fits  whether the reading and lens have it
 * @property {(request: PaintRequest) => Painted} paint
 * @property {boolean} [ofWord]  whether the colours are those of a word of somebody's choice
 * @property {boolean} [followsPatch]  whether the colours depend on the chosen patch
 */

/** The confidence of a lens in its best word: its probability, for a lens that reads probabilities. For others its score
 * minus the score of the best other word among the k; if all k are one word, the gap to the last of them, a lower bound;
 * NaN with fewer than two candidates.
 * @param {Lens} lens @param {number} layer @param {number} patch */
function confidence(lens, layer, patch) {
  if (lens.nextToken) return lens.probability(layer, patch, 0);
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

/** Ramps clip this share of the values at either end, so that outliers do not compress the colours. */
const ENDS = 0.01;

/** The ends of a ramp over these values, without NaNs. @param {Float32Array} values */
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

/** What `confidence` is. @param {Lens} lens */
function confidenceMeans(lens) {
  return lens.nextToken
    ? "the probability of its best token"
    : "how far the score of its best word is above that of the best other word among those shown (if all are one " +
        "word, above the last)";
}

const allEntropies = new OverAll((lens, layer, patch) =>
  lens.nextToken ? lens.nextToken.entropies[layer * lens.patches + patch] : NaN,
);
const allDivergences = new OverAll((lens, layer, patch) =>
  lens.nextToken ? lens.nextToken.divergences[layer * lens.patches + patch] : NaN,
);

const allExplained = new OverAll((lens, layer, patch) =>
  lens.explained ? lens.explained.best[layer * lens.patches + patch] : NaN,
);

/** The layer with the largest confidence, or -1. @param {Lens} lens @param {number} layers @param {number} patch
 *  @param {boolean} mask  whether layers whose best word is empty do not count */
function mostConfidentLayer(lens, layers, patch, mask) {
  const { values } = allConfidences.of(lens, layers);
  let best = -1;
  for (let layer = 0; layer < layers; layer += 1) {
    const value = values[layer * lens.patches + patch];
    if (mask && lens.saysNothing(layer, patch)) continue;
    if (!Number.isNaN(value) && (best < 0 || value > values[best * lens.patches + patch])) best = layer;
  }
  return best;
}

/** Colours on a ramp. @param {PaintRequest} request @param {{values: Float32Array, low: number, high: number}} known
 *  @param {(value: number) => string} write @param {string} explanation @param {string} rest  what no colour means
 *  @returns {Painted} */
function paintRamp({ reading, layer, patches, local }, known, write, explanation, rest) {
  const { values } = known;
  const { low, high } = local ? ends(values.subarray(layer * reading.patches, (layer + 1) * reading.patches)) : known;
  /** @type {(readonly number[] | null)[]} */
  const colours = new Array(reading.patches).fill(null);
  let without = 0;
  for (const patch of patches) {
    const value = values[layer * reading.patches + patch];
    if (Number.isNaN(value)) without += 1;
    else colours[patch] = rampBetween(value, low, high);
  }
  return {
    colours,
    signs: null,
    keys: [],
    explanation: `${explanation} One scale for ${local ? "the patches of this layer" : "all layers of this image"}.`,
    scale: { low: `≤ ${write(low)}`, high: `≥ ${write(high)}` },
    rest: without ? rest : "",
  };
}

/** @param {OverAll} all @param {(lens: Lens, value: number) => string} write @param {(lens: Lens) => string} explain
 *  @returns {Measure["paint"]} */
function ramped(all, write, explain) {
  return (request) => {
    const lens = request.reading.lenses[request.lensPlace];
    const known = all.of(lens, request.reading.layers.length);
    return paintRamp(request, known, (value) => write(lens, value), explain(lens), "no colour: no word");
  };
}

/** Colours for numbers of layers. @param {(lens: Lens) => string} explain @param {string} rest
 *  @param {(reading: Reading, lens: Lens) => number[]} allOf  the layers there are, ascending
 *  @param {(reading: Reading, lens: Lens, layer: number, patch: number, mask: boolean) => number} of  one of them, or -1
 *  @returns {Measure["paint"]} */
function layered(explain, rest, allOf, of) {
  return ({ reading, lensPlace, layer, patches, mask }) => {
    const lens = reading.lenses[lensPlace];
    const all = allOf(reading, lens);
    const keys = all.map((number, place) => ({
      label: `layer ${number}`,
      colour: rampStep(place, all.length),
      sign: "",
      count: 0,
    }));
    const { colours, without } = paintKinds(reading, patches, keys, (patch) =>
      all.indexOf(of(reading, lens, layer, patch, mask)),
    );
    return { colours, signs: null, explanation: explain(lens), scale: null, keys, rest: without ? rest : "" };
  };
}

/** A number of the distribution of the next token. @param {string} title @param {OverAll} all @param {string} explanation
 *  @returns {Measure} */
function inNats(title, all, explanation) {
  return {
    title,
    fits: (_, lens) => lens.nextToken !== null,
    paint: ramped(all, (_, value) => value.toFixed(2), () => explanation),
  };
}

/** By the name that addresses use, in the order of the menu. @type {Object<string, Measure>} */
const MEASURES = {
  score: {
    title: "score of the best word",
    fits: () => true,
    paint: ramped(allScores, (lens, value) => lens.written(value), () => "Score of the best word."),
  },
  context: {
    title: "contextual layer of the best word",
    fits: (_, lens) => lens.contexts !== null,
    paint: layered(
      () => "Layer of the text model at which the best word's sentence was read.",
      "no colour: no word",
      (_, lens) => lens.contextualLayers,
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
    fits: (_, lens) => lens.topK > 1 || lens.nextToken !== null,
    paint: ramped(
      allConfidences,
      (lens, value) => (lens.nextToken ? percent(value) : lens.written(value, 1)),
      (lens) => `Confidence of the lens: ${confidenceMeans(lens)}.`,
    ),
  },
  "best-layer": {
    title: "most confident layer",
    fits: (reading, lens) => (lens.topK > 1 || lens.nextToken !== null) && reading.layers.length > 1,
    paint: layered(
      (lens) => `Visual layer at which the confidence of the lens is largest: ${confidenceMeans(lens)}.`,
      "no colour: never two words",
      (reading) => reading.layers,
      (reading, lens, _, patch, mask) => {
        const best = mostConfidentLayer(lens, reading.layers.length, patch, mask);
        return best < 0 ? -1 : reading.layers[best];
      },
    ),
  },
  entropy: inNats("entropy", allEntropies, "Entropy of the distribution of the next token, in nats; 0 is certain."),
  divergence: inNats(
    "divergence from the final layer",
    allDivergences,
    "KL divergence of the distribution of the next token from that after the last block, in nats.",
  ),
  explained: {
    title: "explained variance",
    fits: (_, lens) => lens.explained !== null,
    paint: ramped(
      allExplained,
      (_, value) => percent(value),
      () => "Share of what sets the state apart from its image that the best candidates explain.",
    ),
  },
};

/** The measures of an image by name: those of all images, and its maps. @param {Reading} shown
 *  @returns {Object<string, Measure>} */
function measuresOf(shown) {
  const names = [...new Set(shown.maps.map(({ name }) => name))];
  return { ...MEASURES, ...Object.fromEntries(names.map((name) => [`map-${name}`, ofMap(shown, name)])) };
}

/** @param {number} value */
function inTwoDigits(value) {
  const text = Math.abs(value) < 1e-3 && value ? value.toExponential(1) : value.toPrecision(2);
  return text.replaceAll("-", "−");
}

/** @param {Reading} shown @param {string} name @returns {Measure} */
function ofMap(shown, name) {
  /** @param {Lens} lens */
  const of = (lens) => shown.maps.find((map) => map.name === name && (!map.lens || map.lens === lens.name));
  return {
    title: shown.maps.find((map) => map.name === name)?.title || name,
    fits: (_, lens) => of(lens) !== undefined,
    paint: (request) => {
      const { values, explanation } = /** @type {PatchMap} */ (of(request.reading.lenses[request.lensPlace]));
      const known = { values, ...ends(values) };
      return paintRamp(request, known, inTwoDigits, explanation, "no colour: not tried");
    },
  };
}
