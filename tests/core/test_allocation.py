"""Freed memory is kept: counted in page faults, in processes that do nothing else."""

from __future__ import annotations

import os
import subprocess
import sys

FAULTS = """
import resource
import torch
from looktwice.allocation import keep_freed_memory
if {keep}:
    keep_freed_memory()

def step():
    activations = [torch.zeros(1 << 21) for _ in range(8)]  # 8 MiB each

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


# glibc's first thresholds, held: left alone they grow with what is freed, at times far enough.
HELD = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def faults(keep: bool) -> int:
    command = [sys.executable, "-c", FAULTS.format(keep=keep)]
    return int(subprocess.check_output(command, text=True, env={**os.environ, **HELD}))


def test_steps_reuse_the_memory_of_the_last_one() -> None:
    pages = 10 * 8 * (8 << 20) // 4096
    assert faults(keep=False) > pages / 2  # otherwise this test could not fail
    assert faults(keep=True) < pages / 100
