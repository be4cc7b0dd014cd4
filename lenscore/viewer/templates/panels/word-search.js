// "Where does the word W appear?": suggestions, counts by layer and lens, images with links to a patch.
// The state is the part of the address after #: #word=cat, and #word=cat&layer=8&lens=latent for one cell of the table.
"use strict";
(function () {
  const SUGGESTIONS = 12;
  const IMAGES_AT_FIRST = 60;
  const run = handedOver.run;
  const input = /** @type {HTMLInputElement} */ (document.getElementById("word"));
  const list = /** @type {HTMLUListElement} */ (document.getElementById("suggestions"));
  const found = /** @type {HTMLElement} */ (document.getElementById("found"));
  const form = input.form;
  if (!run || !form) return;
  const { layers, lenses, images } = run;
  const imageOf = new Map(images.map(([id, name, thumbnail]) => [id, { name, thumbnail }]));
  /** @type {Promise<WordIndex> | null} */
  let opened = null;
  /** The suggestion chosen by the arrow keys, or -1. */
  let chosen = -1;
  /** Counts the questions, so that late answers to earlier ones are dropped. */
  let questions = 0;

  function open() {
    opened = opened || WordIndex.open();
    return opened;
  }

  /** @param {string} tag @param {string} [className] @param {string} [text] */
  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  /** @param {number} count @param {string} noun */
  function counted(count, noun) {
    const plural = noun.endsWith("tch") ? `${noun}es` : `${noun}s`;
    return `${count.toLocaleString("en")} ${count === 1 ? noun : plural}`;
  }

  // --- suggestions -------------------------------------------------------------------------------------------------
  async function suggest() {
    const question = (questions += 1);
    const text = input.value;
    let words;
    try {
      const index = await open();
      words = text.trim() ? index.suggest(text, SUGGESTIONS) : index.frequent(SUGGESTIONS);
    } catch (error) {
      return tell(error);
    }
    if (question !== questions) return;
    choose(-1);
    list.replaceChildren(...words.map((word, place) => {
      const item = element("li");
      item.id = `suggestion-${place}`;
      item.setAttribute("role", "option");
      item.append(element("bdi", "", word.word), element("span", "fine", counted(word.images, "image")));
      item.addEventListener("pointerdown", (event) => {
        event.preventDefault(); // the field keeps the focus
        ask(word.word);
      });
      return item;
    }));
    show(words.length > 0);
  }

  /** @param {boolean} visible */
  function show(visible) {
    list.hidden = !visible;
    input.setAttribute("aria-expanded", String(visible));
    if (!visible) choose(-1);
  }

  /** @param {number} place */
  function choose(place) {
    chosen = place;
    [...list.children].forEach((item, other) => item.setAttribute("aria-selected", String(other === place)));
    const item = list.children[place];
    if (item) {
      input.setAttribute("aria-activedescendant", item.id);
      item.scrollIntoView({ block: "nearest" });
    } else {
      input.removeAttribute("aria-activedescendant");
    }
  }

  input.addEventListener("focus", () => (input.value ? open().catch(tell) : suggest()));
  input.addEventListener("input", suggest);
  input.addEventListener("blur", () => show(false));
  input.addEventListener("keydown", (event) => {
    const count = list.hidden ? 0 : list.children.length;
    if (event.key === "Escape" && count) show(false);
    else if (event.key === "ArrowDown" && count) choose((chosen + 1) % count);
    else if (event.key === "ArrowUp" && count) choose(chosen <= 0 ? count - 1 : chosen - 1);
    else return;
    event.preventDefault();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const item = list.children[chosen];
    const text = item && item.firstChild ? item.firstChild.textContent || "" : input.value;
    if (text.trim()) ask(text);
  });

  // --- the address -------------------------------------------------------------------------------------------------
  /** @param {string} word @param {{layer: number, lens: string}} [cell] */
  function ask(word, cell) {
    const state = new URLSearchParams({ word });
    if (cell) {
      state.set("layer", String(cell.layer));
      state.set("lens", cell.lens);
    }
    show(false);
    questions += 1;
    const hash = `#${state}`;
    if (location.hash === hash) answer();
    else location.hash = hash; // so the browser can go back to the previous question
  }

  async function answer() {
    const question = (questions += 1);
    const state = new URLSearchParams(location.hash.slice(1));
    const text = state.get("word");
    if (text === null) return found.replaceChildren();
    input.value = text;
    try {
      const index = await open();
      const word = index.find(text);
      const places = word ? await index.places(word) : [];
      if (question !== questions) return;
      if (word) {
        const cell = cellOf(state);
        showPlaces(word, places, cell);
        if (cell < 0 && (state.has("layer") || state.has("lens"))) {
          found.prepend(element("p", "note", "This link names a layer and a lens that are not among those of this model; all are shown."));
        }
      } else showNothing(index, text);
    } catch (error) {
      tell(error);
    }
  }

  /** The cell of the table that the address names, or -1. @param {URLSearchParams} state */
  function cellOf(state) {
    const layer = layers.indexOf(Number(state.get("layer") ?? NaN));
    const lens = lenses.findIndex((one) => one.name === state.get("lens"));
    return layer < 0 || lens < 0 ? -1 : layer * lenses.length + lens;
  }

  // --- the answer --------------------------------------------------------------------------------------------------
  /** @param {WordIndex} index @param {string} text */
  function showNothing(index, text) {
    const line = element("p", "answer");
    line.append("“", element("bdi", "word", text.trim()), "” is among the best words of no patch.");
    const near = index.suggest(text, 6);
    const named = near.length ? near : index.frequent(6);
    if (named.length) {
      line.append(near.length ? " There are " : " The most frequent words are ");
      named.forEach((word, place) => {
        if (place) line.append(", ");
        line.append(wordLink(word.word));
      });
      line.append(".");
    }
    found.replaceChildren(line);
  }

  /** @param {string} word */
  function wordLink(word) {
    const link = /** @type {HTMLAnchorElement} */ (element("a", "", word));
    link.href = `#${new URLSearchParams({ word })}`;
    link.dir = "auto";
    return link;
  }

  /** @param {KnownWord} word @param {FoundImage[]} places @param {number} cell */
  function showPlaces(word, places, cell) {
    const line = element("p", "answer");
    line.append("“", element("bdi", "word", word.word), `” is among the ${run ? run.topK : ""} best words of ${counted(word.patches, "patch")} in `,
      `${counted(word.images, "image")} of ${images.length}, at some layer, by some lens.`);
    found.replaceChildren(line, countTable(word, places, cell), imageList(word.word, places, cell));
  }

  /** Patches by lens and layer; a press on a number shows only its images.
   *  @param {KnownWord} word @param {FoundImage[]} places @param {number} selected */
  function countTable(word, places, selected) {
    const counts = new Uint32Array(layers.length * lenses.length);
    for (const image of places) for (const { cell, count } of image.cells) counts[cell] += count;
    const most = Math.max(1, ...counts);
    const table = /** @type {HTMLTableElement} */ (element("table", "heat counts"));
    const head = table.createTHead().insertRow();
    head.append(heading("lens \\ layer", "col"), ...layers.map((layer) => heading(String(layer), "col")));
    const body = table.createTBody();
    lenses.forEach((lens, lensPlace) => {
      const row = body.insertRow();
      row.className = lens.name;
      row.append(heading(lens.title, "row"));
      layers.forEach((layer, layerPlace) => {
        const cell = layerPlace * lenses.length + lensPlace;
        const box = row.insertCell();
        if (!counts[cell]) return box.append("·");
        box.style.setProperty("--share", `${(80 * counts[cell]) / most}%`);
        const button = element("button", "", counts[cell].toLocaleString("en"));
        button.setAttribute("type", "button");
        button.setAttribute("aria-pressed", String(cell === selected));
        button.setAttribute("aria-label", `${counted(counts[cell], "patch")}, ${lens.title} at layer ${layer}`);
        button.addEventListener("click", () => ask(word.word, cell === selected ? undefined : { layer, lens: lens.name }));
        box.append(button);
      });
    });
    const scroll = element("div", "scroll");
    scroll.append(table);
    return scroll;
  }

  /** @param {string} text @param {string} scope */
  function heading(text, scope) {
    const made = element("th", "", text);
    made.setAttribute("scope", scope);
    return made;
  }

  /** @param {string} word @param {FoundImage[]} places @param {number} cell */
  function imageList(word, places, cell) {
    const lines = places.map(({ image, patches, cells }) => {
      const there = cell < 0 ? cells.reduce((one, other) => (other.count > one.count ? other : one)) : cells.find((one) => one.cell === cell);
      return there ? { image, there, count: cell < 0 ? patches : there.count } : null;
    }).filter((line) => line !== null).sort((one, other) => other.count - one.count || one.image - other.image);
    const box = element("div");
    if (cell >= 0) {
      box.append(element("p", "about", `${counted(lines.length, "image")} where ${lenses[cell % lenses.length].title} says it at layer ${layers[Math.floor(cell / lenses.length)]}:`));
    }
    const gallery = element("ul", "gallery");
    gallery.append(...lines.slice(0, IMAGES_AT_FIRST).map((line) => imageItem(word, line)));
    box.append(gallery);
    if (lines.length > IMAGES_AT_FIRST) {
      const more = element("button", "more", `Show all ${lines.length} images`);
      more.setAttribute("type", "button");
      more.addEventListener("click", () => {
        gallery.append(...lines.slice(IMAGES_AT_FIRST).map((line) => imageItem(word, line)));
        more.remove();
      });
      box.append(more);
    }
    return box;
  }

  /** @param {string} word @param {{image: number, there: FoundCell, count: number}} line */
  function imageItem(word, { image, there, count }) {
    const known = imageOf.get(image);
    const layer = layers[Math.floor(there.cell / lenses.length)];
    const lens = lenses[there.cell % lenses.length];
    const link = /** @type {HTMLAnchorElement} */ (element("a"));
    const map = `colours=word/word=${encodeURIComponent(word)}`;
    link.href = `image.html#${image}/${layer}/${there.place}/${encodeURIComponent(lens.name)}/${map}`;
    if (known && known.thumbnail) {
      const picture = /** @type {HTMLImageElement} */ (element("img"));
      picture.src = known.thumbnail;
      picture.alt = "";
      picture.loading = "lazy";
      link.append(picture);
    } else {
      link.append(element("span", "gone", "no picture"));
    }
    const badge = element("span", "badge");
    badge.append(element("strong", "", counted(count, "patch")), element("span", "where", `${lens.title}, layer ${layer}`));
    link.append(element("bdi", "name", known ? known.name : `image ${image}`), badge);
    const item = element("li");
    item.append(link);
    return item;
  }

  /** @param {unknown} error */
  function tell(error) {
    found.replaceChildren(element("p", "note", error instanceof Error ? error.message : String(error)));
  }

  window.addEventListener("hashchange", answer);
  answer();
})();
