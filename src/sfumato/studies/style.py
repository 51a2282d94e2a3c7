"""The look of the comparison's page."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ink: #1d2025; --faint: #5d6673; --line: #d9dde3; --paper: #fbfbfa; --card: #ffffff;
  --accent: #b5472b; --plain: #3f5f8a; --best: #fbe9d9; --bad: #a1281c; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9ec; --faint: #a3abb6; --line: #363b43; --paper: #15171a; --card: #1d2024; --accent: #f08a68;
    --plain: #8fb4e8; --best: #43301f; --bad: #ff8a7a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 80rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: clamp(1.6rem, 5vw, 2.4rem); line-height: 1.15; margin: 0.5rem 0; }
h2 { margin: 2.2rem 0 0.6rem; font-size: 1.3rem; }
h3 { margin: 0 0 0.2rem; font-size: 1.05rem; }
.lead { font-size: 1.1rem; max-width: 48rem; }
.findings li { max-width: 56rem; margin: 0.3rem 0; }
.findings li:first-child { font-weight: 600; }
.note { color: var(--faint); font-size: 0.9rem; margin: 0.35rem 0; }
.formula { font-family: Cambria, Georgia, serif; font-size: 1rem; margin: 0 0 0.3rem; overflow-wrap: anywhere; }
.formula a, a { color: var(--plain); }
.bad { color: var(--bad); }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0.4rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
td, th[scope=row] { white-space: nowrap; }
th[scope=col] { font-weight: 600; color: var(--faint); font-size: 0.8rem; vertical-align: bottom; }
tr > :first-child { text-align: left; position: sticky; left: 0; background: var(--card); }
tr:last-child > * { border-bottom: 0; }
td.bad { text-align: left; }
td small { display: block; color: var(--faint); font-size: 0.78rem; }
.best { background: var(--best); font-weight: 600; }
.real > * { color: var(--faint); font-style: italic; font-weight: 400; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 1rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.9rem; min-width: 0; }
article img { width: 100%; image-rendering: pixelated; border-radius: 4px; display: block; background: #fff; }
.chart { width: 100%; min-width: 36rem; max-width: 60rem; display: block; margin: auto; font-family: inherit; }
.chart text { fill: var(--ink); font-size: 13px; }
.chart text.faint { fill: var(--faint); font-size: 12px; }
.chart text.strong { fill: var(--accent); font-weight: 600; }
.chart circle.strong { fill: var(--accent); }
.chart circle.plain { fill: var(--card); stroke: var(--plain); stroke-width: 2.5; }
.chart .leader { fill: none; stroke-width: 1; opacity: 0.6; }
.chart .whisker { fill: none; stroke-width: 2; opacity: 0.6; } .chart path.strong { stroke: var(--accent); }
.chart path.plain { stroke: var(--plain); }
.chart .grid { stroke: var(--line); fill: none; } .chart .mark { stroke: var(--faint); stroke-dasharray: 5 4; fill: none; }
.spark { margin: 0.4rem 0; } .spark svg { width: 100%; height: 56px; } .spark figcaption { color: var(--faint);
  font-size: 0.8rem; }
.spark polyline { fill: none; stroke: var(--plain); stroke-width: 1.6; vector-effect: non-scaling-stroke; }
summary { cursor: pointer; color: var(--faint); font-size: 0.9rem; margin-top: 0.5rem; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.8rem; overflow-x: auto; }
"""
