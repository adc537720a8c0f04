import hashlib

import pytest
from PIL import Image

from looktwice.data import open_source, open_splits, places
from looktwice.data.class_names import read_class_list
from looktwice.errors import DataError, UsageError


def save(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (len(name), 0, 0)).save(path)


def names_of(source):
    return [source.class_names[label] for label in source.labels]


@pytest.mark.parametrize("file", ["class.txt", "classes.txt"])
def test_a_list_beside_the_splits_gives_the_order(tmp_path, file):
    save(tmp_path, "train/ant/1.jpg", "train/cow/1.jpg", "train/bee/1.jpg", "test/bee/2.jpg")
    (tmp_path / file).write_text("cow\nant\n\nbee\r\n")
    train, test = (open_source(tmp_path, split=split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("cow", "ant", "bee")
    assert names_of(train) == ["ant", "bee", "cow"]  # files stay in the order of their folders
    assert train.labels.tolist() == [1, 2, 0]
    assert test.labels.tolist() == [2]


def test_a_list_beside_class_folders(tmp_path):
    save(tmp_path, "ant/1.png", "bee/1.png")
    (tmp_path / "class.txt").write_text("bee\nant")
    assert open_source(tmp_path).labels.tolist() == [1, 0]


LISTS = {
    "one more": ("ant\nbee\ncow\n", r"'cow' is named, but has no folder"),
    "one less": ("ant\n", r"'bee' has a folder, but is not named"),
    "another": ("ant\nBee\n", r"'Bee' is named, but has no folder"),
    "twice": ("ant\nbee\nant\n", "'ant' twice"),
    "empty": ("\n \n", "no class names"),
}


@pytest.mark.parametrize("case", LISTS)
def test_a_list_that_does_not_match(tmp_path, case):
    text, message = LISTS[case]
    save(tmp_path, "ant/1.png", "bee/1.png")
    (tmp_path / "class.txt").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        open_source(tmp_path)
    assert "class.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_over_pictures_without_folders(tmp_path):
    save(tmp_path, "1.png", "2.png")
    (tmp_path / "class.txt").write_text("ant\nbee\n")
    with pytest.raises(DataError, match=r"'1\.png' lies in no class folder"):
        open_source(tmp_path)


# ImageNet's layout.

IDS = ["n01440764", "n02869837", "n01749939", "n02488291"]


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LOOKTWICE_DATA", raising=False)
    folder = tmp_path / "imagenet"
    for name in IDS:
        save(folder, f"train/{name}/{name}_1.JPEG", f"train/{name}/{name}_2.JPEG")
        save(folder, f"val/{name}/ILSVRC2012_val_{name}.JPEG")
    return folder


@pytest.mark.parametrize("by_name", [True, False])
def test_imagenet(imagenet, by_name):
    data = "imagenet" if by_name else imagenet
    splits = open_splits(data, root=imagenet.parent if by_name else None)
    assert splits.train.class_names == tuple(sorted(IDS))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (7, 1, 4)
    assert splits.test.identifier(0) == "n01440764/ILSVRC2012_val_n01440764.JPEG"


def test_other_folders_keep_val_as_validation(tmp_path):
    save(tmp_path, *(f"{split}/{name}/{i}.png" for split in ("train", "val") for name in "ab" for i in range(5)))  # fmt: skip
    splits = open_splits(tmp_path)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (8, 10, 2)


@pytest.mark.parametrize("by_name", [True, False])
def test_chosen_classes(imagenet, tmp_path, by_name):
    (tmp_path / "mine.txt").write_text("n02488291\nn01440764\n")
    data = "imagenet" if by_name else imagenet
    for split, count in (("train", 4), ("test", 2)):
        source = open_source(
            data, split=split, root=imagenet.parent, classes=str(tmp_path / "mine.txt")
        )
        assert source.class_names == ("n02488291", "n01440764")
        assert names_of(source) == sorted(names_of(source))
        assert len(source) == count
        assert set(names_of(source)) == set(source.class_names)


def test_imagenet100_is_a_list_over_imagenet(imagenet):
    with pytest.raises(DataError, match="97 of the 100 chosen classes .* 'n02107142'"):
        open_source("imagenet100", root=imagenet.parent)
    chosen = read_class_list("imagenet100")
    for name in chosen:
        save(imagenet, f"train/{name}/1.JPEG", f"val/{name}/1.JPEG")
    for source in (
        open_source("imagenet100", root=imagenet.parent, split="test"),
        open_source(imagenet, classes="imagenet100", split="test"),
    ):
        assert source.class_names == chosen
        assert "n01440764" not in names_of(source)


def test_the_list_is_that_of_its_source():
    names = read_class_list("imagenet100")
    assert (len(names), len(set(names))) == (100, 100)
    assert (names[0], names[1], names[-1]) == ("n02869837", "n01749939", "n02090622")
    # sha256 of imagenet100.txt in github.com/HobbitLong/CMC
    known = "79f3f1552ccc478ce24bd934b4573625db584ddc1f4643ae23c994a94cb11397"
    assert hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest() == known


def test_chosen_classes_that_cannot_be(imagenet, tmp_path):
    with pytest.raises(UsageError, match="is no file.*Did you mean 'imagenet100'"):
        open_source(imagenet, classes="imagenet10")
    save(imagenet, "val/stray.JPEG")
    (tmp_path / "mine.txt").write_text("n02488291\n")
    with pytest.raises(DataError, match="'stray.JPEG' in .*val.* lies in no class folder"):
        open_source(imagenet, classes=str(tmp_path / "mine.txt"))


def test_the_option_reaches_the_reader(imagenet, tmp_path):
    from looktwice.config import resolve
    from looktwice.run import open_data

    (tmp_path / "mine.txt").write_text("n02488291\nn01440764\n")
    flags = {"data.source": str(imagenet), "data.classes": str(tmp_path / "mine.txt")}
    config = resolve(recipe="simclr-tiny", flags=flags, environ={})
    assert open_data(config.data).train.class_names == ("n02488291", "n01440764")
