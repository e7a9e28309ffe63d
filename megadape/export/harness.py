"""Runs in EleutherAI's lm-evaluation-harness, as its model ``megadape``.

The harness finds models in modules that were imported; this one is also its command, with the model there::

    python -m megadape.export.harness run --model megadape --model_args run=runs/demo --tasks lambada_openai

The run's model is exported in memory and given to the harness's own adapter of transformers. Texts are never cut: the
harness cuts them, without a word, at the length that a model names, and that is 2^20 here unless ``max_length`` says
otherwise.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from megadape.errors import ExportError, MegadapeError
from megadape.export.check import load_exported
from megadape.export.exporting import ExportRequest, export_run
from megadape.export.model_files import MAX_POSITIONS
from megadape.export.tokenizers import load_exported_tokenizer

try:
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
except ImportError as missing:
    reason = f"the harness needs {missing.name}: pip install 'megadape[harness]'"
    if __name__ == "__main__":
        sys.exit(f"megadape: {reason}")
    raise ExportError(reason) from missing

logger = logging.getLogger(__name__)


@register_model("megadape")
class MegadapeLM(HFLM):
    """A run's model.

    Args:
        run: the run's folder.
        step: which checkpoint; default: the newest sound one.
        max_length: tokens that a text may have; longer ones are cut on the left.
        device: where to compute; default: a GPU where there is one.
        dtype: of the computation; default float32.
        batch_size: texts at once.
        more: what ``HFLM`` knows.
    """

    def __init__(
        self,
        run: str,
        step: int | None = None,
        max_length: int | None = None,
        device: str | None = None,
        dtype: str = "float32",
        batch_size: int | str = 1,
        **more: Any,  # noqa: ANN401
    ) -> None:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made) / "exported"
            export_run(ExportRequest(Path(run), folder, step=step))
            model, tokenizer = load_exported(folder), load_exported_tokenizer(folder)
        where = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if not model.model.encoding.settled and str(batch_size) != "1":
            logger.info("%s: what its encoding makes of a text depends on the text's length: one text at a time", run)
            batch_size = 1  # the harness pads on the right without telling the model
        super().__init__(
            pretrained=model.to(where, getattr(torch, dtype)),
            tokenizer=tokenizer,
            max_length=max_length or MAX_POSITIONS,
            batch_size=batch_size,
            **more,
        )


def main() -> None:
    """The harness's own command; a user's mistake is one sentence."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except MegadapeError as error:
        sys.exit(f"megadape: {error}")


if __name__ == "__main__":
    main()
