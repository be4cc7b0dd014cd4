// The page of one text: the text to point at, the table, and all candidates of the chosen token and layer.
"use strict";

class TextPage {
  /** @param {TextData} data */
  constructor(data) {
    this.data = data;
    this.lenses = data.lenses.map((lens) => new TextLens(lens, data.tokens.length));
    this.lens = 0;
    this.measure = "";
    this.layer = data.layers.length - 1;
    this.token = Math.min(data.tokens.length - 1, Math.max(0, data.promptTokens - 1));
    this.readAddress();
    this.table = new TextTable(byId("tokens", HTMLTableElement), data, (layer, token) =>
      this.choose(layer, token, false),
    );
    this.writeText();
    this.makeControls();
    this.draw();
    this.choose(this.layer, this.token, true);
    document.addEventListener("keydown", (event) => this.onKey(event));
    window.addEventListener("hashchange", () => {
      this.readAddress();
      this.draw();
      this.choose(this.layer, this.token, true);
    });
  }

  /** The measures of the chosen lens; the chosen one first looked for among them. */
  get measures() {
    return this.lenses[this.lens].measures();
  }

  get chosenMeasure() {
    return this.measures.find(({ name }) => name === this.measure) || this.measures[0];
  }

  readAddress() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const lens = this.data.lenses.findIndex(({ name }) => name === asked.get("lens"));
    const layer = this.data.layers.indexOf(asked.get("layer") || "");
    const token = Number(asked.get("token") || NaN);
    if (lens >= 0) this.lens = lens;
    if (layer >= 0) this.layer = layer;
    if (Number.isInteger(token) && token >= 0 && token < this.data.tokens.length) this.token = token;
    this.measure = asked.get("colours") || this.measure;
  }

  writeAddress() {
    const address = new URLSearchParams({
      lens: this.data.lenses[this.lens].name,
      layer: this.data.layers[this.layer],
      token: String(this.token),
      colours: this.chosenMeasure.name,
    });
    try {
      history.replaceState(null, "", `#${address}`);
    } catch {
      // a page within a notebook has no address of its own
    }
  }

  /** The running text, each token a button. */
  writeText() {
    byId("text", HTMLElement).replaceChildren(
      ...this.data.tokens.map((text, token) => {
        const button = element("button", token < this.data.promptTokens ? "piece" : "piece answer", element("bdi", "", visible(text)));
        button.type = "button";
        button.tabIndex = -1; // the keys move through the tokens
        button.title = `token ${token}`;
        button.addEventListener("click", () => this.choose(this.layer, token, true));
        return button;
      }),
    );
  }

  makeControls() {
    const lenses = byId("lens", HTMLSelectElement);
    const colours = byId("colours", HTMLSelectElement);
    this.data.lenses.forEach(({ title }, place) => lenses.append(new Option(title, String(place))));
    lenses.addEventListener("change", () => {
      this.lens = Number(lenses.value);
      this.draw();
    });
    colours.addEventListener("change", () => {
      this.measure = colours.value;
      this.draw();
    });
    byId("confident", HTMLElement).addEventListener("click", () => this.jump());
  }

  draw() {
    const measure = this.chosenMeasure;
    byId("lens", HTMLSelectElement).value = String(this.lens);
    const colours = byId("colours", HTMLSelectElement);
    colours.replaceChildren(...this.measures.map(({ name, title }) => new Option(title, name)));
    colours.value = measure.name;
    const { low, high } = this.table.draw(this.lenses[this.lens], measure);
    const [from, to] = measure.best > 0 ? [low, high] : [high, low];
    const steps = [0, 0.25, 0.5, 0.75, 1].map((share) => css(ramp(share)));
    const bar = element("span", "bar");
    bar.style.background = `linear-gradient(90deg,${steps.join(",")})`;
    byId("scale", HTMLElement).replaceChildren(element("span", "", written(from)), bar, element("span", "", written(to)));
    byId("explanation", HTMLElement).textContent =
      `Colours: ${measure.title}. Framed: the layer of the ${measure.best > 0 ? "largest" : "smallest"} value of a token. ` +
      "Underlined: the next token of the text itself.";
    this.choose(this.layer, this.token, false);
  }

  /** Show a cell. @param {number} layer @param {number} token @param {boolean} move  bring it into sight */
  choose(layer, token, move) {
    this.layer = layer;
    this.token = token;
    this.table.choose(layer, token, move);
    byId("text", HTMLElement).querySelectorAll("button").forEach((button, place) => {
      button.setAttribute("aria-pressed", String(place === token));
    });
    const { tokens, layers, promptTokens } = this.data;
    byId("place", HTMLElement).replaceChildren(
      "Token ", element("strong", "", String(token)), " ", element("bdi", "quoted", visible(tokens[token])),
      token < promptTokens ? "" : " of the answer", ", layer ", element("strong", "", layers[layer]),
    );
    byId("lenses", HTMLElement).replaceChildren(...this.lenses.map((lens, place) => this.card(lens, place)));
    byId("live", HTMLElement).textContent = `Token ${token}, layer ${layers[layer]}: ` +
      this.lenses.map((lens) => `${lens.data.title}: ${lens.best(layer, token)?.word.text ?? "no word"}`).join("; ");
    this.writeAddress();
  }

  /** All candidates of one lens. @param {TextLens} lens @param {number} place */
  card(lens, place) {
    const { data } = lens;
    const [layer, token] = [this.layer, this.token];
    const at = layer * this.data.tokens.length + token;
    const list = element("ol");
    const found = lens.candidates(layer, token);
    for (const [rank, candidate] of found.entries()) {
      const { word, score, probability, context } = candidate;
      const head = element("div", "head", element("span", "rank", String(rank + 1)), element("bdi", "word", visible(word.text)));
      const figures = element("span", "figures");
      if (context >= 0) figures.append(element("span", "context", `L${context}`));
      if (!Number.isNaN(probability)) figures.append(element("span", "share", percent(probability)));
      figures.append(element("span", "number", written(score)));
      head.append(figures);
      const item = element("li", "", head);
      if (!Number.isNaN(probability)) item.style.setProperty("--share", `${100 * probability}%`);
      if (word.sentence) {
        const [before, mark, after] = word.sentence;
        item.append(element("bdi", "sentence", before, element("mark", "", mark), after));
      }
      list.append(item);
    }
    if (!found.length) list.append(element("li", "none", "no word"));
    const card = element("article", "lens", element("h2", "", data.title), element("p", "unit", data.unit), list);
    card.dataset.lens = data.name;
    card.classList.toggle("chosen", place === this.lens);
    if (data.entropies && data.divergences) {
      const numbers = `entropy ${written(data.entropies[at])}, KL from the final distribution ${written(data.divergences[at])} (nats); bars: probability, from 0 to 100 %`;
      card.append(element("p", "unit", numbers));
    }
    return card;
  }

  /** Go to the layer at which the lens is most confident about the token. */
  jump() {
    const measure = this.chosenMeasure;
    const layer = mostConfident(this.data.layers.map((_, place) => measure.of(place, this.token)), measure.best);
    if (layer >= 0) this.choose(layer, this.token, true);
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target instanceof HTMLSelectElement) return;
    /** @type {Object<string, [number, number]>} */
    const steps = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
    const step = steps[event.key];
    if (step) {
      event.preventDefault();
      const layer = Math.min(this.data.layers.length - 1, Math.max(0, this.layer + step[0]));
      const token = Math.min(this.data.tokens.length - 1, Math.max(0, this.token + step[1]));
      this.choose(layer, token, true);
    } else if (event.key === "c") this.jump();
    else if (event.key === "l") {
      this.lens = (this.lens + 1) % this.lenses.length;
      this.draw();
    }
  }
}

new TextPage(JSON.parse(byId("data", HTMLElement).textContent || ""));
