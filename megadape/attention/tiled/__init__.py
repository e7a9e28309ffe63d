"""Exact attention in memory linear in length, in plain torch: tiles are computed, used and forgotten.

From the outside in: ``backend`` turns a request into a ``plan``, ``function`` is what autograd sees, ``forward`` and
``backward`` walk over blocks of query rows (``blocks``), ``sources`` and ``computed`` bring the position bias to a
block and its gradient back, ``mixing`` and ``convolution`` turn scores into logits a few thousand pairs at a time.
"""

from megadape.attention.tiled.backend import Tiled

__all__ = ["Tiled"]
