"""Trackers: what they wrote is read back, and a resumed run goes on in the same place."""

import contextlib
import io
import resource
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from looktwice import train
from looktwice.config import resolve
from looktwice.data import open_splits
from looktwice.errors import RunError, UsageError
from looktwice.run import read_metrics
from looktwice.tracking import build_tracker, tracked

NUMBERS = {"loss": 4.5, "chance_loss": 6.236, "top1": 0.41, "learning_rate": 0.123456,
           "knn": 0.812, "alignment": 0.5, "seconds": 30.0, "memory_mb": 812.3}  # fmt: skip


def record(step):
    values = {k: NUMBERS[k] for k in ("loss", "chance_loss", "top1", "learning_rate", "knn")}
    times = {k: NUMBERS[k] for k in ("seconds", "memory_mb")}
    health = {"alignment": NUMBERS["alignment"], "effective_rank": None}
    return {"epoch": step // 10, "step": step, **values, "health": health, "time": times}


def write(name, folder, steps, *, after=0):
    tracker = build_tracker(name)
    with tracked(tracker, folder, {"train.epochs": 2.0}, after):
        for step in steps:
            tracker.write(record(step))


@pytest.fixture(autouse=True)
def no_settings_of_wandb(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(name, "")  # so that what is set below is taken back
        monkeypatch.delenv(name)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard")).Reload()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_tensorboard_reads_back_what_was_written(tmp_path):
    write("tensorboard", tmp_path, [84])
    found = events(tmp_path)
    assert set(found.Tags()["scalars"]) == set(NUMBERS)
    for name, value in NUMBERS.items():
        (scalar,) = found.Scalars(name)
        assert (scalar.step, scalar.value) == (84, pytest.approx(value))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
@pytest.mark.parametrize(
    ("after", "again", "seen"),
    [(10, [20, 30], [0, 10, 20, 30]), (0, [0, 10], [0, 10])],
    ids=["a checkpoint", "none"],
)
def test_tensorboard_goes_on_after_the_checkpoint(tmp_path, after, again, seen):
    write("tensorboard", tmp_path, [0, 10, 20])
    write("tensorboard", tmp_path, again, after=after)
    assert [scalar.step for scalar in events(tmp_path).Scalars("loss")] == seen


def wandb_records(file):
    """The records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def whole_wandb_records(file):
    """Wandb's other process may still be writing when a run is finished."""
    for _ in range(600):
        records = list(wandb_records(file))
        if any(record.HasField("exit") for record in records):
            return records
        time.sleep(0.05)
    raise AssertionError(f"{file} was not finished within 30 s")


def values(items):
    return {i.key or "/".join(i.nested_key): i.value_json for i in items}


def wandb_history(folder):
    """By file, in order: the run's id, its name, its configuration, and each step's numbers."""
    found = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        records = whole_wandb_records(file)
        (run,) = [each.run for each in records if each.HasField("run")]
        history = [each.history for each in records if each.HasField("history")]
        rows = [(each.step.num, values(each.item)) for each in history]
        found.append((run.run_id, run.display_name, values(run.config.update), rows))
    return found


def test_wandb_reads_back_what_was_written(tmp_path):
    write("wandb", tmp_path / "simclr-001", [0, 10])
    ((_, name, config, rows),) = wandb_history(tmp_path / "simclr-001")
    assert name == "simclr-001"
    assert float(config["train.epochs"]) == 2
    assert [step for step, _ in rows] == [0, 10]
    for _, items in rows:
        own = {key: float(text) for key, text in items.items() if not key.startswith("_")}
        assert own == pytest.approx(NUMBERS)


def test_wandb_goes_on_with_the_same_run(tmp_path):
    write("wandb", tmp_path, [0, 10])
    write("wandb", tmp_path, [20], after=10)
    first, second = wandb_history(tmp_path)
    assert first[0] == second[0] == (tmp_path / "wandb/id").read_text()
    assert [step for step, _ in second[3]] == [20]


def test_wandb_leaves_a_run_of_the_users_program_open(tmp_path):
    import wandb

    with wandb.init(mode="offline", dir=tmp_path, settings={"silent": True}) as own:
        write("wandb", tmp_path / "run", [0])
        own.log({"mine": 1.0})
        assert wandb.run is own
    assert wandb_history(tmp_path / "run")[0][0] != own.id


def test_wandb_is_offline_unless_the_users_variable_says_else(tmp_path, monkeypatch):
    modes = []
    monkeypatch.setattr("looktwice.tracking._wandb_run", lambda mode, *_: modes.append(mode))
    build_tracker("wandb").begin(tmp_path, {}, 0)
    monkeypatch.setenv("WANDB_MODE", "online")
    build_tracker("wandb").begin(tmp_path, {}, 0)
    assert modes == ["offline", "online"]


def test_a_refusal_of_wandb_is_one_line(tmp_path, monkeypatch):
    import wandb

    def refuse(**_):
        raise wandb.errors.UsageError("no API key")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(RunError, match=r"^--train\.tracker wandb: no API key$"):
        build_tracker("wandb").begin(tmp_path, {}, 0)


@contextlib.contextmanager
def full_disk(size):
    """Cut files at a size, as a full disk cuts them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_a_full_disk_is_named_and_what_was_written_stays(tmp_path, capfd):
    def fill():
        with tracked(tracker, tmp_path, {}, 0):
            for step in range(0, 1000, 10):
                tracker.write(record(step))

    tracker = build_tracker("tensorboard")
    with full_disk(1000), pytest.raises(RunError, match="tensorboard: No space left"):
        fill()
    assert capfd.readouterr() == ("", "")  # no thread complains
    assert [scalar.step for scalar in events(tmp_path).Scalars("loss")][:3] == [0, 10, 20]
    write("tensorboard", tmp_path, [20], after=10)
    assert [scalar.step for scalar in events(tmp_path).Scalars("loss")] == [0, 10, 20]


def test_what_ended_a_run_is_told_even_if_its_tracker_cannot_close(tmp_path, monkeypatch):
    def fail():
        with tracked(tracker, tmp_path, {}, 0):
            raise RunError("the loss is nan")

    def no_end(*, finished):
        assert not finished
        raise RunError("cannot write")

    tracker = build_tracker("none")
    monkeypatch.setattr(tracker, "end", no_end)
    with pytest.raises(RunError, match="the loss"):
        fail()


def test_the_old_option_is_told_apart(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text("[train]\nepochs = 1\ntensorboard = true\n")
    with pytest.raises(UsageError, match=r"config\.toml: train\.tensorboard is now train\.tracker"):
        resolve(file=file, environ={})


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_run_is_tracked_through_a_resume(tmp_path, name):
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (80, 10, 10, 3), dtype=np.uint8)
    splits = open_splits(pictures, validation_fraction=0.2, test_fraction=0.2, seed=0)
    flags = {"train.steps": 6, "train.batch_size": 16, "train.threads": 1, "train.tracker": name,
             "train.device": "cpu", "augment.size": 8}  # fmt: skip
    config = resolve(recipe="simclr-tiny", flags=flags, environ={})
    run = train.start(config, tmp_path / "run", command="", file=io.StringIO(), splits=splits)
    whole = steps_of(run.path, name)
    assert whole == [r["step"] for r in read_metrics(run)]
    run.encoder_file.unlink()  # as if it had been killed before the end
    last = sorted(run.checkpoints.iterdir())[-1]
    last.rename(Path(tmp_path / last.name))
    train.resume(run.path, splits=splits, file=io.StringIO())
    assert steps_of(run.path, name) == (whole if name == "tensorboard" else [*whole, whole[-1]])


def steps_of(folder, name):
    if name == "tensorboard":
        return [scalar.step for scalar in events(folder).Scalars("chance_loss")]
    return [step for _, _, _, rows in wandb_history(folder) for step, _ in rows]
