"""Configuration of Sphinx: ``make docs`` writes the pages to build/docs. Nothing is fetched from anywhere."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "megadape"
author = "the megadape authors"
copyright = author
version = release = metadata.version("megadape")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "mathml",
    "plain_docstrings",
    "settings_reference",
    "command_reference",
]
exclude_patterns = ["extensions", "results"]  # results are reports of studies, pages of their own
myst_enable_extensions = ["deflist", "dollarmath", "colon_fence"]
myst_heading_anchors = 3
smartquotes = False  # of "--set" it would make a dash

autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "model_config"}
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
add_module_names = False
maximum_signature_line_length = 80

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "megadape"
html_static_path: list[str] = []
html_copy_source = False
html_show_sphinx = False
