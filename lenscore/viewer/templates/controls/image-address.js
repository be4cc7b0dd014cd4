// The part of the address after "#": image/layer/view-row-column/lens/more, as 12/8/0-3-5/latent/colours=score/mask.
"use strict";

/**
 * @typedef {object} Address  undefined where the link names nothing
 * @property {number} [image]
 * @property {number} [layer]  the layer's number
 * @property {string} [place]  view-row-column
 * @property {string} [lens]
 * @property {string} [colours]  name of a measure
 * @property {string} [word]  whose map is painted
 * @property {Set<string>} flags  of FLAGS
 * @property {string[]} problems  one sentence each
 */

const FLAGS = ["lock", "mask", "inside", "nogrid", "table", "large", "local"];

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** @param {string} text */
function shortened(text) {
  const letters = [...text];
  return letters.length > 40 ? `${letters.slice(0, 40).join("")}…` : text;
}

/** @param {string} hash @returns {Address} */
function readAddress(hash) {
  const [image, layer, place, lens, ...more] = hash.replace(/^#/, "").split("/").map(decoded);
  /** @type {Address} */
  const address = { flags: new Set(), problems: [] };
  /** @param {string} name @param {string} found @param {string} expected */
  const wrong = (name, found, expected) =>
    address.problems.push(`This link names ${name} “${shortened(found)}”, which is not ${expected}.`);
  if (image) {
    if (/^\d{1,9}$/.test(image)) address.image = Number(image);
    else wrong("the image", image, "a number");
  }
  if (layer) {
    if (/^\d{1,4}$/.test(layer)) address.layer = Number(layer);
    else wrong("the layer", layer, "a number");
  }
  if (place) {
    if (/^\d+-\d+-\d+$/.test(place)) address.place = place.split("-").map(Number).join("-");
    else wrong("the patch", place, "view-row-column, as 0-3-5");
  }
  if (lens) address.lens = lens;
  for (const part of more.filter((one) => one)) {
    if (FLAGS.includes(part)) address.flags.add(part);
    else if (part.startsWith("colours=")) address.colours = part.slice("colours=".length);
    else if (part.startsWith("word=")) address.word = part.slice("word=".length);
    else wrong("a way to look", part, `one of colours=…, word=…, ${FLAGS.join(", ")}`);
  }
  return address;
}

/** @param {{image: number, layer: number, place: string, lens: string, colours: string, word: string, flags: string[]}} state */
function writeAddress({ image, layer, place, lens, colours, word, flags }) {
  const parts = [String(image), String(layer), place, encodeURIComponent(lens)];
  if (colours) parts.push(`colours=${colours}`);
  if (word) parts.push(`word=${encodeURIComponent(word.replace(/\p{Surrogate}/gu, "\ufffd"))}`);
  return `#${[...parts, ...flags].join("/")}`;
}
