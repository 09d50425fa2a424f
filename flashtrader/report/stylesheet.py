"""The report's stylesheet: one column on a phone and on paper, two on a wide screen, light or dark as the reader likes.

The pictures keep their white ground in the dark, as a print does.
"""

STYLESHEET = """
:root { color-scheme: light dark; --ground: #f5f6f8; --card: #fff; --ink: #1f2328; --soft: #5b636d; --rule: #dfe2e6;
  --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #111418; --card: #1a1e24; --ink: #e7e9ec; --soft: #a3abb5; --rule: #333a43; --accent: #5db4e8; }
  figure img { filter: brightness(.93); }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
body > * { max-width: 1240px; margin-inline: auto; padding-inline: 20px; }
header { padding-top: 32px; }
.kind { margin: 0; color: var(--accent); font-size: 13px; font-weight: 650; letter-spacing: .04em; }
h1 { margin: 2px 0 4px; font-size: 30px; line-height: 1.2; letter-spacing: -.01em; overflow-wrap: anywhere; }
.period { margin: 0; color: var(--soft); }
.summary { max-width: 70ch; margin: 18px 0 22px; font-size: 18px; line-height: 1.5; text-wrap: pretty; }
.tiles { display: grid; grid-template-columns: repeat(6, 1fr); gap: 12px; margin: 0 0 20px; }
.tiles div, section, figure { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
.tiles div { padding: 10px 14px; }
.tiles dt { color: var(--soft); font-size: 13px; }
.tiles dd { margin: 0; font-size: 22px; font-weight: 650; font-variant-numeric: tabular-nums; white-space: nowrap; }
main { display: grid; gap: 16px; grid-template: "pictures figures" auto "pictures facts" 1fr / 1.42fr 1fr;
  align-items: start; }
.figures { grid-area: figures; }
.pictures { grid-area: pictures; display: grid; gap: 16px; min-width: 0; }
.facts { grid-area: facts; display: grid; gap: 16px; min-width: 0; }
section { padding: 16px 18px; min-width: 0; }
h2 { margin: 0 0 8px; font-size: 17px; }
h3 { margin: 18px 0 6px; font-size: 14px; }
figure { margin: 0; overflow: hidden; }
figure img { display: block; width: 100%; height: auto; padding: 14px 14px 6px; background: #fff; }
figcaption { padding: 9px 16px 11px; color: var(--soft); font-size: 13.5px; border-top: 1px solid var(--rule); }
.scroll { overflow-x: auto; }
.scroll:focus-visible { outline: 2px solid var(--accent); }
table { width: 100%; border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 0 5px 14px; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top; }
th:first-child { padding-left: 0; text-align: left; }
tr:last-child > * { border-bottom: 0; }
tbody th { font-weight: 400; color: var(--soft); }
thead th { font-size: 13px; color: var(--soft); }
.figures td:nth-child(2) { font-weight: 650; }
.figures td, .figures thead th { white-space: nowrap; }
.facts td { overflow-wrap: anywhere; }
.facts th { white-space: nowrap; }
.note { margin: 10px 0 0; color: var(--soft); font-size: 13.5px; }
.below { display: grid; gap: 16px; margin-top: 16px; padding-bottom: 40px; }
.definitions { columns: 2; column-gap: 36px; margin: 0; font-size: 14px; }
.definitions div { break-inside: avoid; padding-bottom: 8px; }
.definitions dt { font-weight: 650; }
.definitions dd { margin: 0; color: var(--soft); }
.origin { display: grid; grid-template-columns: 1fr 1fr; gap: 0 36px; }
.origin > * { min-width: 0; }
.origin td { text-align: left; overflow-wrap: anywhere; }
pre { margin: 0; font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 980px) {
  main { grid-template: "figures" "pictures" "facts" / minmax(0, 1fr); }
  .tiles { grid-template-columns: repeat(3, 1fr); }
}
@media (max-width: 620px) {
  body > * { padding-inline: 12px; }
  header { padding-top: 20px; }
  h1 { font-size: 24px; }
  .summary { font-size: 16.5px; }
  .tiles { grid-template-columns: repeat(2, 1fr); gap: 8px; }
  .tiles dd { font-size: 19px; }
  .definitions { columns: 1; }
  .origin { grid-template-columns: minmax(0, 1fr); }
  figure img { padding: 8px 4px 2px; }
  section { padding: 14px; }
  table { font-size: 13px; }
  th, td { padding-left: 9px; }
}
@page { size: A4; margin: 14mm; }
@media print {
  :root { color-scheme: light; --ground: #fff; --card: #fff; --ink: #000; --soft: #444; --rule: #ccc;
    --accent: #0072b2; }
  body { font-size: 10pt; }
  body > * { max-width: none; padding-inline: 0; }
  header { padding-top: 0; }
  h1 { font-size: 20pt; }
  .summary { font-size: 12pt; margin: 10pt 0; max-width: none; }
  .tiles { grid-template-columns: repeat(6, minmax(0, 1fr)); gap: 6pt; }
  .tiles div { padding: 5pt 6pt; }
  .tiles dd { font-size: 11pt; }
  .tiles dt { font-size: 7.5pt; }
  section { padding: 8pt 10pt; }
  .definitions, .note { font-size: 9pt; }
  .definitions div { padding-bottom: 3pt; }
  main, .pictures, .facts, .below { display: block; }
  section, figure { margin-bottom: 10pt; }
  figure, tr, .tiles, .facts section, .below section:first-child { break-inside: avoid; }
  figure img { filter: none; padding: 4pt 0; width: 114mm; margin-inline: auto; }
  figcaption { padding-block: 3pt 5pt; font-size: 8.5pt; }
  h2, h3 { break-after: avoid; }
  table { font-size: 9pt; }
  th, td { padding-block: 2.5pt; }
  .scroll { overflow: visible; }
  .origin { display: block; }
  pre { font-size: 7.5pt; columns: 2; }
}
"""
