"""Makes the helpers of this room importable, also by the ranks of a test world."""

from __future__ import annotations

import sys
from pathlib import Path

# the tests are no package, and share their worlds
sys.path.append(str(Path(__file__).parent))
