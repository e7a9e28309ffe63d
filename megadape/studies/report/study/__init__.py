"""The report of a study: tables in the paper's shape, paired comparisons, curves, costs, positions, passkeys, heads."""

from megadape.studies.report.study.writing import Profiles, write_study_report

__all__ = ["Profiles", "write_study_report"]
