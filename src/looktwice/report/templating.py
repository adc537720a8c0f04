"""What the pages' templates share: escaping of whatever text, and their filters."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from looktwice.report import boxes, figures, gallery, numbers

TEMPLATES = Path(__file__).parent / "templates"
BAD_FILES_SHOWN = 200
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, but for tab and newline
    "\u2028\u2029\u202a-\u202e\u2066-\u2069"  # line separators, embeddings, overrides, isolates
    "\ud800-\udfff]"  # what os.fsdecode makes of bytes that are not UTF-8
)
NAME_LENGTH = 60  # letters of a class or file name before its middle is left out


def render_page(template: str, **values: object) -> str:
    """Return the text of one of the templates."""
    return _templates().get_template(template).render(**values)


def shorten(text: str, length: int = NAME_LENGTH) -> str:
    """Return a name without its middle when it is longer than ``length`` letters."""
    half = length // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def printable(value: object) -> object:
    """Return text with control letters, bidi overrides and stray surrogates shown as escapes.

    What is left can be written as UTF-8 and cannot reorder the text around it.
    """
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), value)


@functools.cache
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        autoescape=True,
        finalize=printable,
        loader=jinja2.FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    helpers: dict[str, Any] = {
        "badge_width": boxes.badge_width,
        "count": numbers.count,
        "decimals": numbers.decimals,
        "interval": numbers.interval,
        "percent": numbers.percent,
        "points": numbers.points,
        "row_name": figures.row_name,
        "short": numbers.short,
        "shorten": shorten,
    }
    templates.filters.update(helpers)
    script = (TEMPLATES / "map.js").read_text("utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    templates.globals.update(
        badge_height=boxes.BADGE_HEIGHT,
        bad_files_shown=BAD_FILES_SHOWN,
        line_widths=gallery.line_widths,
        map_script_hash=base64.b64encode(digest).decode("ascii"),
        map_script_text=Markup(script),
        panel_height=figures.PANEL_HEIGHT,
    )
    return templates
