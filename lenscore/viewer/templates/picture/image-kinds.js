// Colours for kinds: verdicts on the words of a patch, and right words if the truth is known.
"use strict";

/** Give patches the colours and signs of their kinds, and count the patches of each kind.
 *  @param {Reading} reading @param {number[]} patches  those to paint @param {Key[]} keys
 *  @param {(patch: number) => number} kindOf  place of the patch's kind in `keys`, or -1 */
function paintKinds(reading, patches, keys, kindOf) {
  /** @type {(readonly number[] | null)[]} */
  const colours = new Array(reading.patches).fill(null);
  /** @type {string[]} */
  const signs = new Array(reading.patches).fill("");
  let without = 0;
  for (const patch of patches) {
    const place = kindOf(patch);
    if (place < 0) without += 1;
    else {
      keys[place].count += 1;
      colours[patch] = keys[place].colour;
      signs[patch] = keys[place].sign;
    }
  }
  return { colours, signs, without };
}

/** The kind of a patch by its verdicts: one of VERDICT_KINDS, or "" without a verdict. @param {Verdict[]} verdicts */
function verdictKind(verdicts) {
  const answers = new Set(
    verdicts.map((verdict) => verdict.outcome).filter((outcome) => outcome === "yes" || outcome === "no"),
  );
  if (!verdicts.length) return "";
  if (answers.size === 2) return "differ";
  if (!answers.size) return "unanswered";
  if (answers.has("no")) return "no";
  const named = ["concrete", "abstract", "global"].find((kind) =>
    verdicts.some((verdict) => (verdict.kinds[kind] || []).length),
  );
  return named || "yes";
}

/** Kinds of verdicts with their label and letter, in the order of legends.
 *  @type {[keyof typeof VERDICT_COLOURS, string, string][]} */
const VERDICT_KINDS = [
  ["concrete", "concrete", "C"],
  ["abstract", "abstract", "A"],
  ["global", "global", "G"],
  ["yes", "yes", "✓"],
  ["no", "no", "✗"],
  ["differ", "judges differ", "?"],
  ["unanswered", "no answer", "–"],
];

/** @type {Measure["paint"]} */
function paintVerdicts({ reading, lensPlace, layer, patches }) {
  const keys = VERDICT_KINDS.map(([kind, label, sign]) => ({ label, colour: VERDICT_COLOURS[kind], sign, count: 0 }));
  const { colours, signs, without } = paintKinds(reading, patches, keys, (patch) => {
    const found = verdictKind(reading.verdictsOf(layer, patch, lensPlace));
    return VERDICT_KINDS.findIndex(([kind]) => kind === found);
  });
  const explanation =
    "Judges' verdict on the words at this layer. Concrete: a word names what is in the patch; abstract: what it " +
    "expresses; global: what the image shows elsewhere; the first of these that applies.";
  return {
    colours,
    signs,
    explanation,
    scale: null,
    keys: keys.filter((key) => key.count),
    rest: without ? `not judged: ${without}` : "",
  };
}

/** Whether a word is right, if the truth is known. @type {Measure["paint"]} */
function paintTruth({ reading, lensPlace, layer, patches }) {
  const lens = reading.lenses[lensPlace];
  const aspects = [...new Set((reading.things || []).flatMap((thing) => thing.aspects.map(([aspect]) => aspect)))];
  /** @type {Key[]} */
  const keys = [...aspects, "none"].map((aspect, place) => ({
    label: aspect === "none" ? "no word is right" : `right ${aspect}`,
    colour: aspect === "none" ? VERDICT_COLOURS.no : ASPECT_COLOURS[place % ASPECT_COLOURS.length],
    sign: aspect === "none" ? "✗" : aspect.slice(0, 1).toUpperCase(),
    count: 0,
  }));
  const { colours, signs } = paintKinds(reading, patches, keys, (patch) => {
    if (!reading.truthOf(patch)?.thing.aspects.length) return -1;
    let place = aspects.length;
    for (let rank = 0; rank < lens.topK; rank += 1) {
      const word = lens.word(layer, patch, rank);
      const aspect = word < 0 ? "" : reading.rightAs(patch, lens.words[word][0]);
      if (aspect) place = Math.min(place, aspects.indexOf(aspect));
    }
    return place;
  });
  const explanation = `Which of the ${lens.topK} words are right for what is on the patch (exact truth of the shapes world); the first aspect in this order.`;
  return { colours, signs, explanation, scale: null, keys: keys.filter((key) => key.count), rest: "" };
}

/** The rank of the chosen patch's best word among the words of other patches. @type {Measure["paint"]} */
function paintSame({ reading, lensPlace, layer, patch: chosen, patches }) {
  const lens = reading.lenses[lensPlace];
  const best = lens.word(layer, chosen, 0);
  const keys = Array.from({ length: lens.topK }, (_, rank) => ({
    label: rank ? `word ${rank + 1}` : "best word",
    colour: rampStep(lens.topK - 1 - rank, lens.topK),
    sign: "",
    count: 0,
  }));
  const { colours, without } = paintKinds(reading, patches, keys, (patch) =>
    keys.findIndex((_, rank) => isSame(lens, lens.word(layer, patch, rank), best)),
  );
  const word = best < 0 ? "no word" : `“${shortened(lens.words[best][0])}”`;
  const explanation = `Patches that have ${word}, the best word of the chosen patch, among their words at this layer.`;
  return { colours, signs: null, explanation, scale: null, keys, rest: `not among the words: ${without}` };
}

/** @param {Lens} lens @param {number} one @param {number} other  places of words, or -1 */
function isSame(lens, one, other) {
  return one >= 0 && other >= 0 && lens.spelling[one] === lens.spelling[other];
}
