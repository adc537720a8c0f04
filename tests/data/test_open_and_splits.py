import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from looktwice.data import ArraySource, open_source, open_splits, subset
from looktwice.data.splits import choose
from looktwice.errors import DataError, UsageError


def _numbered(n, shape=(2, 2)):
    """Picture i holds i, so that splits can be told apart by their pixels."""
    pixels = np.arange(n, dtype=np.uint16).view(np.uint8).reshape(n, 2)
    return np.repeat(pixels, 2, axis=1).reshape(n, *shape)


def _numbers(source):
    return [
        int(source.image(i)[0, 0, 0]) + 256 * int(source.image(i)[1, 0, 0])
        for i in range(len(source))
    ]


def test_arrays_are_not_copied():
    for images, channels in (
        (np.zeros((5, 4, 6), np.uint8), 1),
        (np.zeros((5, 4, 6, 3), np.uint8), 3),
    ):
        source = open_source(images)
        assert (len(source), source.channels, source.picture_size) == (5, channels, (4, 6))
        assert source.image(2).shape == (4, 6, channels)
        assert np.shares_memory(source.image(2), images)
        assert source.identifier(2) == "array[2]"


def test_labels_of_any_kind_become_classes():
    images = np.zeros((4, 2, 2), np.uint8)
    by_number = open_source((images, np.array([7, 3, 3, 9], np.uint8)))
    assert by_number.labels.tolist() == [1, 0, 0, 2]
    assert by_number.labels.dtype == np.int64
    assert by_number.class_names == ("3", "7", "9")
    assert open_source((images, ["b", "a", "b", "b"])).labels.tolist() == [1, 0, 1, 1]


IMAGES = np.zeros((4, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (IMAGES.astype(np.float32), "uint8 .* found float32"),
        (np.zeros((4, 3, 8, 8), np.uint8), "channels last"),
        (np.zeros((4, 8, 8, 2), np.uint8), "C 1 or 3"),
        (np.zeros((8, 8), np.uint8), r"found \(8, 8\)"),
        (np.zeros((0, 8, 8), np.uint8), "no pixels"),
        ((IMAGES, np.zeros(3, int)), "one a picture"),
        ((IMAGES, np.zeros(4)), "integers or strings; found float64"),
        ((IMAGES, np.array([0, 1, -1, 2])), "found -1"),
        ((IMAGES,), "tuple of 1"),
        (([1, 2], [3, 4]), "found list"),
    ],
)
def test_arrays_that_do_not_fit(data, message):
    with pytest.raises(DataError, match=message) as caught:
        open_splits(data)
    assert "\n" not in str(caught.value)


def test_missing_paths_and_names(tmp_path):
    with pytest.raises(DataError, match="Did you mean 'fashion-mnist-10k'"):
        open_source("fashion-mnits-10k")
    with pytest.raises(DataError, match=r"no folder .*nowhere.*check the path"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "pictures.zip").write_text("")
    with pytest.raises(DataError, match="is a file"):
        open_source(tmp_path / "pictures.zip")


def test_only_official_splits_can_be_opened():
    with pytest.raises(UsageError, match="no official split 'test'"):
        open_source(IMAGES, split="test")


@given(
    st.integers(2, 400),
    st.integers(1, 12),
    st.floats(0.01, 0.9),
    st.floats(0.01, 0.9),
    st.integers(0, 2**64 - 1),
)
@settings(max_examples=100, deadline=None)
def test_splits_are_disjoint_complete_and_leave_every_class_in_train(
    n, num_classes, validation, test, seed
):
    labels = np.random.default_rng(n).integers(0, num_classes, n)
    try:
        splits = open_splits(
            (_numbered(n), labels), validation_fraction=validation, test_fraction=test, seed=seed
        )
    except DataError:
        assert n - len(set(labels.tolist())) <= max(1, round(test * n))  # nothing to spare
        return
    parts = [_numbers(source) for source in (splits.train, splits.validation, splits.test)]
    assert sorted(itertools.chain(*parts)) == list(range(n))
    assert all(part == sorted(part) and part for part in parts)
    names = splits.train.class_names
    for source, part in zip((splits.train, splits.validation, splits.test), parts, strict=True):
        assert [names[label] for label in source.labels] == [str(label) for label in labels[part]]
    assert set(splits.train.labels.tolist()) == set(range(len(names)))


