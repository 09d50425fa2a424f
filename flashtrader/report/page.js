// Draws the page's charts from the JSON beside them, and keeps their time axes on the same stretch of time.
"use strict";
(() => {
  const DAY_MS = 86400000;
  const PRINT_WIDTH = 640;
  const PRINT_HEIGHT = 0.8; // of a phone's, so that three charts share a sheet
  const touch = matchMedia("(pointer: coarse)").matches;
  const narrow = matchMedia("(max-width: 620px)");
  const printed = matchMedia("print");
  const config = { displayModeBar: false, doubleClick: "reset", showTips: false };

  const charts = [...document.querySelectorAll("figure.chart")].map((figure) => ({
    figure,
    plot: figure.querySelector(".plot"),
    ...JSON.parse(figure.querySelector("script").textContent),
  }));
  const timed = charts.filter((chart) => chart.timed);
  const buttons = [...document.querySelectorAll(".spans button")];

  const press = (button, pressed) => button.setAttribute("aria-pressed", String(pressed));
  const pressed = (button) => button.getAttribute("aria-pressed") === "true";

  function size(chart) {
    if (printed.matches) return { width: PRINT_WIDTH, height: PRINT_HEIGHT * chart.height_narrow };
    return { width: chart.plot.clientWidth, height: narrow.matches ? chart.height_narrow : chart.height };
  }

  function draw(chart) {
    const axis = { automargin: true, zeroline: false, ticklabelstandoff: 5, tickfont: { size: 12 } };
    const { xaxis, yaxis, ...own } = chart.layout;
    const layout = {
      ...size(chart),
      margin: { l: 6, r: 10, t: 10, b: 6 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12 },
      showlegend: false,
      hovermode: "x unified",
      dragmode: touch ? false : "zoom", // a finger on a chart scrolls the page
      ...own,
      xaxis: { ...axis, showgrid: false, fixedrange: touch || !chart.timed, ...xaxis },
      yaxis: { ...axis, fixedrange: true, ...yaxis },
    };
    if (chart.timed) layout.xaxis.type = "date";
    Plotly.newPlot(chart.plot, chart.traces, layout, config);
    chart.plot.on("plotly_relayout", (change) => {
      if (!chart.timed) return;
      if (change["xaxis.autorange"]) show(null);
      else if ("xaxis.range[0]" in change) show([change["xaxis.range[0]"], change["xaxis.range[1]"]].map(moment));
    });
    new ResizeObserver(() => {
      if (chart.plot.clientWidth !== chart.plot.layout.width) Plotly.relayout(chart.plot, size(chart));
    }).observe(chart.plot);
  }

  // plotly tells a time as 2024-01-31, 2024-01-31 12:34 or 2024-01-31 12:34:56.789, all UTC.
  function moment(text) {
    const [day, clock = "00:00"] = String(text).split(" ");
    return Date.parse(`${day}T${clock}Z`);
  }

  let shown = null; // [from, to] of every time axis, or null for all there is
  function show(range) {
    if (JSON.stringify(range) === JSON.stringify(shown)) return;
    shown = range;
    for (const chart of timed) {
      const change = range ? { "xaxis.range": [...range] } : { "xaxis.autorange": true };
      const fitted = range && chart.fit ? fit(chart, ...range) : null;
      if (chart.fit) Object.assign(change, fitted ? { "yaxis.range": fitted } : { "yaxis.autorange": true });
      Plotly.relayout(chart.plot, change);
    }
    for (const button of buttons) {
      const length = button.dataset.days * DAY_MS;
      press(button, range ? length === range[1] - range[0] : button.dataset.days === "all");
    }
  }

  // The lowest and highest value between two times with some room, as a range of the chart's y axis.
  function fit(chart, from, to) {
    let low = Infinity;
    let high = -Infinity;
    for (const trace of chart.plot.data) {
      if (trace.visible === "legendonly") continue;
      const seen = trace.y.filter((y, place) => y !== null && trace.x[place] >= from && trace.x[place] <= to);
      if (trace.type === "bar" || trace.fill === "tozeroy") seen.push(0);
      low = seen.reduce((least, y) => Math.min(least, y), low);
      high = seen.reduce((most, y) => Math.max(most, y), high);
    }
    if (low > high) return null;
    if (chart.plot.layout.yaxis.type === "log") [low, high] = [Math.log10(low), Math.log10(high)];
    const room = (high - low) * 0.06 || Math.abs(high) * 0.06 || 1;
    return [low === 0 ? 0 : low - room, high === 0 ? 0 : high + room];
  }

  function listen(chart) {
    for (const button of chart.figure.querySelectorAll(".legend button")) {
      button.addEventListener("click", () => {
        press(button, !pressed(button));
        Plotly.restyle(chart.plot, { visible: pressed(button) || "legendonly" }, JSON.parse(button.dataset.traces));
      });
    }
    const log = chart.figure.querySelector("button.log");
    log?.addEventListener("click", () => {
      press(log, !pressed(log));
      Plotly.relayout(chart.plot, { "yaxis.type": pressed(log) ? "log" : "linear", "yaxis.autorange": true });
    });
  }

  function offerSpans() {
    const ends = timed.flatMap((chart) => chart.traces).filter((trace) => trace.x.length);
    const from = Math.min(...ends.map((trace) => trace.x[0]));
    const to = Math.max(...ends.map((trace) => trace.x.at(-1)));
    for (const button of buttons) {
      const length = button.dataset.days * DAY_MS; // not a number for all of them
      if (length >= to - from) button.remove();
      else button.addEventListener("click", () => show(length ? [to - length, to] : null));
    }
  }

  charts.forEach(draw);
  charts.forEach(listen);
  offerSpans();
  const resize = () => charts.forEach((chart) => Plotly.relayout(chart.plot, size(chart)));
  narrow.addEventListener("change", resize);
  printed.addEventListener("change", resize);
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
})();
