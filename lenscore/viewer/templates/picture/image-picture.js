// The picture with its patches: colours, grid, painted-out patches, words. paintPatches draws them on the page and in the
// exported PNG; the frame around the chosen patch is an element above, so that another patch needs no repaint.
"use strict";

/**
 * @typedef {object} Scene  the layer over the picture
 * @property {Reading} reading
 * @property {number[]} patches  those of the sheet
 * @property {Painted | null} painted
 * @property {number} strength  0..1
 * @property {boolean[] | null} hidden  by patch: whether it is painted out
 * @property {string[] | null} words  by patch
 * @property {boolean} grid
 */

const SMALLEST_GRID = 5; // pixels; finer lines would hide the picture
const SMALLEST_LETTERS = 6.5;
const SMALLEST_FOR_WORDS = 22;
const JUDGED_COLOUR = "#ffd400";

/** Draw the layer over a picture whose left upper corner is the origin.
 *  @param {CanvasRenderingContext2D} context @param {number} width @param {number} height  of the picture in pixels
 *  @param {Scene} scene */
function paintPatches(context, width, height, scene) {
  const { reading, painted } = scene;
  /** @param {number} patch @returns {[number, number, number, number]} whole pixels, so that neighbours meet */
  const pixels = (patch) => {
    const [left, top, right, bottom] = reading.box(patch);
    const [x, y] = [Math.round(left * width), Math.round(top * height)];
    return [x, y, Math.round(right * width) - x, Math.round(bottom * height) - y];
  };
  for (const patch of scene.patches) {
    const colour = painted && painted.colours[patch];
    if (!colour) continue;
    context.globalAlpha = scene.strength;
    context.fillStyle = css(colour);
    context.fillRect(...pixels(patch));
  }
  context.globalAlpha = 1;
  if (scene.hidden)
    hidePatches(context, scene.patches.filter((patch) => scene.hidden && scene.hidden[patch]).map(pixels));
  if (scene.grid) drawGrid(context, scene.patches.filter((patch) => reading.isVisible(patch)).map(pixels));
  if (scene.words) for (const patch of scene.patches) drawWord(context, pixels(patch), scene.words[patch]);
  if (painted && painted.signs) {
    for (const patch of scene.patches)
      if (painted.signs[patch]) drawSign(context, pixels(patch), painted.signs[patch], scene.words !== null);
  } else {
    const shown = new Set(scene.patches);
    for (const patch of reading.judged) if (shown.has(patch)) drawDot(context, pixels(patch));
  }
}

/** @param {CanvasRenderingContext2D} context @param {[number, number, number, number][]} boxes */
function hidePatches(context, boxes) {
  context.save();
  context.beginPath();
  for (const box of boxes) context.rect(...box);
  context.fillStyle = "#8b929a";
  context.fill();
  context.clip();
  context.strokeStyle = "#7b828a"; // slanted lines distinguish painted-out patches from grey areas
  context.lineWidth = 2;
  context.beginPath();
  const { width, height } = context.canvas;
  if (boxes.length) {
    for (let x = -height; x < width; x += 9) {
      context.moveTo(x, height);
      context.lineTo(x + height, 0);
    }
  }
  context.stroke();
  context.restore();
}

/** Lines that are visible on dark and on light pictures. @param {CanvasRenderingContext2D} context
 *  @param {[number, number, number, number][]} boxes */
function drawGrid(context, boxes) {
  const smallest = Math.min(
    ...boxes.map(([, , width, height]) => Math.max(width, height)).filter((side) => side > 0),
    Infinity,
  );
  if (smallest < SMALLEST_GRID) return;
  context.save();
  context.lineWidth = 1;
  context.globalAlpha = Math.min(1, 0.3 + (smallest - SMALLEST_GRID) / 20);
  for (const [colour, shift] of /** @type {[string, number][]} */ ([
    ["rgba(0,0,0,.28)", 0.5],
    ["rgba(255,255,255,.5)", -0.5],
  ])) {
    context.strokeStyle = colour;
    context.beginPath();
    for (const [x, y, width, height] of boxes) context.rect(x + shift, y + shift, width, height);
    context.stroke();
  }
  context.restore();
}

