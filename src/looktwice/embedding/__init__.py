"""Features in files: embeddings of pictures, and the search for the nearest among them."""

from __future__ import annotations

from looktwice.embedding.about import About
from looktwice.embedding.embed import Embedded, embed_target
from looktwice.embedding.formats import read_about, read_rows
from looktwice.embedding.index import Index, build_index, open_index
from looktwice.embedding.rows import Rows
from looktwice.embedding.search import Answer, Hit, search_target

__all__ = [
    "About",
    "Answer",
    "Embedded",
    "Hit",
    "Index",
    "Rows",
    "build_index",
    "embed_target",
    "open_index",
    "read_about",
    "read_rows",
    "search_target",
]
