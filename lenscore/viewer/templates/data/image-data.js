// The image page's data, see lenscore/viewer/page_data.py.
"use strict";

/**
 * @typedef {object} LensData
 * @property {string} name
 * @property {string} title
 * @property {string} unit
 * @property {number} topK
 * @property {PackedArray} words  places of its words in the candidates, each less the one before, modulo 2 ** 32
 * @property {PackedArray} which  [patches, layers, k], with repetitions
 * @property {PackedArray[]} steps  of each rank; from the second on, how much less than the rank before
 * @property {number} low
 * @property {number} step
 * @property {PackedArray | null} contexts
 * @property {{logNormalizers: StepData, entropies: StepData, divergences: StepData} | null} nextToken
 * @property {{best: StepData, random: StepData}} [explained]  only of runs that asked for it
 */
/** @typedef {{steps: PackedArray, low: number, step: number}} StepData  numbers of layers and patches */
/** @typedef {{kind: string, aspects: [string, string[]][]}} Thing */
/**
 * @typedef {object} ImageData_
 * @property {number} id
 * @property {string} name
 * @property {string} caption
 * @property {number} width
 * @property {number} height
 * @property {string | null} mediaType
 * @property {[number, string][]} views
 * @property {PackedArray} places  [3, patches]
 * @property {PackedArray} boxes  [4, patches]
 * @property {number[]} layers
 * @property {number} topK
 * @property {LensData[]} lenses
 * @property {[string, number, number, number, string, string[], Object<string, string[]>][]} verdicts
 * @property {{things: Thing[], which: PackedArray, percent: PackedArray} | null} truth
 * @property {{name: string, title: string, explanation: string, lens: string, values: StepData}[]} [maps]
 */
/** @typedef {{name: string, title: string, explanation: string, lens: string, values: Float32Array}} PatchMap
 *  numbers of patches that come from no lens; `lens` is the one that they are about, or "" */
/** @typedef {{judge: string, outcome: string, fitting: string[], kinds: Object<string, string[]>}} Verdict */
/** @typedef {{word: number, text: string, token: string, score: number, probability: number,
 *             context: number, empty: boolean,
 *             sentence: {before: string, mark: string, after: string} | null}} Candidate */
/** @typedef {{name: string, views: number[], patches: number[]}} Sheet  views that lie side by side */

const RECENT = 31;

/** Places of words [layers, patches, k], or -1, from those [patches, layers, k] plus 1; numbers below RECENT say how many
 *  lie between a place and the same one before. @param {Numbers} codes @param {number} patches @param {number} k */
function unpackWhich(codes, patches, k) {
  const which = new Int32Array(codes.length);
  for (let patch = 0, i = 0; patch < patches; patch += 1) {
    for (let line = patch * k; line < codes.length; line += patches * k) {
      for (let rank = 0; rank < k; rank += 1, i += 1) {
        codes[i] = codes[i] < RECENT ? codes[i - 1 - codes[i]] : codes[i] - RECENT;
        which[line + rank] = codes[i] - 1;
      }
    }
  }
  return which;
}

/** The steps of scores [layers, patches, k], from those of each rank; differences are modulo 65536.
 *  @param {PackedArray[]} ranks @param {Uint8Array} bytes */
function unpackSteps(ranks, bytes) {
  const k = ranks.length;
  const steps = new Uint16Array(k && k * ranks[0][2]);
  ranks.forEach((packed, rank) => {
    const ofRank = unpackNumbers(bytes, packed);
    for (let i = 0, at = rank; i < ofRank.length; i += 1, at += k) steps[at] = rank ? steps[at - 1] - ofRank[i] : ofRank[i];
  });
  return steps;
}

/** Numbers in even steps. @param {StepData} data @param {Uint8Array} bytes */
function unpackStepped({ steps, low, step }, bytes) {
  return Float32Array.from(unpackNumbers(bytes, steps), (value) => (value === 65535 ? NaN : low + step * value));
}

