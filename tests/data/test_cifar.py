import pickle
import struct

import numpy as np
import pytest
import torchvision

from looktwice.data import open_source, open_splits, places
from looktwice.errors import DataError

# Files below are written from the description at https://www.cs.toronto.edu/~kriz/cifar.html; the
# pickles opcode by opcode, as Python 2 and numpy 1 wrote the official ones.

NAMES = {
    10: ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    100: [f"class {number}" for number in range(100)],
}
PER_BATCH = 3


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LOOKTWICE_DATA", raising=False)


def rows(seed, num_classes):
    """PER_BATCH rows of 3,072 bytes, and as many labels, the first one the highest there is."""
    chance = np.random.default_rng(seed)
    pixels = [chance.bytes(3072) for _ in range(PER_BATCH)]
    return pixels, [num_classes - 1, *chance.integers(0, num_classes, PER_BATCH - 1).tolist()]


def as_pickled(value):
    if isinstance(value, bytes) and len(value) < 256:
        return b"U" + bytes([len(value)]) + value
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, int):
        return b"K" + bytes([value])
    if isinstance(value, list):
        return b"](" + b"".join(map(as_pickled, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(as_pickled(part) for item in value.items() for part in item) + b"u"
    shape = b"J" + struct.pack("<i", value.shape[0]) + b"M" + struct.pack("<H", value.shape[1])
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return (
        empty + b"(K\x01" + shape + b"\x86" + dtype + b"\x89" + as_pickled(value.tobytes()) + b"tb"
    )


def write_pickle(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x80\x02" + as_pickled(value) + b".")
    assert list(pickle.loads(path.read_bytes(), encoding="bytes")) == list(value)


def write_python(root, num_classes):
    ten = num_classes == 10
    folder = root / ("cifar-10-batches-py" if ten else "cifar-100-python")
    key, names, meta = (
        (b"labels", b"label_names", "batches.meta")
        if ten
        else (b"fine_labels", b"fine_label_names", "meta")
    )
    trains = [f"data_batch_{n}" for n in range(1, 6)] if ten else ["train"]
    for seed, file in enumerate([*trains, "test_batch" if ten else "test"]):
        pixels, labels = rows(seed, num_classes)
        data = np.frombuffer(b"".join(pixels), np.uint8).reshape(-1, 3072)
        coarse = {} if ten else {b"coarse_labels": [0] * PER_BATCH}
        write_pickle(
            folder / file, {b"batch_label": b"x", **coarse, key: labels, b"data": data,
                            b"filenames": [b"a.png"] * PER_BATCH},
        )  # fmt: skip
    write_pickle(folder / meta, {names: [name.encode() for name in NAMES[num_classes]]})
    return folder


def write_binary(root, num_classes):
    ten = num_classes == 10
    folder = root / ("cifar-10-batches-bin" if ten else "cifar-100-binary")
    folder.mkdir(parents=True)
    trains = [f"data_batch_{n}.bin" for n in range(1, 6)] if ten else ["train.bin"]
    for seed, file in enumerate([*trains, "test_batch.bin" if ten else "test.bin"]):
        pixels, labels = rows(seed, num_classes)
        coarse = b"" if ten else b"\x07"
        records = [coarse + bytes([y]) + x for x, y in zip(pixels, labels, strict=True)]
        (folder / file).write_bytes(b"".join(records))
    names = "batches.meta.txt" if ten else "fine_label_names.txt"
    (folder / names).write_text("\n".join(NAMES[num_classes]) + "\n\n")
    return folder


WRITE = {"python": write_python, "binary": write_binary}
forms = pytest.mark.parametrize(
    ("version", "num_classes"), [(v, n) for v in WRITE for n in (10, 100)]
)


@forms
@pytest.mark.parametrize("by", ["name", "path", "own folder as root"])
def test_every_pixel_and_label(tmp_path, version, num_classes, by):
    folder = WRITE[version](tmp_path, num_classes)
    name, root = f"cifar{num_classes}", tmp_path if by == "name" else folder
    data = (folder, None) if by == "path" else (name, root)
    num_train = 5 if num_classes == 10 else 1
    for split, seeds in (("train", range(num_train)), ("test", [num_train])):
        source = open_source(data[0], split=split, root=data[1])
        pixels = [row for seed in seeds for row in rows(seed, num_classes)[0]]
        assert source.labels.tolist() == [y for seed in seeds for y in rows(seed, num_classes)[1]]
        assert source.class_names == tuple(NAMES[num_classes])
        assert (len(source), source.picture_size, source.channels) == (len(pixels), (32, 32), 3)
        for i, row in enumerate(pixels):
            planes = source.image(i)
            for y in range(0, 32, 5):
                for x in range(32):
                    expected = [row[channel * 1024 + y * 32 + x] for channel in range(3)]
                    assert planes[y, x].tolist() == expected
    assert source.identifier(1) == f"{name}/test[1]"


@pytest.mark.parametrize("num_classes", [10, 100])
@pytest.mark.parametrize("train", [True, False])
def test_torchvision_reads_the_same(tmp_path, monkeypatch, num_classes, train):
    folder = write_python(tmp_path, num_classes)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    theirs = getattr(torchvision.datasets, f"CIFAR{num_classes}")(tmp_path, train=train)
    ours = open_source(folder, split="train" if train else "test")
    assert np.array_equal(np.stack([ours.image(i) for i in range(len(ours))]), theirs.data)
    assert ours.labels.tolist() == theirs.targets
    assert list(ours.class_names) == theirs.classes


@forms
def test_splits_for_a_run(tmp_path, version, num_classes):
    WRITE[version](tmp_path, num_classes)
    if num_classes == 10:
        splits = open_splits("cifar10", root=tmp_path, validation_fraction=0.2)
        assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [12, 3, 3]


def _cut(path, count=1):
    path.write_bytes(path.read_bytes()[:-count])


def _replace(path, value):
    path.unlink()
    write_pickle(path, value)


GOOD = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]}
DAMAGE = {
    "missing batch": ("python", "data_batch_3", lambda p: p.unlink(), "is missing"),
    "missing test": ("binary", "test_batch.bin", lambda p: p.unlink(), "is missing"),
    "truncated pickle": ("python", "data_batch_2", _cut, "no whole pickle"),
    "truncated records": ("binary", "data_batch_2.bin", _cut, "no whole number of pictures"),
    "empty": ("binary", "data_batch_5.bin", lambda p: p.write_bytes(b""), "has 0 bytes"),
    "text": ("python", "test_batch", lambda p: p.write_text("hello"), "no whole pickle"),
    "a list": ("python", "test_batch", lambda p: p.write_bytes(b"\x80\x02]."), "no entry 'data'"),
    "no labels": ("python", "test_batch", lambda p: _replace(p, {b"data": GOOD[b"data"]}), "no entry 'labels'"),
    "few labels": ("python", "test_batch", lambda p: _replace(p, {**GOOD, b"labels": [1]}), "1 labels for 2 pictures"),
    "no numbers": ("python", "test_batch", lambda p: _replace(p, {**GOOD, b"labels": [b"a", 1]}), "no list of integers"),
    "other rows": ("python", "test_batch", lambda p: _replace(p, {**GOOD, b"data": np.zeros((2, 3071), np.uint8)}), r"no uint8 array \(N, 3072\)"),
    "label 10": ("python", "data_batch_1", lambda p: _replace(p, {**GOOD, b"labels": [0, 10]}), "label 10 .* 0 to 9"),
    "label byte": ("binary", "data_batch_1.bin", lambda p: p.write_bytes(b"\x0b" + b"\0" * 3072), "label 11 .* 0 to 9"),
    "few names": ("binary", "batches.meta.txt", lambda p: p.write_text("cat\ndog\n"), "2 class names, not 10"),
    "no names": ("python", "batches.meta", lambda p: _replace(p, {b"label_names": [1]}), "no list of names"),
    "hostile": ("python", "data_batch_1", lambda p: p.write_bytes(b"cos\nsystem\n(S'true'\ntR."), "it names 'os.system'"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_told_in_one_line(tmp_path, case):
    version, file, damage, message = DAMAGE[case]
    folder = WRITE[version](tmp_path, 10)
    damage(folder / file)
    with pytest.raises(DataError, match=message) as caught:
        open_source(folder)
    assert str(folder / file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_absent_names_the_flag_and_the_folders(tmp_path):
    with pytest.raises(DataError, match="--download") as caught:
        open_source("cifar100", root=tmp_path)
    for part in (repr(str(tmp_path)), "cifar-100-python or cifar-100-binary", "$LOOKTWICE_DATA"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
