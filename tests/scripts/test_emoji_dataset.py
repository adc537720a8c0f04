"""The emoji data set, on a package of a few entries in the official layout, drawn here."""

import csv
import hashlib
import importlib.util
import io
import json
import sys
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from looktwice.data import open_source
from looktwice.errors import DataError, RunError

SCRIPT = Path(__file__).parents[2] / "scripts/emoji_dataset.py"
TONES = ("1F3FB", "1F3FF")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("emoji_dataset", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def entry(unified, category, *, tones=(), artists=("google", "twitter")):
    """An entry of emoji.json, what the script has no need of left out."""

    def form(codes):
        return {
            "unified": codes,
            "image": codes.lower() + ".png",
            **{f"has_img_{artist}": artist in artists for artist in ("google", "twitter")},
        }

    varied = {tone: form(f"{unified}-{tone}") for tone in tones}
    return {**form(unified), "category": category, **({"skin_variations": varied} if tones else {})}


FARMERS = ("1F9D1-200D-1F33E", "1F468-200D-1F33E", "1F469-200D-1F33E")
ENTRIES = [
    *[entry(code, "People & Body", tones=TONES) for code in FARMERS],
    *[entry(f"1F9D{n:X}", "People & Body") for n in range(10, 16)],
    *[entry(f"1F40{n:X}", "Animals & Nature") for n in range(16)],
    *[entry(f"1F34{n:X}", "Food & Drink", artists=("google",)) for n in range(10)],
    entry("1F3FB", "Component"),
]


def package(folder, artist, entries=ENTRIES, same=()):
    """Draw a package: each picture of one colour, its own but for those that are the same."""
    pictures = folder / "img" / artist / "64"
    pictures.mkdir(parents=True)
    (folder / "emoji.json").write_text(json.dumps(entries), "utf-8")
    (folder / "LICENSE").write_text(f"licence of {artist}", "utf-8")
    for one in entries:
        for form in (one, *one.get("skin_variations", {}).values()):
            codes = "same" if form["unified"] in same else form["unified"]
            colour = hashlib.sha256(f"{artist} {codes}".encode()).digest()[:3]
            pixels = np.zeros((64, 64, 4), np.uint8)
            pixels[8:56, 8:56] = (*colour, 255)
            Image.fromarray(pixels).save(pictures / form["image"])
    return folder


@pytest.fixture
def packages(tmp_path):
    return {artist: package(tmp_path / artist, artist) for artist in ("google", "twitter")}


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def table(out):
    with (out / "artists.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_written(script, packages, tmp_path):
    out = tmp_path / "out"
    script.build(out, packages)
    rows = table(out)
    assert Counter(row["label"] for row in rows) == {
        "people-and-body": 2 * (3 * 3 + 6),
        "animals-and-nature": 2 * 16,
        "food-and-drink": 10,
    }
    assert {row["file_name"] for row in rows} == {
        name for name in contents(out) if name.endswith("png")
    }
    for row in rows:
        split, label, name = row["file_name"].split("/")
        assert label == row["label"]
        assert name == f"{row['artist']}-{row['emoji'].lower()}.png"
        assert split in ("train", "val", "test")
    assert "1F3FB" not in {row["emoji"] for row in rows}


def test_pictures_lie_over_white(script, packages, tmp_path):
    script.build(tmp_path / "out", packages)
    row = table(tmp_path / "out")[0]
    with Image.open(tmp_path / "out" / row["file_name"]) as image:
        assert (image.mode, image.size) == ("RGB", (64, 64))
        pixels = np.asarray(image)
    colour = hashlib.sha256(f"{row['artist']} {row['emoji']}".encode()).digest()[:3]
    assert (pixels[:8] == 255).all()
    assert (pixels[8:56, 8:56] == list(colour)).all()


def test_all_drawings_of_an_emoji_are_in_one_split(script, packages, tmp_path):
    script.build(tmp_path / "out", packages)
    splits = defaultdict(set)
    for row in table(tmp_path / "out"):
        farmer = row["emoji"].replace("-1F3FB", "").replace("-1F3FF", "") in FARMERS
        name = "farmer" if farmer else row["emoji"]
        splits[name].add(row["file_name"].split("/")[0])
    assert len(splits) == 1 + 6 + 16 + 10
    assert all(len(found) == 1 for found in splits.values())


def test_shares_of_each_class(script, packages, tmp_path):
    script.build(tmp_path / "out", packages)
    found = Counter(tuple(row["file_name"].split("/")[:2]) for row in table(tmp_path / "out"))
    assert [found[split, "food-and-drink"] for split in ("train", "val", "test")] == [7, 1, 2]
    animals = [found[split, "animals-and-nature"] for split in ("train", "val", "test")]
    assert np.abs(np.array(animals) - 32 * np.array([0.7, 0.1, 0.2])).max() <= 2


def test_the_product_reads_it(script, packages, tmp_path):
    script.build(tmp_path / "out", packages)
    sources = [open_source(tmp_path / "out", split=split) for split in ("train", "validation", "test")]  # fmt: skip
    assert sum(map(len, sources)) == len(table(tmp_path / "out"))
    classes = ("animals-and-nature", "food-and-drink", "people-and-body")
    assert all(source.class_names == classes for source in sources)


def test_the_same_packages_give_the_same_bytes(script, packages, tmp_path):
    script.build(tmp_path / "one", packages)
    script.build(tmp_path / "two", packages)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_equal_pictures_are_in_one_split(script, tmp_path):
    alike = [f"1F40{n:X}" for n in range(16)]
    folders = {
        "google": package(tmp_path / "google", "google", same=alike[::2]),
        "twitter": package(tmp_path / "twitter", "twitter", same=alike[1::2]),
    }
    script.build(tmp_path / "out", folders)
    groups = {row["emoji"]: row["group"] for row in table(tmp_path / "out")}
    assert {groups[code] for code in alike[::2]} == {"1f400"}
    assert {groups[code] for code in alike[1::2]} == {"1f401"}


def test_notices(script, packages, tmp_path):
    script.build(tmp_path / "out", packages)
    notice = (tmp_path / "out" / "NOTICE").read_text("utf-8")
    for said in ("Noto Emoji", "Apache License, Version 2.0", "Twemoji", "CC-BY 4.0", "over white"):
        assert said in notice
    assert (tmp_path / "out/LICENSE-google").read_text("utf-8") == "licence of google"


def test_googles_drawings_go_with_the_whole_licence_that_the_notice_names(
    script, packages, tmp_path
):
    script.build(tmp_path / "out", packages)
    text = (tmp_path / "out/LICENSE-google-drawings.txt").read_bytes()
    official = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert hashlib.sha256(text).hexdigest() == official  # as at apache.org and in Debian
    assert "LICENSE-google-drawings.txt" in (tmp_path / "out/NOTICE").read_text("utf-8")
    assert not (tmp_path / "out/LICENSE-twitter-drawings.txt").exists()


def test_nothing_is_overwritten_and_nothing_half_is_left(script, packages, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(RunError, match="is there already"):
        script.build(tmp_path / "out", packages)
    assert not any((tmp_path / "out").iterdir())
    (packages["twitter"] / "img/twitter/64/1f40a.png").unlink()
    with pytest.raises(DataError, match="1f40a.png"):
        script.build(tmp_path / "new", packages)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["google", "out", "twitter"]


def test_a_folder_that_is_no_package(script, tmp_path):
    with pytest.raises(DataError, match=r"holds no emoji\.json.*emoji-datasource-google"):
        script.build(tmp_path / "out", {"google": tmp_path})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda out: next((out / "train").rglob("*.png")).unlink(), "not in both"),
        (lambda out: Image.new("L", (64, 64)).save(out / table(out)[0]["file_name"]), "is L"),
        (lambda out: move_to_another_split(out), "is in"),
        (lambda out: (out / "artists.csv").unlink(), "was not written by this script"),
    ],
)
def test_check_finds_what_was_spoilt(script, packages, tmp_path, spoil, reason):
    script.build(tmp_path / "out", packages)
    assert "72 pictures, 33 groups, 3 classes" in script.check(tmp_path / "out")
    spoil(tmp_path / "out")
    with pytest.raises(DataError, match=reason):
        script.check(tmp_path / "out")