/** The words of one lens for every patch at every layer. */
class Lens {
  /** @param {LensData} data @param {Uint8Array} bytes @param {Candidates} candidates @param {number} patches */
  constructor(data, bytes, candidates, patches) {
    this.name = data.name;
    this.title = data.title;
    this.unit = data.unit;
    this.topK = data.topK;
    this.patches = patches;
    const places = unpackNumbers(bytes, data.words);
    for (let i = 1; i < places.length; i += 1) places[i] += places[i - 1];
    this.words = Array.from(places, (place) => candidates.words[place]);
    this.low = data.low;
    this.step = data.step;
    this.which = unpackWhich(unpackNumbers(bytes, data.which), patches, data.topK);
    this.scores = unpackSteps(data.steps, bytes);
    this.contexts = data.contexts && unpackNumbers(bytes, data.contexts);
    this.noContext = data.contexts ? 2 ** (8 * data.contexts[0]) - 1 : -1;
    /** Numbers of the whole distributions of the next token, in nats. */
    this.nextToken = data.nextToken && {
      logNormalizers: unpackStepped(data.nextToken.logNormalizers, bytes),
      entropies: unpackStepped(data.nextToken.entropies, bytes),
      divergences: unpackStepped(data.nextToken.divergences, bytes),
    };
    /** Shares of the states' variance that the best candidates, and random ones, explain. */
    this.explained = data.explained
      ? { best: unpackStepped(data.explained.best, bytes), random: unpackStepped(data.explained.random, bytes) }
      : null;
    /** @type {number[] | null} */
    this.knownContextualLayers = null;
    this.empty = Uint8Array.from(places, (place) => Number(candidates.empty.has(place)));
    const range = 65534 * data.step;
    this.digits = range >= 200 ? 1 : range >= 2 ? 2 : range >= 0.1 || !range ? 3 : 5;
    /** @type {Map<string, number>} */
    const spellings = new Map();
    /** The same number for words that differ only in case or surrounding blanks. */
    this.spelling = Int32Array.from(this.words, ([text]) => {
      const folded = text.trim().toLowerCase();
      const known = spellings.get(folded);
      if (known !== undefined) return known;
      spellings.set(folded, spellings.size);
      return spellings.size - 1;
    });
  }

  /** The index of a candidate in the arrays. @param {number} layer @param {number} patch @param {number} rank */
  at(layer, patch, rank) {
    return (layer * this.patches + patch) * this.topK + rank;
  }

  /** Place of a candidate in `words`, or -1. @param {number} layer @param {number} patch @param {number} rank */
  word(layer, patch, rank) {
    return this.which[this.at(layer, patch, rank)];
  }

  /** Its score, or NaN. @param {number} layer @param {number} patch @param {number} rank */
  score(layer, patch, rank) {
    const steps = this.scores[this.at(layer, patch, rank)];
    return steps === 65535 ? NaN : this.low + this.step * steps;
  }

  /** Its probability, or NaN. @param {number} layer @param {number} patch @param {number} rank */
  probability(layer, patch, rank) {
    if (!this.nextToken) return NaN;
    return Math.exp(this.score(layer, patch, rank) - this.nextToken.logNormalizers[layer * this.patches + patch]);
  }

  /** Its contextual layer, or -1. @param {number} layer @param {number} patch @param {number} rank */
  context(layer, patch, rank) {
    const context = this.contexts ? this.contexts[this.at(layer, patch, rank)] : -1;
    return context === this.noContext ? -1 : context;
  }

  /** The contextual layers of all candidates, ascending. */
  get contextualLayers() {
    this.knownContextualLayers ??= [...new Set(this.contexts || [])]
      .filter((layer) => layer !== this.noContext)
      .sort((a, b) => a - b);
    return this.knownContextualLayers;
  }

  /** The highest score of all. */
  get high() {
    return this.low + 65534 * this.step;
  }

  /** A score as text, or a difference of scores with more digits. @param {number} score @param {number} [more] */
  written(score, more = 0) {
    return Number.isNaN(score) ? "–" : score.toFixed(this.digits + more).replace("-", "−");
  }

  /** A candidate with its word, score and sentence, or null. @param {number} layer @param {number} patch @param {number} rank
   *  @returns {Candidate | null} */
  candidate(layer, patch, rank) {
    const word = this.word(layer, patch, rank);
    if (word < 0) return null;
    const [text, token = text, before, mark, after] = this.words[word];
    return {
      word,
      text,
      token,
      score: this.score(layer, patch, rank),
      probability: this.probability(layer, patch, rank),
      context: this.context(layer, patch, rank),
      empty: this.empty[word] === 1,
      sentence: before === undefined ? null : { before, mark, after },
    };
  }

  /** Whether the best word of a patch is missing, blank or only punctuation. @param {number} layer @param {number} patch */
  saysNothing(layer, patch) {
    const word = this.word(layer, patch, 0);
    return word < 0 || this.empty[word] === 1;
  }
}

