"""Packing and reading back, nothing half done, and names that would lead elsewhere."""

import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from PIL import Image
from tars import encoded, entry, samples, write_tar

from looktwice.cli import main
from looktwice.data import ArraySource, open_source
from looktwice.data.open import open_official
from looktwice.data.pack import _sized, pack
from looktwice.errors import DataError, RunError, UsageError

FORMS = ["shards", "array", "folder"]


@pytest.fixture
def folder(tmp_path):
    """Two splits of three classes, PNG and JPEG, and two bad files."""
    root = tmp_path / "source"
    for n in range(18):
        split, name = ("train", "val")[n % 9 == 8], ("cow", "ant", "bee")[n % 3]
        path = root / split / name / f"{n:02}.{('png', 'jpg')[n % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(n, ("PNG", "JPEG")[n % 2]))
    (root / "train" / "cow" / "zero.png").write_bytes(b"")
    (root / "train" / "bee" / "cut.jpg").write_bytes(encoded(1, "JPEG")[:150])
    (root / "class.txt").write_text("cow\nbee\nant\n")
    return root


def facts(source):
    """Pixels and class names, in an order of their own."""
    found = []
    for i in range(len(source)):
        label = None if source.labels is None else source.class_names[source.labels[i]]
        found.append((source.image(i).tobytes(), label))
    return sorted(found, key=repr)


def good_of(folder, split):
    for name in ("cow/zero.png", "bee/cut.jpg"):
        (folder / "train" / name).unlink(missing_ok=True)
    return open_source(folder, split=split)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_packed_is_read_back(folder, tmp_path, form):
    packed = pack(open_official(folder), tmp_path / "out", form=form, shard_bytes=500)
    assert dict(packed.counts) == {"train": 16, "validation": 2}
    assert sorted(packed.bad) == ["bee/cut.jpg", "cow/zero.png"]
    for split in ("train", "validation"):
        found = open_source(tmp_path / "out", split=split)
        expected = good_of(folder, split)
        assert found.class_names == ("cow", "bee", "ant")
        assert facts(found) == facts(expected)
        assert not found.skipped
    names = {"array": ["ant/01.jpg"], "shards": ["train-000000.tar:000000000.jpg"],
             "folder": ["ant/000000000.jpg"]}  # fmt: skip
    assert open_source(tmp_path / "out").identifier(0) in names[form]


def test_the_command_packs_and_says_what_it_left_out(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["data", "pack", str(folder), str(out), "--as", "folder"]) == 0
    told = capsys.readouterr()
    assert "bee/cut.jpg" in told.out + told.err
    assert facts(open_source(out, split="train")) == facts(good_of(folder, "train"))
    assert (out / "class.txt").read_text().split() == ["cow", "bee", "ant"]
    assert main(["data", "pack", str(folder), str(out)]) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["shards", "folder"])
def test_files_are_kept_as_they_are(folder, tmp_path, form):
    pack(open_official(folder), tmp_path / "out", form=form)
    found, expected = open_source(tmp_path / "out"), good_of(folder, "train")
    assert {found.file(i) for i in range(16)} == {expected.file(i) for i in range(16)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_are_packed_without_loss(tmp_path, form, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 7, 9, channels), dtype=np.uint8)
    source = ArraySource(pixels, np.arange(12) % 3)
    pack({"train": source}, tmp_path / "out", form=form)
    assert facts(open_source(tmp_path / "out")) == facts(source)
    bare = ArraySource(pixels)
    pack({"train": bare}, tmp_path / "bare", form=form)
    found = open_source(tmp_path / "bare")
    assert found.labels is None
    assert [found.image(i).tobytes() for i in range(12)] == [p.tobytes() for p in pixels]


def test_an_array_is_mapped_and_plain_numpy_reads_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 7, 9, 3), dtype=np.uint8)
    pack({"train": ArraySource(pixels)}, tmp_path / "out", form="array")
    assert np.array_equal(np.load(tmp_path / "out" / "train.npy", allow_pickle=False), pixels)
    assert isinstance(open_source(tmp_path / "out")._images, np.memmap)


def test_an_array_of_pictures_of_one_size(tmp_path):
    for n, size in enumerate([(40, 20), (20, 40), (30, 30)]):
        Image.new("RGB", size, (10 * n, 0, 0)).save(tmp_path / f"{n}.png")
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = 255  # the middle is what is kept
    Image.fromarray(wide).save(tmp_path / "3.png")
    official = open_official(tmp_path)
    with pytest.raises(DataError, match="'1.png' has 40 x 20 pixels.*give --size"):
        pack(official, tmp_path / "out", form="array")
    pack(official, tmp_path / "out", form="array", size=20)
    source = open_source(tmp_path / "out")
    assert source.picture_size == (20, 20)
    assert [source.image(i)[9, 9, 0] for i in range(3)] == [0, 10, 20]
    assert source.image(3).min() == 255
    for form, size in (("shards", 8), ("array", 0)):
        with pytest.raises(UsageError, match="--as array, 1 or more"):
            pack(official, tmp_path / "none", form=form, size=size)


