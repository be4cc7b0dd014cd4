// Colours of values: ramps with evenly rising lightness, readable in grey and with colour-blindness.
"use strict";

/** @typedef {[number, number, number]} Rgb */

/** Anchors of viridis (matplotlib's default map, CC0), dark to light. @type {Rgb[]} */
const VIRIDIS = [
  [68, 1, 84],
  [72, 24, 106],
  [71, 45, 123],
  [66, 64, 134],
  [59, 82, 139],
  [51, 99, 141],
  [44, 114, 142],
  [38, 130, 142],
  [33, 145, 140],
  [31, 160, 136],
  [40, 174, 128],
  [63, 188, 115],
  [94, 201, 98],
  [132, 212, 75],
  [173, 220, 48],
  [216, 226, 25],
  [253, 231, 37],
];

/** Okabe and Ito's colours, distinguishable with colour-blindness. Colours that may look grey are those of less
 *  important kinds, because the picture below is grey. */
const VERDICT_COLOURS = {
  concrete: [0, 114, 178],
  abstract: [86, 180, 233],
  global: [240, 228, 66],
  yes: [0, 114, 178],
  no: [213, 94, 0],
  differ: [204, 121, 167],
  unanswered: [153, 153, 153],
};

/** For all other kinds, from the same set. */
const ASPECT_COLOURS = [
  [0, 114, 178],
  [86, 180, 233],
  [240, 228, 66],
  [230, 159, 0],
  [204, 121, 167],
  [0, 158, 115],
];

/** A colour of the ramp. @param {number} share 0..1 @returns {Rgb} */
function ramp(share) {
  const place = Math.min(1, Math.max(0, share)) * (VIRIDIS.length - 1);
  const below = Math.min(VIRIDIS.length - 2, Math.floor(place));
  const [one, other] = [VIRIDIS[below], VIRIDIS[below + 1]];
  const mixed = one.map((value, i) => Math.round(value + (other[i] - value) * (place - below)));
  return [mixed[0], mixed[1], mixed[2]];
}

/** The colour of a value on a ramp. @param {number} value @param {number} low @param {number} high */
function rampBetween(value, low, high) {
  return ramp(high > low ? (value - low) / (high - low) : 0.5);
}

/** One of `count` ordered colours. @param {number} place @param {number} count */
function rampStep(place, count) {
  return ramp(count > 1 ? place / (count - 1) : 0.5);
}

/** @param {readonly number[]} rgb */
function css(rgb) {
  return `rgb(${rgb[0]},${rgb[1]},${rgb[2]})`;
}

/** Black or white, whichever has the higher contrast on a colour (WCAG's relative luminance). @param {readonly number[]} rgb */
function inkOn(rgb) {
  const [red, green, blue] = rgb.map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000000" : "#ffffff";
}
