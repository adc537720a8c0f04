"""Tables of pictures, Parquet and Arrow, and the hub's cache; nothing goes to the network."""

import contextlib
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tars import encoded

from looktwice.data import hub, open_source, open_splits
from looktwice.errors import BadPictureError, DataError


def table(first, count, labels=None, names=None, column="image"):
    rows = [{"bytes": encoded(n), "path": f"{n}.png"} for n in range(first, first + count)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {column: pa.array(rows, kind)}
    features = {column: {"_type": "Image"}}
    if labels is not None:
        columns["label"] = pa.array([labels[n % len(labels)] for n in range(count)])
        if names:
            features["label"] = {"_type": "ClassLabel", "names": names}
    meta = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    return pa.table(columns).replace_schema_metadata(meta)


def write(path, made, kind="parquet"):
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "parquet":
        pq.write_table(made, path, row_group_size=3)
        return path
    make = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with make(str(path), made.schema) as writer:
        writer.write_table(made, max_chunksize=3)
    return path


def numbers(source):
    return [int(source.image(i)[1, 0, 0]) for i in range(len(source))]


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
def test_tables_by_split(tmp_path, kind):
    end = "parquet" if kind == "parquet" else "arrow"
    for split, first in (("train", 0), ("validation", 20), ("test", 40)):
        for part in range(2):
            made = table(first + 10 * part, 8, [2, 0], ["ant", "bee", "cat"])
            write(tmp_path / "data" / f"{split}-{part:05}-of-00002.{end}", made, kind)
    found = open_splits(tmp_path)
    assert numbers(found.train) == [*range(8), *range(10, 18)]
    assert numbers(found.validation)[:2] == [20, 21]
    assert numbers(found.test)[8:10] == [50, 51]
    assert found.train.class_names == ("ant", "bee", "cat")
    assert found.train.labels.tolist() == [2, 0] * 8
    assert found.train.identifier(9) == f"data/train-00001-of-00002.{end}[1]"
    assert found.train.file(9) == encoded(11)
    assert open_splits(tmp_path).train.fingerprint() == found.train.fingerprint()


def test_a_changed_parquet_file_is_read_anew(tmp_path):
    path = write(tmp_path / "x.parquet", table(0, 4))
    before = open_source(path).fingerprint()
    write(path, table(30, 5))
    assert numbers(open_source(path)) == [30, 31, 32, 33, 34]
    assert open_source(path).fingerprint() != before


def test_plain_columns_and_words_as_labels(tmp_path):
    made = pa.table({"img": [encoded(n) for n in range(4)], "label": ["b", "a", "b", "b"]})
    source = open_source(write(tmp_path / "x.parquet", made))
    assert numbers(source) == [0, 1, 2, 3]
    assert source.class_names == ("a", "b")
    assert source.labels.tolist() == [1, 0, 1, 1]


def test_rows_without_bytes_are_bad_pictures(tmp_path):
    rows = [{"bytes": encoded(0)}, {"bytes": None}, None, {"bytes": b"no picture"}]
    made = pa.table({"image": pa.array(rows, pa.struct([("bytes", pa.binary())]))})
    source = open_source(write(tmp_path / "x.parquet", made))
    assert source.image(0).shape == (6, 8, 3)
    for i in (1, 2, 3):
        with pytest.raises(BadPictureError, match=rf"x\.parquet\[{i}\]"):
            source.image(i)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (pa.table({"text": ["a"]}), "the columns text, none of pictures"),
        (pa.table({"image": ["a"]}), "holds string, no pictures"),
        (pa.table({"image": [b"a", b"b"], "label": [1, None]}), "rows without a label"),
        (table(0, 2, [7], ["ant"]), "none of its 1 classes"),
        (table(0, 2).slice(0, 0), "no rows"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, made, message):
    with pytest.raises(DataError, match=message) as caught:
        open_source(write(tmp_path / "x.parquet", made))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("end", ["parquet", "arrow"])
def test_damaged_tables_are_one_line(tmp_path, end):
    path = write(tmp_path / f"x.{end}", table(0, 30), "parquet" if end == "parquet" else "file")
    whole = path.read_bytes()
    chance = np.random.default_rng(0)
    for cut in (0, 5, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"no whole table|no rows") as caught:
            open_source(path)
        assert "\n" not in str(caught.value)
    for _ in range(60):
        data = bytearray(whole)
        for at in chance.integers(0, len(data), 6).tolist():
            data[at] ^= 1 << int(chance.integers(0, 8))
        path.write_bytes(data)
        with contextlib.suppress(DataError):  # BadPictureError is one
            source = open_source(path)
            for i in range(len(source)):
                with contextlib.suppress(BadPictureError):
                    source.image(i)


def test_the_hub_is_asked_only_when_allowed(tmp_path, monkeypatch):
    asked = []

    def snapshot(name, **options):
        asked.append((name, options["local_files_only"]))
        if options["local_files_only"] and len(asked) == 1:
            raise FileNotFoundError("not cached")
        return str(tmp_path)

    module = type(sys)("huggingface_hub")
    module.snapshot_download = snapshot
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    with pytest.raises(DataError, match="nothing is downloaded silently.*add --download"):
        open_source("hf:owner/pets")
    with pytest.raises(DataError, match="no Parquet files"):
        open_source("hf:owner/pets", download=True)
    write(tmp_path / "data" / "train-0.parquet", table(0, 4))
    assert numbers(open_source("hf:owner/pets")) == [0, 1, 2, 3]
    assert open_source("hf:owner/pets").name == "hf:owner/pets"
    assert asked == [("owner/pets", True), ("owner/pets", False)] + [("owner/pets", True)] * 2


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "x.parquet", table(0, 4))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'looktwice\[hf\]'"):
        open_source(path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DataError, match=r"pip install 'looktwice\[hf\]'"):
        hub.open_hub("hf:a/b", may_download=False)


