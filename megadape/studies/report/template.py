"""The HTML page of a report: its frame and its style sheet. It loads nothing, and says so to the browser."""

from string import Template

STYLE = """
:root {
  color-scheme: light dark;
  --text: #1c1e21; --quiet: #5c636b; --paper: #ffffff; --line: #dfe2e6; --accent: #b34700;
}
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e6e9; --quiet: #9aa2ab; --paper: #16181b; --line: #33383e; --accent: #ff9d5c; }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 76rem; background: var(--paper); color: var(--text);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
h1 { margin: 0 0 1rem; font-size: 1.7rem; line-height: 1.25; text-wrap: balance; }
h2 { margin: 2.5rem 0 .6rem; font-size: 1.15rem; }
h3 { margin: 1.8rem 0 .5rem; font-size: 1rem; }
p { margin: .6rem 0; max-width: 44rem; }
.summary p { font-size: 1.06rem; }
.note { color: var(--quiet); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; min-width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { border-bottom: 1.5px solid var(--text); font-weight: 600; vertical-align: bottom; }
thead small { display: block; color: var(--quiet); font-weight: 400; font-size: .75rem; }
tbody tr:last-child > * { border-bottom: 1.5px solid var(--text); }
th:first-child {
  position: sticky; left: 0; z-index: 1; padding-left: 0; text-align: left; background: var(--paper); font-weight: 600;
}
th.words, td.words { text-align: left; }
td.words { min-width: 9rem; white-space: normal; }
td { position: relative; }
td sup { position: absolute; font-weight: 400; line-height: 1.2; }
td.best { color: var(--accent); font-weight: 700; }
figure { margin: 1.6rem 0; }
figure img {
  display: block; max-width: 100%; padding: .6rem; background: #ffffff; border: 1px solid var(--line);
}
figure img[src^="data:image/svg"] { width: 44rem; }
figcaption { margin-top: .5rem; max-width: 44rem; color: var(--quiet); font-size: .9rem; }
dl {
  display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .35rem 1.25rem;
  margin: 0; font-size: .92rem;
}
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; white-space: pre-line; }
pre {
  margin: .6rem 0; padding: .7rem .9rem; overflow-x: auto; border: 1px solid var(--line); border-radius: 4px;
  font: .82rem/1.45 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
code { font: .88em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--accent); font-size: .95rem; }
@media (max-width: 30rem) {
  body { padding-top: 1.5rem; }
  h1 { font-size: 1.4rem; }
  th, td { padding-left: .45rem; padding-right: .45rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .6rem; }
  figure img { padding: .25rem; }
}
@media print { body { max-width: none; padding: 0; } figure, table { break-inside: avoid; } }
"""

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>$style</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")
"""Values are put in as they are: escape them first."""
