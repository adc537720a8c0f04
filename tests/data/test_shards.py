"""Shards: layout, labels, splits, the cached index, and tars that are cut or hostile."""

import os
import tarfile
import time

import numpy as np
import pytest
from tars import encoded, entry, samples, write_tar

from looktwice.augment import policy
from looktwice.data import Loader, indexes, open_source, open_splits, shards
from looktwice.errors import BadPictureError, DataError


def numbers(source):
    pixels = [source.image(i)[1, 0].tolist() for i in range(len(source))]
    return [red + 256 * green for red, green, _ in pixels]


def test_a_shard_is_read_in_order_with_its_labels(tmp_path):
    path = write_tar(tmp_path / "x.tar", samples(0, 7, labels=[10, 2, 10]))
    source = open_source(path)
    assert numbers(source) == list(range(7))
    assert source.class_names == ("2", "10")
    assert source.labels.tolist() == [1, 0, 1, 1, 0, 1, 1]
    assert source.identifier(3) == "x.tar:000003.png"
    assert source.file(3) == encoded(3)
    assert source.is_encoded
    assert not source.skipped
    with tarfile.open(path) as tar:
        assert source.file(5) == tar.extractfile("000005.png").read()


@pytest.mark.parametrize(
    "entries",
    [
        [entry("a.cls", b"7\n"), entry("a.png", encoded(1))],
        [entry("a.png", encoded(1)), entry("a.json", b'{"label": 7, "cls": 3}')],
        [entry("a.json", b'{"cls": 7}'), entry("a.png", encoded(1))],
        [entry("a.json", b'{"cls": 3}'), entry("a.png", encoded(1)), entry("a.cls", b"7")],
        [entry("a.cls", b"7"), entry("a.json", b'{"cls": 3}'), entry("a.PNG", encoded(1))],
        [entry("a.cls", b"7"), entry("a.txt", b"a cat"), entry("a.png", encoded(1))],
    ],
)
def test_where_labels_are_found(tmp_path, entries):
    write_tar(tmp_path / "x.tar", [*entries, entry("b.png", encoded(2)), entry("b.cls", b"9")])
    source = open_source(tmp_path / "x.tar")
    assert source.class_names == ("7", "9")
    assert source.labels.tolist() == [0, 1]


def test_labels_that_are_words_and_a_list_that_orders_them(tmp_path):
    write_tar(tmp_path / "x.tar", samples(0, 4, labels=["dog", "cat"]))
    assert open_source(tmp_path).class_names == ("cat", "dog")
    (tmp_path / "class.txt").write_text("dog\ncow\ncat\n")
    source = open_source(tmp_path)
    assert source.class_names == ("dog", "cow", "cat")
    assert source.labels.tolist() == [0, 2, 0, 2]
    (tmp_path / "class.txt").write_text("dog\ncow\n")
    with pytest.raises(DataError, match="label 'cat' in .* is none of the 2"):
        open_source(tmp_path)


def test_a_list_names_numbers(tmp_path):
    write_tar(tmp_path / "x.tar", samples(0, 4, labels=[2, 0]))
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    for where in (tmp_path, tmp_path / "x.tar"):
        source = open_source(where)
        assert source.class_names == ("ant", "bee", "cat")
        assert source.labels.tolist() == [2, 0, 2, 0]


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"\xff\xfe", ""), (b"x" * (1 << 21), ""), (b"", ""), (b"{", "json"), (b"[" * 10**5, "json")],
    ids=["bytes", "size", "nothing", "json", "depth"],
)  # fmt: skip
def test_a_label_that_cannot_be_read_loses_its_picture_alone(tmp_path, data, why):
    bad = [entry("b.png", encoded(2)), entry(f"b.{why or 'cls'}", data)]
    write_tar(tmp_path / "x.tar", [*samples(0, 2, [1]), *bad, *samples(5, 2, [1])])
    source = open_source(tmp_path)
    assert numbers(source) == [0, 1, 5, 6]
    assert source.skipped == {"x.tar:b.png": "its label cannot be read"}


