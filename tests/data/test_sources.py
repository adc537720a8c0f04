"""What every source keeps: one contract, whatever the pictures lie in."""

import errno
import os
import re
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tars import encoded, samples, write_tar

from looktwice.augment import policy
from looktwice.data import ArraySource, Loader, Source, join, open_source, sources, subset
from looktwice.data.decoding import decode
from looktwice.data.files import Files
from looktwice.data.open import open_official
from looktwice.data.pack import pack
from looktwice.data.sources import FileSource
from looktwice.errors import BadPictureError, DataError

COUNT = 12
PIXELS = np.stack([decode(encoded(n), 3) for n in range(COUNT)])
LABELS = np.arange(COUNT) % 3


def _folder(root, first=0):
    for n in range(COUNT):
        path = root / f"{LABELS[n]}" / f"{n:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(n + first))
    return root


def _table(root, first=0):
    _folder(root, first)
    lines = [f"{LABELS[n]}/{n:03}.png,{LABELS[n]}\n" for n in range(COUNT)]
    (root / "labels.csv").write_text("file_name,label\n" + "".join(lines))
    return root / "labels.csv"


def _npz(root, first=0):
    root.mkdir(exist_ok=True)
    np.savez(root / "x.npz", images=np.roll(PIXELS, first, 0), labels=LABELS)
    return root / "x.npz"


def _shards(root, first=0):
    for k in range(3):
        write_tar(root / f"{k}.tar", samples(first + 4 * k, 4, [k % 3, (k + 1) % 3, 2, 0]))
    return root


def _one_shard(root, first=0):
    return _shards(root, first) / "0.tar"


def _remote(root, first=0):
    _shards(root, first)
    system = fsspec.filesystem("memory")
    for k in range(3):
        system.pipe(f"/contract/{k}.tar", (root / f"{k}.tar").read_bytes())
    return "memory://contract/{0..2}.tar"


def _arrays(root, first=0):
    pack(open_official(_folder(root / "in", first)), root / "out", form="array")
    return root / "out"


def _parquet(root, first=0):
    root.mkdir(exist_ok=True)
    rows = [{"bytes": encoded(first + n)} for n in range(COUNT)]
    made = pa.table({"image": rows, "label": LABELS})
    pq.write_table(made, root / "x.parquet")
    return root / "x.parquet"


def _array(root, first=0):
    return ArraySource(np.roll(PIXELS, first, 0), LABELS)


def _part(root, first=0):
    return subset(open_source(_shards(root, first)), np.arange(11, -1, -1))


def _both(root, first=0):
    one = open_source(_folder(root / "a", first))
    return join(one, open_source(_folder(root / "b", first)))


MAKERS = {
    "array": _array, "npz": _npz, "folder": _folder, "table": _table, "shards": _shards,
    "one shard": _one_shard, "remote shards": _remote, "packed arrays": _arrays,
    "parquet": _parquet, "subset": _part, "joined": _both,
}  # fmt: skip


@pytest.fixture(params=MAKERS)
def kind(request):
    return request.param


@pytest.fixture
def source(kind, tmp_path):
    return open_source(MAKERS[kind](tmp_path / "one"))


def test_pictures_are_bytes_of_one_number_of_channels(source):
    assert len(source) in (4, COUNT, 2 * COUNT)
    for i in range(len(source)):
        picture = source.image(i)
        assert picture.dtype == np.uint8
        assert picture.shape == (6, 8, 3) == (*picture.shape[:2], source.channels)
    assert source.picture_size in (None, (6, 8))


def test_labels_and_names(source):
    assert source.labels.dtype == np.int64
    assert source.labels.shape == (len(source),)
    assert set(source.labels.tolist()) == set(range(len(source.class_names)))
    names = [source.identifier(i) for i in range(len(source))]
    assert all(name.encode() for name in names)
    if not isinstance(source, type(join(source, source))):  # two folders may call theirs alike
        assert len(set(names)) == len(names)


