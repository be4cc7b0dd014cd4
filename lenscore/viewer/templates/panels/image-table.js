// The table of patches and layers: the best word of every patch at every layer. Only visible rows are in the page, so
// that 2,880 patches x 28 layers scroll as fast as 64.
"use strict";

const ROW_HEIGHT = 30;
const SPARE_ROWS = 3;
const HEAD_WIDTH = 132;
const CELL_WIDTH = 88;

class WordTable {
  /** @param {HTMLElement} box @param {{onCell: (patch: number, layer: number) => void, onPoint: (patch: number | null) => void}} act */
  constructor(box, act) {
    this.box = box;
    this.act = act;
    /** @type {Reading | null} */
    this.reading = null;
    this.lens = 0;
    this.chosen = { patch: 0, layer: 0 };
    /** @type {Map<number, HTMLTableRowElement>} */
    this.rows = new Map();
    this.scroll = element("div", "table-scroll");
    /** The visible part in pixels; cached, because reading it while rows change causes a layout. */
    this.sight = { top: 0, left: 0, width: 0, height: 0 };
    this.scroll.addEventListener("scroll", () => this.look());
    this.note = element("p", "hint");
    box.append(this.note, this.scroll);
    this.table = element("table");
    this.before = element("tbody");
    this.body = element("tbody");
    this.after = element("tbody");
    this.scroll.addEventListener("click", (event) => this.onClick(event));
    this.scroll.addEventListener("pointerover", (event) => this.onOver(event));
    this.scroll.addEventListener("pointerleave", () => this.act.onPoint(null));
    this.scroll.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => this.look()).observe(this.scroll);
  }

  /** Show a reading through a lens. @param {Reading} reading @param {number} lens */
  open(reading, lens) {
    if (this.reading === reading && this.lens === lens) {
      if (!this.sight.height) this.look(); // it was hidden
      return;
    }
    const other = this.reading !== reading;
    this.reading = reading;
    this.lens = lens;
    this.range = allScores.of(reading.lenses[lens], reading.layers.length);
    const { title } = reading.lenses[lens];
    const [low, high] = [this.range.low, this.range.high].map((score) => reading.lenses[lens].written(score));
    this.note.replaceChildren(
      `${title}: the best word by patch and layer. Score ≤ ${low} `,
      rampBar(),
      ` ≥ ${high}. A click goes there.`,
    );
    this.table.replaceChildren();
    this.table.setAttribute("role", "grid");
    this.table.setAttribute("aria-rowcount", String(reading.patches + 1));
    this.table.setAttribute("aria-colcount", String(reading.layers.length + 1));
    this.table.setAttribute("aria-label", "Best word by patch and layer");
    const heads = reading.layers.map((layer) => headCell("col", String(layer)));
    const head = element("tr", "", headCell("col", "patch ╲ layer"), ...heads);
    head.setAttribute("aria-rowindex", "1");
    this.heads = heads;
    this.table.style.width = `${HEAD_WIDTH + CELL_WIDTH * reading.layers.length}px`; // at least; it grows with the page
    /** @type {HTMLElement} */ (head.firstChild).style.width = `${HEAD_WIDTH}px`;
    this.table.style.setProperty("--picture", reading.picture ? `url("${reading.picture}")` : "none");
    this.rows.clear();
    this.body.replaceChildren();
    this.table.append(element("thead", "", head), this.before, this.body, this.after);
    this.scroll.replaceChildren(this.table);
    if (other) this.scroll.scrollTop = 0;
    this.look();
  }

  look() {
    const { scrollTop, scrollLeft, clientWidth, clientHeight } = this.scroll;
    this.sight = { top: scrollTop, left: scrollLeft, width: clientWidth, height: clientHeight };
    this.fill();
  }

  /** Mark a cell and scroll to it. @param {number} patch @param {number} layer */
  choose(patch, layer) {
    this.chosen = { patch, layer };
    if (!this.reading || !this.heads) return;
    this.heads.forEach((head, place) => head.classList.toggle("chosen", place === layer));
    const { sight } = this;
    const top = patch * ROW_HEIGHT;
    const high = sight.height - ROW_HEIGHT;
    const isAway = high > 0 && (top < sight.top || top + ROW_HEIGHT > sight.top + high);
    if (isAway)
      sight.top = Math.min(Math.max(0, top - high / 2), Math.max(0, this.reading.patches * ROW_HEIGHT - high));
    const room = sight.width - HEAD_WIDTH;
    const wide = Math.max(CELL_WIDTH, room / this.reading.layers.length);
    const isAside = layer * wide < sight.left || (layer + 1) * wide > sight.left + room;
    if (isAside) sight.left = Math.max(0, (layer + 0.5) * wide - room / 2);
    const had = this.body.contains(document.activeElement);
    this.fill();
    if (isAway) this.scroll.scrollTop = sight.top;
    if (isAside) this.scroll.scrollLeft = sight.left;
    for (const cell of this.body.querySelectorAll("td.chosen")) markCell(cell, false);
    const cell = this.cell(patch, layer);
    if (!cell) return;
    markCell(cell, true);
    if (had) cell.focus({ preventScroll: true });
  }

  /** @param {number} patch @param {number} layer @returns {HTMLTableCellElement | null} */
  cell(patch, layer) {
    const row = this.rows.get(patch);
    return row ? row.cells[layer + 1] : null;
  }

  /** Put the visible rows into the page and remove the others. */
  fill() {
    const { reading } = this;
    const { top, height } = this.sight;
    if (!reading || !height) return;
    const first = Math.max(0, Math.floor(top / ROW_HEIGHT) - SPARE_ROWS);
    const last = Math.min(reading.patches, Math.ceil((top + height) / ROW_HEIGHT) + SPARE_ROWS);
    for (const [patch, row] of this.rows) {
      if (patch >= first && patch < last) continue;
      if (row.contains(document.activeElement))
        ((this.scroll.tabIndex = -1), this.scroll.focus({ preventScroll: true }));
      row.remove();
      this.rows.delete(patch);
    }
    /** @type {ChildNode | null} */
    let next = this.body.firstChild;
    for (let patch = first; patch < last; patch += 1) {
      const known = this.rows.get(patch);
      if (known) {
        next = known.nextSibling;
        continue;
      }
      const row = this.row(reading, patch);
      this.rows.set(patch, row);
      this.body.insertBefore(row, next);
    }
    spacer(this.before, first * ROW_HEIGHT);
    spacer(this.after, (reading.patches - last) * ROW_HEIGHT);
  }

  /** @param {Reading} reading @param {number} patch */
  row(reading, patch) {
    const lens = reading.lenses[this.lens];
    const { low, high } = this.range || { low: 0, high: 0 };
    const [view, row, column] = reading.places.subarray(3 * patch, 3 * patch + 3);
    const head = headCell(
      "row",
      reading.views.size > 1 ? `${reading.viewName(view)} ${row},${column}` : `${row},${column}`,
    );
    head.prepend(thumbnail(reading.box(patch), reading.width / reading.height));
    const made = element("tr", "", head);
    made.setAttribute("aria-rowindex", String(patch + 2));
    made.dataset.patch = String(patch);
    reading.layers.forEach((_, layer) => {
      const best = lens.candidate(layer, patch, 0);
      const cell = document.createElement("td");
      cell.dir = "auto"; // keeps a right-to-left word within its cell
      cell.textContent = best ? shortened(best.text) : "–";
      if (best) {
        const colour = rampBetween(best.score, low, high);
        cell.style.cssText = `background:${css(colour)};color:${inkOn(colour)}`;
      }
      if (patch === this.chosen.patch && layer === this.chosen.layer) markCell(cell, true);
      made.append(cell);
    });
    return made;
  }

  /** @param {MouseEvent} event */
  onClick(event) {
    const found = cellUnder(event);
    if (!found) return;
    found.cell.tabIndex = -1;
    found.cell.focus({ preventScroll: true });
    this.act.onCell(found.patch, found.layer);
  }

  /** Frame the patch of a cell in the picture and show its score as a tooltip. @param {PointerEvent} event */
  onOver(event) {
    const found = cellUnder(event);
    const best = found && this.reading && this.reading.lenses[this.lens].candidate(found.layer, found.patch, 0);
    this.act.onPoint(found ? found.patch : null);
    if (found && best && this.reading)
      found.cell.title = `${best.text.slice(0, 200)}  ${this.reading.lenses[this.lens].written(best.score)}`;
  }

  /** Arrow and page keys move through the cells. @param {KeyboardEvent} event */
  onKey(event) {
    const step = { ...STEPS, PageUp: [-10, 0], PageDown: [10, 0] }[event.key];
    const { reading } = this;
    if (!step || !reading || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const patch = Math.min(reading.patches - 1, Math.max(0, this.chosen.patch + step[0]));
    const layer = Math.min(reading.layers.length - 1, Math.max(0, this.chosen.layer + step[1]));
    this.act.onCell(patch, layer);
  }
}

