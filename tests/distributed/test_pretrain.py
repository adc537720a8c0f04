"""Training in two processes: the run of one; stopped and broken in every way, and resumed."""

import contextlib
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

from looktwice.checkpoint import list_checkpoints, load_checkpoint
from looktwice.cli import main
from looktwice.run import Run

STEPS = 12
QUICK = [
    "--size", "8", "-b", "8", "--steps", STEPS, "--threads", "1", "--model.image-size", "8",
    "--optim.warmup-epochs", "0", "--train.checkpoint-every", "1", "--train.keep-last", "100",
]  # fmt: skip


def records(run):
    found = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "time"} for record in found]


def steps_saved(run):
    return [int(path.name.removeprefix("step-")) for path in list_checkpoints(run.checkpoints)]


def assert_equal_runs(a, b):
    assert filecmp.cmp(a.encoder_file, b.encoder_file, shallow=False)
    assert records(a) == records(b)
    ends = [load_checkpoint(list_checkpoints(run.checkpoints)[-1]) for run in (a, b)]
    for part, tensors in ends[0][0].items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, ends[1][0][part][name]), (part, name)


def assert_close_runs(a, b):
    """Equal to rounding for an epoch; after that small differences have grown."""
    (untrained, first, *_), (other_untrained, other_first, *_) = records(a), records(b)
    assert len(records(a)) == len(records(b))
    assert untrained == other_untrained
    assert first["loss"] == pytest.approx(other_first["loss"], rel=1e-5)
    assert first["step"] == other_first["step"]


@pytest.fixture(scope="module")
def alone(pictures, tmp_path_factory):
    threads = torch.get_num_threads()
    out = tmp_path_factory.mktemp("runs") / "alone"
    assert main([str(a) for a in ["pretrain", "-d", pictures, "-o", out, *QUICK]]) == 0
    torch.set_num_threads(threads)
    return Run(out)


