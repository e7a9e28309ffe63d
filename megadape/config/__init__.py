"""The settings of a run: YAML files that layer, ``--set`` overrides, and clear words for every mistake.

``load`` reads files left to right and lays the overrides on top:

    settings = load(["configs/models/demo.yaml", "configs/positions/dape_kerple.yaml"], ["model.num_layers=4"])

The classes that describe the settings stand beside the things that they configure; ``megadape.config.run`` assembles
them. Importing this package imports none of them, so that it stays light.
"""

from megadape.config.inspection import ABSENT, Difference, diff, render_diff, schema, show
from megadape.config.loading import Loaded, Overlay, load, load_with_origins
from megadape.config.tree import DEFAULT, OVERRIDE, Origin, dotted
from megadape.config.yaml_write import dump_yaml

__all__ = [
    "ABSENT",
    "DEFAULT",
    "OVERRIDE",
    "Difference",
    "Loaded",
    "Origin",
    "Overlay",
    "diff",
    "dotted",
    "dump_yaml",
    "load",
    "load_with_origins",
    "render_diff",
    "schema",
    "show",
]
