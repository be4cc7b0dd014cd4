// Loading data: scripts call lenscore.run(...) and lenscore.image(...), because only scripts load from file://.
"use strict";

/**
 * @typedef {object} RunData  what all images of a run share
 * @property {string} model
 * @property {number[]} layers
 * @property {{name: string, title: string, unit: string}[]} lenses
 * @property {number} topK
 * @property {[number, string, string | null][]} images  id, name, thumbnail
 */
/** Called by the data scripts. */
const lenscore = {
  /** @type {RunData | null} */
  runData: null,
  /** @type {Map<number, ImageData_>} */
  images: new Map(),
  /** @param {RunData} data */
  run(data) {
    lenscore.runData = data;
  },
  /** @param {ImageData_} data */
  image(data) {
    lenscore.images.set(data.id, data);
  },
};
Object.assign(window, { lenscore });

/** The data of an image, loaded if necessary; rejects if there is no such file.
 *  @param {number} id @returns {Promise<ImageData_>} */
function loadImage(id) {
  const known = lenscore.images.get(id);
  if (known) return Promise.resolve(known);
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `images/${String(id).padStart(6, "0")}.js`;
    const end = () => {
      script.remove();
      const data = lenscore.images.get(id);
      if (data) resolve(data);
      else reject(new Error(`${script.getAttribute("src")} cannot be read`));
    };
    script.addEventListener("load", end);
    script.addEventListener("error", end);
    document.head.append(script);
  });
}

/** The data of the run; empty if run.js is missing. @returns {RunData} */
function run() {
  return lenscore.runData || { model: "", layers: [], lenses: [], topK: 0, images: [] };
}
