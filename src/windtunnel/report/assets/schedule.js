"use strict";
(() => {
  const runs = JSON.parse(document.getElementById("data").textContent);
  const dashes = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const literal = (text) =>
    text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const variable = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const traces = () =>
    runs.map((run, index) => ({
      x: run.steps,
      y: run.rates,
      name: literal(run.name),
      mode: run.rates.length > 60 ? "lines" : "lines+markers",
      line: { color: variable(`--c${index % 8}`), width: 2.4, dash: dashes[index % 6] },
      hovertemplate: `<b>${literal(run.name)}</b><br>update %{x}: <b>%{y:.4g}</b><extra></extra>`,
    }));

  function layout() {
    const axis = {
      gridcolor: variable("--line"),
      linecolor: variable("--line"),
      zerolinecolor: variable("--line"),
    };
    return {
      height: 440,
      margin: { l: 72, r: 16, t: 40, b: 52 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: variable("--sans"), size: 13, color: variable("--ink") },
      hovermode: "closest",
      showlegend: runs.length > 1,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      xaxis: { ...axis, title: { text: "update, counted from 0", standoff: 10 } },
      yaxis: { ...axis, title: { text: "learning rate" }, rangemode: "tozero", tickformat: ".2~e" },
    };
  }

  function draw() {
    Plotly.react("plot", traces(), layout(), {
      displaylogo: false,
      responsive: true,
      // Named one by one: the default ones include a button that uploads the chart.
      modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
    });
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