def test_all_are_labelled_or_none(tmp_path):
    write_tar(tmp_path / "x.tar", [*samples(0, 3), *samples(5, 2, [1])])
    with pytest.raises(DataError, match=r"no label for 3 pictures .* 'x\.tar:000000\.png'"):
        open_source(tmp_path)


def test_names_that_are_no_pictures_of_a_sample(tmp_path):
    odd = ["a.seg.png", ".hidden.png", "._a.png", "README", "d/a.b/c", "a.txt"]
    write_tar(tmp_path / "x.tar", [*(entry(n, encoded(9)) for n in odd), *samples(0, 1)])
    assert numbers(open_source(tmp_path)) == [0]
    write_tar(tmp_path / "x.tar", [entry(n, b"1") for n in odd])
    with pytest.raises(DataError, match=r"0 pictures .* found .*\.seg\.png.*one dot after the key"):
        open_source(tmp_path)


def test_a_key_has_one_picture(tmp_path):
    twice = [*samples(0, 2), entry("000001.jpg", encoded(7, "JPEG")), *samples(0, 1)]
    write_tar(tmp_path / "x.tar", twice)
    source = open_source(tmp_path)
    assert numbers(source) == [0, 1]
    assert len(source.skipped) == 2
    assert len({source.identifier(i) for i in range(2)} | source.skipped.keys()) == 4


@pytest.mark.parametrize(
    "names",
    [
        ["train-000.tar", "train-001.tar", "val-000.tar", "test-000.tar"],
        ["a-train-000.tar", "a-train-001.tar", "a_validation.tar", "a.test.0.tar"],
        ["train/0.tar", "train/1.tar", "val/0.tar", "test/0.tar"],
        ["0.tar", "1.tar", "valid.tar", "test.tar"],
    ],
)
def test_splits(tmp_path, names):
    for k, name in enumerate(names):
        write_tar(tmp_path / name, samples(10 * k, 3, labels=[k % 2, 1, 0]))
    found = open_splits(tmp_path)
    assert numbers(found.train) == [0, 1, 2, 10, 11, 12]
    assert numbers(found.validation) == [20, 21, 22]
    assert numbers(found.test) == [30, 31, 32]
    assert found.test.class_names == found.train.class_names == ("0", "1")


def test_shards_without_train(tmp_path):
    write_tar(tmp_path / "test.tar", samples(0, 3))
    with pytest.raises(DataError, match="shards for test, but none for train"):
        open_source(tmp_path)
    assert len(open_source(tmp_path / "test.tar")) == 3  # a shard that is named is meant


def test_pictures_beside_tars_are_a_folder_of_pictures(tmp_path):
    write_tar(tmp_path / "x.tar", samples(0, 3))
    (tmp_path / "a.png").write_bytes(encoded(1))
    assert [open_source(tmp_path).identifier(0)] == ["a.png"]


def test_patterns(tmp_path, monkeypatch):
    for k in range(12):
        write_tar(tmp_path / f"s-{k:03}.tar", samples(10 * k, 1))
    for pattern, expected in {
        "s-{002..004}.tar": [20, 30, 40],
        "s-0{10,02}.tar": [100, 20],
        "s-0{0..1}{0,1}.tar": [0, 10, 100, 110],
        "s-00*.tar": list(range(0, 100, 10)),
        "s-00[13].tar": [10, 30],
    }.items():
        assert numbers(open_source(f"{tmp_path}/{pattern}")) == expected, pattern
    with pytest.raises(DataError, match=r"s-012\.tar.*No such file.*mend the pattern"):
        open_source(f"{tmp_path}/s-{{011..013}}.tar")
    with pytest.raises(DataError, match="no shard matches"):
        open_source(f"{tmp_path}/z*.tar")
    monkeypatch.setattr(shards, "MAX_SHARDS", 50)
    with pytest.raises(DataError, match="more than 50 shards"):
        open_source("{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}.tar")
    (tmp_path / "s-{000..010}.tar").write_bytes((tmp_path / "s-007.tar").read_bytes())
    assert numbers(open_source(tmp_path / "s-{000..010}.tar")) == [70]  # a file of that name


