"use strict";
// The parts of a score: a map of attention, two menus, and two tables that follow them.
function renderScores(place, data) {
  const [query, key] = ["query", "key"].map((name) => {
    const label = document.createElement("label");
    const menu = document.createElement("select");
    label.append(`${name} `, menu);
    return menu;
  });
  const positions = data.tokens.map((token, i) => `${i} ${token}`);
  [query, key].forEach((menu, which) => {
    menu.replaceChildren(...positions.map((text, i) => new Option(text, i, false, i === data.first[which])));
  });
  const tools = document.createElement("div");
  tools.className = "tools";
  tools.append(query.parentElement, key.parentElement);
  const map = document.createElement("div");
  map.className = "map";
  const sentence = document.createElement("p");
  sentence.setAttribute("role", "status");
  const tables = document.createElement("div");
  tables.className = "parts";
  const text = document.createElement("div");
  text.append(tools, sentence, tables);
  const explained = document.createElement("div");
  explained.className = "explained";
  explained.append(map, text);
  place.append(explained);

  const signed = (value) => (value > 0 ? "+" : "") + value;
  const table = (title, parts) => {
    const made = document.createElement("table");
    const heading = made.createTHead().insertRow();
    for (const text of [title, "contribution"]) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = text;
      if (text !== title) cell.className = "number";
      heading.append(cell);
    }
    const body = made.createTBody();
    for (const [index, value] of parts) {
      const row = body.insertRow();
      row.insertCell().textContent = data.parts[index];
      const number = row.insertCell();
      number.className = "number";
      number.textContent = signed(value.toFixed(3));
    }
    return made;
  };
  const show = () => {
    const [i, j] = [query, key].map((menu) => Number(menu.value));
    [...key.options].forEach((option, at) => { option.disabled = data.scores[i][at] === null; });
    const cell = data.scores[i][j];
    if (cell === null) {
      key.value = String(data.scores[i].findLastIndex((entry) => entry !== null));
      return show();
    }
    sentence.textContent = `${data.head}: the score of "${data.tokens[i]}" (${i}) for "${data.tokens[j]}" (${j}) is `
      + `${signed(cell[0])} above the mean of its keys; attention ${data.pattern[i][j]}.`;
    tables.replaceChildren(table("query part", cell[1]), table("key part", cell[2]));
    Plotly.relayout(map, { shapes: [{
      type: "rect", x0: j - 0.5, x1: j + 0.5, y0: i - 0.5, y1: i + 0.5, line: { color: "#b36b00", width: 3 },
    }] });
  };
  const masked = data.pattern.map((row, i) => row.map((value, j) => (data.scores[i][j] ? value : null)));
  const trace = {
    type: "heatmap", z: masked, colorscale: [[0, "#eef3f9"], [1, "#08519c"]], zmin: 0, zmax: 1,
    showscale: false, xgap: 1, ygap: 1,
    hovertemplate: "query %{y}, key %{x}: %{z}<extra></extra>",
    x: data.labels.map((_, i) => i), y: data.labels.map((_, i) => i),
  };
  const ticks = { tickvals: data.labels.map((_, i) => i), ticktext: data.labels, automargin: true, showgrid: false, zeroline: false };
  const size = Math.max(320, 130 + 26 * data.tokens.length);
  const layout = {
    template, height: size, margin: { l: 20, r: 20, t: 20, b: 20 },
    xaxis: { ...ticks, title: { text: "key" }, tickangle: -45 },
    yaxis: { ...ticks, title: { text: "query" }, autorange: "reversed" },
  };
  return Plotly.newPlot(map, [trace], layout, { responsive: true, displaylogo: false }).then(() => {
    map.on("plotly_click", ({ points: [point] }) => {
      if (data.scores[point.y][point.x] === null) return;
      query.value = String(point.y);
      key.value = String(point.x);
      show();
    });
    for (const menu of [query, key]) menu.addEventListener("change", show);
    show();
  });
}
