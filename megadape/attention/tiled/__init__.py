"""Exact attention in memory linear in length, in plain torch: tiles are computed, used and forgotten.

From the outside in: ``backend`` reads the request, ``function`` is what autograd sees, ``forward`` and ``backward`` walk over
blocks of query rows (``blocks``), ``sources`` brings the position bias to a block and its gradient back, ``mixing`` turns
scores into logits a few thousand pairs at a time.
"""

from megadape.attention.tiled.backend import Tiled

__all__ = ["Tiled"]
