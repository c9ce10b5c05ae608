"use strict";

/** Have the divider of a comparison follow its range input and the pointer. */
function prepareComparison(compare) {
  compare.style.setProperty("--ratio", compare.dataset.ratio);
  const range = compare.querySelector("input");
  if (!range) return;

  const show = () => {
    compare.style.setProperty("--at", `${range.value}%`);
    range.setAttribute("aria-valuetext", `${range.value} %`);
  };
  const follow = (event) => {
    const box = compare.getBoundingClientRect();
    range.value = (100 * (event.clientX - box.left)) / box.width;
    show();
  };

  range.addEventListener("input", show);
  compare.addEventListener("mousedown", (event) => event.preventDefault()); // it would take the focus from the range
  compare.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    compare.setPointerCapture(event.pointerId);
    range.focus({ preventScroll: true, focusVisible: false });
    follow(event);
  });
  compare.addEventListener("pointermove", (event) => {
    if (compare.hasPointerCapture(event.pointerId)) follow(event);
  });
  show();
}

/** Have buttons of class "enlarge" open the comparison of their card in the dialog of class "zoom". */
function prepareZoom() {
  const dialog = document.querySelector("dialog.zoom");
  const title = dialog.querySelector("h2");
  const [previous, next] = ["previous", "next"].map((name) => dialog.querySelector(`button.${name}`));
  let card = null;

  const neighbor = (step) => {
    const cards = [...document.querySelectorAll(".card:has(.compare)")];
    return cards[cards.indexOf(card) + step];
  };
  const show = (chosen) => {
    card = chosen;
    title.textContent = card.dataset.name;
    const frame = card.querySelector(".frame").cloneNode(true);
    frame.querySelectorAll("img").forEach((image) => { image.loading = "eager"; });
    dialog.querySelector(".frame").replaceWith(frame);
    prepareComparison(frame.querySelector(".compare"));
    previous.disabled = !neighbor(-1);
    next.disabled = !neighbor(1);
    previous.hidden = next.hidden = previous.disabled && next.disabled;
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.enlarge");
    if (!button) return;
    show(button.closest(".card"));
    dialog.showModal();
    dialog.querySelector("input")?.focus();
  });
  previous.addEventListener("click", () => show(neighbor(-1)));
  next.addEventListener("click", () => show(neighbor(1)));
  dialog.querySelector("button.close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => card?.querySelector("button.enlarge").focus());
}

document.querySelectorAll(".compare").forEach(prepareComparison);
prepareZoom();
