"""The page's style: quiet, light and dark, from a phone's width up. No font, script or picture comes from elsewhere."""

from __future__ import annotations

STYLE = """
:root{--paper:#fbfaf7;--ink:#23211d;--soft:#6c675e;--line:#d9d4c9;--card:#fff;--dots:#1f5fa8;--mark:#b4441f;--link:#1f5fa8}
@media(prefers-color-scheme:dark){:root{--paper:#16171a;--ink:#e6e3dc;--soft:#9d988e;--line:#35363b;--card:#1e2024;
--dots:#7fb2ee;--mark:#ee9a72;--link:#8dbcf2}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);
font:17px/1.6 Charter,"Bitstream Charter","Iowan Old Style",Georgia,serif}
main{max-width:46rem;margin:0 auto;padding:2.5rem 1.1rem 4rem}
h1{font-size:2rem;line-height:1.2;margin:0 0 .6rem}
h2{font-size:1.4rem;line-height:1.25;margin:3.2rem 0 .2rem;padding-top:1.1rem;border-top:1px solid var(--line)}
h3{font-size:1.05rem;margin:1.8rem 0 .3rem}
p{margin:.7rem 0}
.kind,.note,figcaption,footer{color:var(--soft);font-size:.86rem;line-height:1.5}
.kind{margin:0 0 .8rem}
a{color:var(--link);text-decoration-thickness:1px;text-underline-offset:2px}
code,pre{font:.82em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:.7rem .9rem;overflow-x:auto}
.wide{overflow-x:auto;margin:1.1rem 0}
table{border-collapse:collapse;font-size:.8rem;line-height:1.35;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.34rem .38rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
td.words{white-space:normal}
th{font-weight:600;color:var(--soft);vertical-align:bottom;white-space:normal}
th:first-child,td:first-child,td.words,th.words{text-align:left}
.formula{background:var(--card);border:1px solid var(--line);border-radius:6px;
padding:.15rem .9rem;margin:1rem 0;overflow-x:auto}
math{font-size:1.05em}
.formula math{margin:.55rem 0}
figure{margin:1.2rem 0}
.pair{display:grid;grid-template-columns:minmax(0,15rem) minmax(0,1fr);gap:1.2rem;align-items:start}
.pair dl,.pair figure{margin:0}
@media(max-width:34rem){.pair{grid-template-columns:minmax(0,1fr)}.pair figure{max-width:17rem}body{font-size:16px}
math{font-size:.9em}.formula{padding:.15rem .5rem}}
.whole{white-space:nowrap}
dl{display:grid;grid-template-columns:auto 1fr;gap:.1rem .9rem;font-size:.88rem;line-height:1.45}
dt{color:var(--soft)}dd{margin:0;font-variant-numeric:tabular-nums}
.film{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.2rem,1fr));gap:.6rem}
.film figure{margin:0}
.tour{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.7rem;margin:1.2rem 0}
.tour a{display:block;color:inherit;text-decoration:none;text-align:center;font-size:.86rem}
svg{display:block;width:100%;height:auto}
figure>svg,.tour svg{background:var(--card);border:1px solid var(--line);border-radius:6px}
svg text{font:13px system-ui,"DejaVu Sans",sans-serif;fill:var(--ink)}
svg.bars{border:0;background:none;max-width:34rem}
svg.tree{min-width:34rem;border:0;background:none}
.strip img{display:block;width:100%;background:#fff;border:1px solid var(--line);border-radius:6px;padding:6px;
image-rendering:pixelated}
.strip+dl{grid-template-columns:repeat(2,auto 1fr)}@media(max-width:34rem){.strip+dl{grid-template-columns:auto 1fr}}
.ring{fill:none;stroke:var(--soft);stroke-opacity:.55;stroke-width:.6}
.dots{fill:none;stroke:var(--dots);stroke-width:1.5;stroke-linecap:round;stroke-opacity:.6}
.edge{fill:none;stroke:var(--line);stroke-width:1.3}
.node{fill:var(--card);stroke:var(--line)}
.leaf .node{stroke:var(--link)}
.bar{fill:var(--dots);fill-opacity:.75}.marked{fill:var(--mark);fill-opacity:.8}
.code{display:flex;flex-wrap:wrap;gap:0 1.4rem;font-size:.84rem;line-height:1.7;
padding:0;list-style:none;margin:.8rem 0;overflow-wrap:anywhere}
footer{margin-top:3.5rem;padding-top:1rem;border-top:1px solid var(--line)}
"""
