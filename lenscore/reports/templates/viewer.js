// One image's page. Data comes from window.lensPage (a .js file, so that it loads from file:// too) and reaches
// the page through textContent alone: no word of a corpus or a vocabulary is ever read as HTML.
"use strict";
(function () {
  const page = window.lensPage;
  const byId = (id) => document.getElementById(id);
  const stage = byId("stage");
  const state = { patch: 0, layer: 0, locked: false };

  const placeOf = new Map();
  page.patches.forEach(([view, row, col], index) => placeOf.set([view, row, col].join(), index));
  const verdicts = new Map();
  for (const [judge, patch, layer, lens, outcome, fitting] of page.verdicts) {
    const key = [patch, layer, lens].join();
    if (!verdicts.has(key)) verdicts.set(key, []);
    verdicts.get(key).push({ judge, outcome, fitting });
  }

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // --- the picture ---------------------------------------------------------------------------------------
  const SVG = "http://www.w3.org/2000/svg";
  const grid = document.createElementNS(SVG, "svg");
  grid.setAttribute("viewBox", "0 0 1 1");
  grid.setAttribute("preserveAspectRatio", "none");
  const judged = new Set(page.verdicts.map((verdict) => verdict[1]));
  function placeBox(rect, [, , , left, top, right, bottom]) {
    const box = { x: left, y: top, width: right - left, height: bottom - top };
    for (const [name, value] of Object.entries(box)) rect.setAttribute(name, value);
  }
  const cells = page.patches.map((patch, index) => {
    const cell = document.createElementNS(SVG, "rect");
    placeBox(cell, patch);
    cell.dataset.patch = index;
    return cell;
  });
  // Around the chosen patch, above all others: white on black, to be seen on any picture.
  const frames = ["halo", "frame"].map((name) => {
    const frame = document.createElementNS(SVG, "rect");
    frame.setAttribute("class", name);
    return frame;
  });
  const dots = new Map([...judged].map((index) => {
    const [, , , left, top, right, bottom] = page.patches[index];
    const dot = element("span", "dot");
    dot.style.left = 50 * (left + right) + "%";
    dot.style.top = 50 * (top + bottom) + "%";
    return [index, dot];
  }));
  stage.append(grid);

  function drawView(view) {
    grid.replaceChildren(...cells.filter((_, index) => page.patches[index][0] === view), ...frames);
    for (const [index, dot] of dots) {
      if (page.patches[index][0] === view) stage.append(dot);
      else dot.remove();
    }
  }

  // --- the words -----------------------------------------------------------------------------------------
  function wordItem(lens, position, fitting) {
    const item = element("li");
    const entry = lens.items[lens.ids[state.layer][position]];
    const head = element("div", "head");
    head.append(element("bdi", fitting.has(entry.word) ? "word fits" : "word", entry.word));
    if (lens.contexts) head.append(element("span", "context", "layer " + lens.contexts[state.layer][position]));
    head.append(element("span", "score", String(lens.scores[state.layer][position])));
    item.append(head);
    if (entry.mark !== undefined) {
      const sentence = element("bdi", "sentence");
      sentence.append(entry.before, element("mark", "", entry.mark), entry.after);
      item.append(sentence);
    }
    return item;
  }

  function verdictLine({ judge, outcome, fitting }) {
    const line = element("p", "verdict " + outcome);
    line.append(element("strong", "", outcome), " says the judge " + judge);
    if (fitting.length) line.append(": ", element("bdi", "", fitting.join(", ")));
    return line;
  }

  function lensCard(lens) {
    const card = element("article", "lens " + lens.name);
    card.dataset.lens = lens.name;
    card.append(element("h2", "", lens.title), element("p", "unit", lens.unit));
    const list = element("ol");
    const said = verdicts.get([state.patch, page.layers[state.layer], lens.name].join()) || [];
    const fitting = new Set(said.flatMap((verdict) => verdict.fitting));
    const first = state.patch * page.topK;
    for (let rank = 0; rank < page.topK; rank += 1) list.append(wordItem(lens, first + rank, fitting));
    card.append(list, ...said.map(verdictLine));
    return card;
  }

  function truthLine() {
    const box = byId("truth");
    if (!page.truth) return;
    const [which, share] = page.truth.patches[state.patch];
    const { kind, aspects } = page.truth.things[which];
    box.hidden = false;
    box.replaceChildren(element("span", "", kind + " on " + Math.round(100 * share) + " % of the patch"));
    box.firstChild.prepend(element("strong", "", "Truth: "));
    for (const [aspect, words] of aspects) {
      const pair = element("span", "aspect");
      pair.append(element("span", "label", aspect), " ", element("bdi", "", words.join(", ")));
      box.append(pair);
    }
  }

  // --- state -> page -------------------------------------------------------------------------------------
  function show() {
    const [view, row, col] = page.patches[state.patch];
    for (const frame of frames) {
      placeBox(frame, page.patches[state.patch]);
      frame.classList.toggle("locked", state.locked);
    }
    const place = byId("place");
    place.replaceChildren(element("strong", "", "Row " + row + ", column " + col));
    if (page.views.length > 1) place.append(" of " + nameOf(view));
    place.append(" at layer " + page.layers[state.layer]);
    if (state.locked) place.append(element("span", "lock", "locked"));
    truthLine();
    byId("lenses").replaceChildren(...page.lenses.map(lensCard));
    press(byId("layers"), state.layer);
    press(byId("views"), page.views.findIndex((one) => one.view === view));
    for (const link of document.querySelectorAll("a[rel]")) link.hash = "layer=" + page.layers[state.layer];
  }

  function nameOf(view) {
    const found = page.views.find((one) => one.view === view);
    return found ? found.name : "view " + view;
  }

  function press(group, chosen) {
    [...group.children].forEach((button, index) => button.setAttribute("aria-pressed", index === chosen));
  }

  function goTo(patch) {
    if (page.patches[patch][0] !== page.patches[state.patch][0]) drawView(page.patches[patch][0]);
    state.patch = patch;
    show();
  }

  function setLayer(layer) {
    if (layer < 0 || layer >= page.layers.length) return;
    state.layer = layer;
    show();
  }

  function addButtons(group, names, onClick) {
    names.forEach((name, index) => {
      const button = element("button", "", name);
      button.type = "button";
      button.addEventListener("click", () => onClick(index));
      group.append(button);
    });
  }

  // --- what a person does --------------------------------------------------------------------------------
  grid.addEventListener("pointerover", (event) => {
    const patch = event.target.dataset.patch;
    if (patch !== undefined && !state.locked && Number(patch) !== state.patch) goTo(Number(patch));
  });
  grid.addEventListener("click", (event) => {
    const patch = event.target.dataset.patch;
    if (patch === undefined) return;
    state.locked = !(state.locked && Number(patch) === state.patch);
    goTo(Number(patch));
  });

  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const onButton = event.target.closest("button, a");
    if (event.key in STEPS) {
      const [view, row, col] = page.patches[state.patch];
      const [down, right] = STEPS[event.key];
      const neighbour = placeOf.get([view, row + down, col + right].join());
      state.locked = true; // otherwise the resting pointer would take the choice back
      goTo(neighbour === undefined ? state.patch : neighbour);
    } else if (event.key === "Escape") {
      state.locked = false;
      show();
    } else if (event.key === "Enter" && !onButton) {
      state.locked = !state.locked;
      show();
    } else if (event.key === "," || event.key === ".") {
      setLayer(state.layer + (event.key === "," ? -1 : 1));
    } else {
      return;
    }
    event.preventDefault();
  });

  addButtons(byId("layers"), page.layers.map(String), setLayer);
  byId("view-controls").hidden = page.views.length < 2;
  addButtons(byId("views"), page.views.map((one) => one.name), (index) => {
    const first = page.patches.findIndex(([view]) => view === page.views[index].view);
    if (first >= 0) goTo(first);
  });
  const asked = page.layers.indexOf(Number(new URLSearchParams(location.hash.slice(1)).get("layer")));
  state.layer = location.hash.includes("layer=") && asked >= 0 ? asked : 0;
  state.patch = judged.size ? Math.min(...judged) : 0;
  drawView(page.patches[state.patch][0]);
  show();
})();
