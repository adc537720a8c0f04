"""A study of two variants, and a way to run it."""

import io
from pathlib import Path

from looktwice.study import open_study, plan, read_results, run_study

STUDY = """
recipe = "simclr-tiny"
measures = ["linear", "knn"]
settings = { augment.size = 8, model.image_size = 8, train = { batch_size = 16, steps = 6 } }
[axes]
augment.strength = [0.5, 1.0]
"""


def made(file, pictures, out, *, seeds=2, jobs=1, text=None, **options):
    """Run a study; return its plan, its results, and what it printed."""
    if text is not None:
        Path(file).write_text(text)
    planned = plan(open_study(str(file)), data=str(pictures), seeds=seeds, jobs=jobs, folder=out)
    said = io.StringIO()
    failed = run_study(planned, jobs=jobs, file=said, **options)
    return planned, read_results(planned, timed=jobs == 1), said.getvalue(), failed
