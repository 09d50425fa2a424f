// Draws the page's charts from the JSON beside them, and keeps their time axes on the same stretch of time.
"use strict";
(() => {
  const HEIGHTS = { tall: [400, 300], normal: [300, 250], strip: [0, 0] };
  const PRINT_WIDTH = 640;
  const DAY = 86400000;
  const config = { displayModeBar: false, responsive: true, doubleClick: "reset", showTips: false };
  const touch = matchMedia("(pointer: coarse)").matches;
  const narrow = matchMedia("(max-width: 620px)");

  const charts = [...document.querySelectorAll("figure.chart")].map((figure) => {
    const drawn = JSON.parse(figure.querySelector("script").textContent);
    return { figure, plot: figure.querySelector(".plot"), ...drawn };
  });
  const timed = charts.filter((chart) => chart.timed);

  const axis = (own) => ({ automargin: true, zeroline: false, tickfont: { size: 12 }, ...own });

  function height(chart) {
    return chart.height + (narrow.matches ? chart.height_narrow - chart.height : 0);
  }

  function draw(chart) {
    const layout = {
      margin: { l: 8, r: 12, t: 10, b: 8 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12 },
      showlegend: false,
      dragmode: touch ? false : "zoom", // a finger on a chart scrolls the page
      hovermode: "x unified",
      ...chart.layout,
      height: height(chart),
      xaxis: axis({ showgrid: !chart.timed, ...chart.layout.xaxis }),
      yaxis: axis({ fixedrange: true, ...chart.layout.yaxis }),
    };
    layout.xaxis.fixedrange ??= touch && !chart.timed;
    if (chart.timed) layout.xaxis.type = "date";
    Plotly.newPlot(chart.plot, chart.traces, layout, config);
    chart.plot.on("plotly_relayout", (change) => follow(chart, change));
  }

  // The lowest and highest value shown between two times, as a range of the chart's y axis.
  function fitted(chart, from, to) {
    let low = Infinity, high = -Infinity;
    for (const trace of chart.plot.data) {
      if (trace.visible === "legendonly" || trace.visible === false || !trace.y) continue;
      if (trace.type === "bar" || trace.fill === "tozeroy") { low = Math.min(low, 0); high = Math.max(high, 0); }
      trace.x.forEach((time, place) => {
        const value = trace.y[place];
        if (time < from || time > to || value === null) return;
        low = Math.min(low, value);
        high = Math.max(high, value);
      });
    }
    if (!(low <= high)) return null;
    const log = chart.plot.layout.yaxis.type === "log";
    if (log) { low = Math.log10(Math.max(low, 1e-12)); high = Math.log10(Math.max(high, 1e-12)); }
    const room = (high - low) * 0.06 || Math.abs(high) * 0.06 || 1;
    return [low - (low === 0 ? 0 : room), high + (high === 0 ? 0 : room)];
  }

  const milliseconds = (time) => (typeof time === "number" ? time : Date.parse(time.replace(" ", "T").padEnd(11, "T00:00").replace(/T(\d\d)$/, "T$1:00") + "Z"));

  let shown = null; // [from, to] of every time axis, or null for everything
  function follow(chart, change) {
    if (!chart.timed) return;
    if (change["xaxis.autorange"]) show(null);
    else if (change["xaxis.range[0]"] !== undefined) show([change["xaxis.range[0]"], change["xaxis.range[1]"]].map(milliseconds));
  }

  function show(range) {
    if (JSON.stringify(range) === JSON.stringify(shown)) return;
    shown = range;
    for (const chart of timed) {
      const y = range && chart.fit ? fitted(chart, ...range) : null;
      const change = range ? { "xaxis.range": [...range] } : { "xaxis.autorange": true };
      if (chart.fit) Object.assign(change, y ? { "yaxis.range": y } : { "yaxis.autorange": true });
      Plotly.relayout(chart.plot, change);
    }
    for (const button of document.querySelectorAll(".spans button")) {
      button.setAttribute("aria-pressed", String(range ? Number(button.dataset.days) * DAY === range[1] - range[0] : button.dataset.days === "all"));
    }
  }

  function spans() {
    const ends = timed.flatMap((chart) => chart.traces).filter((trace) => trace.x?.length).map((trace) => [trace.x[0], trace.x.at(-1)]);
    const from = Math.min(...ends.map((end) => end[0])), to = Math.max(...ends.map((end) => end[1]));
    for (const button of document.querySelectorAll(".spans button")) {
      const days = Number(button.dataset.days);
      if (days * DAY >= to - from) button.remove();
      else button.addEventListener("click", () => show(days ? [to - days * DAY, to] : null));
    }
  }

  function legend(chart) {
    for (const button of chart.figure.querySelectorAll(".legend button")) {
      const traces = JSON.parse(button.dataset.traces);
      button.addEventListener("click", () => {
        const visible = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(visible));
        Plotly.restyle(chart.plot, { visible: visible ? true : "legendonly" }, traces);
      });
    }
  }

  function scale(chart) {
    const button = chart.figure.querySelector("button.log");
    button?.addEventListener("click", () => {
      const log = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(log));
      Plotly.relayout(chart.plot, { "yaxis.type": log ? "log" : "linear", "yaxis.autorange": true });
    });
  }

  charts.forEach(draw);
  charts.forEach(legend);
  charts.forEach(scale);
  spans();
  narrow.addEventListener("change", () => charts.forEach((chart) => Plotly.relayout(chart.plot, { height: height(chart) })));
  const folded = [...document.querySelectorAll("details")];
  addEventListener("beforeprint", () => {
    folded.forEach((details) => (details.open = true));
    charts.forEach((chart) => Plotly.relayout(chart.plot, { width: PRINT_WIDTH, height: chart.height_narrow }));
  });
  addEventListener("afterprint", () => {
    charts.forEach((chart) => Plotly.relayout(chart.plot, { width: null, autosize: true, height: height(chart) }));
  });
  document.documentElement.dataset.drawn = String(charts.length);
})();
