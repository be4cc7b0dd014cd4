// The current view as one picture for a slide or a paper: image, grid, colours with their legend, words, sentences.
"use strict";

const PNG = { width: 1920, margin: 48, gap: 44, picture: 820, columnGap: 28 };

/**
 * @typedef {object} View  what is exported
 * @property {Reading} reading
 * @property {string} model
 * @property {number} layer
 * @property {number} patch
 * @property {number} lens
 * @property {Scene} scene
 * @property {HTMLImageElement} photo
 */

/** @param {View} view @param {Object<string, string>} colours  of the style sheet @returns {HTMLCanvasElement} */
function drawPng(view, colours) {
  const trial = sheetOfHeight(64);
  const height = layOut(view, trial, colours);
  const canvas = sheetOfHeight(Math.ceil(height));
  const context = canvas.getContext("2d");
  if (context) {
    context.fillStyle = colours.paper;
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  layOut(view, canvas, colours);
  return canvas;
}

/** @param {number} height */
function sheetOfHeight(height) {
  const canvas = element("canvas");
  canvas.width = PNG.width;
  canvas.height = height;
  return canvas;
}

/** Draw everything and return the height. @param {View} view @param {HTMLCanvasElement} canvas
 *  @param {Object<string, string>} colours */
function layOut(view, canvas, colours) {
  const context = canvas.getContext("2d");
  if (!context) return 64;
  const { reading } = view;
  const pen = new Pen(context, colours);
  const { margin, gap, width } = PNG;
  const title = [{ text: reading.name, colour: colours.ink, weight: 700 }];
  let y = pen.flow(title, margin, margin + 30, width - 2 * margin, 34, 1);
  const about = `${view.model} · visual layer ${reading.layers[view.layer]} · ${placeText(reading, view.patch).toLowerCase()}`;
  y = pen.flow([{ text: about, colour: colours.faint }], margin, y + 38, width - 2 * margin, 24, 1);
  const top = y + 32;
  const aspect = reading.width / reading.height || 1;
  const pictureWidth = Math.min(PNG.picture, PNG.picture * aspect);
  const pictureHeight = pictureWidth / aspect;
  drawPicture(context, view, margin, top, pictureWidth, pictureHeight, colours);
  const under = drawLegend(pen, view, margin, top + pictureHeight + 40, PNG.picture);
  const left = margin + pictureWidth + gap;
  const beside = drawWords(pen, view, left, top, width - margin - left);
  return Math.max(under, beside) + margin;
}

/** @param {CanvasRenderingContext2D} context @param {View} view @param {number} x @param {number} y @param {number} width
 *  @param {number} height @param {Object<string, string>} colours */
function drawPicture(context, view, x, y, width, height, colours) {
  const { reading, photo, scene } = view;
  const layer = element("canvas"); // separate, because the mode "saturation" would grey the paper
  layer.width = Math.round(width);
  layer.height = Math.round(height);
  const inner = layer.getContext("2d");
  if (!inner) return;
  inner.fillStyle = colours.raised;
  inner.fillRect(0, 0, layer.width, layer.height);
  inner.imageSmoothingEnabled = Math.max(reading.width, reading.height) > 256;
  if (reading.picture && photo.naturalWidth) inner.drawImage(photo, 0, 0, layer.width, layer.height);
  if (scene.painted) {
    inner.globalCompositeOperation = "saturation";
    inner.fillStyle = "#808080";
    inner.fillRect(0, 0, layer.width, layer.height);
    inner.globalCompositeOperation = "source-over";
  }
  paintPatches(inner, layer.width, layer.height, scene);
  context.drawImage(layer, x, y);
  const [left, top, right, bottom] = reading.box(view.patch);
  const box = [x + left * width, y + top * height, (right - left) * width, (bottom - top) * height];
  outline(context, box, 9, "#ffd400", 5);
}

/** @param {Pen} pen @param {View} view @param {number} x @param {number} y @param {number} width */
function drawLegend(pen, view, x, y, width) {
  const { painted } = view.scene;
  if (!painted) return y - 40;
  const { context, colours } = pen;
  const lens = view.reading.lenses[view.lens].title;
  y = pen.flow([{ text: `${lens}: ${painted.explanation}`, colour: colours.ink }], x, y, width, 20, 3) + 16;
  if (painted.scale) {
    const bar = context.createLinearGradient(x, 0, x + 420, 0);
    for (let i = 0; i <= 16; i += 1) bar.addColorStop(i / 16, css(ramp(i / 16)));
    context.fillStyle = bar;
    context.fillRect(x, y, 420, 18);
    y += 44;
    pen.flow([{ text: painted.scale.low, colour: colours.faint }], x, y, 200, 20, 1);
    pen.font(20);
    const wide = context.measureText(painted.scale.high).width;
    pen.flow([{ text: painted.scale.high, colour: colours.faint }], x + 420 - wide, y, 200, 20, 1);
  }
  let left = x;
  if (painted.keys.length) y += 20;
  for (const { label, colour, sign, count } of painted.keys) {
    pen.font(20);
    const text = `${label} (${count})`;
    const wide = 30 + context.measureText(text).width + 26;
    if (left > x && left + wide > x + width) {
      left = x;
      y += 32;
    }
    context.fillStyle = css(colour);
    context.fillRect(left, y - 17, 22, 22);
    pen.font(15, 700);
    context.textAlign = "center";
    context.fillStyle = inkOn(colour);
    context.fillText(sign, left + 11, y);
    pen.flow([{ text, colour: colours.ink }], left + 30, y, width, 20, 1);
    left += wide;
  }
  if (painted.rest) y = pen.flow([{ text: painted.rest, colour: colours.faint }], x, y + 32, width, 20, 1);
  return y;
}

/** Columns side by side, in rows of three at most. @param {Pen} pen @param {View} view @param {number} x @param {number} y
 *  @param {number} width */
function drawWords(pen, view, x, y, width) {
  const { reading, patch, layer } = view;
  const { colours } = pen;
  const truth = reading.truthOf(patch);
  if (truth) {
    const words = truth.thing.aspects.map(([aspect, right]) => `${aspect} ${right.join(", ")}`).join(" · ");
    const parts = [
      { text: "Truth: ", colour: colours.ink, weight: 700 },
      {
        text: `${truth.thing.kind} on ${truth.percent} % of the patch${words ? " · " : ""}${words}`,
        colour: colours.faint,
      },
    ];
    y = pen.flow(parts, x, y + 20, width, 21, 3) + 26;
  }
  const inRow = Math.min(3, reading.lenses.length);
  const wide = (width - (inRow - 1) * PNG.columnGap) / inRow;
  let bottom = y;
  reading.lenses.forEach((_, place) => {
    if (place && place % inRow === 0) y = bottom + 36;
    bottom = Math.max(
      bottom,
      drawLens(pen, view, place, x + (place % inRow) * (wide + PNG.columnGap), y, wide, layer, patch),
    );
  });
  return bottom;
}

/** @param {Pen} pen @param {View} view @param {number} place @param {number} x @param {number} y @param {number} width
 *  @param {number} layer @param {number} patch */
function drawLens(pen, view, place, x, y, width, layer, patch) {
  const { context, colours } = pen;
  const lens = view.reading.lenses[place];
  const verdicts = view.reading.verdictsOf(layer, patch, place);
  const fitting = new Set(verdicts.flatMap((verdict) => verdict.fitting));
  context.fillStyle = lensColour(lens.name, colours);
  context.fillRect(x, y, width, 6);
  y = pen.flow([{ text: lens.title, colour: lensColour(lens.name, colours), weight: 700 }], x, y + 38, width, 26, 1);
  y = pen.flow([{ text: lens.unit, colour: colours.faint }], x, y + 26, width, 17, 2) + 12;
  for (let rank = 0; rank < lens.topK; rank += 1) {
    const candidate = lens.candidate(layer, patch, rank);
    if (!candidate) continue;
    context.fillStyle = colours.line;
    context.fillRect(x, y, width, 1);
    const score = lens.written(candidate.score);
    pen.font(19);
    const figures = candidate.context < 0 ? score : `L${candidate.context}  ${score}`;
    const end = context.measureText(figures).width;
    pen.flow([{ text: figures, colour: colours.faint }], x + width - end, y + 32, end + 4, 19, 1);
    const fits = fitting.has(candidate.text) || view.reading.rightAs(patch, candidate.text);
    const colour = fits ? colours.good : colours.ink;
    y = pen.flow([{ text: candidate.text, colour, weight: 600 }], x, y + 32, width - end - 14, 24, 2);
    if (candidate.sentence) {
      const { before, mark, after } = candidate.sentence;
      const letters = [...before];
      const shown = letters.length > 60 ? `…${letters.slice(-60).join("")}` : before;
      const parts = [
        { text: shown, colour: colours.faint },
        { text: mark, colour: colours["mark-ink"], back: colours.mark },
        { text: after, colour: colours.faint },
      ];
      y = pen.flow(parts, x, y + 27, width, 19, 4);
    }
    y += 14;
  }
  for (const verdict of verdicts) {
    const colour = verdict.outcome === "yes" ? colours.good : verdict.outcome === "no" ? colours.bad : colours.faint;
    y = pen.flow([{ text: verdictText(verdict), colour }], x, y + 28, width, 19, 3) + 4;
  }
  return y;
}

/** @param {string} lens @param {Object<string, string>} colours */
function lensColour(lens, colours) {
  return { latent: colours.latent, logit: colours.logit, embedding: colours.embedding }[lens] || colours.other;
}
