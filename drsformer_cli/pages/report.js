/** Sort the cards; a value of the select is the name of a data attribute, a space, and 1 or -1 for the order. */
function prepareSorting() {
  const select = document.getElementById("sort");
  const list = document.querySelector(".cards");
  const byName = new Intl.Collator("en", { numeric: true }).compare;

  const sort = () => {
    const [key, order] = select.value.split(" ");
    const value = (card) => (card.dataset[key] === undefined ? NaN : Number(card.dataset[key]));
    const compare = (a, b) => {
      if (key === "name") return order * byName(a.dataset.name, b.dataset.name);
      const [x, y] = [value(a), value(b)];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // missing numbers last
      return x === y ? 0 : order * (x < y ? -1 : 1); // infinite ones have no difference
    };
    list.append(...[...list.children].sort(compare));
  };
  select.addEventListener("change", sort);
  sort(); // a browser may keep the choice when the page is loaded again
}

function prepareChoices() {
  for (const choice of document.querySelectorAll('input[name="left"]')) {
    const show = () => { if (choice.checked) document.body.dataset.left = choice.value; };
    choice.addEventListener("change", show);
    show();
  }
}

prepareSorting();
prepareChoices();
