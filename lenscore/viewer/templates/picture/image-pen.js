// Text on a canvas, wrapped between words.
"use strict";

/** @typedef {{text: string, colour: string, back?: string, weight?: number}} Part */

/** Draws text line by line. */
class Pen {
  /** @param {CanvasRenderingContext2D} context @param {Object<string, string>} colours */
  constructor(context, colours) {
    this.context = context;
    this.colours = colours;
  }

  /** @param {number} size @param {number} [weight] */
  font(size, weight = 400) {
    this.context.font = `${weight} ${size}px ${FONT}`;
  }

  /** Parts of a text, one after the other and wrapped between words. @param {Part[]} parts @param {number} x
   *  @param {number} y  of the first baseline @param {number} width @param {number} size @param {number} most  lines
   *  @returns {number} the last baseline */
  flow(parts, x, y, width, size, most) {
    const { context } = this;
    let [left, line] = [x, 1];
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    /** @param {Part} part */
    const widthOf = (part) => {
      this.font(size, part.weight);
      return context.measureText(part.text).width;
    };
    for (const word of wordsOf(parts)) {
      const wide = word.reduce((sum, part) => sum + widthOf(part), 0);
      let isNew = left > x && left + wide > x + width;
      for (const piece of word.flatMap((part) => (wide > width ? broken(part, width, widthOf) : [part]))) {
        const room = widthOf(piece);
        if (isNew || (left > x && left + room > x + width + 1 && wide > width)) {
          if (line >= most) {
            context.fillStyle = this.colours.faint;
            context.fillText("…", Math.min(left, x + width - size / 2), y);
            return y;
          }
          [left, line, y, isNew] = [x, line + 1, y + size * 1.36, false];
        }
        this.put(piece, left, y, room, size);
        left += room;
      }
    }
    return y;
  }

  /** @param {Part} part @param {number} x @param {number} y @param {number} wide @param {number} size */
  put({ text, colour, back, weight }, x, y, wide, size) {
    if (back && text.trim()) {
      this.context.fillStyle = back;
      this.context.fillRect(x - 1, y - size * 0.86, wide + 2, size * 1.12);
    }
    this.font(size, weight);
    this.context.fillStyle = colour;
    this.context.fillText(text, x, y);
  }
}

/** Parts cut into words, each with the blanks after it; a word can have several parts. @param {Part[]} parts */
function wordsOf(parts) {
  /** @type {Part[][]} */
  const words = [[]];
  for (const part of parts) {
    const text = [...part.text]
      .slice(0, 600)
      .join("")
      .replace(/[\r\n\t]/g, " "); // more fits no slide
    for (const piece of text.match(/\S+\s*|\s+/gu) || []) {
      words[words.length - 1].push({ ...part, text: piece });
      if (/\s$/u.test(piece)) words.push([]);
    }
  }
  return words;
}

/** A part too wide for a line, in pieces that fit. @param {Part} part @param {number} width
 *  @param {(part: Part) => number} widthOf @returns {Part[]} */
function broken(part, width, widthOf) {
  const letters = [...part.text];
  /** @type {Part[]} */
  const pieces = [];
  while (letters.length) {
    let [low, high] = [1, letters.length];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (widthOf({ ...part, text: letters.slice(0, middle).join("") }) <= width) low = middle;
      else high = middle - 1;
    }
    pieces.push({ ...part, text: letters.splice(0, low).join("") });
  }
  return pieces;
}
