// Image pages beside each other, in frames: what is chosen in one is told to the others, see image-together.js.
"use strict";

/** @typedef {{folder: string, hash: string}} Side  a run's folder, and the address in its image page; "" for the first image */

const sides = /** @type {HTMLElement[]} */ ([...byId("frames", HTMLElement).children]);
const tabs = /** @type {HTMLElement[]} */ ([...byId("tabs", HTMLElement).children]);
const together = byId("together", HTMLInputElement);
/** Menus of the runs; none where all pages are inside this one. */
const menus = [...document.querySelectorAll("select")];
/** The last address of each side. @type {string[]} */
const hashes = sides.map(() => "");
/** What was chosen last. @type {{looks: unknown, name: string} | null} */
let chosen = null;
let apart = false;

/** @param {number} place */
function frameOf(place) {
  return sides[place].querySelector("iframe");
}

/** The part of the address of this page after "#": left=FOLDER/12/8/0-3-5/latent&right=…, and &apart. */
function readSides() {
  const parts = new Map(location.hash.replace(/^#/, "").split("&").map((part) => {
    const [name, ...value] = part.split("=");
    return [name, value.join("=")];
  }));
  apart = parts.has("apart");
  return ["left", "right"].map((name) => {
    const [folder, ...hash] = (parts.get(name) || "").split("/");
    return { folder, hash: hash.join("/") };
  });
}

function writeSides() {
  const parts = ["left", "right"].map((name, place) => `${name}=${menus[place].value}/${hashes[place]}`);
  history.replaceState(null, "", `#${[...parts, ...(together.checked ? [] : ["apart"])].join("&")}`);
}

/** Show a run on a side. @param {number} place @param {Side} side */
function openSide(place, { folder, hash }) {
  const frame = element("iframe");
  frame.name = `lenscore-side-${place}`;
  frame.title = menus[place].selectedOptions[0].label;
  frame.src = `${folder}/image.html${hash && `#${hash}`}`;
  frameOf(place)?.remove(); // a new frame, because another address in the old one would be a step back in the history
  hashes[place] = hash;
  tabs[place].textContent = frame.title;
  sides[place].append(frame);
}

/** Show the runs that the address names. */
function openSides() {
  const found = readSides();
  chosen = null;
  together.checked = !apart;
  const unknown = [];
  for (const [place, { folder, hash }] of found.entries()) {
    const { options } = menus[place];
    const known = [...options].findIndex((option) => option.value === folder);
    if (folder && known < 0) unknown.push(folder);
    menus[place].selectedIndex = known >= 0 ? known : Math.min(place, options.length - 1);
    openSide(place, { folder: menus[place].value, hash: known < 0 ? "" : hash });
  }
  byId("notice", HTMLElement).textContent = unknown.length ? `There is no run ${unknown.join(", ").slice(0, 80)} in this viewer.` : "";
}

/** Tell a side what was chosen. @param {number} place */
function send(place) {
  const told = chosen && { ...chosen, looks: together.checked ? chosen.looks : null };
  if (told) frameOf(place)?.contentWindow?.postMessage({ lenscore: "follow", told }, "*");
}

/** Choose the side that narrow windows show. @param {number} chosen */
function showTab(chosen) {
  tabs.forEach((tab, place) => {
    tab.setAttribute("aria-selected", String(place === chosen));
    tab.tabIndex = place === chosen ? 0 : -1;
    sides[place].classList.toggle("shown", place === chosen);
  });
}

window.addEventListener("message", ({ source, data }) => {
  const from = sides.findIndex((_, place) => source && source === frameOf(place)?.contentWindow);
  if (from < 0 || !data || !data.told) return;
  if (data.lenscore === "address") {
    hashes[from] = String(data.told).replace(/^#/, "");
    if (menus.length) writeSides();
    return;
  }
  if (data.lenscore === "ready") {
    if (chosen) return send(from);
    if (from > 0) return; // the first side begins
    if (document.activeElement === document.body) frameOf(0)?.focus(); // its keys work at once
  }
  chosen = data.told;
  byId("name", HTMLElement).textContent = data.told.name;
  document.title = `${data.told.name} · ${tabs.map((tab) => tab.textContent).join(" · ")}`;
  sides.forEach((_, place) => place !== from && send(place));
});
tabs.forEach((tab, place) => {
  tab.addEventListener("click", () => showTab(place));
  tab.addEventListener("keydown", ({ key }) => {
    const step = key === "ArrowRight" ? 1 : key === "ArrowLeft" ? -1 : 0;
    if (!step) return;
    const next = (place + step + tabs.length) % tabs.length;
    showTab(next);
    tabs[next].focus();
  });
});
menus.forEach((menu, place) => menu.addEventListener("change", () => openSide(place, { folder: menu.value, hash: "" })));
together.addEventListener("change", () => {
  if (menus.length) writeSides();
  sides.forEach((_, place) => place > 0 && send(place));
});
for (const [id, told] of /** @type {[string, number][]} */ ([["previous", -1], ["next", 1]])) {
  document.getElementById(id)?.addEventListener("click", () => frameOf(0)?.contentWindow?.postMessage({ lenscore: "leaf", told }, "*"));
}
showTab(0);
if (menus.length) {
  window.addEventListener("hashchange", openSides);
  openSides();
} else {
  sides.forEach((_, place) => frameOf(place)?.contentWindow?.postMessage({ lenscore: "hello" }, "*")); // some may be ready
}
