"""What `data check` finds, against pictures made to be found, and all pairs compared."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tars import entry, write_tar

from looktwice.cli import main
from looktwice.data import ArraySource, near, open_source
from looktwice.data.check import check
from looktwice.data.near import looks, near_pairs


def photo(seed, side=64):
    """A smooth picture of its own for each seed."""
    chance = np.random.default_rng(seed)
    small = chance.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """train and test, with one picture equal and one near in both, and one of each within train."""
    root = tmp_path / "data"
    for n in range(12):
        save(root / "train" / "ab"[n % 2] / f"{n:02}.png", photo(n))
    for n in range(20, 26):
        save(root / "test" / "ab"[n % 2] / f"{n}.png", photo(n))
    save(root / "train" / "a" / "equal.bmp", photo(3))
    save(root / "train" / "b" / "near.jpg", photo(5), quality=70)
    save(root / "test" / "a" / "leak.bmp", photo(7))
    save(root / "test" / "b" / "near.png", photo(8, side=64).resize((96, 96)))
    (root / "train" / "a" / "bad.png").write_bytes(b"no picture")
    return root


def test_doubles_within_and_between(folder):
    found = check({s: open_source(folder, split=s) for s in ("train", "test")})
    told = {(t.first, t.second): t.pairs for t in found.exact}
    assert told == {
        ("train", "train"): [("a/equal.bmp", "b/03.png")],
        ("train", "test"): [("b/07.png", "a/leak.bmp")],
    }
    told = {(t.first, t.second): t.pairs for t in found.near}
    assert told == {
        ("train", "train"): [("b/05.png", "b/near.jpg")],
        ("train", "test"): [("a/08.png", "b/near.png")],
    }
    assert [t.pictures for t in found.exact + found.near] == [1, 1, 1, 1]
    train = found.parts["train"]
    assert (train.count, train.channels, train.classes) == (15, 3, {"a": 8, "b": 7})
    assert train.heights == (64, 64, 64)
    assert found.parts["test"].heights == (64, 64, 96)
    assert list(train.bad) == ["a/bad.png"]


def test_the_command_prints_and_gives_json(folder, capsys):
    assert main(["data", "check", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train: 15 pictures, colour, 64 x 64 pixels"
    assert "equal pictures: 1 pictures of test are in train, too:" in lines
    assert "    'a/08.png' = 'b/near.png'" in lines
    assert main(["data", "check", str(folder), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["splits"]["train"]["bad"].keys() == {"a/bad.png"}
    assert record["exact_duplicates"][1]["pairs"] == [["b/07.png", "a/leak.bmp"]]


def test_against_another_data_set(folder, tmp_path, capsys):
    file = io.BytesIO()
    photo(2).save(file, "BMP")
    write_tar(tmp_path / "x.tar", [entry("p.bmp", file.getvalue()), entry("q.png", b"bad")])
    arguments = ["data", "check", str(folder), "--against", str(tmp_path / "x.tar"), "--json"]
    assert main(arguments) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["splits"]["against/train"]["bad"] == {
        "x.tar:q.png": "cannot identify a picture of any known format"
    }
    between = [t for t in record["exact_duplicates"] if t["second"] == "against/train"]
    assert [t["pairs"] for t in between] == [[["a/02.png", "x.tar:p.bmp"]]]


def test_grey_and_colour_pictures_of_equal_pixels_are_equal():
    grey = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
    colour = np.repeat(grey[::-1], 3, axis=3)
    found = check({"train": ArraySource(grey)}, {"train": ArraySource(colour)})
    assert [(t.first, t.second, t.pictures) for t in found.exact] == [("train", "against/train", 5)]


def test_many_equal_pictures_are_told_once_each():
    same = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    (found,) = check({"train": ArraySource(np.stack([same] * 500))}).exact
    assert found.pictures == len(found.pairs) == 499
    assert {a for a, _ in found.pairs} == {"array[0]"}


def test_nothing_is_there_twice(capsys, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    assert main(["data", "check", str(tmp_path / "x.npy")]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "equal pictures: none",
        "near pictures: none",
    ]


def all_pairs(hashes, thumbnails):
    """Compare each with each."""
    found = []
    flat = thumbnails.reshape(len(thumbnails), -1).astype(float)
    for i in range(len(hashes)):
        for j in range(i + 1, len(hashes)):
            apart = (int(hashes[i]) ^ int(hashes[j])).bit_count()
            shown = min(flat[i].std(), flat[j].std()) >= near.MIN_CONTRAST
            alike = shown and np.corrcoef(flat[i], flat[j])[0, 1] >= near.MIN_CORRELATION
            if apart <= near.MAX_BITS and alike:
                found.append([i, j])
    return found


@given(st.integers(0, 10**6))
@settings(max_examples=15)
def test_no_near_pair_is_missed(seed):
    chance = np.random.default_rng(seed)
    bases = chance.integers(0, 1 << 63, 4).astype(np.uint64)
    hashes = bases[chance.integers(0, 4, 50)]
    for i in range(50):
        for bit in chance.choice(64, chance.integers(0, 9), replace=False).tolist():
            hashes[i] ^= np.uint64(1) << np.uint64(bit)
    kinds = chance.integers(0, 256, (2, 16, 16)) * np.array([1.0, 0.01])[:, None, None]
    thumbnails = kinds[(chance.random(50) < 0.1).astype(int)].astype(np.uint8)
    assert near_pairs(hashes, thumbnails).tolist() == all_pairs(hashes, thumbnails)


def test_the_hash_is_the_papers():
    """By the sums of the cosine transform."""
    picture = np.asarray(photo(4, side=32))
    grey = np.asarray(Image.fromarray(picture).convert("L"), float)
    n = np.arange(32)
    waves = np.cos(np.pi * (2 * n[None] + 1) * n[:8, None] / 64)
    lowest = (waves @ grey @ waves.T).ravel()
    lowest *= np.outer(*[np.where(np.arange(8) == 0, np.sqrt(0.5), 1)] * 2).ravel()
    bits = lowest > np.median(lowest[1:])
    assert looks(picture)[0] == int("".join(str(int(b)) for b in bits), 2)


def test_few_of_all_pairs_are_compared(monkeypatch):
    chance = np.random.default_rng(0)
    count = 20_000
    hashes = chance.integers(0, 1 << 63, count).astype(np.uint64)
    thumbnails = np.broadcast_to(chance.integers(0, 256, (16, 16), dtype=np.uint8), (count, 16, 16))
    hashes[-3:] = hashes[:3] ^ np.uint64(0b10101)
    compared = []
    plain = np.bitwise_count
    monkeypatch.setattr(np, "bitwise_count", lambda x: compared.append(len(x)) or plain(x))
    pairs = near_pairs(hashes, thumbnails)
    assert pairs.tolist()[:3] == [[n, count - 3 + n] for n in range(3)]
    assert sum(compared) < 0.03 * count * (count - 1) / 2
