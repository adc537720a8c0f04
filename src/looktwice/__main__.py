"""``python -m looktwice``."""

from looktwice.cli import command

command()
