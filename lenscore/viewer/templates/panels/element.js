// Elements and their texts. All text is set as text, so no word of a corpus or a vocabulary is interpreted as HTML.
"use strict";

/** @template {keyof HTMLElementTagNameMap} T @param {T} tag @param {string} [className] @param {...(string | Node)} inside
 *  @returns {HTMLElementTagNameMap[T]} */
function element(tag, className, ...inside) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...inside);
  return made;
}

/** A probability as text. @param {number} share */
function percent(share) {
  if (share >= 0.0995) return `${(100 * share).toFixed(0)} %`;
  return share >= 0.001 ? `${(100 * share).toFixed(1)} %` : "< 0.1 %";
}

/** @template {HTMLElement} T @param {string} id @param {new () => T} type @returns {T} */
function byId(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no ${type.name} #${id}`);
  return found;
}
