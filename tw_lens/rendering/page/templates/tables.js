"use strict";
// Tables that can be searched, narrowed, sorted and copied.
function copied(lines, table, button) {
  const said = button.textContent;
  const say = (now) => {
    button.textContent = now;
    setTimeout(() => { button.textContent = said; }, 2500);
  };
  const text = lines.map((row) => [...row.cells].map((cell) => cell.textContent.trim()).join("\t")).join("\n");
  const refused = () => {
    getSelection().selectAllChildren(table);
    say("Selected: copy with Ctrl+C");
  };
  if (!navigator.clipboard) return refused();
  return navigator.clipboard.writeText(text).then(() => say("Copied"), refused);
}

document.querySelectorAll(".searchable").forEach((whole) => {
  const table = whole.querySelector("table");
  const body = whole.querySelector("tbody");
  const rows = [...body.rows];
  const count = whole.querySelector(".count");
  const search = whole.querySelector("input");
  const choices = [...whole.querySelectorAll("select")];
  const narrow = () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    rows.forEach((row) => {
      const text = row.textContent.toLowerCase();
      const kinds = (row.dataset.kinds || "").split(" ");
      row.hidden = !wanted.every((part) => text.includes(part))
        || !choices.every((choice, at) => !choice.value || choice.value === kinds[at]);
      left += row.hidden ? 0 : 1;
    });
    count.textContent = `${left} of ${rows.length} rows`;
  };
  [search, ...choices].forEach((tool) => tool.addEventListener("input", narrow));
  whole.querySelectorAll("th button").forEach((button, column) => {
    button.addEventListener("click", () => {
      const head = button.parentElement;
      const down = head.getAttribute("aria-sort") !== "descending";
      whole.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].textContent;
      const order = new Intl.Collator(undefined, { numeric: true });
      const numbers = rows.every((row) => !Number.isNaN(Number(value(row))));
      rows.sort((a, b) => (numbers ? value(a) - value(b) : order.compare(value(a), value(b))) * (down ? -1 : 1));
      body.append(...rows);
    });
  });
  whole.querySelector(".copy").addEventListener("click", (event) => {
    copied([table.tHead.rows[0], ...rows.filter((row) => !row.hidden)], table, event.target);
  });
});

// The words of a head, opened, are copied in the same way.
document.querySelectorAll(".heads .copy").forEach((button) => {
  const table = button.parentElement.querySelector("table");
  button.addEventListener("click", () => copied([...table.rows], table, button));
});
