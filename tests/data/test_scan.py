"""The kept list of a folder's pictures: as fast as it should be, and never an old one."""

import os
import random
import sys
import time

import numpy as np
import pytest

from looktwice.data import indexes, open_source, progress, scan
from looktwice.data.files import Paths
from looktwice.data.scan import list_pictures
from looktwice.errors import DataError


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A folder of two classes whose list is kept though it is short and new; counts the scans."""
    monkeypatch.setattr(scan, "MIN_KEPT", 1)
    monkeypatch.setattr(scan, "SETTLED", 0)
    root = tmp_path / "pictures"
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/deep/3.png", "empty/notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    _settle()
    scans = []
    plain = scan._Scan
    monkeypatch.setattr(scan, "_Scan", lambda path: scans.append(path) or plain(path))
    list_pictures(root)
    assert len(scans) == 1
    list_pictures(root)
    assert len(scans) == 1
    return root, scans


def _settle():
    """Let the clock of the file system go on."""
    time.sleep(0.03)


def walked(root):
    found = []
    for folder, inner, files in os.walk(root, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        inside = os.path.relpath(folder, root)
        found += [f"{inside}/{file}".removeprefix("./") for file in files if file.endswith(".png")]
    return sorted(found, key=lambda path: [os.fsencode(part) for part in path.split("/")])


CHANGES = {
    "added": lambda root: (root / "a" / "0.png").write_bytes(b""),
    "added below": lambda root: (root / "b" / "deep" / "9.png").write_bytes(b""),
    "added where no picture was": lambda root: (root / "empty" / "9.png").write_bytes(b""),
    "removed": lambda root: (root / "a" / "1.png").unlink(),
    "renamed": lambda root: (root / "a" / "1.png").rename(root / "a" / "7.png"),
    "moved": lambda root: (root / "a" / "1.png").rename(root / "b" / "7.png"),
    "folder added": lambda root: (root / "c").mkdir() or (root / "c" / "1.png").write_bytes(b""),
    "folder renamed": lambda root: (root / "b").rename(root / "z"),
    "folder exchanged": lambda root: (
        (root / "a").rename(root.parent / "kept"),
        (root / "a").mkdir(),
        (root / "a" / "5.png").write_bytes(b""),
    ),
    "folder hidden": lambda root: (root / "b").rename(root / ".b"),
    "folder turned into a link": lambda root: (
        (root / "b").rename(root.parent / "b"),
        (root / "b").symlink_to(root.parent / "b"),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(kept, change):
    root, scans = kept
    CHANGES[change](root)
    assert [*list_pictures(root)] == walked(root)
    assert len(scans) == 2


def test_a_change_is_seen_though_times_are_set_back(kept):
    root, _ = kept
    before = (root / "a").stat()
    (root / "a" / "0.png").write_bytes(b"")
    os.utime(root / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [*list_pictures(root)] == walked(root)


def test_a_replaced_picture_is_read_and_told_by_the_fingerprint(kept):
    root, _ = kept
    before = open_source(root).fingerprint()
    (root / "a" / "1.png").write_bytes(b"other")  # in place: the folder's time does not change
    source = open_source(root)
    assert source.file(0) == b"other"
    assert source.fingerprint() != before


def test_a_folder_reached_by_a_link_is_watched_where_it_lies(kept, tmp_path):
    root, scans = kept
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "1.png").write_bytes(b"")
    (root / "far").symlink_to(tmp_path / "far")
    assert [*list_pictures(root)][-1] == "far/1.png"
    _settle()
    (tmp_path / "far" / "2.png").write_bytes(b"")
    assert [*list_pictures(root)][-1] == "far/2.png"
    list_pictures(root)
    assert len(scans) == 3


def test_links_to_files_are_looked_at_every_time(kept, tmp_path):
    root, scans = kept
    (root / "c.png").symlink_to(tmp_path / "else.png")
    for _ in range(2):
        assert "c.png" in [*list_pictures(root)]
    assert len(scans) == 3


def test_what_changed_a_moment_ago_is_not_trusted(kept, monkeypatch):
    root, scans = kept
    monkeypatch.setattr(scan, "SETTLED", 10**9)
    (root / "a" / "0.png").write_bytes(b"")
    for _ in range(2):
        list_pictures(root)
    assert len(scans) == 3  # it might change again within one tick of the clock


def test_random_changes_are_seen(kept):
    root, _ = kept
    chance = random.Random(0)
    for step in range(60):
        files, folders = walked(root), [p for p in root.rglob("*") if p.is_dir()]
        kind = chance.randrange(4)
        if kind == 0 or len(files) < 3:
            (chance.choice(folders) / f"n{step}.png").write_bytes(b"")
        elif kind == 1:
            (root / chance.choice(files)).unlink()
        elif kind == 2:
            (root / chance.choice(files)).rename(chance.choice(folders) / f"m{step}.png")
        else:
            (chance.choice(folders) / f"d{step}").mkdir()
        assert [*list_pictures(root)] == walked(root)
        _settle()


def test_names_of_every_kind_are_kept(kept):
    root, scans = kept
    names = [b"caf\xe9.png", b"new\nline.png", b"x" * 251 + b".png", "é.png".encode()]
    for name in names:
        (root / "a" / os.fsdecode(name)).write_bytes(b"")
    _settle()
    first = [*list_pictures(root)]
    assert [*list_pictures(root)] == first == walked(root)
    assert len(scans) == 2


def test_short_lists_are_not_kept(tmp_path):
    (tmp_path / "1.png").write_bytes(b"")
    list_pictures(tmp_path)
    assert not indexes.cache_folder().exists()


def test_folders_deeper_than_pythons_stack(tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(os.open("1.png", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    assert [path.count("/") for path in list_pictures(tmp_path)] == [1100]


def test_paths_are_a_sequence():
    paths = Paths.of(("", "d"), [0, 1, 1], [b"a", b"", b"caf\xe9"])
    assert [*paths] == ["a", "d/", "d/caf\udce9"]
    assert paths[1:] == ["d/", "d/caf\udce9"]
    assert [*paths.take(np.array([2, 0]), ("x", ""))] == ["caf\udce9", "x/a"]
    with pytest.raises(IndexError):
        paths[3]


def test_a_hundred_thousand_files(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "SETTLED", 0)
    for k in range(100):
        (tmp_path / f"{k:03}").mkdir()
        for n in range(1000):
            os.close(os.open(tmp_path / f"{k:03}" / f"{n:06}.jpg", os.O_CREAT | os.O_WRONLY))
    _settle()
    first = open_source(tmp_path)
    scans = []
    plain = scan._Scan
    monkeypatch.setattr(scan, "_Scan", lambda path: scans.append(path) or plain(path))
    began = time.process_time()
    source = open_source(tmp_path)
    assert time.process_time() - began < 2
    assert not scans
    assert len(source) == 100_000
    assert source.identifier(54_321) == "054/000321.jpg"
    assert np.array_equal(source.labels, np.repeat(np.arange(100), 1000))
    assert source.fingerprint() == first.fingerprint()
    (tmp_path / "050" / "000500.jpg").unlink()
    assert len(open_source(tmp_path)) == 99_999


def test_an_unreadable_folder_is_told_when_the_list_is_old(kept):
    root, _ = kept
    for path in sorted(root.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    with pytest.raises(DataError, match="0 pictures"):
        list_pictures(root)


def test_a_long_scan_shows_how_far_it_is_and_wipes_the_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", -1.0)
    with progress.ProgressLine("scanning pictures", 9000) as line:
        line.at(1000)
    assert capsys.readouterr().err == ""  # no terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.ProgressLine("scanning pictures", 9000) as line:
        line.at(1000)
        assert capsys.readouterr().err.endswith("scanning pictures: 1,000 of 9,000")
    assert capsys.readouterr().err == "\r\x1b[K"
