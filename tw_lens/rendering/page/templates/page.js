"use strict";
// Figures are rendered when they come near the viewport, so that a page of hundreds opens quickly.
// The CircuitsVis script is large; it runs before the first widget is rendered.
const template = JSON.parse(document.getElementById("figure-template").textContent);
function runScript(id) {
  const source = document.getElementById(id);
  if (!source) return;
  const script = document.createElement("script");
  script.textContent = source.textContent;
  source.remove();
  document.head.append(script);
}
// CircuitsVis sets no labels, and its buttons do not take the keyboard.
function addAccessibility(place) {
  place.querySelectorAll(":is(canvas, input):not([aria-label])").forEach((element) => {
    const label = element.tagName === "INPUT" && element.previousElementSibling?.textContent;
    element.setAttribute("aria-label", label || place.getAttribute("aria-label"));
  });
  place.querySelectorAll('div[style*="cursor: pointer"]:not([role])').forEach((button) => {
    button.setAttribute("role", "button");
    button.tabIndex = 0;
    button.addEventListener("keydown", (event) => { if (event.key === "Enter") button.click(); });
  });
}
function render(place) {
  const source = place.querySelector('script[type="application/json"]');
  if (!source) return;
  const data = JSON.parse(source.textContent);
  source.remove();
  if (place.dataset.kind === "plotly") {
    data.layout.template = template;
    Plotly.newPlot(place, data.data, data.layout, { responsive: true, displaylogo: false }).then(() => {
      if (data.frames) Plotly.addFrames(place, data.frames);
    });
  } else if (place.dataset.kind === "scores") {
    renderScores(place, data);
  } else {
    runScript("circuitsvis-script");
    new MutationObserver(() => addAccessibility(place)).observe(place, { childList: true, subtree: true });
    place.id = place.id || "widget-" + Math.random().toString(36).slice(2);
    CircuitsVis.render(place.id, CircuitsVis[data.component], data.properties);
  }
}
const nearby = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
    nearby.unobserve(entry.target);
    render(entry.target);
  }),
  { rootMargin: "600px 0px" },
);
document.querySelectorAll(".deferred").forEach((place) => nearby.observe(place));
const PAPER_WIDTH = 690; // of a printed page, in pixels
window.addEventListener("beforeprint", () => {
  document.querySelectorAll(".deferred").forEach((place) => {
    if (place.checkVisibility !== undefined && !place.checkVisibility()) return;
    render(place);
    place.style.setProperty("--fits-paper", Math.min(1, PAPER_WIDTH / place.scrollWidth));
  });
});

// A link to a folded element opens all folds around it.
function unfold() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  target.scrollIntoView();
}
window.addEventListener("hashchange", unfold);
unfold();