/** @param {CanvasRenderingContext2D} context @param {[number, number, number, number]} box @param {string} word */
function drawWord(context, [x, y, width, height], word) {
  if (width < SMALLEST_FOR_WORDS) return;
  const shown = [...word].slice(0, 24).join("");
  let size = Math.min(height * 0.42, 22);
  context.font = `600 ${size}px ${FONT}`;
  const wide = context.measureText(shown).width;
  size = Math.min(size, (size * (width - 6)) / Math.max(wide, 1));
  if (size < SMALLEST_LETTERS) size = SMALLEST_LETTERS;
  if (height < size) return;
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  context.font = `600 ${size}px ${FONT}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  context.lineWidth = Math.max(2, size / 4);
  context.strokeStyle = "rgba(255,255,255,.85)";
  context.fillStyle = "#000000";
  context.strokeText(shown, x + width / 2, y + height / 2);
  context.fillText(shown, x + width / 2, y + height / 2);
  context.restore();
}

/** @param {CanvasRenderingContext2D} context @param {[number, number, number, number]} box @param {string} sign
 *  @param {boolean} inCorner  because there is a word in the middle */
function drawSign(context, [x, y, width, height], sign, inCorner) {
  const size = inCorner ? Math.min(0.28 * height, 14) : Math.max(9, Math.min(0.7 * height, 26));
  context.font = `700 ${size}px ${FONT}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  if (inCorner) [width, height] = [1.6 * size, 1.6 * size];
  context.lineWidth = 3;
  context.lineJoin = "round";
  context.strokeStyle = "#ffffff";
  context.fillStyle = "#000000";
  context.strokeText(sign, x + width / 2, y + height / 2);
  context.fillText(sign, x + width / 2, y + height / 2);
}

/** A judged patch has a dot in its corner. @param {CanvasRenderingContext2D} context
 *  @param {[number, number, number, number]} box */
function drawDot(context, [x, y, width]) {
  const radius = Math.max(2, Math.min(5, width / 7));
  context.beginPath();
  context.arc(x + radius + 2, y + radius + 2, radius, 0, 2 * Math.PI);
  context.fillStyle = JUDGED_COLOUR;
  context.strokeStyle = "#000000";
  context.lineWidth = 1;
  context.fill();
  context.stroke();
}

/** The picture on the page. */
class Picture {
  /** @param {{stage: HTMLElement, photo: HTMLImageElement, gone: HTMLElement, paint: HTMLCanvasElement, halo: HTMLElement}} parts */
  constructor(parts) {
    this.parts = parts;
    /** @type {Scene | null} */
    this.scene = null;
    new ResizeObserver(() => this.repaint()).observe(parts.stage);
  }

  /** @param {Reading} reading */
  open(reading) {
    const { stage, photo, gone } = this.parts;
    stage.style.setProperty("--aspect", String(reading.width / reading.height || 1));
    stage.classList.toggle("small", Math.max(reading.width, reading.height) <= 256);
    photo.hidden = !reading.picture;
    gone.hidden = Boolean(reading.picture);
    if (reading.picture) photo.src = reading.picture;
    else photo.removeAttribute("src");
    photo.alt = reading.name;
  }

  /** @param {Scene} scene */
  show(scene) {
    this.scene = scene;
    // Colours over colours cannot be read, so the picture under a measure is grey.
    this.parts.stage.classList.toggle("grey", scene.painted !== null);
    this.repaint();
  }

  repaint() {
    const { stage, paint } = this.parts;
    if (!this.scene) return;
    const dense = Math.min(3, window.devicePixelRatio || 1);
    const [width, height] = [stage.clientWidth, stage.clientHeight];
    paint.width = Math.round(width * dense);
    paint.height = Math.round(height * dense);
    const context = paint.getContext("2d");
    if (!context || !width || !height) return;
    context.scale(dense, dense);
    paintPatches(context, width, height, this.scene);
  }

