"""Helpers of the tests of studies."""

from __future__ import annotations

import sys
from pathlib import Path

# the tests are no package, and share their example studies
sys.path.append(str(Path(__file__).parent))