/** The cell under a pointer. @param {Event} event */
function cellUnder(event) {
  const cell = event.target instanceof Element ? event.target.closest("td") : null;
  const patch = cell && cell.parentElement ? cell.parentElement.dataset.patch : undefined;
  return cell && patch !== undefined ? { cell, patch: Number(patch), layer: cell.cellIndex - 1 } : null;
}

/** @param {"row" | "col"} scope @param {string} text */
function headCell(scope, text) {
  const cell = element("th", "", element("bdi", "", text));
  cell.scope = scope;
  return cell;
}

/** @param {Element} cell @param {boolean} chosen */
function markCell(cell, chosen) {
  cell.classList.toggle("chosen", chosen);
  if (cell instanceof HTMLElement) cell.tabIndex = chosen ? 0 : -1;
  if (chosen) cell.setAttribute("aria-selected", "true");
  else cell.removeAttribute("aria-selected");
}

/** @param {HTMLTableSectionElement} part @param {number} height */
function spacer(part, height) {
  if (part.dataset.height === String(height)) return;
  part.dataset.height = String(height);
  const row = element("tr");
  row.setAttribute("aria-hidden", "true");
  row.style.height = `${height}px`;
  part.replaceChildren(...(height ? [row] : []));
}

/** The patch, cut out of the picture by the style sheet. @param {ArrayLike<number>} box @param {number} aspect */
function thumbnail(box, aspect) {
  const made = element("span", "patch");
  const [width, height] = [Math.max(box[2] - box[0], 1e-6), Math.max(box[3] - box[1], 1e-6)];
  made.style.width = `${Math.min(40, Math.max(10, (20 * width * aspect) / height))}px`;
  made.style.backgroundSize = `${100 / width}% ${100 / height}%`;
  made.style.backgroundPosition = `${width < 1 ? (100 * box[0]) / (1 - width) : 0}% ${height < 1 ? (100 * box[1]) / (1 - height) : 0}%`;
  return made;
}
