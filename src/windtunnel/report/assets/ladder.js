"use strict";
(() => {
  const arms = JSON.parse(document.getElementById("data").textContent);
  const literal = (text) =>
    text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const variable = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const color = (index) => variable(`--c${index % 8}`);

  function transparent(hex, alpha) {
    const parts = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
    return `rgba(${parts.join(",")},${alpha})`;
  }

  function overCompute() {
    return arms.flatMap((arm, i) => {
      const name = literal(arm.name);
      const dots = {
        x: arm.cells.map((cell) => cell.flops),
        y: arm.cells.map((cell) => cell.loss),
        text: arm.cells.map((cell) => literal(cell.text)),
        mode: "markers",
        marker: { size: 7, color: color(i) },
        name,
        legendgroup: `${i}`,
        showlegend: !arm.curve,
        hovertemplate: "<b>%{text}</b><br>%{x:.3g} FLOPs: %{y:.4f}<extra></extra>",
      };
      if (!arm.curve) return [dots];
      const x = arm.curve.flops;
      // With one seed there is no band: the noise is unknown.
      const band = arm.curve.low && {
        x: x.concat([...x].reverse()),
        y: arm.curve.high.concat([...arm.curve.low].reverse()),
        fill: "toself",
        fillcolor: transparent(color(i), 0.16),
        line: { width: 0 },
        mode: "lines",
        hoverinfo: "skip",
        showlegend: false,
        legendgroup: `${i}`,
      };
      const line = {
        x,
        y: arm.curve.loss,
        mode: "lines",
        line: { color: color(i), width: 2.4 },
        name,
        legendgroup: `${i}`,
        hovertemplate: `<b>${name}</b>, predicted<br>%{x:.3g} FLOPs: %{y:.4f}<extra></extra>`,
      };
      return band ? [band, line, dots] : [line, dots];
    });
  }

  function isoFlop() {
    return arms.flatMap((arm, i) =>
      arm.isoflop.flatMap((curve, j) => {
        const name = literal(arm.name);
        const style = { color: color(i), width: 1.6, dash: i % 2 ? "dash" : "solid" };
        const dots = {
          x: curve.params,
          y: curve.losses,
          mode: "markers",
          marker: { size: 7, color: color(i) },
          name,
          legendgroup: `${i}`,
          showlegend: j === 0,
          hovertemplate:
            `<b>${name}</b> at ${curve.flops.toPrecision(2)} FLOPs` +
            "<br>%{x:.3s} parameters: %{y:.4f}<extra></extra>",
        };
        if (!curve.parabola) return [dots];
        const low = Math.log(curve.params[0]);
        const high = Math.log(curve.params[curve.params.length - 1]);
        const logs = Array.from({ length: 41 }, (_, k) => low + ((high - low) * k) / 40);
        const [a, b, c] = curve.parabola;
        const line = {
          x: logs.map(Math.exp),
          y: logs.map((t) => Math.exp((a * t + b) * t + c)),
          mode: "lines",
          line: style,
          legendgroup: `${i}`,
          showlegend: false,
          hoverinfo: "skip",
        };
        return [line, dots];
      }),
    );
  }

  function backtest() {
    const known = arms.flatMap((arm) => arm.backtest);
    if (!known.length) return [];
    const ends = known.flatMap((cell) => [cell.measured, ...cell.interval]);
    const span = [Math.min(...ends), Math.max(...ends)];
    const diagonal = {
      x: span,
      y: span,
      mode: "lines",
      line: { color: variable("--soft"), width: 1, dash: "dot" },
      hoverinfo: "skip",
      showlegend: false,
    };
    const found = arms.map((arm, i) => ({
      x: arm.backtest.map((cell) => cell.measured),
      y: arm.backtest.map((cell) => cell.predicted),
      error_y: {
        type: "data",
        symmetric: false,
        array: arm.backtest.map((cell) => cell.interval[1] - cell.predicted),
        arrayminus: arm.backtest.map((cell) => cell.predicted - cell.interval[0]),
        color: color(i),
      },
      text: arm.backtest.map((cell) => literal(cell.text)),
      mode: "markers",
      marker: { size: 8, color: color(i) },
      name: literal(arm.name),
      hovertemplate: `<b>${literal(arm.name)}</b> %{text}<br>measured %{x:.4f}, predicted %{y:.4f}<extra></extra>`,
    }));
    return [diagonal, ...found];
  }

  function layout(x, y, log) {
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
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      xaxis: { ...axis, title: { text: x, standoff: 10 }, type: log ? "log" : "linear", exponentformat: "power" },
      yaxis: { ...axis, title: { text: y } },
    };
  }

  const options = {
    displaylogo: false,
    responsive: true,
    // Named one by one: the default ones include a button that uploads the chart.
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
  };
  const loss = "validation loss (nats per token)";
  const figures = [
    ["compute", overCompute, layout.bind(null, "training FLOPs", loss, true)],
    ["isoflop", isoFlop, layout.bind(null, "parameters", loss, true)],
    ["backtest", backtest, layout.bind(null, "measured", "predicted", false)],
  ];

  function draw() {
    for (const [place, traces, look] of figures) {
      const drawn = traces();
      const box = document.getElementById(place);
      box.parentElement.hidden = drawn.length === 0;
      if (drawn.length) Plotly.react(place, drawn, look(), options);
    }
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
