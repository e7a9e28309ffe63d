"""The reports of a comparison and of a study: rows for a terminal, JSON for programs, Markdown, CSV, and one HTML page
that stands alone."""

from megadape.studies.report.comparison import DemoReport, MethodResult, comparison_rows, results_json
from megadape.studies.report.html import write_html
from megadape.studies.report.markdown import write_markdown
from megadape.studies.report.study import write_study_report

__all__ = [
    "DemoReport",
    "MethodResult",
    "comparison_rows",
    "results_json",
    "write_html",
    "write_markdown",
    "write_study_report",
]
