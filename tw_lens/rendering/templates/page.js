"use strict";
// Pictures are drawn when they come near the window: a page of hundreds opens at once.
const template = JSON.parse(document.getElementById("figure-template").textContent);
function draw(place) {
  const held = place.querySelector('script[type="application/json"]');
  if (!held) return;
  const data = JSON.parse(held.textContent);
  held.remove();
  if (place.dataset.kind === "plotly") {
    data.layout.template = template;
    Plotly.newPlot(place, data.data, data.layout, { responsive: true, displaylogo: false }).then(() => {
      if (data.frames) Plotly.addFrames(place, data.frames);
    });
  } else {
    const name = () => place.querySelectorAll("canvas:not([aria-label])").forEach((drawn) => {
      drawn.setAttribute("aria-label", place.getAttribute("aria-label"));
    });
    new MutationObserver(name).observe(place, { childList: true, subtree: true });
    place.id = place.id || "widget-" + Math.random().toString(36).slice(2);
    CircuitsVis.render(place.id, CircuitsVis[data.component], data.properties);
  }
}
const nearby = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
    nearby.unobserve(entry.target);
    draw(entry.target);
  }),
  { rootMargin: "600px 0px" },
);
document.querySelectorAll(".deferred").forEach((place) => nearby.observe(place));
window.addEventListener("beforeprint", () => {
  document.querySelectorAll(".deferred").forEach((place) => {
    if (place.checkVisibility === undefined || place.checkVisibility()) draw(place);
  });
});

// A link into something folded opens it.
function unfold() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  target.scrollIntoView();
}
window.addEventListener("hashchange", unfold);
unfold();

// Tables that can be searched, sorted and copied.
document.querySelectorAll(".searchable").forEach((whole) => {
  const body = whole.querySelector("tbody");
  const rows = [...body.rows];
  const count = whole.querySelector(".count");
  const search = whole.querySelector("input");
  search.addEventListener("input", () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    rows.forEach((row) => {
      const text = row.textContent.toLowerCase();
      row.hidden = !wanted.every((part) => text.includes(part));
      left += row.hidden ? 0 : 1;
    });
    count.textContent = `${left} of ${rows.length} rows`;
  });
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
  const copy = whole.querySelector(".copy");
  copy.addEventListener("click", async () => {
    const shown = [whole.querySelector("thead tr"), ...rows.filter((row) => !row.hidden)];
    const text = shown.map((row) => [...row.cells].map((cell) => cell.textContent.trim()).join("\t")).join("\n");
    await navigator.clipboard.writeText(text);
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy these rows"; }, 1500);
  });
});
