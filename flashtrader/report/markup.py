"""The pieces of a page in HTML: tables, tiles, charts, and the document around them. Every text is escaped here."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from plotly.offline import get_plotlyjs

from flashtrader.files import finite
from flashtrader.report.chart import Chart

_SPANS = (("All", "all"), ("1 year", "365"), ("3 months", "91"), ("1 month", "30"), ("1 week", "7"))


def document(title: str, header: str, body: str, *, charts: bool = True) -> str:
    """Return a page that needs nothing but itself.

    header, body: HTML. charts: whether plotly.js is to be on the page. The page's own policy lets a browser load
    nothing and run no script but the two that are named by their hashes, whatever a name or a config has in it.
    """
    scripts = [get_plotlyjs(), _resource("page.js")] if charts else []
    allowed = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts) or "'none'"
    policy = f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {allowed}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{_resource("page.css")}</style>
<noscript><style>.plot {{ min-height: 0; }} .spans, .log {{ display: none; }}</style></noscript>
</head>
<body>
<header>
{header}
</header>
<main>
{body}
</main>
{"".join(f"<script>{script}</script>" for script in scripts)}
</body>
</html>
"""


def prose(text: str) -> str:
    """Return text as HTML: `code` between backticks, and a number on the same line as its per cent sign."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)).replace(" %", "&nbsp;%")


def section(anchor: str, title: str, content: str, note: str = "") -> str:
    """Return a part of the page under a heading; content is HTML, note is text."""
    return (
        f'<section id="{anchor}">\n<h2>{escape(title)}</h2>\n'
        + (f'<p class="note">{prose(note)}</p>\n' if note else "")
        + f"{content}\n</section>\n"
    )


def navigation(anchors: Mapping[str, str]) -> str:
    """Return links to the parts of the page; anchors: label by anchor."""
    return "<nav>" + "".join(f'<a href="#{anchor}">{escape(label)}</a>' for anchor, label in anchors.items()) + "</nav>"


def spans() -> str:
    """Return the buttons that show a part of the time on all time axes."""
    buttons = "".join(
        f'<button type="button" data-days="{days}" aria-pressed="{str(days == "all").lower()}">{label}</button>'
        for label, days in _SPANS
    )
    return (
        f'<div class="spans" role="group" aria-label="Time shown">{buttons}'
        "<span>Drag across a chart to zoom all of them; double-click to go back.</span></div>\n"
    )


def figures(charts: Iterable[Chart | None]) -> str:
    """Return charts in pairs where there is room; one without a partner takes the width of both, as wide ones do."""
    kept = [chart for chart in charts if chart is not None]
    drawn, place = [], 0
    while place < len(kept):
        pair = kept[place : place + 2]
        if len(pair) < 2 or any(chart.wide for chart in pair):
            pair = pair[:1]
        drawn += [_figure(chart, wide=len(pair) == 1) for chart in pair]
        place += len(pair)
    return f'<div class="charts">\n{"".join(drawn)}</div>\n' if drawn else ""


def _figure(chart: Chart, *, wide: bool) -> str:
    """Return a chart with its words; without JavaScript its main numbers stand in its place."""
    data = {
        "traces": chart.traces,
        "layout": chart.layout,
        "timed": chart.timed,
        "fit": chart.fit,
        "height": chart.height,
        "height_narrow": chart.height_narrow,
    }
    entries = "".join(
        f'<button type="button" aria-pressed="true" data-traces="{list(entry.traces)}"'
        f'{"" if entry.traces else " disabled"} style="--line:{entry.colour}">{prose(entry.label)}</button>'
        for entry in chart.legend
    )
    logarithmic = str(chart.layout.get("yaxis", {}).get("type") == "log").lower()
    log = (
        f'<button type="button" class="log" aria-pressed="{logarithmic}">Log scale</button>' if chart.can_be_log else ""
    )
    return (
        f'<figure class="chart{" wide" if wide else ""}" id="chart-{chart.name}">\n'
        f'<div class="head"><h3>{escape(chart.title)}</h3>{log}<p>{escape(chart.unit)}</p></div>\n'
        + (f'<div class="legend">{entries}</div>\n' if entries else "")
        + f'<div class="plot" role="img" aria-label="{escape(chart.alt)}" '
        f'style="--tall:{chart.height}px;--low:{chart.height_narrow}px"></div>\n'
        f"<noscript><p>{prose(chart.alt)}</p></noscript>\n"
        f"<figcaption>{prose(chart.caption)}</figcaption>\n"
        f'<script type="application/json">{embedded(data)}</script>\n'
        "</figure>\n"
    )


def tiles(facts: Mapping[str, str]) -> str:
    """Return the few figures that a reader looks for first, by label."""
    cells = (f"<div><dt>{escape(label)}</dt><dd>{escape(text)}</dd></div>" for label, text in facts.items())
    return f'<dl class="tiles">{"".join(cells)}</dl>\n'


def table(label: str, rows: Sequence[Sequence[str]], head: Sequence[str] = (), *, kind: str = "facts") -> str:
    """Return a table whose first column names the rows; it scrolls sideways where too wide.

    label: what it is, for a reader who hears the page. kind: classes of the table in the page's style.
    """
    top = "".join(f'<th scope="col">{prose(cell)}</th>' if cell else "<td></td>" for cell in head)
    body = "".join(
        f'<tr><th scope="row">{prose(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>\n'
        for name, *cells in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">\n<table class="{kind}">'
        f"{f'<thead><tr>{top}</tr></thead>' if head else ''}<tbody>\n{body}</tbody></table></div>\n"
    )


def shaded_table(
    label: str, rows: Sequence[Sequence[tuple[str, float]]], names: Sequence[str], head: Sequence[str]
) -> str:
    """Return a table of gains and losses on a ground of colour; each cell is a text and a strength from −1 to 1."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' if cell else "<td></td>" for cell in head)
    body = ""
    for name, cells in zip(names, rows, strict=True):
        drawn = "".join(
            f'<td class="{"gain" if strength > 0 else "loss"}" style="--by:{abs(strength):.0%}">{escape(text)}</td>'
            for text, strength in cells
        )
        body += f'<tr><th scope="row">{escape(name)}</th>{drawn}</tr>\n'
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">\n'
        f'<table class="shaded"><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table></div>\n'
    )


def folded(title: str, content: str) -> str:
    """Return content that opens under its title; it is open on paper."""
    return f"<details><summary>{escape(title)}</summary>\n{content}</details>\n"


def embedded(value: Any) -> str:
    """Return JSON that no HTML parser can take for the end of its script, or for anything else."""
    text = json.dumps(finite(value), separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _resource(name: str) -> str:
    return files("flashtrader.report").joinpath(name).read_text(encoding="utf-8")
