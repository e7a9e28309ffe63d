"""Exact DAPE attention on a GPU, in Triton.

``backend.py`` is imported with megadape and imports no Triton itself; ``function.py`` is what autograd sees,
``chunks.py`` cuts the work, ``scene.py`` shares a chunk out. ``launch.py`` starts the kernels of ``products.py``
(scores, and gradients of queries, keys and values) and ``softmax.py``, ``added.py`` those of ``mix.py`` and
``mix_backward.py`` (the bias and the mixer; begin with ``walk.py``). ``resources.py`` says what they take of a GPU.
"""

from megadape.attention.gpu.backend import Triton

__all__ = ["Triton"]
