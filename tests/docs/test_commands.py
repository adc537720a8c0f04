"""Every command of README and docs runs, on tiny pictures and for two steps.

What stands for something is replaced as `STANDS_FOR` says; what cannot run here is in `NOT_RUN`,
with the reason. `make docs-check` runs what is left out only for its time.
"""

import contextlib
import os
import shlex
from pathlib import Path

import pages
import pytest

from looktwice.cli import app, main

QUICK = (
    "LOOKTWICE_AUGMENT_SIZE",
    "LOOKTWICE_TRAIN_BATCH_SIZE",
    "LOOKTWICE_TRAIN_BN_GROUP",
    "LOOKTWICE_TRAIN_STEPS",
)
"""Of `conftest.QUICK`, what a long command does without."""

STANDS_FOR = {
    "FOLDER": "pictures",
    "OTHER": "others",
    "RUN": "runs/simclr-small-001",
    "OTHER_RUN": "runs/other",
    "NEW_FOLDER": "new",
    "cifar10": "pictures",
    "timm:resnet18": "timm:resnet18 --weights moco.pth --image-size 32",
    "--epochs 20": "--steps 2",
    "--minutes 10": "--steps 2",
    "--count 2000": "--count 24",
    "linear --seeds 3": "linear --seeds 2 --epochs 0.1",
}
"""Words of a command, and what is typed for them."""

NOT_RUN = {
    "make demo": "makes an environment and trains for minutes; `looktwice demo` is in LONG",
    "make test": "is what runs this",
    "make format": "changes the sources",
    "make docs": "test_pages.py builds the site",
    "make bench": "wants an idle machine for many minutes",
    "make campaign": "takes more than an hour",
    "git clone URL looktwice '&&' cd looktwice": "fetches from the network",
    "looktwice '$@' '&'": "a part of a script for Slurm; tests/survival sends the signals",
    "pip install .": "fetches from the network; make demo does it",
    "looktwice study policy --data FOLDER --minutes 60": "many runs; tests/study/test_search.py",
    "looktwice study temperature --seeds 3 --jobs 2": "15 runs; tests/study/test_runner.py",
    "looktwice study composition --data emoji --seeds 3 --jobs 2 --minutes 60": "many runs",
    "torchrun --standalone --nproc-per-node=2 -m looktwice pretrain --data FOLDER --epochs 20": (
        "several processes; tests/distributed/test_pretrain.py"
    ),
    "torchrun --standalone --nproc-per-node=2 -m looktwice resume RUN": (
        "several processes; tests/distributed/test_pretrain.py"
    ),
}

LONG = {"looktwice demo": "looktwice demo --minutes 0.05"}
"""What takes a minute, even so shortened: run by `make docs-check` alone."""


def typed(command):
    """Return what is typed for a command: words, and the file its output goes to or None."""
    text = f" {command} "
    for word, meant in STANDS_FOR.items():
        text = text.replace(f" {word} ", f" {meant} ")
    words = shlex.split(text)
    if ">" not in words:
        return words, None
    return words[: words.index(">")], Path(words[-1])


def run_command(command):
    words, target = typed(command)
    assert words[0] == "looktwice", f"{command!r}: say in NOT_RUN why it is not run"
    if target is None:
        return main(words[1:])
    with target.open("w") as file, contextlib.redirect_stdout(file):
        return main(words[1:])


def commands_by_page():
    found = {}
    for page, command in pages.commands():
        if command not in NOT_RUN and command not in LONG:
            found.setdefault(page, []).append(command)
    return found


@pytest.mark.parametrize("page", commands_by_page())
def test_the_commands_of_a_page_run(page, place, capsys):
    for command in commands_by_page()[page]:
        assert run_command(command) == 0, f"{command}: {capsys.readouterr().err}"


@pytest.mark.skipif("WHOLE_DOCS" not in os.environ, reason="make docs-check")
@pytest.mark.parametrize("command", LONG)
def test_a_long_command_runs(command, place, monkeypatch, capsys):
    for name in QUICK:
        monkeypatch.delenv(name)
    assert run_command(LONG[command]) == 0, capsys.readouterr().err


def test_what_is_not_run_is_known_and_does_not_grow():
    assert set(NOT_RUN) <= {command for _, command in pages.commands()}
    assert set(LONG) <= {command for _, command in pages.commands()}
    assert len(LONG) == 1
    assert len(NOT_RUN) == 14


def as_pretrain(page, code):
    """Return the words that a code span asks to parse: a command, or flags of pretrain."""
    if code.startswith("looktwice "):
        return code.split()[1:]
    if page == "docs/moving.md" and code.startswith("--"):
        return ["pretrain", *code.split()]
    return None


NO_COMMANDS = ("looktwice eval runs in one process", "looktwice --help")
"""Code spans that begin as a command does: a message, and what prints help."""


@pytest.mark.parametrize("page", pages.pages())
def test_commands_within_sentences_are_understood(page):
    for where, code in pages.inline_code():
        words = as_pretrain(where, code)
        if where != page or not words or "…" in words or code in NO_COMMANDS:
            continue
        flag_alone = words[0] == "pretrain" and len(words) == 2
        if flag_alone or all(word.isalpha() and word.islower() for word in words):
            continue  # the name of a command or of a flag alone; names are checked below
        app.parse_args(words, print_error=False, exit_on_error=False)


def test_commands_and_flags_within_sentences_exist(capsys):
    known = set(app)
    for _, code in pages.inline_code():
        if code.startswith("looktwice ") and code not in NO_COMMANDS:
            assert code.split()[1].rstrip(".,") in known, code
    app(["pretrain", "--help"])
    helped = capsys.readouterr().out
    for page, code in pages.inline_code():
        if page == "docs/moving.md" and code.startswith("--"):
            assert all(word in helped for word in code.split() if word.startswith("--")), code
