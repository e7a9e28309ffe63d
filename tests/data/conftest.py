"""Helpers of the tests of data."""

from __future__ import annotations

import sys
from pathlib import Path

# the tests are no package, and share their example datasets
sys.path.append(str(Path(__file__).parent))
