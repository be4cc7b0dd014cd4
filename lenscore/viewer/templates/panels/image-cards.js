// Filters the list of images by a text in name or caption, and to judged images; shows the first ones, and more on demand.
"use strict";
(function () {
  const IMAGES_AT_FIRST = 24;
  const cards = [...document.querySelectorAll("#cards > li")].map((item) => ({
    item: /** @type {HTMLElement} */ (item),
    text: ["name", "caption"].map((name) => item.querySelector(`.${name}`)?.textContent || "").join("\n").toLowerCase().normalize("NFC"),
    judged: item.querySelector(".judged") !== null,
  }));
  const input = /** @type {HTMLInputElement} */ (document.getElementById("filter-text"));
  const judged = /** @type {HTMLInputElement | null} */ (document.getElementById("filter-judged"));
  const count = /** @type {HTMLOutputElement} */ (document.getElementById("filter-count"));
  const more = /** @type {HTMLButtonElement} */ (document.getElementById("cards-more"));
  let all = false;

  function filter() {
    const wanted = input.value.trim().toLowerCase().normalize("NFC");
    let fitting = 0;
    for (const card of cards) {
      const fits = card.text.includes(wanted) && (!judged || !judged.checked || card.judged);
      fitting += Number(fits);
      card.item.hidden = !fits || (!all && fitting > IMAGES_AT_FIRST);
    }
    count.textContent = fitting < cards.length ? `${fitting} of ${cards.length}` : "";
    more.hidden = all || fitting <= IMAGES_AT_FIRST;
    more.textContent = `Show all ${fitting} images`;
  }

  more.addEventListener("click", () => {
    all = true;
    filter();
  });
  input.addEventListener("input", filter);
  judged?.addEventListener("change", filter);
  document.getElementById("filter")?.addEventListener("submit", (event) => event.preventDefault());
  filter(); // the browser may have kept what was typed before
})();