def test_opened_again_it_is_the_same(source, kind, tmp_path):
    again = source if kind == "array" else open_source(MAKERS[kind](tmp_path / "again"))
    assert [again.image(i).tobytes() for i in range(len(again))] == [
        source.image(i).tobytes() for i in range(len(source))
    ]
    assert np.array_equal(again.labels, source.labels)
    assert len(source.fingerprint()) == 64
    assert source.fingerprint() == source.fingerprint()


def test_others_have_another_fingerprint(source, kind, tmp_path):
    other = open_source(MAKERS[kind](tmp_path / "one" / "other", first=3001))
    assert other.fingerprint() != source.fingerprint()


def test_encoded_pictures_and_files_are_the_pictures(source):
    for i in range(len(source)):
        assert np.array_equal(source.encoded(i).decode().pixels, source.image(i))
        file = source.file(i)
        assert (file is not None) == source.is_encoded
        if file is not None:
            assert np.array_equal(decode(file, 3), source.image(i))


def test_threads_read_the_same(source):
    expected = [source.image(i).tobytes() for i in range(len(source))] * 20
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda i: source.image(i).tobytes(), [*range(len(source))] * 20)
        assert [*found] == expected


def test_views_do_not_depend_on_threads_or_restarts(source):
    views = policy("simclr", size=8)

    def batches(threads, first):
        loader = Loader(source, views, batch_size=4, seed=1, threads=threads)
        return [batch.views[0].tobytes() for batch in loader.batches(first, 6)]

    assert batches(2, 0) == batches(0, 0)
    assert batches(2, 4) == batches(0, 0)[4:]


def test_parts_and_grounds(source):
    part = subset(source.over("black"), np.array([3, 0]))
    assert np.array_equal(part.image(0), source.image(3))
    assert part.identifier(1) == source.identifier(0)
    assert part.labels.tolist() == source.labels[[3, 0]].tolist()
    assert dict(source.skipped) == {}


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE])
def test_a_fault_of_the_machine_is_no_bad_picture(number):
    class Failing(Files):
        def __len__(self):
            return 2

        def read(self, i):
            raise OSError(number, os.strerror(number))

        def identifier(self, i):
            return f"{i}.png"

        def digest(self):
            return b""

    source = FileSource(Failing(), name="x", channels=3)
    for ask in (source.image, source.encoded, source.file):
        with pytest.raises(DataError, match=re.escape(os.strerror(number))) as caught:
            ask(1)
        assert not isinstance(caught.value, BadPictureError)
    with pytest.raises(DataError, match="3 labels for 2 pictures"):
        FileSource(Failing(), name="x", channels=3, labels=np.zeros(3, np.int64))


@pytest.mark.parametrize(
    "error",
    [struct.error("unpack"), KeyError(7), MemoryError(), RecursionError("deep"), zlib.error("-3"),
     SyntaxError("broken"), EOFError(), IndexError("x"), AssertionError()],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_a_decoder_raises_is_the_pictures_fault_alone(tmp_path, monkeypatch, error):
    def decoder(*_):
        raise error

    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    source = open_source(tmp_path)
    monkeypatch.setattr(sources, "decode", decoder)
    with pytest.raises(BadPictureError, match="is not a readable picture: .+"):
        source.image(0)


def test_a_mistake_outside_of_decoding_is_told_as_it_is(tmp_path):
    class Mistaken(Source):
        def __init__(self):
            super().__init__("mistaken", 3, None, None)

        def __len__(self):
            return 8

        def image(self, i):
            raise KeyError("a mistake of the source")

        def identifier(self, i):
            return str(i)

        def fingerprint(self):
            return ""

    loader = Loader(Mistaken(), policy("simclr", size=8), batch_size=4, seed=0, threads=2)
    with pytest.raises(KeyError, match="a mistake"):
        list(loader.batches(0, 1))
