import gzip
import importlib.resources
import os
import runpy
import time
from pathlib import Path

import numpy as np
import pytest

from looktwice.data import fashion_mnist, open_source, open_splits, places
from looktwice.errors import DataError

SHIPPED = importlib.resources.files("looktwice.data") / "shipped"
SCRIPT = Path(__file__).parents[2] / "scripts" / "make_fashion_mnist_10k.py"
DEBIAN = Path(fashion_mnist.DEBIAN_FOLDER)

needs_files = pytest.mark.skipif(
    not DEBIAN.is_dir() and "CI" not in os.environ, reason="dataset-fashion-mnist is not installed"
)


@pytest.fixture(scope="module")
def official():
    """Training images and labels, read without the package."""
    packed = [
        (DEBIAN / f"train-{kind}-ubyte.gz").read_bytes() for kind in ("images-idx3", "labels-idx1")
    ]
    images, labels = (np.frombuffer(gzip.decompress(data), np.uint8) for data in packed)
    return images[16:].reshape(60_000, 28, 28), labels[8:]


def test_shipped_splits():
    splits = open_splits("fashion-mnist-10k")
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [7200, 800, 2000]
    for source, per_class in ((splits.train, 720), (splits.validation, 80), (splits.test, 200)):
        assert np.bincount(source.labels).tolist() == [per_class] * 10
        assert source.class_names[9] == "Ankle boot"
        assert source.picture_size == (28, 28)
        assert source.channels == 1


@needs_files
def test_shipped_pictures_are_those_of_the_rule(official):
    images, labels = official
    seen = [0] * 10
    expected = {"train": [], "test": []}
    for index, label in enumerate(labels.tolist()):
        if seen[label] < 1000:
            expected["train" if seen[label] < 800 else "test"].append(index)
        seen[label] += 1
    for split, indices in expected.items():
        source = open_source("fashion-mnist-10k", split=split)
        assert len(source) == len(indices)
        assert np.array_equal(source.labels, labels[indices])
        shipped = np.stack([source.image(i) for i in range(len(source))])[..., 0]
        assert np.array_equal(shipped, images[indices])


@needs_files
def test_script_writes_the_shipped_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", [str(SCRIPT), "--out", str(tmp_path / "new.npz")])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    with importlib.resources.as_file(SHIPPED / "fashion-mnist-10k.npz") as shipped:
        old, new = np.load(shipped), np.load(tmp_path / "new.npz")
        with old, new:
            assert all(np.array_equal(new[key], old[key]) for key in ("images", "labels"))


def test_script_writes_the_same_bytes_at_any_time(tmp_path):
    write_npz = runpy.run_path(str(SCRIPT))["write_npz"]
    arrays = {"images": np.arange(60, dtype=np.uint8).reshape(3, 4, 5)}
    write_npz(tmp_path / "1.npz", arrays)
    time.sleep(2.1)  # a zip archive's dates have steps of two seconds
    write_npz(tmp_path / "2.npz", arrays)
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()


def test_shipped_file_is_small_and_has_its_notice():
    with importlib.resources.as_file(SHIPPED / "fashion-mnist-10k.npz") as path:
        assert path.stat().st_size <= 5_000_000
    notice = (SHIPPED / "NOTICE").read_text()
    assert "2017 Zalando SE" in notice
    assert "Permission is hereby granted, free of charge" in notice


@needs_files
def test_official_splits(official):
    train = open_source("fashion-mnist")
    test = open_source("fashion-mnist", split="test")
    assert (len(train), len(test)) == (60_000, 10_000)
    assert np.array_equal(train.image(12_345)[..., 0], official[0][12_345])
    assert train.labels[12_345] == official[1][12_345]
    assert np.bincount(test.labels).tolist() == [1000] * 10


# Below, a tiny data set of the same make: 20 train and 10 test pictures.


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "_LENGTHS", {"train": 20, "test": 10})
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", str(tmp_path / "not-installed"))
    monkeypatch.setattr(places, "CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LOOKTWICE_DATA", raising=False)
    return tmp_path


def _write(folder, suffix=".gz"):
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(0)
    for stem, length in (("train", 20), ("t10k", 10)):
        pictures = chance.integers(0, 256, (length, 28, 28), dtype=np.uint8)
        header = bytes([0, 0, 8, 3, 0, 0, 0, length, 0, 0, 0, 28, 0, 0, 0, 28])
        _put(folder / f"{stem}-images-idx3-ubyte{suffix}", header + pictures.tobytes())
        labels = np.arange(length, dtype=np.uint8) % 10
        _put(
            folder / f"{stem}-labels-idx1-ubyte{suffix}",
            bytes([0, 0, 8, 1, 0, 0, 0, length]) + labels.tobytes(),
        )
    return folder


def _put(path, data):
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("sub", ["", "fashion-mnist", "FashionMNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_found_under_the_root(tiny, sub, suffix):
    _write(tiny / "data" / sub, suffix)
    source = open_source("fashion-mnist", root=tiny / "data")
    assert len(source) == 20
    assert source.labels.tolist() == [*range(10), *range(10)]


def test_found_under_the_environments_folder(tiny, monkeypatch):
    _write(tiny / "data" / "fashion-mnist")
    monkeypatch.setenv("LOOKTWICE_DATA", str(tiny / "data"))
    assert len(open_source("fashion-mnist", split="test")) == 10


def test_found_where_debian_puts_it(tiny, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", str(_write(tiny / "usr")))
    assert len(open_source("fashion-mnist")) == 20


def test_absent_names_the_four_ways(tiny):
    with pytest.raises(DataError) as caught:
        open_source("fashion-mnist")
    for way in ("--download", "--data-root", "$LOOKTWICE_DATA", "dataset-fashion-mnist"):
        assert way in str(caught.value)


def test_a_root_that_is_not_there(tiny):
    with pytest.raises(DataError, match="is not a folder"):
        open_source("fashion-mnist", root=tiny / "mistyped")


def _flip_header(data):
    return data[:3] + bytes([data[3] ^ 1]) + data[4:]


DAMAGE = {
    "truncated": (".gz", lambda data: gzip.compress(data)[:-40]),
    "not gzip": (".gz", lambda data: data),
    "corrupt": (
        ".gz",
        lambda data: gzip.compress(data)[:200] + b"\xff" * 100 + gzip.compress(data)[300:],
    ),
    "short": ("", lambda data: data[:-1]),
    "long": ("", lambda data: data + b"\0"),
    "empty": ("", lambda _: b""),
    "header": ("", _flip_header),
    "other size": ("", lambda data: data[:8] + bytes([0, 0, 0, 56, 0, 0, 0, 14]) + data[16:]),
    "huge": ("", lambda data: data[:4] + b"\xff" * 12 + data[16:]),
}


@pytest.mark.parametrize("kind", list(DAMAGE))
def test_damaged_files_are_named_in_one_line(tiny, kind):
    suffix, damage = DAMAGE[kind]
    _write(tiny, "")
    plain = tiny / "train-images-idx3-ubyte"
    data = damage(plain.read_bytes())
    plain.unlink()
    (tiny / f"train-images-idx3-ubyte{suffix}").write_bytes(data)
    with pytest.raises(DataError, match="train-images-idx3-ubyte") as caught:
        open_source("fashion-mnist", root=tiny)
    assert "put the original file back" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_out_of_range(tiny):
    _write(tiny, "")
    path = tiny / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0a")
    with pytest.raises(DataError, match="label 10"):
        open_source("fashion-mnist", root=tiny)
