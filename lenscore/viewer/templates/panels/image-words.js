// The text about one patch: a card for each lens, the truth, verdicts. All text is set as textContent, so no word of a
// corpus or a vocabulary is interpreted as HTML.
"use strict";

const FONT = 'system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif';

const LONGEST_SEARCH = 100;

/** The word, as a link to the search if the page of the run exists. @param {Candidate} candidate */
function searchLink({ text, empty }) {
  if (empty || !document.querySelector("header .home") || /\p{Surrogate}/u.test(text) || text.length > LONGEST_SEARCH)
    return text;
  const link = element("a", "", text);
  link.href = `index.html#word=${encodeURIComponent(text)}`;
  link.ariaDescription = "search for this word in all images";
  return link;
}

/** @param {Lens} lens @param {Candidate} candidate @param {number} rank @param {Set<string>} fitting @param {string} aspect
 *  in which the word is right, or "" */
function wordItem(lens, candidate, rank, fitting, aspect) {
  const fits = fitting.has(candidate.text) || aspect !== "";
  const word = element("bdi", fits ? "word fits" : candidate.empty ? "word empty" : "word", searchLink(candidate));
  if (candidate.token !== candidate.text) word.title = `token “${candidate.token}”`;
  const head = element("div", "head", element("span", "rank", String(rank + 1)), word);
  if (fits) head.append(element("span", "tick", `✓ ${aspect}`.trim()));
  const figures = element("span", "figures");
  if (candidate.context >= 0) {
    const badge = element("span", "context", `L${candidate.context}`);
    badge.title = `the sentence was read at layer ${candidate.context} of the text model`;
    const layers = lens.contextualLayers;
    const colour = rampStep(layers.indexOf(candidate.context), layers.length);
    badge.style.background = css(colour);
    badge.style.color = inkOn(colour);
    figures.append(badge);
  }
  const { probability } = candidate;
  if (!Number.isNaN(probability)) figures.append(element("span", "probability", percent(probability)));
  figures.append(element("span", "score", lens.written(candidate.score)));
  head.append(figures);
  const item = element("li", "", head);
  const ofRange = lens.step ? (candidate.score - lens.low) / (lens.high - lens.low) : 0;
  const share = Number.isNaN(probability) ? ofRange : probability;
  item.style.setProperty("--share", `${Math.round(100 * (share || 0))}%`);
  if (candidate.sentence) {
    const { before, mark, after } = candidate.sentence;
    item.append(element("bdi", "sentence", before, element("mark", "", mark), after));
  }
  return item;
}

/** @param {Verdict} verdict */
function verdictLine({ judge, outcome, fitting, kinds }) {
  const line = element(
    "p",
    `verdict ${outcome}`,
    judge === "truth" ? "the exact truth: " : "judge ",
    ...(judge === "truth" ? [] : [element("bdi", "", judge), ": "]),
    element("strong", "", outcome === "yes" ? "a word is right" : outcome === "no" ? "no word is right" : outcome),
  );
  const named = Object.entries(kinds).filter(([, words]) => words.length);
  if (named.length) {
    for (const [kind, words] of named)
      line.append(", ", element("span", "kind", kind), " ", element("bdi", "", words.join(", ")));
  } else if (fitting.length) {
    line.append(", ", element("bdi", "", fitting.join(", ")));
  }
  return line;
}

/** The best word at every layer; a click selects the layer. @param {Reading} reading @param {Lens} lens @param {number} layer
 *  @param {number} patch @param {(layer: number) => void} onLayer */
function layerStrip(reading, lens, layer, patch, onLayer) {
  const strip = element("div", "strip");
  strip.setAttribute("role", "group");
  strip.setAttribute("aria-label", `${lens.title}: best word at every layer`);
  const { low, high } = allScores.of(lens, reading.layers.length);
  reading.layers.forEach((number, place) => {
    const best = lens.candidate(place, patch, 0);
    const button = element(
      "button",
      "",
      element("small", "", String(number)),
      element("bdi", "", best ? best.text : "–"),
    );
    button.type = "button";
    button.tabIndex = -1; // also reachable by the slider and the keys
    button.setAttribute("aria-pressed", String(place === layer));
    button.title = `layer ${number}: ${best ? `${best.text.slice(0, 80)} ${lens.written(best.score)}` : "no word"}`;
    if (best) {
      button.style.setProperty("--score", css(rampBetween(best.score, low, high)));
    }
    button.addEventListener("click", () => onLayer(place));
    strip.append(button);
  });
  return strip;
}

