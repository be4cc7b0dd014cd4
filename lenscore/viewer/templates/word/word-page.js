// The page of chosen words: a map of a word over the picture, and the numbers of a patch. This script starts the page.
"use strict";

const NUMBERS_ON_BAR = 5;
/** @type {Object<string, [number, number]>} */
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

class WordPage {
  /** @param {WordData} data @param {Uint8Array} bytes @param {Reading} reading */
  constructor(data, bytes, reading) {
    this.words = data.words;
    this.explanation = data.explanation;
    this.reading = reading;
    this.lenses = data.lenses.map((lens) => new WordLens(lens, bytes, reading.layers.length, reading.patches));
    this.picture = new Picture({
      stage: byId("stage", HTMLElement),
      photo: byId("photo", HTMLImageElement),
      gone: byId("gone", HTMLElement),
      paint: byId("paint", HTMLCanvasElement),
      halo: byId("halo", HTMLElement),
    });
    /** @type {MapName} */
    this.map = "score";
    this.word = 0;
    this.lens = 0;
    this.layer = Math.floor(reading.layers.length / 2);
    this.patch = reading.sheets[0].patches[Math.floor(reading.sheets[0].patches.length / 2)];
    this.locked = false;
    this.local = false;
    this.fill();
    this.listen();
    this.picture.open(reading);
    this.follow();
  }

  /** Menus and ticks. */
  fill() {
    const { layers, sheets } = this.reading;
    byId("layer", HTMLInputElement).max = String(layers.length - 1);
    const every = Math.ceil(layers.length / 14);
    const ticks = layers.map((layer, place) => element("span", "", place % every ? "" : String(layer)));
    byId("ticks", HTMLElement).replaceChildren(...ticks);
    byId("word", HTMLSelectElement).replaceChildren(...this.words.map((word, place) => new Option(word, String(place))));
    byId("view-controls", HTMLElement).hidden = sheets.length < 2;
    const buttons = sheets.map((sheet) => {
      const button = element("button", "", sheet.name);
      button.type = "button";
      button.addEventListener("click", () => this.change({ patch: sheet.patches[0] }));
      return button;
    });
    byId("views", HTMLElement).replaceChildren(...buttons);
  }

