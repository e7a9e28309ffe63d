"""configs/positions: one file per row to compare."""

from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from megadape.attention import MixerSettings
from megadape.positions import ENCODINGS, ContextualBias, Geometry, Heads, PositionSettings, ScoreBias

FOLDER = Path(__file__).parents[2] / "configs" / "positions"
DAPE = {"alibi", "fire", "kerple", "kerple_power", "none", "rope", "t5"}


def test_the_rows() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {
        *ENCODINGS,
        *(f"dape_{name}" for name in DAPE),
        "dape_v2_kerple",
    }


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_says_what_its_name_says(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    assert set(content) == {"positions", "mixer"}
    geometry = Geometry(Heads(4), 8, 32, 64)
    encoding = TypeAdapter(PositionSettings).validate_python(content["positions"]).build(geometry)
    adds = isinstance(encoding, ScoreBias | ContextualBias)
    mixer = TypeAdapter(MixerSettings).validate_python(content["mixer"]).build(geometry.heads, with_bias=adds)
    assert (mixer is not None) == path.stem.startswith("dape_")
    kind = path.stem.removeprefix("dape_").removeprefix("v2_")
    assert content["positions"]["kind"] == ("kerple_log" if kind == "kerple" else kind)
