"use strict";
(() => {
  const found = JSON.parse(document.getElementById("search-data").textContent);
  const literal = (text) =>
    String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const variable = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const config = {
    displaylogo: false,
    responsive: true,
    // Named one by one: the default ones include a button that uploads the chart.
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
  };

  function layout(x, y) {
    const axis = {
      gridcolor: variable("--line"),
      linecolor: variable("--line"),
      zerolinecolor: variable("--line"),
    };
    return {
      height: 420,
      margin: { l: 72, r: 16, t: 40, b: 52 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: variable("--sans"), size: 13, color: variable("--ink") },
      hovermode: "closest",
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      xaxis: { ...axis, ...x },
      yaxis: { ...axis, title: { text: y } },
    };
  }

  function points(trials, name, color, symbol, mode) {
    return {
      x: trials.map((trial) => trial.cost),
      y: trials.map((trial) => trial.loss),
      text: trials.map((trial) => `trial ${trial.number}<br>${literal(trial.settings)}`),
      name,
      mode,
      line: { color, width: 1.5, dash: "dot" },
      marker: { color, symbol, size: 9 },
      hovertemplate: "%{text}<br>%{x:.4s}: <b>%{y:.4f}</b><extra></extra>",
    };
  }

  function drawFront() {
    const best = found.trials.filter((trial) => trial.front).sort((a, b) => a.cost - b.cost);
    const rest = found.trials.filter((trial) => !trial.front);
    Plotly.react(
      "search-front",
      [
        points(rest, "other trials", variable("--c1"), "circle-open", "markers"),
        points(best, "Pareto front", variable("--c0"), "circle", "lines+markers"),
      ],
      layout({ title: { text: found.cost, standoff: 10 }, tickformat: ".3s" }, "validation loss"),
      config,
    );
  }

  function drawKnobs() {
    const losses = found.trials.map((trial) => trial.loss);
    const dimensions = found.knobs.map((knob) => ({
      label: literal(knob.name),
      values: knob.values,
      ...(knob.labels
        ? { tickvals: knob.labels.map((_, index) => index), ticktext: knob.labels.map(literal) }
        : {}),
    }));
    Plotly.react(
      "search-knobs",
      [
        {
          type: "parcoords",
          line: { color: losses, colorscale: "Viridis", showscale: true },
          dimensions: [...dimensions, { label: "loss", values: losses }],
        },
      ],
      { ...layout({}, ""), margin: { l: 72, r: 40, t: 60, b: 30 } },
      { displaylogo: false, responsive: true, modeBarButtons: [["toImage"]] },
    );
  }

  function draw() {
    if (!found.trials.length) return;
    drawFront();
    if (found.knobs.length && found.trials.length > 1) drawKnobs();
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
