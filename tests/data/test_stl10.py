import os
import resource

import numpy as np
import pytest
import torchvision

from looktwice.augment import policy
from looktwice.data import Loader, open_source, open_splits, places
from looktwice.errors import DataError

# Files below are written from the description at https://cs.stanford.edu/~acoates/stl10.

CLASSES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
SIZE = 96 * 96 * 3
LABELS = {"train": [1, 10, 3, 4, 2, 9], "test": [10, 1]}
FOLDS = [[(fold + k) % 6 for k in range(3)] for fold in range(10)]


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LOOKTWICE_DATA", raising=False)


def pixels(split, count):
    return np.random.default_rng(len(split)).bytes(count * SIZE)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for split, labels in LABELS.items():
        (folder / f"{split}_X.bin").write_bytes(pixels(split, len(labels)))
        (folder / f"{split}_y.bin").write_bytes(bytes(labels))
    (folder / "unlabeled_X.bin").write_bytes(pixels("unlabeled", 5))
    (folder / "class_names.txt").write_text("\n".join(CLASSES) + "\n")
    lines = [" ".join(map(str, fold)) + " \n" for fold in FOLDS]
    (folder / "fold_indices.txt").write_text("".join(lines))
    return folder


def check_pixels(source, data):
    assert (len(source) * SIZE, source.picture_size, source.channels) == (len(data), (96, 96), 3)
    for i in (0, len(source) - 1):
        picture = source.image(i)
        assert picture.flags.c_contiguous
        for x in range(96):
            for y in range(0, 96, 7):
                start = i * SIZE + x * 96 + y  # column after column
                assert picture[y, x].tolist() == [
                    data[start + channel * 9216] for channel in range(3)
                ]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("by_name", [True, False])
def test_every_pixel_and_label(folder, split, by_name):
    data, root = ("stl10", folder.parent) if by_name else (folder, None)
    source = open_source(data, split=split, root=root)
    check_pixels(source, pixels(split, len(LABELS[split])))
    assert [source.class_names[label] for label in source.labels] == [
        CLASSES[label - 1] for label in LABELS[split]
    ]


def test_unlabelled(folder):
    source = open_source("stl10-unlabelled", root=folder.parent)
    check_pixels(source, pixels("unlabeled", 5))
    assert source.labels is None
    assert len(open_source("stl10-unlabelled", split="labelled", root=folder).labels) == 6
    splits = open_splits("stl10-unlabelled", root=folder.parent)
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [4, 1, 2]


@pytest.mark.parametrize("fold", range(10))
def test_folds(folder, fold):
    whole = open_source("stl10", root=folder)
    source = open_source(f"stl10-fold{fold}", root=folder)
    assert source.labels.tolist() == [whole.labels[i] for i in FOLDS[fold]]
    assert np.array_equal(source.image(2), whole.image(FOLDS[fold][2]))
    assert len(open_source(f"stl10-fold{fold}", root=folder, split="test")) == 2


@pytest.mark.parametrize("split", ["train", "test", "unlabeled"])
def test_torchvision_reads_the_same(folder, monkeypatch, split):
    monkeypatch.setattr(torchvision.datasets.stl10, "check_integrity", lambda *_: True)
    theirs = torchvision.datasets.STL10(folder.parent, split=split)
    if split == "unlabeled":
        ours = open_source("stl10-unlabelled", root=folder)
    else:
        ours = open_source("stl10", split=split, root=folder)
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert list(ours.class_names) == theirs.classes
    for i in range(len(ours)):
        assert np.array_equal(ours.image(i), np.asarray(theirs[i][0]))


def test_the_unlabelled_part_is_not_copied(folder):
    """All 2.76 GB of it, as a file with holes."""
    last = pixels("last", 1)
    with (folder / "unlabeled_X.bin").open("wb") as file:
        os.truncate(file.fileno(), 100_000 * SIZE)
        file.seek(-SIZE, os.SEEK_END)
        file.write(last)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source = open_source("stl10-unlabelled", root=folder)
    assert len(source) == 100_000
    assert source.image(99_999)[5, 9, 1] == last[9216 + 9 * 96 + 5]
    assert not source.image(50_000).any()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_views_come_from_the_mapped_file(folder):
    source = open_source("stl10", root=folder)
    loader = Loader(source, policy("simclr", size=8), batch_size=6, seed=0, threads=0)
    (batch,) = loader.batches(0, 1)
    copied = open_source(np.stack([source.image(i) for i in range(6)]))
    again = Loader(copied, policy("simclr", size=8), batch_size=6, seed=0, threads=0)
    for mine, theirs in zip(batch.views, next(iter(again.batches(0, 1))).views, strict=True):
        assert np.array_equal(mine, theirs)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE = {
    "truncated": ("stl10", "train_X.bin", _cut, "no whole number of pictures of 27,648"),
    "empty": ("stl10", "test_X.bin", lambda p: p.write_bytes(b""), "has 0 bytes"),
    "missing": ("stl10", "test_X.bin", lambda p: p.unlink(), "is missing"),
    "labels missing": ("stl10", "train_y.bin", lambda p: p.unlink(), "is missing"),
    "few labels": ("stl10", "train_y.bin", _cut, "5 labels for 6 pictures"),
    "label 0": ("stl10", "test_y.bin", lambda p: p.write_bytes(b"\0\1"), "label 0 .* 1 to 10"),
    "label 11": ("stl10", "test_y.bin", lambda p: p.write_bytes(b"\x0b\1"), "label 11 .* 1 to 10"),
    "few names": ("stl10", "class_names.txt", lambda p: p.write_text("cat\n"), "1 class names, not 10"),
    "no folds": ("stl10-fold3", "fold_indices.txt", lambda p: p.unlink(), "is missing"),
    "few folds": ("stl10-fold3", "fold_indices.txt", lambda p: p.write_text("1 2\n"), "line 4"),
    "high index": ("stl10-fold0", "fold_indices.txt", lambda p: p.write_text("1 6\n"), "line 1 .* 0 to 5"),
    "words": ("stl10-fold0", "fold_indices.txt", lambda p: p.write_text("1 two\n"), "no list"),
    "twice": ("stl10-fold0", "fold_indices.txt", lambda p: p.write_text("1 1\n"), "twice"),
    "unlabelled cut": ("stl10-unlabelled", "unlabeled_X.bin", _cut, "no whole number"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_told_in_one_line(folder, case):
    name, file, damage, message = DAMAGE[case]
    damage(folder / file)
    with pytest.raises(DataError, match=message) as caught:
        open_source(name, root=folder)
    assert str(folder / file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_class_names_the_labels_name_the_classes(folder):
    (folder / "class_names.txt").unlink()
    source = open_source("stl10", root=folder)
    assert [source.class_names[label] for label in source.labels] == ["1", "10", "3", "4", "2", "9"]