/** One image, its patches, and the words of every lens. */
class Reading {
  /** @param {ImageData_} data @param {Uint8Array} bytes @param {Candidates} candidates @param {string | null} picture */
  constructor(data, bytes, candidates, picture) {
    this.id = data.id;
    this.name = data.name;
    this.caption = data.caption;
    this.width = data.width;
    this.height = data.height;
    this.picture = picture;
    this.layers = data.layers;
    this.views = new Map(data.views);
    this.places = transposed(unpackNumbers(bytes, data.places), 3);
    this.boxes = new Float32Array(Uint32Array.from(transposed(unpackNumbers(bytes, data.boxes), 4)).buffer);
    this.patches = this.places.length / 3;
    this.lenses = data.lenses.map((lens) => new Lens(lens, bytes, candidates, this.patches));
    /** @type {Map<string, number>} */
    this.patchAt = new Map();
    for (let patch = 0; patch < this.patches; patch += 1) this.patchAt.set(this.placeName(patch), patch);
    /** @type {Map<string, Verdict[]>} */
    this.verdicts = new Map();
    /** Patches with a verdict, ascending. */
    this.judged = [...new Set(data.verdicts.map((verdict) => verdict[1]))].sort((a, b) => a - b);
    for (const [judge, patch, layer, lens, outcome, fitting, kinds] of data.verdicts) {
      const key = `${patch}/${layer}/${lens}`;
      if (!this.verdicts.has(key)) this.verdicts.set(key, []);
      this.verdictsOf(layer, patch, lens).push({ judge, outcome, fitting, kinds });
    }
    this.things = data.truth ? data.truth.things : null;
    this.thingOf = data.truth && unpackNumbers(bytes, data.truth.which);
    this.percentOf = data.truth && unpackNumbers(bytes, data.truth.percent);
    /** @type {PatchMap[]} */
    this.maps = (data.maps || []).map((map) => ({ ...map, values: unpackStepped(map.values, bytes) }));
    this.sheets = sheetsOf(this);
  }

  /** "view-row-column", the name of a patch in addresses. @param {number} patch */
  placeName(patch) {
    return `${this.places[3 * patch]}-${this.places[3 * patch + 1]}-${this.places[3 * patch + 2]}`;
  }

  /** @param {number} patch */
  view(patch) {
    return this.places[3 * patch];
  }

  /** @param {number} view */
  viewName(view) {
    return this.views.get(view) || `view ${view}`;
  }

  /** left, top, right, bottom as shares of the image. @param {number} patch */
  box(patch) {
    return this.boxes.subarray(4 * patch, 4 * patch + 4);
  }

  /** Whether it shows a part of the image, not only padding. @param {number} patch */
  isVisible(patch) {
    const [left, top, right, bottom] = this.box(patch);
    return right > left && bottom > top;
  }

  /** @param {number} patch */
  sheetOf(patch) {
    return Math.max(
      0,
      this.sheets.findIndex((sheet) => sheet.views.includes(this.view(patch))),
    );
  }

  /** @param {number} layer @param {number} patch @param {number} lens @returns {Verdict[]} */
  verdictsOf(layer, patch, lens) {
    return this.verdicts.get(`${patch}/${layer}/${lens}`) || [];
  }

  /** The truth about a patch, or null. @param {number} patch @returns {{thing: Thing, percent: number} | null} */
  truthOf(patch) {
    if (!this.things || !this.thingOf || !this.percentOf) return null;
    const thing = this.things[this.thingOf[patch]];
    return thing ? { thing, percent: this.percentOf[patch] } : null;
  }

  /** The aspect in which a word is right for a patch; "" if it is wrong or the truth is unknown. @param {number} patch
   *  @param {string} word */
  rightAs(patch, word) {
    const truth = this.truthOf(patch);
    const folded = word.toLowerCase();
    const found =
      truth && truth.thing.aspects.find(([, words]) => words.some((right) => right.toLowerCase() === folded));
    return found ? found[0] : "";
  }
}

/** Views that do not overlap, such as tiles, are shown together, on one sheet.
 *  @param {Reading} reading @returns {Sheet[]} */
function sheetsOf(reading) {
  /** @type {Map<number, {patches: number[], box: number[]}>} */
  const views = new Map();
  for (let patch = 0; patch < reading.patches; patch += 1) {
    const view = reading.view(patch);
    if (!views.has(view)) views.set(view, { patches: [], box: [1, 1, 0, 0] });
    const one = views.get(view);
    if (!one) continue;
    one.patches.push(patch);
    if (!reading.isVisible(patch)) continue;
    const [left, top, right, bottom] = reading.box(patch);
    one.box = [
      Math.min(one.box[0], left),
      Math.min(one.box[1], top),
      Math.max(one.box[2], right),
      Math.max(one.box[3], bottom),
    ];
  }
  /** @type {(Sheet & {boxes: number[][]})[]} */
  const sheets = [];
  for (const [view, { patches, box }] of views) {
    const found = sheets.find((sheet) => sheet.boxes.every((other) => !overlap(other, box)));
    if (found) {
      found.views.push(view);
      found.boxes.push(box);
      found.patches.push(...patches);
      found.name = `${found.views.length} tiles`;
    } else {
      sheets.push({ name: reading.viewName(view), views: [view], patches: [...patches], boxes: [box] });
    }
  }
  return sheets;
}

/** Whether two boxes share more than 2 % of the smaller one. @param {number[]} one @param {number[]} other */
function overlap(one, other) {
  const width = Math.min(one[2], other[2]) - Math.max(one[0], other[0]);
  const height = Math.min(one[3], other[3]) - Math.max(one[1], other[1]);
  const smaller = Math.min((one[2] - one[0]) * (one[3] - one[1]), (other[2] - other[0]) * (other[3] - other[1]));
  return width > 0 && height > 0 && width * height > 0.02 * smaller;
}
