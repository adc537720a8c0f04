import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import looktwice
from looktwice.data import open_source
from looktwice.data.scan import list_pictures
from looktwice.errors import BadPictureError, DataError


def _save(path, value=128, mode="RGB", size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode != "RGB" else (value,) * 3).save(path)


def _names(source):
    return [source.identifier(i) for i in range(len(source))]


def test_flat_folder_is_unlabelled_and_sorted(tmp_path):
    for name in ("b.png", "a.JPG", "c.WebP", ".hidden.png", "notes.txt"):
        _save(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("")
    source = open_source(tmp_path)
    assert _names(source) == ["a.JPG", "b.png", "c.WebP"]
    assert source.labels is None
    assert source.class_names is None
    assert source.channels == 3
    assert source.picture_size is None
    assert source.image(0).shape == (4, 6, 3)


def test_class_folders_give_labels(tmp_path):
    for name in ("dog/1.png", "cat/2.png", "cat/1.png", ".cache/x.png", "empty/.keep"):
        _save(tmp_path / name) if name.endswith("png") else (tmp_path / "empty").mkdir()
    source = open_source(str(tmp_path))
    assert _names(source) == ["cat/1.png", "cat/2.png", "dog/1.png"]
    assert source.class_names == ("cat", "dog")
    assert source.labels.tolist() == [0, 0, 1]
    assert source.labels.dtype == np.int64


@pytest.mark.parametrize("stray", ["stray.png", "cat/deeper/1.png"])
def test_any_other_nesting_is_unlabelled(tmp_path, stray):
    for name in ("dog/1.png", "cat/1.png", stray):
        _save(tmp_path / name)
    assert len(open_source(tmp_path)) == 3
    assert open_source(tmp_path).labels is None


def test_one_class_is_no_label(tmp_path):
    _save(tmp_path / "holiday" / "1.png")
    assert open_source(tmp_path).labels is None


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val"])
def test_official_splits(tmp_path, validation):
    for split in ("train", validation, "test"):
        for name in ("cat", "dog"):
            _save(tmp_path / split / name / f"{split}.png")
    _save(tmp_path / "train" / "ant" / "1.png")
    train, held_out, test = (
        open_source(tmp_path, split=s) for s in ("train", "validation", "test")
    )
    assert train.class_names == held_out.class_names == test.class_names == ("ant", "cat", "dog")
    assert held_out.labels.tolist() == test.labels.tolist() == [1, 2]
    assert _names(test) == ["cat/test.png", "dog/test.png"]
    assert test.image(1).shape == (4, 6, 3)


def test_splits_without_classes(tmp_path):
    _save(tmp_path / "train" / "1.png")
    _save(tmp_path / "test" / "1.png")
    assert open_source(tmp_path, split="test").labels is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/cat/1.png", "train/dog/1.png", "test/cow/1.png"], "class folder 'cow'"),
        (["train/1.png", "val/1.png", "valid/1.png"], "two folders for the validation split"),
        (["val/1.png", "test/1.png"], "no 'train'"),
    ],
)
def test_splits_that_do_not_fit(tmp_path, names, message):
    for name in names:
        _save(tmp_path / name)
    with pytest.raises(DataError, match=message) as caught:
        open_source(tmp_path)
    assert "\n" not in str(caught.value)


def test_grey_folder_has_one_channel(tmp_path):
    _save(tmp_path / "1.png", 10, "L")
    _save(tmp_path / "2.png", 300, "I;16")
    (tmp_path / "3.png").write_bytes(b"bad ones do not count")
    source = open_source(tmp_path)
    assert source.channels == 1
    assert source.image(0).shape == (4, 6, 1)
    assert source.image(1)[0, 0, 0] == 1


def test_one_colour_picture_makes_a_colour_folder(tmp_path):
    _save(tmp_path / "1.png", 77, "L")
    _save(tmp_path / "2.png")
    source = open_source(tmp_path)
    assert source.channels == 3
    assert source.image(0)[0, 0].tolist() == [77, 77, 77]


def test_colour_is_looked_for_all_over_the_folder(tmp_path):
    for i in range(150):
        _save(tmp_path / f"{i:03}.png", i, "L" if i < 100 else "RGB")
    assert open_source(tmp_path).channels == 3


def test_links_are_followed_but_loops_end(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    _save(elsewhere / "1.png")
    folder = tmp_path / "pictures"
    _save(folder / "a" / "1.png")
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "itself").symlink_to(folder / "itself")
    (folder / "b").symlink_to(elsewhere)
    (folder / "again").symlink_to(folder / "a")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "2.png").symlink_to(elsewhere / "1.png")
    (folder / "3.png").symlink_to(folder / "a" / "1.png")
    assert [*list_pictures(folder)] == ["a/1.png", "b/1.png", "gone.png"]  # 2.png is b/1.png
    source = open_source(folder)
    assert source.image(0).shape == (4, 6, 3)
    with pytest.raises(BadPictureError, match="No such file"):
        source.image(2)


