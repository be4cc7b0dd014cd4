// Colours for a word of somebody's choice, from the candidates that the run stored: a patch without it has none.
"use strict";

/** As words are compared everywhere: without regard to case and surrounding blanks. @param {string} word */
function foldedWord(word) {
  return word.trim().toLowerCase().normalize("NFC");
}

/** The best rank of a word among the candidates of a patch, from 0, or -1; as a function, because the word is looked up once.
 *  @param {Lens} lens @param {string} word @returns {(layer: number, patch: number) => number} */
function rankIn(lens, word) {
  const wanted = foldedWord(word);
  const isWanted = lens.words.map(([text]) => foldedWord(text) === wanted);
  return (layer, patch) => {
    for (let rank = 0; rank < lens.topK; rank += 1) {
      const place = lens.word(layer, patch, rank);
      if (place >= 0 && isWanted[place]) return rank;
    }
    return -1;
  };
}

/** The command that maps a word on all patches. @param {Reading} reading @param {Lens} lens @param {number} layer
 *  @param {string} word */
function findCommand(reading, lens, layer, word) {
  /** @param {string} text */
  const quoted = (text) => (/^[\w.,/:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  const store = lens.contexts ? " --store STORE.zarr" : "";
  const flags = `--lenses ${quoted(lens.name)} --layers ${reading.layers[layer]} --out words`;
  return `lens find ${quoted(word.trim())} --model ${quoted(run().model)} --images ${quoted(reading.name)}${store} ${flags}`;
}

/** @param {PaintRequest} request @param {Painted} painted @param {string} what @returns {Painted} */
function explained({ reading, lensPlace, layer, word }, painted, what) {
  const lens = reading.lenses[lensPlace];
  if (!word.trim()) {
    const explanation = `${what} of a word: type it above.`;
    return { ...painted, colours: painted.colours.map(() => null), explanation, scale: null, keys: [], rest: "" };
  }
  const named = `“${shortened(word.trim())}”`;
  const isThere = painted.colours.some((colour) => colour);
  return {
    ...painted,
    explanation: isThere
      ? `${what} of ${named}, at its best rank among the ${lens.topK} words of each patch.${painted.explanation}`
      : `${named} is not among the ${lens.topK} words of any patch at this layer.`,
    scale: isThere ? painted.scale : null,
    rest: `${isThere ? "No colour: it is not among the words that are kept of the patch. " : ""}The map of all patches, with your paths:`,
    command: findCommand(reading, lens, layer, word),
  };
}

/** @param {string} what @param {(lens: Lens, layer: number, patch: number, rank: number) => number} numberOf
 *  @param {(lens: Lens, value: number) => string} write @returns {Measure["paint"]} */
function wordRamp(what, numberOf, write) {
  return (request) => {
    const lens = request.reading.lenses[request.lensPlace];
    const rankOf = rankIn(lens, request.word);
    const all = new OverAll((_, layer, patch) => {
      const rank = rankOf(layer, patch);
      return rank < 0 ? NaN : numberOf(lens, layer, patch, rank);
    });
    return explained(request, ramped(all, write, () => "")(request), what);
  };
}

/** @type {Measure["paint"]} */
function paintWordRank(request) {
  const lens = request.reading.lenses[request.lensPlace];
  const rankOf = rankIn(lens, request.word);
  const keys = Array.from({ length: lens.topK }, (_, rank) => ({
    label: `rank ${rank + 1}`,
    colour: rampStep(lens.topK - 1 - rank, lens.topK),
    sign: "",
    count: 0,
  }));
  const { colours } = paintKinds(request.reading, request.patches, keys, (patch) => rankOf(request.layer, patch));
  return explained(request, { colours, signs: null, explanation: "", scale: null, keys, rest: "" }, "Rank");
}

Object.assign(MEASURES, {
  word: {
    title: "a word: score",
    fits: () => true,
    paint: wordRamp("Score", (lens, layer, patch, rank) => lens.score(layer, patch, rank), (lens, value) => lens.written(value)),
    ofWord: true,
  },
  "word-probability": {
    title: "a word: probability",
    fits: (/** @type {Reading} */ _, /** @type {Lens} */ lens) => lens.nextToken !== null,
    paint: wordRamp("Probability", (lens, layer, patch, rank) => lens.probability(layer, patch, rank), (_, value) => percent(value)),
    ofWord: true,
  },
  "word-rank": { title: "a word: rank", fits: () => true, paint: paintWordRank, ofWord: true },
});
