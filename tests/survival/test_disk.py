"""Saving on disks that fail at any call: a whole checkpoint is left, and one line that says why."""

import contextlib
import errno
import os
import signal
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import faults
import pytest
import torch

import looktwice
from looktwice.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from looktwice.errors import RunError
from looktwice.storage import (
    append_line,
    move_new,
    remove_leftovers,
    write_atomic,
    write_folder_atomic,
    write_new,
)

PARTS = {"method": {"w": torch.arange(40.0)}, "optimizer": {}, "generators": {"cpu": torch.ones(9)}}


def save(folder, step):
    save_checkpoint(folder, step, PARTS, {"step": step})


def steps(folder):
    """Return the steps of the checkpoints, all of which must load."""
    return [load_checkpoint(path)[1]["step"] for path in list_checkpoints(folder)]


def another_save(folder):
    save(folder, 3)
    prune_checkpoints(folder, keep_last=2)


def the_same_again(folder):
    save(folder, 2)
    prune_checkpoints(folder, keep_last=2)


def first_save(folder):
    save(folder / "new", 3)


def prepared(folder):
    save(folder, 1)
    save(folder, 2)
    return folder


def calls_of(act, folder):
    prepared(folder)
    with faults.Shim() as shim:
        act(folder)
    return shim.log


def in_child(act, folder, at, kind):
    """Do it in a process of its own, so that it can be killed; return how it ended and why."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it neither uses nor waits for threads
        child = os.fork()
    if child == 0:
        try:
            with faults.Shim(at, kind):
                act(folder)
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    told = os.read(reader, 10_000).decode()  # it ends when the child does
    os.close(reader)
    return os.waitpid(child, 0)[1], told


@pytest.mark.parametrize("act", [another_save, the_same_again, first_save])
@pytest.mark.parametrize("kind", faults.KINDS)
def test_whichever_call_fails_a_whole_checkpoint_is_left_and_one_line_told(
    tmp_path, act, kind, cases
):
    log = calls_of(act, tmp_path / "counted")
    assert len(log) > 20 or act is first_save
    every = cases(4, 1)
    for at, (call, _) in list(enumerate(log))[faults.KINDS.index(kind) % every :: every]:
        if kind.startswith("short") and call != "write":
            continue
        folder = prepared(tmp_path / f"{at}")
        status, told = in_child(act, folder, at, kind)
        where = (kind, at, call, told)
        if kind.startswith("kill"):
            assert os.WTERMSIG(status) == signal.SIGKILL, where
        elif kind == "short write":
            assert told == "", where
        else:
            assert told.startswith("RunError: cannot "), where
            assert "\n" not in told
            assert ("No space left" if "ENOSPC" in kind else "Input/output error") in told, where
        assert steps(folder)[-1] in (2, 3), where
        if act is first_save:
            assert steps(folder / "new") in ([], [3])
            continue
        act(folder)  # as if nothing had happened
        assert steps(folder) == ([2, 3] if act is another_save else [1, 2])
        assert {p.name[:4] for p in folder.iterdir()} == {"step"}, where


def test_the_order_is_write_fsync_rename_fsync_of_the_folder(tmp_path):
    log = [each for each in calls_of(another_save, tmp_path) if each[0] in faults.CHANGES]
    hidden = next(about for call, about in log if call == "mkdir")
    renamed = log.index(("rename", hidden))
    files = ["method", "optimizer", "generators", "state.json", "manifest.json"]
    expected = [("mkdir", hidden)]
    for name in files:
        path = f"{hidden}/{name}" + ("" if "." in name else ".safetensors")
        expected += [("open", path), ("write", path), ("fsync", path)]
    expected += [("open", hidden), ("fsync", hidden), ("rename", hidden)]
    expected += [("open", str(tmp_path)), ("fsync", str(tmp_path))]
    start = log.index(expected[0])
    assert log[start : start + len(expected)] == expected
    removed = [n for n, (call, _) in enumerate(log) if call in ("unlink", "rmdir")]
    assert min(removed) > renamed + 2


@pytest.mark.parametrize("kind", faults.KINDS)
def test_single_files_and_lines(tmp_path, kind):
    def act(folder):
        write_atomic(folder / "summary.json", "new" * 100)
        append_line(folder / "metrics.jsonl", "second" * 100)

    def fresh(folder):
        folder.mkdir()
        (folder / "summary.json").write_text("old")
        (folder / "metrics.jsonl").write_text("first\n")
        return folder

    counted = fresh(tmp_path / "counted")
    with faults.Shim() as shim:
        act(counted)
    for at, _ in enumerate(shim.log):
        folder = fresh(tmp_path / f"{at}")
        in_child(act, folder, at, kind)
        remove_leftovers(folder)
        assert {p.name for p in folder.iterdir()} == {"summary.json", "metrics.jsonl"}
        assert (folder / "summary.json").read_text() in ("old", "new" * 100)
        assert (folder / "metrics.jsonl").read_text().startswith("first\n")


@contextlib.contextmanager
def small_disk(folder, size):
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(tmp_path):
    folder = tmp_path / "disk"
    big = {"method": {"w": torch.zeros(60_000)}}
    with small_disk(folder, "640k"):
        save_checkpoint(folder, 1, big, {"step": 1})
        save_checkpoint(folder, 2, big, {"step": 2})
        with pytest.raises(RunError, match=r"cannot write .*step-00000003: No space left"):
            save_checkpoint(folder, 3, big, {"step": 3})
        assert steps(folder) == [1, 2]
        assert len(list(folder.iterdir())) == 2


def test_a_folder_that_cannot_be_written(tmp_path):
    """The superuser may write everywhere, so that the check is another user's."""
    folder = prepared(tmp_path / "run")
    code = (
        "import os, sys; from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from looktwice.storage import write_folder_atomic\n"
        "os.getuid() or (os.setgid(65534), os.setuid(65534))\n"
        "write_folder_atomic(Path(sys.argv[1]) / 'step-00000003', {'x': b'x'})"
    )
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
    for parent in folder.parents[:3]:
        with contextlib.suppress(PermissionError):
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH)
    sources = str(Path(looktwice.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), sources], capture_output=True, text=True
    )
    folder.chmod(0o755)
    assert "RunError: cannot write" in done.stderr, done
    assert "Permission denied" in done.stderr
    assert steps(folder) == [1, 2]


