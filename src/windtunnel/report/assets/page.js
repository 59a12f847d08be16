"use strict";
(() => {
  const arms = JSON.parse(document.getElementById("data").textContent);
  const dashes = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const metricTitles = {
    loss: "validation loss (nats per token)",
    bits_per_byte: "validation bits per byte",
    train_loss: "training loss (nats per token)",
  };
  const axisTitles = {
    step: "optimizer step",
    tokens: "training tokens",
    flops: "training FLOPs",
    seconds: "training seconds",
  };

  // A name is text, yet Plotly reads a few tags and entities in it.
  const literal = (text) =>
    text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const variable = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value;
  const ticked = (name) => document.querySelector(`input[name="${name}"]`).checked;
  const known = (values) => (values || []).some((value) => value !== null);

  function transparent(color, alpha) {
    const parts = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
    return `rgba(${parts.join(",")},${alpha})`;
  }

  // A logarithmic axis has no place for zero: step 0 is left out there, as the title says.
  function positive(x, log) {
    return log ? x.map((value) => (value > 0 ? value : null)) : x;
  }

  function bandTrace(band, axis, style, log) {
    const x = positive(band[axis], log);
    const keep = x.map((_, i) => i).filter((i) => x[i] !== null);
    const there = keep.map((i) => x[i]);
    return {
      x: there.concat([...there].reverse()),
      y: keep.map((i) => band.high[i]).concat(keep.map((i) => band.low[i]).reverse()),
      fill: "toself",
      fillcolor: transparent(style.color, 0.16),
      line: { width: 0 },
      mode: "lines",
      hoverinfo: "skip",
      showlegend: false,
      legendgroup: style.group,
    };
  }

  function seedTrace(seed, columns, metric, axis, style, log) {
    return {
      x: positive(columns[axis], log),
      y: columns[metric],
      mode: "lines",
      line: { color: transparent(style.color, 0.6), width: 0.9 },
      showlegend: false,
      legendgroup: style.group,
      hovertemplate: `${style.name}, seed ${seed}<br>%{x:.4s}: %{y:.4f}<extra></extra>`,
    };
  }

  function meanTrace(band, axis, style, log) {
    return {
      x: positive(band[axis] || [], log),
      y: band.mean,
      customdata: band.low.map((low, i) => [low, band.high[i]]),
      name: style.name,
      mode: band.mean.length > 40 ? "lines" : "lines+markers",
      line: { color: style.color, width: 2.6, dash: style.dash },
      marker: { size: 5.5, color: style.color },
      legendgroup: style.group,
      hovertemplate:
        `<b>${style.name}</b><br>%{x:.4s}: <b>%{y:.4f}</b>` +
        "<br>seeds %{customdata[0]:.4f} to %{customdata[1]:.4f}<extra></extra>",
    };
  }

  function armTraces(arm, index, view) {
    const style = {
      color: variable(`--c${index % 8}`),
      dash: dashes[index % dashes.length],
      // In a hover template "%{" would be read as a variable.
      name: literal(arm.name).replace(/%/g, "&#37;"),
      group: String(index),
    };
    const band = arm.bands[view.metric];
    const source = view.metric === "train_loss" ? "train" : "evals";
    const traces = [];
    if (known(band.mean) && band[view.axis] && arm.seeds.length > 1) {
      traces.push(bandTrace(band, view.axis, style, view.log));
    }
    if (view.seeds && arm.seeds.length > 1) {
      for (const seed of arm.seeds) {
        const columns = seed[source];
        traces.push(seedTrace(seed.seed, columns, view.metric, view.axis, style, view.log));
      }
    }
    traces.push(meanTrace(band, view.axis, style, view.log));
    return traces;
  }

  // The ranges of the last half: where the differences are that the first steps would hide.
  function lastHalf(traces, log) {
    let end = 0;
    for (const trace of traces) for (const x of trace.x) end = Math.max(end, x ?? 0);
    let low = Infinity, high = -Infinity;
    for (const trace of traces) {
      trace.x.forEach((x, i) => {
        const y = trace.y[i];
        if (x === null || y === null || x < end / 2) return;
        low = Math.min(low, y);
        high = Math.max(high, y);
      });
    }
    if (!(low < high)) return {};
    const margin = 0.06 * (high - low);
    const ends = [end / 2, end * 1.01].map((value) => (log ? Math.log10(value) : value));
    return { x: ends, y: [low - margin, high + margin] };
  }

  function layout(view, ranges) {
    const axis = {
      gridcolor: variable("--line"),
      linecolor: variable("--soft"),
      zeroline: false,
      ticks: "outside",
      tickcolor: variable("--line"),
      automargin: true,
    };
    const title = axisTitles[view.axis] + (view.log ? ", logarithmic (0 left out)" : "");
    return {
      margin: { l: 62, r: 20, t: 16, b: 60 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: variable("--sans"), size: 13, color: variable("--ink") },
      hovermode: "closest",
      hoverlabel: {
        bgcolor: variable("--card"),
        bordercolor: variable("--line"),
        font: { family: variable("--sans"), color: variable("--ink") },
        align: "left",
      },
      modebar: {
        bgcolor: "rgba(0,0,0,0)",
        color: variable("--soft"),
        activecolor: variable("--ink"),
      },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      xaxis: {
        ...axis,
        title: { text: title, standoff: 10 },
        type: view.log ? "log" : "linear",
        ...(view.log ? { dtick: "D2" } : {}),
        tickformat: "~s",
        ...(ranges.x ? { range: ranges.x } : {}),
      },
      yaxis: {
        ...axis,
        title: { text: metricTitles[view.metric] },
        ...(ranges.y ? { range: ranges.y } : {}),
      },
    };
  }

  function draw() {
    const view = {
      metric: chosen("metric"),
      axis: chosen("axis"),
      log: ticked("log"),
      seeds: ticked("seeds"),
    };
    const traces = arms.flatMap((arm, index) => armTraces(arm, index, view));
    const ranges = chosen("part") === "end" ? lastHalf(traces, view.log) : {};
    Plotly.react("plot", traces, layout(view, ranges), {
      displaylogo: false,
      responsive: true,
      // Named one by one: the default ones include a button that uploads the chart.
      modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
    });
  }

  // What was not recorded cannot be chosen.
  function disableUnknown() {
    const columns = arms.flatMap((arm) => arm.seeds.flatMap((seed) => [seed.evals, seed.train]));
    for (const name of ["metric", "axis"]) {
      const inputs = [...document.querySelectorAll(`input[name="${name}"]`)];
      for (const input of inputs) {
        input.disabled = !columns.some((column) => known(column[input.value]));
      }
      if (inputs.find((input) => input.checked)?.disabled) {
        const first = inputs.find((input) => !input.disabled);
        if (first) first.checked = true;
      }
    }
  }

  if (document.getElementById("plot")) {
    disableUnknown();
    document.querySelector(".controls").addEventListener("change", draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    draw();
  }
  for (const input of document.querySelectorAll('input[name="forest-unit"]')) {
    input.addEventListener("change", () => {
      for (const panel of document.querySelectorAll("[data-forest]")) {
        panel.hidden = panel.dataset.forest !== chosen("forest-unit");
      }
    });
  }
})();
