// The legend of the colours over the picture.
"use strict";

/** @param {HTMLElement} box @param {Scene} scene @param {Lens} lens @param {number} patchWidth  in pixels */
function showLegend(box, scene, lens, patchWidth) {
  const { painted, hidden } = scene;
  box.replaceChildren();
  if (scene.words && patchWidth < SMALLEST_FOR_WORDS) {
    box.append(hint("The patches are too small for words; “Large” makes the picture large."));
  }
  const { judged } = scene.reading;
  if (judged.length && !(painted && painted.signs)) {
    const count = judged.length === 1 ? "a judged patch" : `${judged.length} judged patches`;
    const key = element("span", "for-keys", ", ", element("kbd", "", "j"), " goes to the next");
    box.append(hint(element("span", "dot"), ` ${count}`, key));
  }
  if (hidden) {
    const count = scene.patches.filter((patch) => hidden[patch]).length;
    const of = `${count} of ${scene.patches.length} patches`;
    box.append(hint(`Painted out: ${of}, where the best word is blank or only punctuation.`));
  }
  if (!painted) return;
  box.append(hint(element("strong", "", lens.title), ": ", painted.explanation));
  if (painted.scale) {
    const [low, high] = [painted.scale.low, painted.scale.high].map((end) => element("span", "", end));
    box.append(element("div", "scale", low, rampBar(), high));
  }
  if (painted.keys.length)
    box.append(element("ul", "kinds", ...painted.keys.map((key) => kindItem(key, scene.patches.length))));
  if (painted.rest) box.append(hint(painted.rest));
  if (painted.command) box.append(element("code", "command", painted.command));
}

/** @param {...(string | Node)} inside */
function hint(...inside) {
  return element("p", "hint", ...inside);
}

/** The ramp from low to high. */
function rampBar() {
  const bar = element("span", "bar");
  bar.style.background = `linear-gradient(to right, ${Array.from({ length: 17 }, (_, i) => css(ramp(i / 16))).join(",")})`;
  return bar;
}

/** @param {Key} key @param {number} patches */
function kindItem({ label, colour, sign, count }, patches) {
  const swatch = element("span", "swatch", sign);
  swatch.style.background = css(colour);
  swatch.style.color = inkOn(colour);
  const bar = element("span", "count");
  bar.style.setProperty("--share", `${(100 * count) / Math.max(1, patches)}%`);
  bar.style.setProperty("--colour", css(colour));
  return element(
    "li",
    count ? "" : "none",
    swatch,
    element("span", "kind", label),
    bar,
    element("span", "number", String(count)),
  );
}
