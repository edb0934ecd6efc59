"use strict";
// The map of heads, and the cards that it opens: one, or two side by side. The address names them.
const mapData = JSON.parse(document.getElementById("map-data").textContent);
const map = document.getElementById("map");
const stage = document.getElementById("stage");
const menus = ["first-card", "second-card"].map((id) => document.getElementById(id));
const measure = document.getElementById("measure");
const cells = new Map([...map.querySelectorAll("tbody td")].map((cell, i) => [mapData.heads[i], cell]));
const nameOf = (cell) => mapData.heads[[...cells.values()].indexOf(cell)];
const homes = new Map(); // of the cards on the stage: what holds their places in the list by layer

function colorMap() {
  const chosen = mapData.measures[measure.value];
  const marked = new Set(chosen.marked);
  [...cells.values()].forEach((cell, i) => {
    const value = chosen.values[i];
    const share = value === null ? 0 : (value - chosen.low) / (chosen.high - chosen.low || 1);
    cell.style.setProperty("--v", `${100 * Math.min(1, Math.max(0, share))}%`);
    cell.classList.toggle("unknown", value === null);
    cell.classList.toggle("marked", marked.has(i));
  });
  document.getElementById("scale-low").textContent = chosen.low;
  document.getElementById("scale-high").textContent = chosen.high;
  document.getElementById("measure-meaning").textContent = chosen.meaning;
  map.classList.toggle("of-lists", chosen.of_lists);
}

function describe(cell) {
  const chosen = mapData.measures[measure.value];
  const name = nameOf(cell);
  const index = mapData.heads.indexOf(name);
  const value = chosen.values[index] ?? "not measured";
  const floor = chosen.floor ? ` (floor ${chosen.floor[index] ?? "not measured"})` : "";
  const mark = chosen.marked.includes(index) ? ", marked" : "";
  document.getElementById("map-status").textContent = `${name}: ${chosen.name} ${value}${floor}${mark}`;
}

const isCard = (name) => document.getElementById(name)?.classList.contains("card");
const shown = () => [...stage.children].map((card) => card.id);

function showCards(names) {
  const cards = [...new Set(names)].filter(isCard).slice(0, 2).map((name) => document.getElementById(name));
  for (const card of [...stage.children]) {
    if (cards.includes(card)) continue;
    card.open = false;
    homes.get(card).replaceWith(card);
    homes.delete(card);
  }
  for (const card of cards) {
    if (!homes.has(card)) {
      homes.set(card, document.createComment(""));
      card.before(homes.get(card));
    }
    stage.append(card);
    card.open = true;
  }
  document.getElementById("heads-layout").classList.toggle("two", cards.length === 2);
  menus.forEach((menu, i) => { menu.value = cards[i]?.id ?? ""; });
  for (const [name, cell] of cells) {
    cell.querySelector("a")?.setAttribute("aria-current", cards.some((card) => card.id === name));
  }
  window.dispatchEvent(new Event("resize")); // figures take the new width
}

function choose(names) {
  const before = shown();
  showCards(names);
  if (shown().join() !== before.join()) history.pushState(null, "", `#${shown().join(",")}`);
}

// "#L5H1" opens a card, "#L5H1,L7H2" two, "#L5H1-OV" scrolls to a circuit; other addresses open folds.
function followAddress() {
  const target = decodeURIComponent(location.hash.slice(1));
  const names = target.split(",").map((part) => part.replace(/-(QK|OV)$/, ""));
  if (target && names.every(isCard)) {
    showCards(names);
    (document.getElementById(target) ?? stage).scrollIntoView();
    return;
  }
  const place = target && document.getElementById(target);
  if (!place) return;
  for (let node = place; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  place.scrollIntoView();
}

map.addEventListener("click", (event) => {
  const link = event.target.closest("td a");
  if (!link) return;
  event.preventDefault();
  const name = nameOf(link.parentElement);
  choose(event.shiftKey ? [shown()[0] ?? name, name] : [name]);
  if (stage.getBoundingClientRect().top > innerHeight * 0.7) stage.scrollIntoView();
});
for (const kind of ["pointerover", "focusin"]) {
  map.addEventListener(kind, (event) => {
    const cell = event.target.closest("tbody td");
    if (cell) describe(cell);
  });
}
// One cell takes the focus; arrows move it.
const links = [...map.querySelectorAll("td a")];
const takeFocus = (link) => links.forEach((other) => { other.tabIndex = other === link ? 0 : -1; });
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
map.addEventListener("keydown", (event) => {
  const step = ARROWS[event.key];
  let cell = event.target.closest("td");
  if (!step || !cell) return;
  event.preventDefault();
  let row = cell.parentElement;
  do {
    row = step[0] < 0 ? row.previousElementSibling : step[0] > 0 ? row.nextElementSibling : row;
    cell = row?.cells[cell.cellIndex + step[1]];
  } while (cell && !cell.querySelector("td a"));
  const link = cell?.querySelector("td a");
  if (!link) return;
  takeFocus(link);
  link.focus();
});
takeFocus(links[0]);
measure.addEventListener("input", colorMap);
for (const menu of menus) menu.addEventListener("input", () => choose(menus.map((one) => one.value)));

document.querySelectorAll(".card").forEach((card) => {
  const tables = () => [...card.querySelectorAll("table[data-label]")];
  card.querySelector(".copy").addEventListener("click", (event) => {
    const lines = tables().flatMap((table) => [...table.rows].map((row, i) => (
      [i ? card.id : "head", i ? table.dataset.label : "table", ...cellTexts(row)].join("\t"))));
    copyText(lines.join("\n"), card, event.target);
  });
  card.querySelector(".save")?.addEventListener("click", async () => {
    const place = card.querySelector(".scores");
    await render(place);
    const size = { width: 700, height: 500 };
    Plotly.downloadImage(place.querySelector(".map"), { ...size, format: "svg", filename: `${card.id}-attention` });
  });
});

// What is wider than its place is scrolled by keyboard too.
const widths = new ResizeObserver((entries) => entries.forEach(({ target }) => {
  if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
  else target.removeAttribute("tabindex");
}));
document.querySelectorAll(".circuit").forEach((circuit) => widths.observe(circuit));

colorMap();
const first = mapData.measures[0].values
  .map((value, i) => [value ?? -1, mapData.heads[i]])
  .filter(([, name]) => isCard(name))
  .reduce((best, one) => (one[0] > best[0] ? one : best));
showCards([first[1]]);
window.addEventListener("hashchange", followAddress);
followAddress();