def move_to_another_split(out):
    """Move one artist's drawing away from the other's, in the table too."""
    name = next(row["file_name"] for row in table(out) if row["file_name"].startswith("test/"))
    moved = name.replace("test/", "train/")
    (out / name).rename(out / moved)
    path = out / "artists.csv"
    path.write_text(path.read_text("utf-8").replace(name, moved), "utf-8")


VARIANTS = [
    ("1F469-200D-1F33E", "1F9D1-200D-1F33E"),
    ("1F469-200D-1F9B0", "1F9D1"),
    ("1F471-200D-2640-FE0F", "1F9D1"),
    ("1F46E-200D-2642-FE0F", "1F46E"),
    ("1F575-FE0F-200D-2640-FE0F", "1F575-FE0F"),
    ("1F467", "1F466"),
    ("1F475", "1F474"),
    ("1F478", "1F934"),
    ("1F9D1-200D-1F384", "1F385"),
    ("1F483", "1F57A"),
    ("1F9D1-200D-1F91D-200D-1F9D1", "1F46B"),
    ("1F46C", "1F46D"),
    ("1F469-200D-2764-FE0F-200D-1F468", "1F491"),
    ("1F468-200D-2764-FE0F-200D-1F48B-200D-1F468", "1F48F"),
    ("1F468-200D-1F469-200D-1F467-200D-1F466", "1F46A"),
    ("1F9D1-200D-1F9D2", "1F46A"),
    ("1F6B6-200D-2640-FE0F-200D-27A1-FE0F", "1F6B6"),
    ("1F469-200D-1F9BC-200D-27A1-FE0F", "1F468-200D-1F9BC"),
]