def test_the_index_is_made_once_and_when_the_shard_changes(tmp_path, monkeypatch):
    made = []
    plain = shards._index
    monkeypatch.setattr(shards, "_index", lambda shard: made.append(shard.name) or plain(shard))
    first = write_tar(tmp_path / "a.tar", samples(0, 3, [1, 2]))
    write_tar(tmp_path / "b.tar", [*samples(10, 3, [2, 3]), entry("x.png", type=tarfile.SYMTYPE)])
    before = open_source(tmp_path)
    again = open_source(tmp_path)
    assert made == ["a.tar", "b.tar"]
    assert numbers(again) == numbers(before)
    assert again.labels.tolist() == before.labels.tolist()
    assert again.skipped == before.skipped == {"b.tar:x.png": "it is a link"}
    assert again.fingerprint() == before.fingerprint()
    write_tar(first, samples(5, 3, [1, 2]))  # the same size, another time
    os.utime(first, ns=(0, 12345))
    changed = open_source(tmp_path)
    assert made == ["a.tar", "b.tar", "a.tar"]
    assert numbers(changed) == [5, 6, 7, 10, 11, 12]
    assert changed.fingerprint() != before.fingerprint()


def test_a_damaged_or_missing_cache_is_no_matter(tmp_path, monkeypatch):
    write_tar(tmp_path / "a.tar", samples(0, 3, [1, 2]))
    open_source(tmp_path)
    (kept,) = indexes.cache_folder().iterdir()
    for damage in (b"", b"\xff" * 100, kept.read_bytes()[:-5]):
        kept.write_bytes(damage)
        assert numbers(open_source(tmp_path)) == [0, 1, 2]
    monkeypatch.setenv("LOOKTWICE_CACHE", "/dev/null/none")
    assert numbers(open_source(tmp_path)) == [0, 1, 2]


def test_no_changed_bit_of_a_kept_index_is_believed(tmp_path):
    arrays = {"x": np.arange(5), "text": indexes.packed(["a", "b\udcff"])}
    indexes.store("key", arrays)
    kept = indexes._path("key")
    whole = bytearray(kept.read_bytes())
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        kept.write_bytes(changed)
        found = indexes.load("key")
        same = found is not None and all(np.array_equal(found[n], arrays[n]) for n in arrays)
        assert found is None or same
    kept.write_bytes(whole)
    assert indexes.load("key") is not None


def test_the_cache_does_not_grow_for_ever(tmp_path):
    long_ago = time.time() - 100 * 86_400
    for n in range(6):
        indexes.store(str(n), {"x": np.arange(n)})
        os.utime(indexes._path(str(n)), (long_ago, long_ago if n < 4 else time.time()))
    assert indexes.load("3") is not None  # used again
    indexes._prune.cache_clear()
    indexes.store("new", {})
    assert [n for n in range(6) if indexes.load(str(n)) is not None] == [3, 4, 5]


def test_more_shards_than_files_of_a_cache_once_had_are_indexed_once(tmp_path, monkeypatch):
    for k in range(30):
        write_tar(tmp_path / f"{k:02}.tar", samples(k, 1))
    made = []
    index = shards._index
    monkeypatch.setattr(shards, "_index", lambda s: made.append(s.name) or index(s))
    for _ in range(2):
        indexes._prune.cache_clear()
        assert numbers(open_source(tmp_path)) == list(range(30))
    assert len(made) == 30


def test_braces_count_down_as_in_a_shell():
    assert shards.expand("s-{003..001}.tar") == ["s-003.tar", "s-002.tar", "s-001.tar"]
    assert shards.expand("s-{7..7}.tar") == ["s-7.tar"]