def test_shares_are_stratified():
    labels = np.repeat([0, 1, 2], [500, 300, 200])
    splits = open_splits((_numbered(1000), labels))
    assert np.bincount(splits.test.labels).tolist() == [100, 60, 40]
    assert np.bincount(splits.validation.labels).tolist() == [40, 24, 16]  # a tenth of the rest


@given(st.lists(st.integers(2, 60), min_size=1, max_size=8), st.floats(0.02, 0.5))
def test_largest_remainders(sizes, fraction):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    counts = np.bincount(labels[choose(labels, fraction, 0, 0)], minlength=len(sizes))
    ideal = fraction * np.array(sizes)
    assert (np.abs(counts - ideal) < 1).all()
    assert counts.sum() == max(1, round(fraction * len(labels)))


def test_seed_decides_and_every_picture_can_be_chosen():
    chosen = [tuple(choose(np.zeros(20, np.int64), 0.2, seed, 0)) for seed in range(200)]
    assert len(set(chosen)) > 150
    counts = np.bincount(np.concatenate(chosen), minlength=20)
    assert counts.min() > 15  # expected 40
    assert chosen[3] == tuple(choose(np.zeros(20, np.int64), 0.2, 3, 0))


def test_splits_never_change_between_releases():
    splits = open_splits((_numbered(20), np.arange(20) % 2), seed=0)
    assert (_numbers(splits.validation), _numbers(splits.test)) == ([3, 16], [1, 7, 8, 10])


def test_unlabelled_pictures_have_validation_but_no_test():
    splits = open_splits(_numbered(50))
    assert splits.test is None
    assert (len(splits.train), len(splits.validation)) == (45, 5)
    assert splits.validation.labels is None


def test_official_splits_are_kept_whole(tmp_path):
    for split, count in (("train", 9), ("val", 3), ("test", 4)):
        for i in range(count):
            folder = tmp_path / split / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(folder / f"{i}.png")
    splits = open_splits(tmp_path)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (9, 3, 4)


def test_one_picture_is_too_few():
    with pytest.raises(DataError, match="add pictures"):
        open_splits(_numbered(1))


@pytest.mark.parametrize(
    "wrong", [{"validation_fraction": 0.0}, {"test_fraction": 1.0}, {"seed": -1}]
)
def test_fractions_and_seed_out_of_range(wrong):
    with pytest.raises(UsageError, match="must be"):
        open_splits(_numbered(9), **wrong)


def test_subsets_keep_labels_names_and_fingerprints():
    source = ArraySource(_numbered(6), np.array([0, 1, 2, 0, 1, 2]), name="x")
    part = subset(subset(source, [5, 3, 1]), [2, 0])
    assert _numbers(part) == [1, 5]
    assert part.labels.tolist() == [1, 2]
    assert part.identifier(0) == "x[1]"
    assert part.fingerprint() == subset(subset(source, [5, 3, 1]), [2, 0]).fingerprint()
    prints = {source.fingerprint(), part.fingerprint(), subset(source, [1, 5]).fingerprint()}
    changed = _numbered(6)
    changed[0, 0, 0] ^= 1
    prints.add(ArraySource(changed, source.labels, name="x").fingerprint())
    prints.add(ArraySource(_numbered(6), source.labels[::-1], name="x").fingerprint())
    assert len(prints) == 5
    assert all(len(p) == 64 for p in prints)


def test_a_path_is_never_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 3)).save(_made(tmp_path / "cifar10") / "a.png")
    assert len(open_source(Path("cifar10"))) == 1
    assert len(open_source("./cifar10")) == 1


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x", "x" * 300])
def test_names_that_can_be_none_are_one_line(name):
    with pytest.raises(DataError, match="there is no folder or file"):
        open_source(name)


def _made(folder):
    folder.mkdir()
    return folder