def test_runs_of_ours_are_not_pictures_to_learn_from(tmp_path):
    _save(tmp_path / "1.png")
    _save(tmp_path / "runs" / "one" / "figures" / "views.png")
    for name in ("config.toml", "environment.json"):
        (tmp_path / "runs" / "one" / name).write_text("")
    assert [*list_pictures(tmp_path)] == ["1.png"]


def test_pictures_beside_train_and_test_are_refused(tmp_path):
    for name in ("train/a/1.png", "test/a/2.png", "stray.png"):
        _save(tmp_path / name)
    with pytest.raises(DataError, match=r"1 pictures beside them, such as 'stray\.png'"):
        open_source(tmp_path)


def test_pipes_and_devices_are_bad_and_never_opened(tmp_path):
    _save(tmp_path / "1.png")
    os.mkfifo(tmp_path / "2.png")
    (tmp_path / "3.png").symlink_to("/dev/zero")
    source = open_source(tmp_path)
    for i in (1, 2):
        with pytest.raises(BadPictureError, match="not a regular file"):
            source.image(i)


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    _save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / name)
    source = open_source(tmp_path)
    source.identifier(0).encode()
    assert source.identifier(0) == "caf\\udce9.png"
    assert source.image(0).shape == (4, 6, 3)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(BadPictureError) as caught:
        source.image(0)
    str(caught.value).encode()


def test_a_folder_name_that_is_not_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"d\xe9j\xe0")
    _save(folder / os.fsdecode(b"\xe9") / "1.png")
    _save(folder / "b" / "1.png")
    source = open_source(folder)
    f"{source.name} {source.class_names}".encode()
    assert source.fingerprint()


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    for name in ("b/2.png", "b/10.png", "B/1.png", "a.png", "é.png", "z.png"):
        _save(tmp_path / name)
    expected = [*list_pictures(tmp_path)]
    plain = os.scandir

    class Reversed:
        def __init__(self, path):
            self.entries = list(plain(path))[::-1]

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    assert [*list_pictures(tmp_path)] == expected
    assert expected == ["B/1.png", "a.png", "b/10.png", "b/2.png", "z.png", "é.png"]


def test_fingerprint_tells_other_pictures(tmp_path):
    _save(tmp_path / "a" / "1.png")
    first = open_source(tmp_path).fingerprint()
    assert first == open_source(tmp_path).fingerprint()
    _save(tmp_path / "a" / "2.png")
    second = open_source(tmp_path).fingerprint()
    _save(tmp_path / "a" / "2.png", size=(60, 4))
    assert len({first, second, open_source(tmp_path).fingerprint()}) == 3


def test_empty_folders_say_what_they_hold(tmp_path):
    with pytest.raises(DataError, match=r"0 pictures in .*found no files at all"):
        open_source(tmp_path)
    for name in ("1.HEIC", "2.heic", "3.heic", "a.txt", "README"):
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=r"found 3 \.heic, 1 "):
        open_source(tmp_path)


UNREADABLE = """
import os, sys, pathlib
sys.path.insert(0, sys.argv[1])
from looktwice.data import open_source
from looktwice.errors import BadPictureError, DataError
os.getuid() or (os.setgid(65534), os.setuid(65534))
os.chdir(sys.argv[2])
source = open_source("some")
for i in range(len(source)):
    try:
        source.image(i)
        print(source.identifier(i), "good")
    except BadPictureError as error:
        print(error.identifier, error.reason)
try:
    open_source("closed")
except DataError as error:
    print(error)
"""


def test_what_may_not_be_read_is_told(tmp_path):
    """The superuser may read everything, so that the one who looks is another user."""
    for name in ("some/a.png", "some/b.png", "closed/in/c.png"):
        _save(tmp_path / name)
    (tmp_path / "some" / "b.png").chmod(0)
    (tmp_path / "closed" / "in").chmod(0)
    for parent in tmp_path.parents[:3]:
        with contextlib.suppress(PermissionError):
            parent.chmod(parent.stat().st_mode | 0o011)
    tmp_path.chmod(0o755)
    sources = str(Path(looktwice.__file__).parents[1])
    cache = {"LOOKTWICE_CACHE": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", UNREADABLE, sources, str(tmp_path)],
        capture_output=True, text=True, env={**os.environ, **cache},
    )  # fmt: skip
    (tmp_path / "closed" / "in").chmod(0o700)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["a.png good", "b.png Permission denied"], done
    assert "Permission denied" in lines[2], done
    assert len(lines) == 3