def test_of_a_very_long_picture_the_middle_alone_is_resized(monkeypatch):
    resize = Image.Image.resize

    def checked(image, size, resample):
        assert max(size) <= 9 * 16, "the whole picture would be resized"
        return resize(image, size, resample)

    waves = np.add.outer(20 * np.cos(np.arange(20) / 5), 60 * np.sin(np.arange(2000) / 15))
    picture = np.repeat((waves + 128).astype(np.uint8)[..., None], 3, axis=2)
    whole = np.asarray(Image.fromarray(picture).resize((1600, 16), Image.Resampling.BICUBIC))
    monkeypatch.setattr(Image.Image, "resize", checked)
    for turned in (False, True):
        found = _sized(picture.swapaxes(0, 1) if turned else picture, 16)
        found = found.swapaxes(0, 1) if turned else found
        assert np.abs(found.astype(int) - whole[:, 792:808]).max() <= 1
    assert _sized(np.zeros((1, 65_000, 1), np.uint8), 16).shape == (16, 16, 1)


def test_shards_are_cut_by_size_and_the_same_every_time(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    for name in ("a", "b"):
        pack({"train": ArraySource(pixels)}, tmp_path / name, shard_bytes=2000)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(names) > 3
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        with tarfile.open(tmp_path / "a" / name) as tar:
            assert sum(m.size for m in tar) <= 2000


def test_nothing_is_overwritten(folder, tmp_path):
    out = tmp_path / "out"
    for make in (out.mkdir, lambda: out.write_text("mine"), lambda: out.symlink_to("nowhere")):
        make()
        with pytest.raises(RunError, match="exists already and is left as it is"):
            pack(open_official(folder), out)
        out.rmdir() if out.is_dir() else out.unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_nothing_is_left_of_what_failed(tmp_path, monkeypatch):
    source = ArraySource(np.zeros((9, 4, 4), np.uint8))

    def fail(i):
        if i == 5:
            raise OSError(28, "No space left on device")
        return f"{i}"

    monkeypatch.setattr(source, "identifier", fail)
    for form in FORMS:
        with pytest.raises(RunError, match="No space left"):
            pack({"train": source}, tmp_path / "out", form=form)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_nothing_under_the_name(tmp_path):
    script = f"""
import time, numpy as np
from pathlib import Path
from looktwice.data import ArraySource
from looktwice.data.pack import pack
class Slow(ArraySource):
    def image(self, i):
        time.sleep(0.01)
        return super().image(i)
print("go", flush=True)
pack({{"train": Slow(np.zeros((10**6, 4, 4), np.uint8))}}, Path({str(tmp_path / "out")!r}))
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=-1, stderr=-1) as process:
        assert process.stdout.readline() == b"go\n"
        patience = time.monotonic() + 30
        while not list(tmp_path.glob(".out*/*.tar")) and time.monotonic() < patience:
            time.sleep(0.01)
        assert list(tmp_path.iterdir())
        process.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in process.communicate(timeout=30)[1]
    assert not list(tmp_path.iterdir())


def test_no_name_leads_elsewhere(tmp_path):
    labels = ["../../evil", "/etc/evil", ".hidden", "a/b"]
    write_tar(tmp_path / "in" / "x.tar", samples(0, 8, labels))
    before = {path.name for path in tmp_path.iterdir()}
    pack(open_official(tmp_path / "in"), tmp_path / "out", form="folder")
    assert {path.name for path in tmp_path.iterdir()} == before | {"out"}
    found = open_source(tmp_path / "out")
    assert found.class_names == ("_./../evil".replace("/", "_"), "_hidden", "_etc_evil", "a_b")
    assert {p.name for p in (tmp_path / "out" / "train").iterdir()} == {*found.class_names}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a/b", "a_b"], "'a_b' cannot be listed"),
        (["a\nb", "c"], "listed"),
        (["x" * 300, "y"], "too long"),
    ],
)
def test_classes_that_cannot_be_folders(tmp_path, labels, message):
    write_tar(tmp_path / "in" / "x.tar", samples(0, 4, labels))
    with pytest.raises(DataError, match=message) as caught:
        pack(open_official(tmp_path / "in"), tmp_path / "out", form="folder")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_names_of_an_array_stay_one_a_line(tmp_path):
    names = ["a\nb.png", "c\u2028d.png", "caf\udce9.png"]
    write_tar(tmp_path / "x.tar", [entry(n, encoded(k)) for k, n in enumerate(names)])
    pack(open_official(tmp_path / "x.tar"), tmp_path / "out", form="array")
    source = open_source(tmp_path / "out")
    assert len({source.identifier(i) for i in range(3)}) == 3
    assert source.identifier(0) == "x.tar:a\\x0ab.png"


@pytest.mark.parametrize("damage", ["train.npy", "train.labels.npy", "train.names.txt"])
def test_a_damaged_folder_of_arrays(tmp_path, damage):
    source = ArraySource(np.zeros((9, 4, 4), np.uint8), np.arange(9))
    pack({"train": source}, tmp_path / "out", form="array")
    path = tmp_path / "out" / damage
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train\.npy|labels") as caught:
        open_source(tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_nothing_good(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="no picture of the train split"):
        pack(open_official(tmp_path / "in"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_kill_left_is_removed_by_the_next(folder, tmp_path):
    left = tmp_path / ".packed.123-0123abcd"
    left.mkdir()
    (left / "train-000000.tar").write_bytes(b"x")
    others = [tmp_path / ".packed.more.123-0123abcd", tmp_path / ".packed.json.5-0123abcd"]
    others[0].mkdir()
    others[1].write_text("{}")
    pack(open_official(folder), tmp_path / "packed")
    assert not left.exists()
    assert all(path.exists() for path in others)
