"""Run a notebook: python tests/docs/notebooks.py NOTEBOOK RESULT, in the folder it shall run in."""

import sys

import nbformat
from nbclient import NotebookClient


def run(notebook, result):
    """Execute all cells and write them with their outputs; an error ends it."""
    content = nbformat.read(notebook, 4)
    NotebookClient(content, timeout=600, kernel_name="python3").execute()
    for cell in content.cells:
        cell.metadata.pop("execution", None)  # times of day
    nbformat.write(content, result)


if __name__ == "__main__":
    run(*sys.argv[1:])
