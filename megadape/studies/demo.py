"""The demo: real text, four position encodings trained at length 128 from the same start, perplexity to 8192.

    OUT/
      data/            text.bin .idx .json, tokenizer
      runs/METHOD/     ordinary run folders
      report.html      the page; extrapolation.png .csv, heads.png .csv, results.json, report.md beside it
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from megadape.data import (
    DataSettings,
    Manifest,
    PreprocessSettings,
    TokenizerSettings,
    preprocess,
    read_manifest,
    train_tokenizer,
)
from megadape.errors import DataError
from megadape.evaluation.extrapolation import Extrapolation
from megadape.evaluation.figures import draw_extrapolation, draw_heads, write_curves_csv, write_heads_csv
from megadape.machine import available_cpus, versions
from megadape.studies.local import Job, Report, run_jobs
from megadape.studies.report import DemoReport, MethodResult, results_json, write_html, write_markdown

if TYPE_CHECKING:
    from megadape.config.run import RunSettings

METHODS: dict[str, dict[str, Any]] = {
    "rope": {"positions": {"kind": "rope"}},
    "alibi": {"positions": {"kind": "alibi"}},
    "kerple_log": {"positions": {"kind": "kerple_log"}},
    "dape-kerple": {"positions": {"kind": "kerple_log"}, "mixer": {"kind": "dape"}},
}
"""What the demo compares: name -> settings."""
