// The page in a frame beside others, of compare.html or of a page of several models: what is chosen here is told to the page
// around it, which tells the others, and what is chosen there is followed here. A place is told as a point of the picture.
"use strict";

/** Whether the page stands beside others. */
const isCompared = window.parent !== window && window.name.startsWith("lenscore-side-");
document.body.classList.toggle("compared", isCompared);

/** Ways to look that go together; the layer and the patch are each page's own. */
const LOOKS = /** @type {const} */ (["colours", "word", "mask", "inside", "grid", "table", "local"]);
/**
 * @typedef {object} Choice  what is told
 * @property {string} name  of the image
 * @property {string | null} thumbnail  its address holds a hash of the picture: the same in all runs of a viewer
 * @property {[number, number] | null} point  middle of the patch as shares of the picture; null for padding
 * @property {boolean} locked
 * @property {{lens: string} & Pick<typeof state, typeof LOOKS[number]> | null} looks  null if those are each page's own
 */
/** Choices that are being followed: what changes meanwhile is not told. */
let following = 0;

/** @param {Reading} shown @returns {Choice} */
function choiceOf(shown) {
  const [left, top, right, bottom] = shown.box(state.patch);
  const [, name, thumbnail] = run().images.find(([id]) => id === shown.id) || [0, shown.name, null];
  const { colours, word, mask, inside, grid, table, local } = state;
  return {
    name,
    thumbnail,
    point: shown.isVisible(state.patch) ? [(left + right) / 2, (top + bottom) / 2] : null,
    locked: state.locked,
    looks: { lens: shown.lenses[state.lens].name, colours, word, mask, inside, grid, table, local },
  };
}

/** @param {"ready" | "chosen" | "address"} what */
function tell(what) {
  if (!isCompared || !reading || (what === "chosen" && following)) return;
  const told = what === "address" ? currentAddress() : choiceOf(reading);
  window.parent.postMessage({ lenscore: what, told }, "*"); // pages from the disk have no origin that could be named
}

/** The last choice that was told. @type {Choice | null} */
let toFollow = null;

/** Show what was chosen beside. @param {Choice} choice */
async function followChoice(choice) {
  toFollow = choice;
  const same = run().images.find(([, name, thumbnail]) =>
    thumbnail && choice.thumbnail ? thumbnail === choice.thumbnail : name === choice.name,
  );
  document.body.classList.toggle("elsewhere", !same);
  if (!same) return notice(["This picture is not among the images of this run."]);
  if (!reading || reading.id !== same[0]) await openImage(same[0], readAddress(currentAddress()), true);
  if (!reading || reading.id !== same[0] || toFollow !== choice) return;
  const patch = choice.point ? picture.patchAt(...choice.point) : state.patch;
  const { lens = "", ...looks } = choice.looks || {};
  const place = reading.lenses.findIndex((one) => one.name === lens);
  notice(patch < 0 ? ["This model has no patch at this place."] : []);
  change({
    ...looks,
    locked: choice.locked,
    patch: patch < 0 ? state.patch : patch,
    lens: place < 0 ? state.lens : place,
  });
}

if (isCompared) {
  window.addEventListener("message", async ({ source, data }) => {
    if (source !== window.parent || !data) return;
    if (data.lenscore === "hello") tell("ready");
    if (data.lenscore === "leaf") leaf(data.told);
    if (data.lenscore !== "follow") return;
    following += 1;
    await followChoice(data.told);
    following -= 1;
  });
}
