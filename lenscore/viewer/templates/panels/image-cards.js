// Filters the list of images by a text in name or caption, and to judged images.
"use strict";
(function () {
  const cards = [...document.querySelectorAll("#cards > li")].map((item) => ({
    item: /** @type {HTMLElement} */ (item),
    text: ["name", "caption"].map((name) => item.querySelector(`.${name}`)?.textContent || "").join("\n").toLowerCase().normalize("NFC"),
    judged: item.querySelector(".judged") !== null,
  }));
  const input = /** @type {HTMLInputElement} */ (document.getElementById("filter-text"));
  const judged = /** @type {HTMLInputElement | null} */ (document.getElementById("filter-judged"));
  const count = /** @type {HTMLOutputElement} */ (document.getElementById("filter-count"));

  function filter() {
    const wanted = input.value.trim().toLowerCase().normalize("NFC");
    let shown = 0;
    for (const card of cards) {
      const fits = card.text.includes(wanted) && (!judged || !judged.checked || card.judged);
      card.item.hidden = !fits;
      shown += Number(fits);
    }
    count.textContent = shown < cards.length ? `${shown} of ${cards.length}` : "";
  }

  input.addEventListener("input", filter);
  judged?.addEventListener("change", filter);
  document.getElementById("filter")?.addEventListener("submit", (event) => event.preventDefault());
  filter(); // the browser may have kept what was typed before
})();
