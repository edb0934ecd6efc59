"use strict";
// Pictures are drawn when they come near the window: a page of hundreds opens at once.
// The widgets' script is long, and run when the first of them is wanted.
const template = JSON.parse(document.getElementById("figure-template").textContent);
function run(id) {
  const held = document.getElementById(id);
  if (!held) return;
  const script = document.createElement("script");
  script.textContent = held.textContent;
  held.remove();
  document.head.append(script);
}
// CircuitsVis names nothing it draws, and its buttons are not for keyboards.
function reachable(place) {
  place.querySelectorAll(":is(canvas, input):not([aria-label])").forEach((drawn) => {
    const label = drawn.tagName === "INPUT" && drawn.previousElementSibling?.textContent;
    drawn.setAttribute("aria-label", label || place.getAttribute("aria-label"));
  });
  place.querySelectorAll('div[style*="cursor: pointer"]:not([role])').forEach((button) => {
    button.setAttribute("role", "button");
    button.tabIndex = 0;
    button.addEventListener("keydown", (event) => { if (event.key === "Enter") button.click(); });
  });
}
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
    run("circuitsvis-script");
    new MutationObserver(() => reachable(place)).observe(place, { childList: true, subtree: true });
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
const PAPER = 690; // the width of a printed page, in pixels
window.addEventListener("beforeprint", () => {
  document.querySelectorAll(".deferred").forEach((place) => {
    if (place.checkVisibility !== undefined && !place.checkVisibility()) return;
    draw(place);
    place.style.setProperty("--fits-paper", Math.min(1, PAPER / place.scrollWidth));
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