@pytest.fixture(scope="module")
def together(pictures, torchrun, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "together"
    done = torchrun("pretrain", "-d", pictures, "-o", out, *QUICK)
    assert done.code == 0, done
    return Run(out), done


def test_two_processes_train_the_run_of_one(alone, together):
    run, _ = together
    assert_close_runs(alone, run)
    assert records(run)[-1]["step"] == STEPS
    assert steps_saved(run) == steps_saved(alone)
    assert {p.name for p in run.path.iterdir()} == {p.name for p in alone.path.iterdir()}


def test_the_first_process_alone_prints_and_writes(together):
    run, done = together
    assert not done.ours, done
    assert re.search("1 thread in each of 2 processes", done.out), done
    for line in ("^run ", "^epoch   0/2", "^epoch   1/2", "^trained in", "^next: "):
        assert len(re.findall(line, done.out, re.MULTILINE)) == 1, done
    assert len(records(run)) == len(run.log_file.read_text().splitlines()) == 3


def test_stopped_killed_and_failing_processes_resume_to_the_same_bits(
    pictures, torchrun, together, tmp_path
):
    run = Run(tmp_path / "run")
    start = ["pretrain", "-d", pictures, "-o", run.path, *QUICK]

    done = torchrun(*start, plant="INT:1:1")
    stopped = steps_saved(run)[-1]
    assert re.search(rf"^stopped after step {stopped} of {STEPS}, saved", done.out, re.M), done
    assert done.ours == ["looktwice: interrupted"], done
    assert 0 < stopped < 5

    resume = ["resume", run.path]
    done = torchrun(*resume, plant=f"TERM:0:{stopped}")
    assert re.search(rf"goes on at step {stopped} of {STEPS}", done.out), done
    stopped = steps_saved(run)[-1]
    assert re.search(rf"^stopped after step {stopped} of {STEPS}, saved", done.out, re.M), done
    assert done.ours == ["looktwice: stopped by SIGTERM"], done
    assert stopped < 9

    done = torchrun(*resume, plant="kill:1:9")
    assert done.code != 0
    assert not done.ours, done
    assert "SIGKILL" in done.errors
    assert steps_saved(run)[-1] == 9

    done = torchrun(*resume, plant="raise:1:10")
    assert done.code != 0
    message = "unexpected ValueError: the planted error (--debug shows where)"
    assert done.ours == [f"looktwice: process 1: {message}"], done
    assert re.search(f"Root Cause.*rank +: 1 .*: {re.escape(message)}", done.errors, re.S), done
    assert "planted.py" not in done.errors.split("Root Cause")[1]

    done = torchrun(*resume, plant="full:0:10")
    assert done.code != 0
    (line,) = done.ours
    assert re.fullmatch("looktwice: cannot write .*step-00000011: No space left.*", line), done
    assert steps_saved(run)[-1] == 10

    done = torchrun(*resume)
    assert done.code == 0, done
    assert_equal_runs(together[0], run)
    assert len(run.log_file.read_text().splitlines()) == 3


def without_the_end(run, folder, step):
    copy = Run(folder)
    shutil.copytree(run.path, folder)
    copy.encoder_file.unlink()
    copy.summary_file.unlink()
    for checkpoint in list_checkpoints(copy.checkpoints)[step:]:
        shutil.rmtree(checkpoint)
    return copy


def test_a_run_of_one_process_is_resumed_by_two(alone, torchrun, tmp_path):
    copy = without_the_end(alone, tmp_path / "copy", 4)
    whole = copy.config_file.read_text().replace("micro_batch = 0", "micro_batch = 8")
    copy.config_file.write_text(whole.replace("\nthreads = 1\n", "\nthreads = 64\n"))
    done = torchrun("resume", copy.path)
    assert re.search(r"torch threads in each process: \d+ instead of 64", done.out), done
    assert done.code == 0, done
    assert_close_runs(alone, copy)


def test_a_run_of_two_processes_is_resumed_by_one(together, tmp_path):
    copy = without_the_end(together[0], tmp_path / "copy", 4)
    assert main(["resume", str(copy.path)]) == 0
    assert_close_runs(together[0], copy)


@contextlib.contextmanager
def two_hosts():
    """Two network namespaces with a cable between them; yields (name, interface, address)."""
    names = [f"looktwice-{os.getpid()}-{side}" for side in "ab"]

    def ip(*arguments):
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no network namespaces here: ip {arguments[0]}: {done.stderr.strip()}")

    if shutil.which("ip") is None:
        pytest.skip("no network namespaces here: there is no command ip")
    try:
        for name in names:
            ip("netns", "add", name)
        ends = ["netns", names[0], "type", "veth", "peer", "name", "cable1", "netns", names[1]]
        ip("link", "add", "cable0", *ends)
        for number, name in enumerate(names):
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "addr", "add", f"10.77.0.{number + 1}/24", "dev", f"cable{number}")
            ip("-n", name, "link", "set", f"cable{number}", "up")
        yield [(name, f"cable{n}", f"10.77.0.{n + 1}") for n, name in enumerate(names)]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def test_two_hosts_train_the_run_of_one_with_two_processes(
    pictures, start_process, together, tmp_path
):
    started, done = start_process
    out = tmp_path / "run"
    with two_hosts() as hosts, contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                started(
                    ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run",
                     "--nnodes=2", "--nproc-per-node=1", f"--local-addr={address}",
                     "--rdzv-backend=c10d", "--rdzv-endpoint=10.77.0.1:29400",
                     f"--rdzv-conf=is_host={int(number == 0)}",
                     "-m", "looktwice", "pretrain", "-d", pictures, "-o", out, *QUICK],
                    GLOO_SOCKET_IFNAME=interface,
                )
            )
            for number, (name, interface, address) in enumerate(hosts)
        ]  # fmt: skip
        ends = [done(process) for process in processes]
    assert [end.code for end in ends] == [0, 0], ends
    assert_equal_runs(together[0], Run(out))
    assert len([end for end in ends if end.out]) == 1, ends
