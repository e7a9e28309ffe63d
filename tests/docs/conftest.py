"""Helpers of the tests of the pages."""

from __future__ import annotations

import sys
from pathlib import Path

# the tests are no package, and share what reads the pages
sys.path.append(str(Path(__file__).parent))
