"""A run that was really trained, to export."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# the tests are no package, and share their examples
sys.path.append(str(Path(__file__).parent))

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here may ask the network; read when transformers is imported
os.environ["TRANSFORMERS_VERBOSITY"] = "error"


@pytest.fixture(scope="session")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder, evaluated too; not to be written to."""
    from example_exports import dape, make_architecture, run_settings

    from megadape.config import dump_yaml
    from megadape.evaluation.run import evaluate_all
    from megadape.evaluation.settings import EvaluationSettings
    from megadape.testing import Silent
    from megadape.training.launch import train

    run_dir = tmp_path_factory.mktemp("export") / "run"
    architecture = make_architecture({"kind": "kerple_log"}, dape("concat_residual"), tied_embeddings=True)
    run = run_settings(architecture, run_dir, corpus)
    train(run, dump_yaml(run), Silent())
    evaluate_all(run_dir, run.data, EvaluationSettings(lengths=(16, 32), sequences=2))
    return run_dir