def no_links(source, target):
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("content", [b"new", {"page": b"new"}])
def test_a_new_file_or_folder_replaces_nothing(tmp_path, monkeypatch, content, links):
    if not links:  # as on a memory stick
        monkeypatch.setattr("os.link", no_links)
    target = tmp_path / "target"
    write_new(target, content)
    kept = target if target.is_file() else target / "page"
    assert kept.read_bytes() == b"new"
    with pytest.raises(RunError, match="exists already and is left as it is"):
        write_new(target, b"other")
    (tmp_path / "source").write_bytes(b"other")
    with pytest.raises(RunError, match="exists already and is left as it is"):
        move_new(tmp_path / "source", target)
    assert kept.read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]
    move_new(tmp_path / "source", tmp_path / "moved")
    assert [path.read_bytes() for path in tmp_path.glob("[ms]o*")] == [b"other"]


def test_a_folder_is_replaced_or_kept(tmp_path):
    """Also where the kill comes between the two renames: the former one is there, and comes back."""
    target = tmp_path / "analysis"
    with faults.Shim() as shim:
        write_folder_atomic(target, {"page": b"old"})
        before = len(shim.log)
        write_folder_atomic(target, {"page": b"new"})
    for at in range(len(shim.log) - before):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        target = folder / "analysis"
        write_folder_atomic(target, {"page": b"old"})
        in_child(lambda f: write_folder_atomic(f, {"page": b"new"}), target, at, "kill")
        left = {p.name: (p / "page").read_bytes() for p in folder.iterdir() if p.name[0] != "."}
        whole = left.get("analysis", left.get("analysis.former"))
        assert whole in (b"old", b"new"), (at, left)
        write_folder_atomic(target, {"page": b"third"})
        remove_leftovers(folder)
        assert [p.name for p in folder.iterdir()] == ["analysis"]