def test_labels_stay_with_their_pictures(tmp_path):
    """A table without pictures, whose labels would shift all others, is refused."""
    write(tmp_path / "train-0.parquet", table(0, 3, [0, 1]))
    write(tmp_path / "train-1.parquet", pa.table({"label": [7, 7, 7]}))
    with pytest.raises(DataError, match=r"'train-1.parquet' of .* has no column 'image'"):
        open_splits(tmp_path)


def test_a_test_split_without_labels(tmp_path):
    write(tmp_path / "train-0.parquet", table(0, 12, [0, 1]))
    write(tmp_path / "test-0.parquet", table(20, 3))
    splits = open_splits(tmp_path, validation_fraction=0.2)
    assert splits.train.labels is not None
    assert splits.test.labels is None
    assert numbers(splits.test) == [20, 21, 22]


@pytest.mark.parametrize(
    "made",
    [
        pa.table({"image": pa.array([{"path": "a"}])}),
        pa.table({"image": pa.array([b"x"])}).replace_schema_metadata(
            {b"huggingface": b'{"info": {"features": [1]}}'}
        ),
    ],
)
def test_columns_of_another_kind_are_told_or_read(tmp_path, made):
    write(tmp_path / "a.parquet", made)
    with contextlib.suppress(DataError):
        assert len(open_source(tmp_path)) == 1


@pytest.mark.parametrize("damage", [b"", b"\xff" * 100, None])
def test_a_damaged_copy_in_the_cache_is_made_anew(tmp_path, damage):
    write(tmp_path / "a.parquet", table(0, 5))
    assert numbers(open_source(tmp_path)) == list(range(5))
    (copy,) = hub.cache_folder().with_name("arrow").glob("*.arrow")
    copy.write_bytes(copy.read_bytes()[:-40] if damage is None else damage)
    assert numbers(open_source(tmp_path)) == list(range(5))
    assert [path.suffix for path in copy.parent.iterdir() if path != copy] == [".lock"]


def test_a_table_among_pictures_does_not_take_their_place(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(encoded(3))
    write(tmp_path / "cat" / "features.parquet", table(0, 5))
    assert open_source(tmp_path).class_names == ("cat", "dog")
