// The table of a text: a row for each token, a column for each layer.
"use strict";

const LONGEST_WORD = 18; // characters in a cell

/** @type {Object<string, string>} */
const BLANKS = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍" };

/** A word of blanks, controls and characters that only join or vary their neighbours as signs. @param {string} text */
function visible(text) {
  if (/[^\p{Z}\p{Cc}\p{Cf}\ufe00-\ufe0f]/u.test(text)) return text;
  const signs = [...text].map((blank) => BLANKS[blank] || `\\u${blank.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return signs.join("") || "(empty)";
}

/** @param {string} text @param {number} longest */
function cut(text, longest) {
  const characters = [...text];
  return characters.length > longest ? `${characters.slice(0, longest - 1).join("")}…` : text;
}

/** Numbers with as many digits as their size asks for. @param {number} value */
function written(value) {
  if (Number.isNaN(value)) return "–";
  return Math.abs(value) >= 100 ? value.toFixed(1) : value.toFixed(3);
}

class TextTable {
  /** @param {HTMLTableElement} table @param {TextData} data @param {(layer: number, token: number) => void} onCell */
  constructor(table, data, onCell) {
    this.data = data;
    this.table = table;
    table.addEventListener("click", (event) => {
      const cell = event.target instanceof Element ? event.target.closest("td") : null;
      const row = cell?.parentElement;
      if (cell && row instanceof HTMLTableRowElement) onCell(cell.cellIndex - 2, row.sectionRowIndex);
    });
  }

  /** Draw all cells. @param {TextLens} lens @param {TextMeasure} measure */
  draw(lens, measure) {
    const { tokens, tokenIds, layers, promptTokens } = this.data;
    const head = element("tr", "", element("th", "number", "#"), element("th", "", "token"));
    for (const name of layers) head.append(element("th", "", name));
    const values = layers.map((_, layer) => tokens.map((__, token) => measure.of(layer, token)));
    const [low, high] = measure.limits || extremes(values.flat());
    const body = element("tbody");
    tokens.forEach((text, token) => {
      const first = element("th", "token", element("bdi", "", cut(visible(text), 2 * LONGEST_WORD)));
      const row = element("tr", token < promptTokens ? "" : "answer", element("th", "number", String(token)), first);
      const most = mostConfident(layers.map((_, layer) => values[layer][token]), measure.best);
      layers.forEach((_, layer) => {
        const best = lens.best(layer, token);
        const cell = element("td", "", element("bdi", "", best ? cut(visible(best.word.text), LONGEST_WORD) : "–"));
        const value = values[layer][token];
        if (!Number.isNaN(value)) {
          const colour = rampBetween(measure.best * value, Math.min(measure.best * low, measure.best * high), Math.max(measure.best * low, measure.best * high));
          cell.style.cssText = `background:${css(colour)};color:${inkOn(colour)}`;
        }
        cell.classList.toggle("most", layer === most);
        cell.classList.toggle("next", best !== undefined && best.word.id === tokenIds[token + 1]);
        row.append(cell);
      });
      body.append(row);
    });
    this.table.replaceChildren(element("thead", "", head), body);
    return { low, high };
  }

  /** Mark the chosen cell and bring it into sight. @param {number} layer @param {number} token @param {boolean} move */
  choose(layer, token, move) {
    for (const marked of this.table.querySelectorAll(".chosen")) marked.classList.remove("chosen");
    const row = this.table.tBodies[0].rows[token];
    const cell = row.cells[layer + 2];
    row.cells[1].classList.add("chosen");
    cell.classList.add("chosen");
    if (move) cell.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

/** The place of the largest (or smallest) value, or -1. @param {number[]} values @param {1 | -1} best */
function mostConfident(values, best) {
  let found = -1;
  values.forEach((value, place) => {
    if (!Number.isNaN(value) && (found < 0 || best * value > best * values[found])) found = place;
  });
  return found;
}

/** @param {number[]} values @returns {[number, number]} */
function extremes(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : [0, 0];
}
