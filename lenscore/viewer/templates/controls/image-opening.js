// Opening an image: its data, the texts above the picture, preloading.
"use strict";

const PRELOAD_AFTER = 300;
const KEPT_IMAGES = 5;

/** The last requested image; its data may still be loading. */
let wanted = -1;

/** Show an image. @param {number} id @param {Address} address @param {boolean} [silent]  leave wrong parts unmentioned */
async function openImage(id, address, silent = false) {
  wanted = id;
  let opened;
  try {
    opened = await readImage(id);
  } catch (error) {
    wanted = reading ? reading.id : -1;
    notice([`Image ${id} cannot be shown: ${error instanceof Error ? error.message : error}. Is the folder complete?`]);
    return;
  }
  if (id !== wanted) return;
  const isFirst = !reading;
  const problems = follow(address, opened);
  reading = opened;
  describe(opened);
  picture.open(opened);
  drawScene();
  notice(silent ? [] : problems);
  writeAddressNow();
  tell(isFirst ? "ready" : "chosen");
  window.setTimeout(preload, PRELOAD_AFTER);
}

/** Go to the image that is `step` further in the run. @param {number} step */
function leaf(step) {
  const { images } = run();
  const next = images[images.findIndex(([id]) => id === wanted) + step];
  if (next) goToImage(next[0]);
}

/** A new image is a new step of the browser's history. @param {number} id */
function goToImage(id) {
  if (!reading || id === wanted) return;
  writeAddressNow();
  const address = readAddress(currentAddress());
  if (!state.locked) delete address.place;
  if (linkable && !isCompared) history.pushState(null, "", currentAddress().replace(/^#\d+/, `#${id}`));
  void openImage(id, address, true);
}

/** Place in the run of the image that is shown, or -1. */
function placeInRun() {
  return run().images.findIndex(([id]) => reading !== null && id === reading.id);
}

/** Load the neighbours and drop the others. */
function preload() {
  for (const step of [1, -1]) {
    const near = run().images[placeInRun() + step];
    if (near) void loadImage(near[0]).catch(() => undefined);
  }
  for (const id of [...lenscore.images.keys()].slice(0, -KEPT_IMAGES)) lenscore.images.delete(id);
}

/** Fill the texts above the picture and the menus that depend on the image. @param {Reading} opened */
function describe(opened) {
  const { model, images } = run();
  document.title = `${opened.name} · ${model}`;
  byId("name", HTMLElement).textContent = opened.name;
  const about = byId("about", HTMLElement);
  about.replaceChildren(element("bdi", "", model), ` · ${opened.patches} patches`);
  if (run().hasTexts) {
    const link = element("a", "", "prompt and answer");
    link.href = `texts/${String(opened.id).padStart(6, "0")}.html`;
    about.append(" · ", link);
  }
  if (document.querySelector("header .home") && !isCompared) {
    const link = element("a", "", "compare");
    link.id = "compare";
    link.title = "this image beside another layer or another model (x)";
    link.href = "../compare.html";
    link.addEventListener("click", (event) => {
      event.preventDefault();
      compare();
    });
    about.append(" · ", link);
  }
  if (opened.caption) about.append(" · caption: ", element("q", "", element("bdi", "", opened.caption)));
  byId("leaf", HTMLElement).hidden = images.length < 2;
  if (parts.image.options.length !== images.length) {
    const options = images.map(([id, name], place) => new Option(`${place + 1}/${images.length}  ${name}`, String(id)));
    parts.image.replaceChildren(...options);
  }
  parts.image.value = String(opened.id);
  byId("previous", HTMLButtonElement).disabled = placeInRun() <= 0;
  byId("next", HTMLButtonElement).disabled = placeInRun() >= images.length - 1;
  parts.layer.max = String(opened.layers.length - 1);
  const every = Math.ceil(opened.layers.length / 14);
  const ticks = opened.layers.map((layer, place) => element("span", "", place % every ? "" : String(layer)));
  byId("ticks", HTMLElement).replaceChildren(...ticks);
  parts.lens.replaceChildren(...opened.lenses.map((lens, place) => new Option(lens.title, String(place))));
  byId("view-controls", HTMLElement).hidden = opened.sheets.length < 2;
  parts.views.replaceChildren(
    ...opened.sheets.map((sheet, place) => {
      const button = element("button", "", sheet.name);
      button.type = "button";
      button.addEventListener("click", () => goToSheet(place));
      return button;
    }),
  );
}

/** @param {string[]} sentences */
function notice(sentences) {
  byId("notice", HTMLElement).textContent = sentences.join(" ");
}
