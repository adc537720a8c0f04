"""How the documentation is built: `make docs` writes docs/_build/index.html."""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

import looktwice

project = "looktwice"
author = "The looktwice developers"
project_copyright = "The looktwice developers, MIT licence"
version = release = looktwice.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4  # GitHub's anchors
nitpicky = False

html_theme = "furo"
html_title = f"looktwice {release}"
html_copy_source = False

default_role = "code"  # docstrings write `name` as Markdown does
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def setup(app: Any) -> None:
    """Name CHANGELOG.md and the like, which stand outside of docs, instead of linking them."""
    outside = re.compile(r"\[([^\]]+)\]\(\.\./([A-Z]+\.md)\)")

    def read(_app: Any, _name: str, source: list[str]) -> None:
        source[0] = outside.sub(r"\1 (`\2`)", source[0])

    app.connect("source-read", read)