  /** Width of the first visible patch in pixels. */
  patchWidth() {
    if (!this.scene) return 0;
    const { reading, patches } = this.scene;
    const [left, , right] = reading.box(patches.find((patch) => reading.isVisible(patch)) ?? 0);
    return (right - left) * this.parts.stage.clientWidth;
  }

  /** @param {number} patch @param {boolean} locked */
  frame(patch, locked) {
    const { halo } = this.parts;
    if (!this.scene) return;
    const [left, top, right, bottom] = this.scene.reading.box(patch);
    halo.style.left = `${100 * left}%`;
    halo.style.top = `${100 * top}%`;
    halo.style.width = `${100 * (right - left)}%`;
    halo.style.height = `${100 * (bottom - top)}%`;
    halo.classList.toggle("locked", locked);
  }

  /** The patch of the sheet under a pointer, or -1. @param {PointerEvent | MouseEvent} event */
  patchUnder(event) {
    const bounds = this.parts.stage.getBoundingClientRect();
    return this.patchAt((event.clientX - bounds.left) / bounds.width, (event.clientY - bounds.top) / bounds.height);
  }

  /** The patch of the sheet at a point (shares of the picture), or -1. @param {number} x @param {number} y */
  patchAt(x, y) {
    if (!this.scene) return -1;
    const { boxes } = this.scene.reading;
    for (const patch of this.scene.patches) {
      const at = 4 * patch;
      if (x >= boxes[at] && x < boxes[at + 2] && y >= boxes[at + 1] && y < boxes[at + 3]) return patch;
    }
    return -1;
  }

  /** The next patch in a direction: of the same view by row and column, else of the next tile.
   *  @param {number} patch @param {number} down @param {number} right */
  neighbour(patch, down, right) {
    if (!this.scene) return patch;
    const { reading } = this.scene;
    const [view, row, column] = reading.places.subarray(3 * patch, 3 * patch + 3);
    const beside = reading.patchAt.get(`${view}-${row + down}-${column + right}`);
    if (beside !== undefined) return beside;
    const box = reading.box(patch);
    const [width, height] = [box[2] - box[0], box[3] - box[1]];
    const beyond = this.patchAt(
      (box[0] + box[2]) / 2 + (right * 3 * width) / 4,
      (box[1] + box[3]) / 2 + (down * 3 * height) / 4,
    );
    return beyond < 0 || reading.view(beyond) === view ? patch : beyond;
  }
}

/** A patch and its surroundings, enlarged; empty while the picture is loading and `photo` may hold the previous one.
 *  @param {HTMLCanvasElement} canvas @param {HTMLImageElement} photo
 *  @param {Reading} reading @param {number} patch */
function drawCloseUp(canvas, photo, reading, patch) {
  const context = canvas.getContext("2d");
  if (!context) return;
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!photo.complete || !photo.naturalWidth || !reading.picture) return;
  const [left, top, right, bottom] = reading.box(patch);
  const [width, height] = [photo.naturalWidth, photo.naturalHeight];
  const side = 3 * Math.max((right - left) * width, (bottom - top) * height, 1);
  const scale = canvas.width / side;
  const [x, y] = [((left + right) / 2) * width - side / 2, ((top + bottom) / 2) * height - side / 2];
  context.imageSmoothingEnabled = Math.max(width, height) > 256;
  context.drawImage(photo, -x * scale, -y * scale, width * scale, height * scale);
  const corner = [(left * width - x) * scale, (top * height - y) * scale];
  outline(context, [...corner, (right - left) * width * scale, (bottom - top) * height * scale], 6, "#ffffff", 3);
}

/** A coloured rectangle on a wider black one. @param {CanvasRenderingContext2D} context @param {number[]} box  x, y, width,
 *  height @param {number} black  width of the lines @param {string} colour @param {number} coloured */
function outline(context, [x, y, width, height], black, colour, coloured) {
  context.strokeStyle = "#000000";
  context.lineWidth = black;
  context.strokeRect(x, y, width, height);
  context.strokeStyle = colour;
  context.lineWidth = coloured;
  context.strokeRect(x, y, width, height);
}
