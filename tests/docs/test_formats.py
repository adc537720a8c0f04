"""docs/formats.md names every field of the files that a run writes, and no other."""

import json
import re

import pages
import pytest
import safetensors

from looktwice.checkpoint import list_checkpoints, load_checkpoint
from looktwice.cli import main
from looktwice.run import Run

PAGE = (pages.ROOT / "docs" / "formats.md").read_text("utf-8")
OPEN = ("chosen", "confusion", "classes", "rows", "differences")
"""Fields whose keys are no fields: names of rows, of what a protocol chooses."""
SOME = {"top5", "top5_interval", "note"}
"""Fields that not every evaluation has."""
VALUES = {"looktwice-encoder/1", "encoder.safetensors", "looktwice.load_encoder"}
VALUES |= {"raw-pixels", "untrained", "train.monitor_every", "resume", "looktwice eval", "--config"}


def named(title):
    """The names of a section."""
    section = re.split(r"^#+ ", PAGE.split(f" {title}\n", 1)[1], flags=re.MULTILINE)[0]
    return set(re.findall(r"`([^`\n]+)`", section)) - VALUES


def fields(value):
    """The keys of a JSON value, and of what it holds."""
    if isinstance(value, list):
        return set().union(*map(fields, value))
    if not isinstance(value, dict):
        return set()
    found = set(value)
    for key, inner in value.items():
        if key in ("rows", "differences"):
            inner = list(inner.values())
        if key not in OPEN or key in ("rows", "differences"):
            found |= fields(inner)
    return found


@pytest.fixture
def run(place):
    found = Run(place / "runs" / "simclr-small-001")
    assert main(["eval", str(found.path)]) == 0
    return found


def test_every_field_is_named_and_no_other(run):
    for path in (run.environment_file, run.summary_file, run.evaluation_file):
        found = fields(json.loads(path.read_text()))
        assert found | SOME == named(f"`{path.name}`") | SOME, path.name
    records = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert fields(records) == named("`metrics.jsonl`")
    with safetensors.safe_open(run.encoder_file, "pt") as file:
        (key,) = file.metadata()
        assert {key, *json.loads(file.metadata()[key]), "format"} == named("`encoder.safetensors`")
    parts, _ = load_checkpoint(list_checkpoints(run.checkpoints)[-1])
    files = {f"{name}.safetensors" for name in parts} | {"state.json", "manifest.json"}
    assert files == {name for name in named("A checkpoint") if name.endswith(("s", ".json"))}
    written = {path.name.rstrip("/") for path in run.path.iterdir()} - {
        "checkpoints",
        "encoder.safetensors",
    }
    assert written <= named("A run")
