"""Several real processes, started by torchrun on this machine."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PLANTED = str(Path(__file__).with_name("planted.py"))
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
STANDALONE = ["--standalone", "--nproc-per-node=2"]
TIMEOUT = 240


def environment(**more):
    known = {k: v for k, v in os.environ.items() if not k.startswith(("TORCHELASTIC", "GLOO"))}
    return {**known, "OMP_NUM_THREADS": "1", **more}


@contextlib.contextmanager
def started(command, **more):
    """Start a command in its own session; whatever is left of it is killed in the end."""
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=environment(**more),
    )  # fmt: skip
    try:
        yield process
    finally:
        for number in [*descendants(process.pid), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.wait()


def descendants(number):
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{number}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [*descendants(int(child)), int(child)]
    return found


class Done:
    """What a command printed and how it ended."""

    def __init__(self, process, timeout=TIMEOUT):
        self.out, self.errors = process.communicate(timeout=timeout)
        self.code = process.returncode

    @property
    def ours(self):
        """Lines on standard error that are not torchrun's."""
        lines = self.errors.splitlines()
        return [line for line in lines if line.startswith("looktwice:")]

    def __repr__(self):
        return f"exit {self.code}\n{self.out}\n{self.errors}"


def run_together(*arguments, plant=None):
    """Run the command in two processes; return how it ended."""
    program = ["-m", "looktwice"] if plant is None else [PLANTED]
    planted = {} if plant is None else {"PLANT": plant}
    with started([*TORCHRUN, *STANDALONE, *program, *arguments], **planted) as process:
        return Done(process)


def write_pictures(folder, count=80, bad=()):
    """Two classes of noisy pictures; the bad ones are no pictures."""
    generator = np.random.default_rng(0)
    for number in range(count):
        name = "day" if number % 2 else "night"
        path = folder / name / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 128, (10, 12, 3), dtype=np.uint8) + 100 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        if number in bad:
            path.write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="session")
def torchrun():
    return run_together


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures") / "all")


@pytest.fixture(scope="session")
def damaged_pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures") / "damaged", bad=(3, 20, 41))


@pytest.fixture(scope="session")
def many_damaged_pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures") / "many", bad=range(0, 80, 3))


@pytest.fixture(scope="session")
def start_process():
    return started, Done
