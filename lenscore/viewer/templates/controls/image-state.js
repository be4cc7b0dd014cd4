// The state of the page and its address.
"use strict";

const ADDRESS_EVERY = 400; // milliseconds: browsers limit how often it may be written

const state = {
  layer: 0,
  patch: 0,
  lens: 0,
  locked: false,
  colours: "",
  word: "",
  mask: false,
  inside: false,
  grid: true,
  table: false,
  large: false,
  local: false,
};
/** Parts of the state with the name of their flag in the address. @type {("mask" | "inside" | "table" | "large" | "local")[]} */
const SWITCHES = ["mask", "inside", "table", "large", "local"];
/** @type {Reading | null} */
let reading = null;
let strength = 0.75;

const linkable = /^(https?|file):$/.test(location.protocol); // not within a notebook's frame
let addressTimer = 0;

/** The address of the state. */
function currentAddress() {
  if (!reading) return location.hash;
  const { locked: lock, mask, inside, grid, table, large, local } = state;
  const flags = Object.entries({ lock, mask, inside, nogrid: !grid, table, large, local });
  return writeAddress({
    image: reading.id,
    layer: reading.layers[state.layer],
    place: reading.placeName(state.patch),
    lens: reading.lenses[state.lens].name,
    colours: state.colours,
    word: state.word,
    flags: flags.filter(([, isSet]) => isSet).map(([flag]) => flag),
  });
}

function writeAddressNow() {
  window.clearTimeout(addressTimer);
  addressTimer = 0;
  if (linkable && reading) history.replaceState(null, "", currentAddress());
  tell("address");
}

function writeAddressSoon() {
  if (!addressTimer) addressTimer = window.setTimeout(writeAddressNow, ADDRESS_EVERY);
}

/** Set the state from an address; the nearest existing layer, patch or lens replaces a missing one.
 *  @param {Address} address @param {Reading} opened @returns {string[]} one sentence for each thing that is wrong */
function follow(address, opened) {
  const problems = [...address.problems];
  const { layers, lenses } = opened;
  state.layer = address.layer === undefined ? Math.floor(layers.length / 2) : nearest(layers, address.layer);
  const layer = layers[state.layer];
  if (address.layer !== undefined && address.layer !== layer) {
    problems.push(`There is no layer ${address.layer} (there are ${layers.join(", ")}); layer ${layer} is shown.`);
  }
  const lens = lenses.findIndex((one) => one.name === address.lens);
  state.lens = Math.max(0, lens);
  if (address.lens !== undefined && lens < 0) {
    problems.push(
      `There is no lens “${shortened(address.lens)}” (there are ${lenses.map((one) => one.name).join(", ")}); ${lenses[state.lens].name} is shown.`,
    );
  }
  const patch = address.place === undefined ? firstPatch(opened) : opened.patchAt.get(address.place);
  state.patch = patch === undefined ? nearestPatch(opened, String(address.place)) : patch;
  if (patch === undefined)
    problems.push(`There is no patch ${address.place} in this image; ${opened.placeName(state.patch)} is shown.`);
  const measures = measuresOf(opened);
  state.colours = address.colours !== undefined && Object.hasOwn(measures, address.colours) ? address.colours : "";
  if (address.colours !== undefined && address.colours !== state.colours) {
    problems.push(
      `There are no colours “${shortened(address.colours)}” (there are ${Object.keys(measures).join(", ")}); none are shown.`,
    );
  } else if (state.colours && !measures[state.colours].fits(opened, lenses[state.lens])) {
    problems.push(
      `${lenses[state.lens].title} has no colours for “${measures[state.colours].title}” here; none are shown.`,
    );
  }
  state.word = address.word || "";
  for (const flag of SWITCHES) state[flag] = address.flags.has(flag);
  state.locked = address.flags.has("lock");
  state.grid = !address.flags.has("nogrid");
  return problems;
}

/** Index of the number closest to `wanted`. @param {number[]} numbers @param {number} wanted */
function nearest(numbers, wanted) {
  let best = 0;
  numbers.forEach((number, place) => {
    if (Math.abs(number - wanted) < Math.abs(numbers[best] - wanted)) best = place;
  });
  return best;
}

/** @param {Reading} opened @param {string} place */
function nearestPatch(opened, place) {
  const wanted = place.split("-").map(Number);
  let [best, least] = [0, Infinity];
  for (let patch = 0; patch < opened.patches; patch += 1) {
    const [view, row, column] = opened.places.subarray(3 * patch, 3 * patch + 3);
    const far = 1e6 * Math.abs(view - wanted[0]) + Math.abs(row - wanted[1]) + Math.abs(column - wanted[2]);
    if (far < least) [best, least] = [patch, far];
  }
  return best;
}

/** The first patch to show: a judged one, or else the one in the middle. @param {Reading} opened */
function firstPatch(opened) {
  if (opened.judged.length) return opened.judged[0];
  const { patches } = opened.sheets[0];
  return (
    patches.find((patch) => {
      const [left, top, right, bottom] = opened.box(patch);
      return left <= 0.5 && right > 0.5 && top <= 0.5 && bottom > 0.5;
    }) ?? patches[0]
  );
}
