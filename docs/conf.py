"""How the documentation is built: `make docs` writes docs/_build/index.html."""

import sys
from pathlib import Path

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
