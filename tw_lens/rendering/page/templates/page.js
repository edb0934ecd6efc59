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
// CircuitsVis sets no labels, its buttons do not take the keyboard, and its text may be pale on pale.
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
  place.querySelectorAll(".colored-tokens [style*=background]").forEach((token) => {
    recolor(token, JSON.parse(place.dataset.ends));
    const color = readableOn(getComputedStyle(token).backgroundColor);
    if (token.style.color !== color) token.style.color = color;
  });
}
// CircuitsVis mixes white with pure blue or red; the page takes its own ends of the scale.
function recolor(token, ends) {
  const color = getComputedStyle(token).backgroundColor;
  const [red, green, blue, alpha = 1] = color.match(/[\d.]+/g).map(Number);
  if (color === token.dataset.recolored || alpha === 0) return;
  const end = ends[blue === 255 ? 1 : 0].match(/\w\w/g).map((part) => parseInt(part, 16));
  const share = 1 - (blue === 255 ? red : green) / 255;
  token.style.backgroundColor = `rgb(${end.map((part) => Math.round(255 + share * (part - 255))).join(", ")})`;
  token.dataset.recolored = getComputedStyle(token).backgroundColor;
}
// Black or white, whichever stands out more on a token's color (WCAG's relative luminance).
function readableOn(background) {
  const parts = background.match(/[\d.]+/g).map(Number);
  if (parts[3] === 0) return "rgb(0, 0, 0)"; // transparent: the widget is white
  const [r, g, b] = parts.map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "rgb(0, 0, 0)" : "rgb(255, 255, 255)";
}
function render(place) {
  const source = place.querySelector('script[type="application/json"]');
  if (!source) return place.rendered;
  const data = JSON.parse(source.textContent);
  source.remove();
  if (place.dataset.kind === "plotly") {
    data.layout.template = template;
    Plotly.newPlot(place, data.data, data.layout, { responsive: true, displaylogo: false }).then(() => {
      if (data.frames) Plotly.addFrames(place, data.frames);
    });
  } else if (place.dataset.kind === "scores") {
    place.rendered = renderScores(place, data);
  } else {
    runScript("circuitsvis-script");
    place.dataset.ends = JSON.stringify([data.properties.negativeColor ?? "#ff0000", data.properties.positiveColor ?? "#0000ff"]);
    const watched = { childList: true, subtree: true, attributes: true, attributeFilter: ["style"] };
    new MutationObserver(() => addAccessibility(place)).observe(place, watched);
    place.id = place.id || "widget-" + Math.random().toString(36).slice(2);
    CircuitsVis.render(place.id, CircuitsVis[data.component], data.properties);
  }
  return place.rendered;
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
