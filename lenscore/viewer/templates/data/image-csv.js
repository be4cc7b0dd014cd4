// All words of one image as CSV (RFC 4180, UTF-8 with a byte order mark for spreadsheets).
"use strict";

const CSV_COLUMNS = [
  "image_id",
  "image",
  "view",
  "view_name",
  "row",
  "column",
  "left",
  "top",
  "right",
  "bottom",
  "layer",
  "lens",
  "rank",
  "word",
  "token",
  "score",
  "probability",
  "entropy",
  "divergence",
  "contextual_layer",
  "sentence_before",
  "sentence_token",
  "sentence_after",
  "verdicts",
];
const LINES_A_PART = 20000;

/** A text from outside as a field. An apostrophe keeps spreadsheets from computing a text that begins like a formula.
 *  @param {string} text */
function csvText(text) {
  const plain = text.replaceAll("\0", "␀");
  const safe = /^[\s\p{C}]*[=+\-@|%＝＋－＠]/u.test(plain) || /^[\t\r\n]/.test(plain) ? `'${plain}` : plain;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** @param {number} value */
function csvNumber(value) {
  return Number.isNaN(value) ? "" : String(Math.round(1e6 * value) / 1e6);
}

/** The file in parts: a line for every patch, layer, lens and rank; `done` is the progress (0..1).
 *  @param {Reading} reading @returns {Generator<{part: string, done: number}>} */
function* csvParts(reading) {
  yield { part: `\ufeff${CSV_COLUMNS.join(",")}\r\n`, done: 0 };
  /** @type {string[]} */
  let lines = [];
  const image = `${reading.id},${csvText(reading.name)}`;
  const shown = reading.lenses.map((lens) => ({
    lens,
    name: csvText(lens.name),
    words: lens.words.map(([text, token = text]) => `${csvText(text)},${csvText(token)}`),
    sentences: lens.words.map(([, , before = "", mark = "", after = ""]) =>
      [before, mark, after].map(csvText).join(","),
    ),
  }));
  for (let patch = 0; patch < reading.patches; patch += 1) {
    const [view, row, column] = reading.places.subarray(3 * patch, 3 * patch + 3);
    const box = [...reading.box(patch)].map((edge) => Number(edge.toFixed(6)));
    const where = `${image},${view},${csvText(reading.viewName(view))},${row},${column},${box.join(",")}`;
    reading.layers.forEach((number, layer) => {
      shown.forEach(({ lens, name, words, sentences }, place) => {
        const at = layer * lens.patches + patch;
        const [entropy, divergence] = lens.nextToken
          ? [lens.nextToken.entropies[at], lens.nextToken.divergences[at]]
          : [NaN, NaN];
        const verdicts = csvText(reading.verdictsOf(layer, patch, place).map(verdictText).join("; "));
        for (let rank = 0; rank < lens.topK; rank += 1) {
          const word = lens.word(layer, patch, rank);
          if (word < 0) continue;
          const context = lens.context(layer, patch, rank);
          const numbers = [lens.score(layer, patch, rank), lens.probability(layer, patch, rank), entropy, divergence];
          const figures = `${numbers.map(csvNumber).join(",")},${context < 0 ? "" : context}`;
          lines.push(`${where},${number},${name},${rank + 1},${words[word]},${figures},${sentences[word]},${verdicts}\r\n`);
        }
      });
    });
    if (lines.length > LINES_A_PART) {
      yield { part: lines.join(""), done: (patch + 1) / reading.patches };
      lines = [];
    }
  }
  yield { part: lines.join(""), done: 1 };
}

/** @param {Verdict} verdict */
function verdictText({ judge, outcome, fitting }) {
  return `${judge}: ${outcome}${fitting.length ? ` (${fitting.join(", ")})` : ""}`;
}

/** A name that is valid on every file system. @param {Reading} reading @param {string} ending */
function fileName(reading, ending) {
  const stem = reading.name
    .replace(/\.[a-z]{3,4}$/i, "")
    .replace(/[^A-Za-z0-9_-]+/g, "-")
    .replace(/^-+|-+$/g, "")
    .slice(-60);
  return `${String(reading.id).padStart(6, "0")}${stem ? `-${stem}` : ""}${ending}`;
}

/** @param {Blob} blob @param {string} name */
function download(blob, name) {
  const link = element("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000); // the browser may still be reading
}