def test_a_link_to_itself_beside_shards_is_no_matter(tmp_path):
    write_tar(tmp_path / "a.tar", samples(0, 2))
    (tmp_path / "loop").symlink_to("loop")
    assert numbers(open_source(tmp_path)) == [0, 1]


def test_any_order_and_restart_give_the_pictures_of_a_folder(tmp_path):
    for n in range(24):
        (tmp_path / "f").mkdir(exist_ok=True)
        (tmp_path / "f" / f"{n:06}.png").write_bytes(encoded(n))
    for k in range(3):
        write_tar(tmp_path / "t" / f"{k}.tar", samples(8 * k, 8))
    views = policy("simclr", size=8)

    def batches(folder, first):
        loader = Loader(open_source(folder), views, batch_size=5, seed=3, threads=2)
        return [b.views[0].tobytes() for b in loader.batches(first, 9)]

    assert batches(tmp_path / "t", 0) == batches(tmp_path / "f", 0)
    assert batches(tmp_path / "t", 6) == batches(tmp_path / "f", 0)[6:]


def test_damaged_pictures_are_replaced_by_the_next_good_one(tmp_path):
    good = [entry(f"{n}.png", encoded(n)) for n in range(8)]
    bad = [entry("bad0.png", encoded(9)[:60]), entry("bad1.jpg", b""), entry("bad2.gif", b"GIF89a")]
    write_tar(tmp_path / "x.tar", [*good[:4], *bad, *good[4:]])
    source = open_source(tmp_path)
    found = {}
    for threads in (0, 1, 3):
        loader = Loader(source, policy("simclr", size=8), batch_size=11, seed=0, threads=threads,
                        max_bad=0.5)  # fmt: skip
        found[threads] = [batch.views[0].tobytes() for batch in loader.batches(0, 4)]
        listed = sorted(bad.identifier for bad in loader.bad_pictures.values())
        assert listed == ["x.tar:bad0.png", "x.tar:bad1.jpg", "x.tar:bad2.gif"]
    assert found[0] == found[1] == found[3]


@pytest.mark.parametrize("labels", [None, [3, 5]])
def test_a_shard_cut_anywhere_gives_every_picture_before(tmp_path, labels):
    whole = write_tar(tmp_path / "w.tar", samples(0, 12, labels)).read_bytes()
    with tarfile.open(tmp_path / "w.tar") as tar:
        ends = [m.offset_data + m.size for m in tar if m.name.endswith("cls" if labels else "png")]
    for cut in np.random.default_rng(0).integers(ends[0], len(whole), 60).tolist():
        path = tmp_path / "cut" / "x.tar"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(whole[:cut])
        source = open_source(path)
        assert numbers(source) == list(range(sum(end <= cut for end in ends)))
        assert bool(source.skipped) == (cut < ends[-1] + 512 - ends[-1] % 512 + 512)
        assert len(source.skipped) <= 2  # a picture without its label, and where the tar ends


def test_a_shard_that_shrinks_later_has_bad_pictures(tmp_path):
    path = write_tar(tmp_path / "x.tar", samples(0, 12))
    source = open_source(path)
    os.truncate(path, 5000)
    with pytest.raises(BadPictureError, match=r"'x.tar:000011.png'.*it ends after 0 of"):
        source.image(11)
    assert source.image(0).shape == (6, 8, 3)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BadPictureError, match="not a regular file"):
        source.image(0)


def test_what_is_no_tar(tmp_path):
    path = tmp_path / "x.tar"
    for data, why in ((b"", "no end mark"), (b"hello" * 200, "damaged header")):
        path.write_bytes(data)
        with pytest.raises(DataError, match=f"0 pictures in the train shards .*{why}") as caught:
            open_source(path)
        assert "\n" not in str(caught.value)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"is a file|no regular file"):
        open_source(path)
    with pytest.raises(DataError, match="no regular file"):
        open_source(f"{tmp_path}/?.tar")
