import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from looktwice import foreign
from looktwice.data import fashion_mnist, open_source
from looktwice.errors import DataError

DEBIAN = Path(fashion_mnist.DEBIAN_FOLDER)

needs_files = pytest.mark.skipif(
    not DEBIAN.is_dir() and "CI" not in os.environ, reason="dataset-fashion-mnist is not installed"
)


def write(path, shape, data, magic=0x800):
    header = struct.pack(f">I{len(shape)}I", magic + len(shape), *shape)
    packed = header + bytes(data)
    path.write_bytes(gzip.compress(packed) if path.suffix == ".gz" else packed)


@pytest.fixture(params=["-idx{}-ubyte", "-idx{}-ubyte.gz", ".idx{}-ubyte"])
def folder(tmp_path, request):
    images, labels = (request.param.format(n) for n in (3, 1))
    for stem, count in (("train", 4), ("t10k", 2)):
        write(tmp_path / f"{stem}-images{images}", (count, 3, 5), range(count * 15))
        write(tmp_path / f"{stem}-labels{labels}", (count,), [7, 3, 3, 12][:count])
    return tmp_path


def test_a_folder_of_idx_files(folder):
    train, test = (open_source(folder, split=split) for split in ("train", "test"))
    assert (len(train), train.picture_size, train.channels) == (4, (3, 5), 1)
    assert train.class_names == test.class_names == ("3", "7", "12")
    assert (train.labels.tolist(), test.labels.tolist()) == ([1, 0, 0, 2], [1, 0])
    for i in range(4):
        assert train.image(i)[..., 0].tolist() == [
            [i * 15 + y * 5 + x for x in range(5)] for y in range(3)
        ]


def test_pictures_alone_are_unlabelled(tmp_path):
    write(tmp_path / "train-images-idx3-ubyte", (2, 2, 2), range(8))
    source = open_source(tmp_path)
    assert source.labels is None
    assert source.class_names is None


@needs_files
def test_debians_files():
    source = open_source(DEBIAN, split="test")
    raw = gzip.decompress((DEBIAN / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert len(source) == 10_000
    assert source.image(4321).tobytes() == raw[16 + 4321 * 784 : 16 + 4322 * 784]
    raw_labels = gzip.decompress((DEBIAN / "t10k-labels-idx1-ubyte.gz").read_bytes())
    assert source.labels.astype(np.uint8).tobytes() == raw_labels[8:]
    assert len(open_source(DEBIAN)) == 60_000


def _one(tmp_path, shape=(2, 2, 2), data=range(8), magic=0x800):
    write(tmp_path / "train-images-idx3-ubyte", shape, data, magic)
    return tmp_path / "train-images-idx3-ubyte"


BAD = {
    "short": (lambda p: _one(p, data=range(7)), "should hold 8 bytes after its header, found 7"),
    "long": (lambda p: _one(p, data=range(9)), "found more"),
    "floats": (lambda p: _one(p, magic=0xD00), "does not begin as an IDX file"),
    "two dimensions": (lambda p: _one(p, (2, 4)), "does not begin as an IDX file"),
    "header cut": (lambda p: _one(p).write_bytes(b"\0\0\x08\x03\0\0"), "does not begin as"),
    "huge": (lambda p: _one(p, (1 << 31, 1 << 31, 4)), "more than this machine's memory"),
    "labels": (
        lambda p: write(_one(p).with_name("train-labels-idx1-ubyte"), (3,), [1, 2, 3]),
        r"shape \(2,\); found \(3,\)",
    ),
    "another class": (
        lambda p: (
            write(_one(p).with_name("train-labels-idx1-ubyte"), (2,), [1, 2]),
            write(p / "t10k-images-idx3-ubyte", (1, 2, 2), range(4)),
            write(p / "t10k-labels-idx1-ubyte", (1,), [3]),
        ),
        "label 3 of the test split",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_told_in_one_line(tmp_path, case):
    make, message = BAD[case]
    make(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        open_source(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_false_header_takes_no_memory(tmp_path, monkeypatch):
    """1 TB are claimed and 8 bytes are there."""
    monkeypatch.setattr(foreign, "check_fits_memory", lambda *_: None)
    monkeypatch.setattr("looktwice.data.idx.check_fits_memory", lambda *_: None)
    _one(tmp_path, (1 << 20, 1 << 10, 1 << 10))
    with pytest.raises(DataError, match="found 8: "):
        open_source(tmp_path)
