"""What the allocator keeps and gives back, counted by the system in processes of their own."""

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

GAPS = """
import torch
from looktwice.allocation import give_back_freed_memory, keep_freed_memory

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096

keep_freed_memory()
blocks = [torch.zeros(1 << 18) for _ in range(200)]  # 1 MiB each
del blocks[:-1]  # the last one holds the heap's end
before = resident()
give_back_freed_memory()
print(before - resident())
"""


# glibc's first thresholds, held: left alone they grow with what is freed, at times far enough.
HELD = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def printed(program: str) -> int:
    command = [sys.executable, "-c", program]
    return int(subprocess.check_output(command, text=True, env={**os.environ, **HELD}))


def test_steps_reuse_the_memory_of_the_last_one() -> None:
    pages = 10 * 8 * (8 << 20) // 4096
    assert printed(FAULTS.format(keep=False)) > pages / 2  # otherwise this test could not fail
    assert printed(FAULTS.format(keep=True)) < pages / 100


def test_gaps_are_given_back() -> None:
    assert printed(GAPS) > 150 << 20
