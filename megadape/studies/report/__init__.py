"""The report of a comparison: rows for a terminal, JSON for programs, Markdown, and one HTML page that stands alone."""

from megadape.studies.report.comparison import DemoReport, MethodResult, comparison_rows, results_json
from megadape.studies.report.html import write_html
from megadape.studies.report.markdown import write_markdown

__all__ = ["DemoReport", "MethodResult", "comparison_rows", "results_json", "write_html", "write_markdown"]
