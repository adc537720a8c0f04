import numpy as np
import pytest

from looktwice.data import open_source, open_splits
from looktwice.errors import DataError, UsageError

CHANCE = np.random.default_rng(0)
X = CHANCE.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
Y = np.array([4, 2, 2, 9, 4, 9])


def same(source, images):
    return np.array_equal(np.stack([source.image(i) for i in range(len(source))]), images)


@pytest.mark.parametrize(
    ("pictures", "numbers"),
    [("images", "labels"), ("x_train", "y_train"), ("train_images", "train_labels")],
)
def test_pictures_and_labels(tmp_path, pictures, numbers):
    np.savez_compressed(tmp_path / "a.NPZ.npz", **{pictures: X, numbers: Y})
    source = open_source(tmp_path / "a.NPZ.npz")
    assert same(source, X)
    assert source.class_names == ("2", "4", "9")
    assert source.labels.tolist() == [1, 0, 0, 2, 1, 2]


def test_official_splits_share_their_classes(tmp_path):
    grey = X[..., 0]
    np.savez(
        tmp_path / "a.npz", x_train=grey, y_train=Y[:, None], x_test=grey[:2], y_test=[[9], [2]],
        x_val=grey[2:3], y_val=[[4]],
    )  # fmt: skip
    splits = open_splits(tmp_path / "a.npz")
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts] == [6, 1, 2]
    assert [part.labels.tolist() for part in parts[1:]] == [[1], [2, 0]]
    assert same(splits.test, grey[:2, ..., None])


def test_without_labels(tmp_path):
    np.savez(tmp_path / "a.npz", images=X)
    assert open_source(tmp_path / "a.npz").labels is None
    np.save(tmp_path / "a.npy", X)
    source = open_source(tmp_path / "a.npy")
    assert source.labels is None
    assert same(source, X)


def test_npy_files_are_mapped(tmp_path):
    np.save(tmp_path / "a.npy", X)
    picture = open_source(tmp_path / "a.npy").image(1)
    assert not picture.flags.writeable  # mapped read-only
    assert picture.base is not None


BAD = {
    "names": ({"pictures": X, "y": Y}, "holds pictures, y: name the pictures images"),
    "floats": ({"images": X / 255}, "train split: .*found float64"),
    "few labels": ({"images": X, "labels": Y[:5]}, r"one a picture, shape \(6,\); found \(5,\)"),
    "one-hot": ({"images": X, "labels": np.eye(6)}, "one a picture; found float64"),
    "negative": ({"images": X, "labels": Y - 3}, "label -1 in the train split"),
    "another class": (
        {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1},
        "label 5 of the test split .* not one of the 3 in train",
    ),
    "another kind": (
        {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y.astype(str)},
        "label '4' of the test split",
    ),
    "channels first": ({"images": X.transpose(0, 3, 1, 2)}, "channels last"),
    "no train": ({"x_test": X}, "holds x_test"),
}


@pytest.mark.parametrize("case", BAD)
def test_arrays_that_do_not_fit(tmp_path, case):
    arrays, message = BAD[case]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        open_source(tmp_path / "a.npz")
    assert str(tmp_path / "a.npz") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_classes_are_of_folders(tmp_path):
    np.savez(tmp_path / "a.npz", images=X)
    for data in (tmp_path / "a.npz", X, "fashion-mnist-10k"):
        with pytest.raises(UsageError, match="data.classes chooses class folders"):
            open_source(data, classes="imagenet100")
