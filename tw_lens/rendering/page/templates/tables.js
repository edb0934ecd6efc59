"use strict";
// Tables that can be searched, filtered, sorted and copied.
function cellTexts(row) {
  return [...row.cells].map((cell) => {
    const tokens = [...cell.querySelectorAll("span")].map((token) => token.textContent);
    return tokens.length ? tokens.join(" ") : cell.textContent.trim();
  });
}

// To the clipboard; where that is blocked, the place is selected for the reader to copy.
function copyText(text, place, button) {
  const label = button.textContent;
  const showStatus = (status) => {
    button.textContent = status;
    setTimeout(() => { button.textContent = label; }, 2500);
  };
  const selectInstead = () => {
    getSelection().selectAllChildren(place);
    showStatus("Selected: copy with Ctrl+C");
  };
  if (!navigator.clipboard) return selectInstead();
  return navigator.clipboard.writeText(text).then(() => showStatus("Copied"), selectInstead);
}

// The p-values of a coherence, on hover; thousands of such cells hold the numbers only.
document.addEventListener("pointerover", (event) => {
  const cell = event.target.closest?.("td[data-p]");
  if (!cell || cell.title) return;
  const [isotropic, matched] = cell.dataset.p.split(" ");
  cell.title = `p = ${isotropic} against isotropic random directions, ${matched} against covariance-matched ones`;
});

document.querySelectorAll(".searchable").forEach((whole) => {
  const table = whole.querySelector("table");
  const body = whole.querySelector("tbody");
  const rows = [...body.rows];
  const count = whole.querySelector(".count");
  const search = whole.querySelector("input");
  const filters = [...whole.querySelectorAll("select")];
  const update = () => {
    const terms = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row) => {
      const text = row.textContent.toLowerCase();
      const values = (row.dataset.filters || "").split("\t");
      row.hidden = !terms.every((term) => text.includes(term))
        || !filters.every((filter, i) => !filter.value || filter.value === values[i]);
      shown += row.hidden ? 0 : 1;
    });
    count.textContent = `${shown} of ${rows.length} rows`;
  };
  [search, ...filters].forEach((input) => input.addEventListener("input", update));
  whole.querySelectorAll("th button").forEach((button, column) => {
    button.addEventListener("click", () => {
      const head = button.parentElement;
      const descending = head.getAttribute("aria-sort") !== "descending";
      whole.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const value = (row) => row.cells[column].textContent;
      const order = new Intl.Collator(undefined, { numeric: true });
      const number = (row) => (value(row) === "\u2013" ? -Infinity : Number(value(row))); // a dash: no number
      const numbers = rows.every((row) => !Number.isNaN(number(row)));
      rows.sort((a, b) => (numbers ? number(a) - number(b) : order.compare(value(a), value(b))) * (descending ? -1 : 1));
      body.append(...rows);
    });
  });
  whole.querySelector(".copy").addEventListener("click", (event) => {
    const copied = [table.tHead.rows[0], ...rows.filter((row) => !row.hidden)];
    copyText(copied.map((row) => cellTexts(row).join("\t")).join("\n"), table, event.target);
  });
});