  listen() {
    /** @param {string} id @param {(value: string) => void} act */
    const on = (id, act) => {
      const input = document.getElementById(id);
      const event = input instanceof HTMLSelectElement ? "change" : "input";
      if (input instanceof HTMLSelectElement || input instanceof HTMLInputElement)
        input.addEventListener(event, () => act(input.value));
    };
    on("layer", (value) => this.change({ layer: Number(value) }));
    on("word", (value) => this.change({ word: Number(value) }));
    on("lens", (value) => this.change({ lens: Number(value) }));
    on("measure", (value) => this.change({ map: mapNamed(value) }));
    on("strength", () => this.change({}));
    on("local", () => this.change({ local: byId("local", HTMLInputElement).checked }));
    const stage = byId("stage", HTMLElement);
    stage.addEventListener("pointermove", (event) => {
      const patch = this.picture.patchUnder(event);
      if (!this.locked && event.pointerType !== "touch" && patch >= 0) this.change({ patch });
    });
    stage.addEventListener("click", (event) => {
      const patch = this.picture.patchUnder(event);
      if (patch >= 0) this.change({ patch, locked: !(this.locked && patch === this.patch) });
    });
    document.addEventListener("keydown", (event) => this.onKey(event));
    window.addEventListener("hashchange", () => location.hash === this.address() || this.follow());
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target instanceof HTMLSelectElement) return;
    const step = ARROWS[event.key];
    const lenses = this.lensesOf(this.word);
    const maps = this.mapsOf(this.lens, this.word);
    if (step) {
      if (event.target instanceof HTMLInputElement) return;
      this.change({ patch: this.picture.neighbour(this.patch, ...step), locked: true });
    } else if (event.key === ",") this.change({ layer: Math.max(0, this.layer - 1) });
    else if (event.key === ".") this.change({ layer: Math.min(this.reading.layers.length - 1, this.layer + 1) });
    else if (event.key === "w") this.change({ word: (this.word + 1) % this.words.length });
    else if (event.key === "l") this.change({ lens: lenses[(lenses.indexOf(this.lens) + 1) % lenses.length] });
    else if (event.key === "m") this.change({ map: maps[(maps.indexOf(this.map) + 1) % maps.length] });
    else if (event.key === "Escape") this.change({ locked: false });
    else return;
    event.preventDefault();
  }

  /** Places of the lenses that have a word. @param {number} word */
  lensesOf(word) {
    return this.lenses.map((_, place) => place).filter((place) => this.lenses[place].has("score", word));
  }

  /** @param {number} lens @param {number} word @returns {MapName[]} */
  mapsOf(lens, word) {
    return mapNames().filter((map) => this.lenses[lens].has(map, word));
  }

  /** @param {Partial<Pick<WordPage, "map" | "word" | "lens" | "layer" | "patch" | "locked" | "local">>} changes */
  change(changes) {
    Object.assign(this, changes);
    const lenses = this.lensesOf(this.word);
    if (!lenses.includes(this.lens)) this.lens = lenses[0];
    if (!this.lenses[this.lens].has(this.map, this.word)) this.map = "score";
    this.draw();
    if (/^(https?|file):$/.test(location.protocol)) history.replaceState(null, "", this.address());
  }

  /** The ends of the ramp, as places on it. */
  ends() {
    const { map, word, reading } = this;
    const lens = this.lenses[this.lens];
    let [low, high] = [Infinity, -Infinity];
    for (let layer = 0; layer < reading.layers.length; layer += 1) {
      if (this.local && layer !== this.layer) continue;
      for (let patch = 0; patch < reading.patches; patch += 1) {
        const place = WORD_MAPS[map].place(lens.value(map, word, layer, patch));
        if (place < low) low = place;
        if (place > high) high = place;
      }
    }
    return { low, high };
  }

  draw() {
    const { reading, map, word, layer } = this;
    const lens = this.lenses[this.lens];
    const { low, high } = this.ends();
    const { patches } = reading.sheets[reading.sheetOf(this.patch)];
    /** @param {number} layerPlace @param {number} patch */
    const colour = (layerPlace, patch) =>
      rampBetween(WORD_MAPS[map].place(lens.value(map, word, layerPlace, patch)), low, high);
    /** @type {(readonly number[] | null)[]} */
    const colours = new Array(reading.patches).fill(null);
    for (const patch of patches) colours[patch] = colour(layer, patch);
    const painted = { colours, signs: null, explanation: "", scale: null, keys: [], rest: "" };
    const strength = Number(byId("strength", HTMLInputElement).value) / 100;
    this.picture.show({ reading, patches, painted, strength, hidden: null, words: null, grid: true });
    this.picture.frame(this.patch, this.locked);
    this.drawLegend(lens, low, high);
    this.drawControls();
    this.drawNumbers();
    this.drawByLayer(lens, (layerPlace) => colour(layerPlace, this.patch));
  }

  /** The colour bar with its numbers. @param {WordLens} lens @param {number} low @param {number} high */
  drawLegend(lens, low, high) {
    const map = WORD_MAPS[this.map];
    const places = Array.from({ length: NUMBERS_ON_BAR }, (_, i) => low + (i / (NUMBERS_ON_BAR - 1)) * (high - low));
    const numbers = places.map((place) => element("span", "", map.written(map.value(place))));
    const scale = this.local ? "the patches of this layer" : "all layers of this image";
    byId("legend", HTMLElement).replaceChildren(
      hint(element("strong", "", lens.title), ": ", element("bdi", "", `“${this.words[this.word]}”`), ". ",
        `${this.explanation ? `${this.explanation} (${lens.unit}).` : map.explain(lens)} One scale for ${scale}.`),
      element("div", "colour-bar", rampBar(), element("div", "numbers", ...numbers)),
    );
  }

  drawControls() {
    const { reading } = this;
    byId("layer", HTMLInputElement).value = String(this.layer);
    byId("layer-name", HTMLElement).textContent = String(reading.layers[this.layer]);
    byId("word", HTMLSelectElement).value = String(this.word);
    byId("local", HTMLInputElement).checked = this.local;
    const lenses = this.lensesOf(this.word).map((place) => new Option(this.lenses[place].title, String(place)));
    byId("lens", HTMLSelectElement).replaceChildren(...lenses);
    byId("lens", HTMLSelectElement).value = String(this.lens);
    const maps = this.mapsOf(this.lens, this.word).map((map) => new Option(WORD_MAPS[map].title, map));
    byId("measure", HTMLSelectElement).replaceChildren(...maps);
    byId("measure", HTMLSelectElement).value = this.map;
    [...byId("views", HTMLElement).children].forEach((button, place) =>
      button.setAttribute("aria-pressed", String(place === reading.sheetOf(this.patch))),
    );
  }

  /** The numbers of all lenses for the word at the patch and layer. */
  drawNumbers() {
    const { reading, word, layer, patch } = this;
    const place = byId("place", HTMLElement);
    place.replaceChildren(element("strong", "", placeText(reading, patch)), ` at layer ${reading.layers[layer]}`);
    if (!reading.isVisible(patch)) place.append(" (padding: no part of the image)");
    if (this.locked) place.append(" ", element("span", "lock", "locked"));
    const rows = this.lenses.map((lens) => {
      const numbers = mapNames().map((map) => {
        const value = lens.value(map, word, layer, patch);
        return element("td", "", Number.isNaN(value) ? "–" : WORD_MAPS[map].written(value));
      });
      if (this.explanation) return element("tr", "", head("row", lens.title), numbers[0]);
      const context = lens.context(word, layer, patch);
      const last = element("td", "", context < 0 ? "–" : `L${context}`);
      const sought = element("td", "sought", element("bdi", "", lens.sought[word] || "not there"));
      return element("tr", "", head("row", lens.title), sought, ...numbers, last);
    });
    const heads = this.explanation
      ? ["attention", "weight"]
      : ["lens", "looked up", ...mapNames().map((map) => WORD_MAPS[map].title), "contextual layer"];
    fillTable(byId("numbers", HTMLTableElement), heads, rows);
    byId("live", HTMLElement).textContent = `${placeText(reading, patch)}, layer ${reading.layers[layer]}`;
  }

  /** The chosen map at the patch, at every layer. @param {WordLens} lens @param {(layer: number) => readonly number[]} colour */
  drawByLayer(lens, colour) {
    const { reading, map, word, patch } = this;
    byId("by-layer-title", HTMLElement).textContent = `${lens.title}, ${this.explanation ? "weight" : WORD_MAPS[map].title} of this patch by layer`;
    const cells = reading.layers.map((_, layer) => {
      const cell = element("td", layer === this.layer ? "cell chosen" : "cell");
      cell.textContent = WORD_MAPS[map].written(lens.value(map, word, layer, patch));
      cell.style.cssText = `background:${css(colour(layer))};color:${inkOn(colour(layer))}`;
      cell.addEventListener("click", () => this.change({ layer }));
      return cell;
    });
    const row = element("tr", "", head("row", this.words[word]), ...cells);
    fillTable(byId("by-layer", HTMLTableElement), ["layer", ...reading.layers.map(String)], [row]);
  }

  /** The part of the address after "#". */
  address() {
    const { reading } = this;
    const parts = new URLSearchParams({
      word: this.words[this.word],
      lens: this.lenses[this.lens].name,
      layer: String(reading.layers[this.layer]),
      patch: reading.placeName(this.patch),
      map: this.map,
    });
    if (this.locked) parts.set("lock", "1");
    if (this.local) parts.set("local", "1");
    return `#${parts}`;
  }

  /** Show what the address names; what it does not name, or what is not there, stays as it is. */
  follow() {
    const parts = new URLSearchParams(location.hash.slice(1));
    /** @param {number} found @param {number} now */
    const or = (found, now) => (found < 0 ? now : found);
    this.change({
      word: or(this.words.indexOf(parts.get("word") || ""), this.word),
      lens: or(this.lenses.findIndex((lens) => lens.name === parts.get("lens")), this.lens),
      layer: or(this.reading.layers.indexOf(Number(parts.get("layer") ?? NaN)), this.layer),
      patch: this.reading.patchAt.get(parts.get("patch") || "") ?? this.patch,
      map: mapNamed(parts.get("map") || this.map),
      locked: parts.has("lock"),
      local: parts.has("local"),
    });
  }
}

/** @returns {MapName[]} */
function mapNames() {
  return ["score", "probability", "rank"];
}

/** @param {string} name @returns {MapName} */
function mapNamed(name) {
  return mapNames().find((map) => map === name) || "score";
}

/** @param {"row" | "col"} scope @param {string} text */
function head(scope, text) {
  const cell = element("th", "", element("bdi", "", text));
  cell.scope = scope;
  return cell;
}

/** @param {HTMLTableElement} table @param {string[]} heads @param {HTMLTableRowElement[]} rows */
function fillTable(table, heads, rows) {
  const first = element("tr", "", ...heads.map((text) => head("col", text)));
  table.replaceChildren(element("thead", "", first), element("tbody", "", ...rows));
}

async function startWordPage() {
  const data = JSON.parse(byId("data", HTMLElement).textContent || "");
  const bytes = await inflate(JSON.parse(byId("arrays", HTMLElement).textContent || ""));
  new WordPage(data, bytes, await readImage(0));
}

void startWordPage();
