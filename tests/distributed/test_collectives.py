"""Collectives and synchronised batch-norm in two and three processes, and alone."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from looktwice import build, distributed, launched
from looktwice.augment import policy
from looktwice.cli import main
from looktwice.data import Loader, open_source
from looktwice.errors import UsageError

CHECKS = Path(__file__).with_name("collectives.py")


@pytest.mark.parametrize("processes", [2, 3])
def test_collectives_and_synchronised_batch_norm(start_process, processes):
    started, done = start_process
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               f"--nproc-per-node={processes}", CHECKS, processes]  # fmt: skip
    with started(command) as process:
        ended = done(process)
    assert ended.code == 0, ended
    assert ended.out == "all checks passed\n", ended


def test_alone_everything_is_returned_as_it_is():
    rows = torch.ones(3, 2, requires_grad=True)
    assert torch.equal(distributed.gather_rows(rows), rows)
    assert not distributed.gather_rows(rows).requires_grad
    distributed.sum_over_processes([rows])
    distributed.copy_from_first([rows])
    distributed.wait_for_first()
    assert torch.equal(rows, torch.ones(3, 2))
    assert distributed.from_first(3) == 3
    assert distributed.from_all(3) == [3]
    assert (distributed.any_process(True), distributed.any_process(False)) == (True, False)
    assert distributed.share(6) == slice(0, 6)


@pytest.mark.parametrize("processes", [2, 4])
def test_shares_of_processes_are_the_batch_of_one(processes):
    images = np.random.default_rng(0).integers(0, 256, (30, 9, 9, 3), dtype=np.uint8)
    source = open_source(images)

    def batches(share):
        loader = Loader(
            source, policy("simclr", size=8), batch_size=8, seed=3, threads=0, share=share
        )
        return [
            (b.step, b.epoch, b.indices.copy(), b.views[0].copy()) for b in loader.batches(0, 7)
        ]  # fmt: skip

    each = 8 // processes
    parts = [batches(slice(r * each, (r + 1) * each)) for r in range(processes)]
    for whole, *shares in zip(batches(None), *parts, strict=True):
        assert all(share[:2] == whole[:2] for share in shares)
        assert np.array_equal(np.concatenate([share[2] for share in shares]), whole[2])
        assert np.array_equal(np.concatenate([share[3] for share in shares]), whole[3])


@pytest.mark.parametrize(
    ("processes", "variable", "cores", "threads"),
    [
        ("2", "1", 8, 4),
        ("3", "1", 8, 2),
        ("4", "1", 2, 1),
        ("2", "5", 8, None),
        ("1", "1", 8, None),
    ],
)
def test_threads_are_the_cores_a_process_may_use(monkeypatch, processes, variable, cores, threads):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    assert build.all_threads() == (threads or build._ALL_THREADS)


def test_gpus_that_are_not_there_or_shared_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with (
        pytest.raises(UsageError, match=r"--device cuda:1 is one GPU, and there are 4 processes"),
        distributed.joined("cuda:1"),
    ):
        pass
    with (
        pytest.raises(UsageError, match="process 2 of this machine finds no GPU .* among 2"),
        distributed.joined("cuda"),
    ):
        pass


def test_only_the_machines_first_process_repeats_anothers_end(monkeypatch, capsys):
    monkeypatch.setattr(launched, "PATIENCE", 0.0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    for rank, local_rank, printed in [
        (0, 0, "looktwice: it ended\n"), (1, 1, ""), (2, 0, "looktwice: process 2: it ended\n"),
    ]:  # fmt: skip
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))
        launched.tell("it ended", follows=True)
        assert capsys.readouterr().err == printed


def test_an_error_that_all_meet_is_told_by_the_first(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(launched, "PATIENCE", 0.1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = []
    for rank, line in [("0", "one"), ("1", "one"), ("1", "another")]:
        (tmp_path / rank).mkdir(exist_ok=True)
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / rank / "error.json"))
        launched.tell(line, follows=False)
        told.append(capsys.readouterr().err)
    assert told == ["looktwice: one\n", "", "looktwice: process 1: another\n"]


def test_an_environment_without_numbers_is_told_in_one_line(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "two")
    assert main(["recipes"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("looktwice: the environment says WORLD_SIZE='two', which is no number")
    assert told.count("\n") == 1


def test_a_rank_alone_makes_no_process_silent(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert main(["recipes"]) == 0
    assert "simclr" in capsys.readouterr().out


def test_a_group_of_the_callers_is_taken_and_left(tmp_path):
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    try:
        with distributed.joined("cpu"):
            assert distributed.from_all(3) == [3]
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()