/** What the bars beside the words show. @param {Lens} lens */
function barScale(lens) {
  return lens.nextToken ? "probability, 0 to 100 %" : `score, ${lens.written(lens.low)} to ${lens.written(lens.high)}`;
}

/** The numbers of the whole distribution, for a lens that reads one. @param {Lens} lens @param {number} layer
 *  @param {number} patch @returns {Node[]} */
function distributionLine({ nextToken, patches }, layer, patch) {
  if (!nextToken) return [];
  const [entropy, divergence] = [nextToken.entropies, nextToken.divergences].map((values) =>
    values[layer * patches + patch].toFixed(2).replace("-", "−"),
  );
  return [element("p", "unit", `entropy ${entropy}, KL from the final distribution ${divergence} (nats)`)];
}

/** How much of the state the candidates explain, in runs that asked for it. @param {Lens} lens @param {number} layer
 *  @param {number} patch @returns {Node[]} */
function explainedLine({ explained, patches }, layer, patch) {
  if (!explained) return [];
  const [best, random] = [explained.best, explained.random].map((shares) => shares[layer * patches + patch]);
  if (Number.isNaN(best)) return [];
  return [element("p", "unit", `explained variance ${percent(best)}, by random words ${percent(random)}`)];
}

/** @param {Reading} reading @param {number} place  of the lens @param {number} layer @param {number} patch @param {boolean} chosen
 *  @param {{onLens: (place: number) => void, onLayer: (layer: number) => void}} act */
function lensCard(reading, place, layer, patch, chosen, act) {
  const lens = reading.lenses[place];
  const verdicts = reading.verdictsOf(layer, patch, place);
  const fitting = new Set(verdicts.flatMap((verdict) => verdict.fitting));
  const list = element("ol");
  for (let rank = 0; rank < lens.topK; rank += 1) {
    const candidate = lens.candidate(layer, patch, rank);
    if (candidate) list.append(wordItem(lens, candidate, rank, fitting, reading.rightAs(patch, candidate.text)));
  }
  if (!list.children.length) list.append(element("li", "none", "no word"));
  const choose = element("button", "plain-button", lens.title);
  choose.type = "button";
  choose.title = "take this lens for the colours and the table";
  choose.addEventListener("click", () => act.onLens(place));
  choose.setAttribute("aria-pressed", String(chosen));
  const card = element("article", "lens", element("h2", "", choose), element("p", "unit", `${lens.unit} · bars: ${barScale(lens)}`), list);
  card.dataset.lens = lens.name;
  card.classList.toggle("chosen", chosen);
  card.classList.toggle("contextual", lens.contexts !== null);
  card.append(
    ...distributionLine(lens, layer, patch),
    ...explainedLine(lens, layer, patch),
    ...verdicts.map(verdictLine),
    layerStrip(reading, lens, layer, patch, act.onLayer),
  );
  return card;
}

/** The truth about a patch of the shapes world. @param {Reading} reading @param {number} patch @returns {Node[]} */
function truthLine(reading, patch) {
  const truth = reading.truthOf(patch);
  if (!truth) return [];
  const { thing, percent } = truth;
  const line = element(
    "p",
    "",
    element("strong", "", "Truth: "),
    element("bdi", "", thing.kind),
    ` on ${percent} % of the patch`,
  );
  const pairs = thing.aspects.map(([aspect, words]) =>
    element("span", "aspect", element("span", "label", aspect), " ", element("bdi", "", words.join(", "))),
  );
  return [line, element("p", "aspects", ...pairs)];
}

/** One sentence for screen readers. @param {Reading} reading @param {number} layer @param {number} patch */
function spoken(reading, layer, patch) {
  const words = reading.lenses.map((lens) => {
    const best = lens.candidate(layer, patch, 0);
    return `${lens.title}: ${best ? `“${[...best.text].slice(0, 60).join("")}”` : "no word"}`;
  });
  return `${placeText(reading, patch)}, layer ${reading.layers[layer]}. ${words.join("; ")}.`;
}

/** @param {Reading} reading @param {number} patch */
function placeText(reading, patch) {
  const [view, row, column] = reading.places.subarray(3 * patch, 3 * patch + 3);
  const where = `Row ${row}, column ${column}`;
  return reading.views.size > 1 ? `${where} of ${reading.viewName(view)}` : where;
}