@pytest.mark.parametrize(("one", "other"), VARIANTS)
def test_variants_share_a_group(script, one, other):
    assert script.group_of(one) == script.group_of(other)


def test_what_is_no_variant_does_not(script):
    different = ["2640-FE0F", "2642-FE0F", "27A1-FE0F", "1F9D1", "1F9D2", "1F9D3", "1F476", "1F46A", "1F46B", "1F491", "1F48F", "1F469-200D-1F373", "1F469-200D-1F33E", "1F46E", "2764-FE0F", "2764-FE0F-200D-1F525"]  # fmt: skip
    assert len({script.group_of(emoji) for emoji in different}) == len(different)


def test_only_what_is_needed_is_unpacked(script, tmp_path):
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as tar:
        for name in ("package/emoji.json", "package/img/google/64/a.png", "package/img/google/32/a.png", "package/img/google/sheets/64.png"):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    script.unpack(tmp_path / "x.tgz", tmp_path / "out", "google")
    assert sorted(contents(tmp_path / "out")) == ["package/emoji.json", "package/img/google/64/a.png"]  # fmt: skip


def test_an_archive_that_reaches_outside_is_refused(script, tmp_path):
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("package/img/google/64/../../../../../escaped.png"))
    with pytest.raises(tarfile.OutsideDestinationError):
        script.unpack(tmp_path / "x.tgz", tmp_path / "out", "google")
    assert not (tmp_path / "escaped.png").exists()


def test_another_package_than_expected_is_refused(script, tmp_path, monkeypatch):
    def pack(command, cwd, **_):
        (cwd / "emoji-datasource-google-16.0.0.tgz").write_bytes(b"other")

    monkeypatch.setattr(script.subprocess, "run", pack)
    with pytest.raises(DataError, match="checksum"):
        script.fetch("google", tmp_path)
