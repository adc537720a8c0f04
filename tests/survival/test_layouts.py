"""Resumed with other loader threads: the same bits; with other processes: the same pictures.

Two processes that go on after one, and one after two, are in `tests/distributed`.
"""

import io
import json
import shutil

import numpy as np
import pytest
from test_steps import SETTINGS, splits, start

from looktwice import train
from looktwice.augment import policy
from looktwice.checkpoint import list_checkpoints
from looktwice.config import to_toml, with_values
from looktwice.data import Loader
from looktwice.run import Run

BATCH = 16


def batches(threads=0, share=None, steps=(0, 15)):
    loader = Loader(
        splits().train, policy("simclr", size=8), batch_size=BATCH, seed=3, threads=threads,
        share=share,
    )  # fmt: skip
    found = [(b.step, b.epoch, b.indices.copy(), b.views[0].copy()) for b in loader.batches(*steps)]
    return loader, found


def assert_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a[:2] == b[:2]
        assert np.array_equal(a[2], b[2])
        assert np.array_equal(a[3], b[3])


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_batches_are_the_same_bits_for_any_threads_and_after_a_restart(threads):
    _, expected = batches()
    assert_equal(batches(threads)[1], expected)
    assert_equal(batches(threads, steps=(7, 15))[1], expected[7:])


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_global_batch_is_the_same_bits_for_any_processes(processes):
    each = BATCH // processes
    parts = [batches(share=slice(r * each, (r + 1) * each))[1] for r in range(processes)]
    together = [
        (*step[0][:2], *(np.concatenate([part[n] for part in step]) for n in (2, 3)))
        for step in zip(*parts, strict=True)
    ]
    assert_equal(together, batches()[1])


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_an_epoch_holds_each_sample_once_but_for_its_last_partial_batch(processes):
    each = BATCH // processes
    loader, _ = batches(steps=(0, 0))
    pictures = len(splits().train)
    for epoch in range(3):
        first = epoch * loader.steps_per_epoch
        steps = (first, first + loader.steps_per_epoch)
        seen = []
        for r in range(processes):
            _, found = batches(share=slice(r * each, (r + 1) * each), steps=steps)
            seen += [i for batch in found for i in batch[2].tolist()]
        assert len(seen) == len(set(seen)) == pictures // BATCH * BATCH
        assert set(seen) <= set(range(pictures))


def test_a_run_goes_on_with_other_loader_threads_to_the_same_bits(tmp_path):
    whole, _ = start(tmp_path / "whole")
    assert SETTINGS["data.threads"] == 0
    for threads in (1, 2, 4):
        copy = Run(tmp_path / f"copy-{threads}")
        shutil.copytree(whole.path, copy.path)
        copy.summary_file.unlink()
        copy.encoder_file.unlink()
        for checkpoint in list_checkpoints(copy.checkpoints)[5:]:
            shutil.rmtree(checkpoint)
        other = with_values(copy.config(), {"data.threads": threads})
        copy.config_file.write_text(to_toml(other))
        train.resume(copy.path, file=io.StringIO(), splits=splits())
        assert copy.encoder_file.read_bytes() == whole.encoder_file.read_bytes()
        records = [
            [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]
            for lines in (r.metrics_file.read_text().splitlines() for r in (whole, copy))
        ]
        assert records[0] == records[1]
