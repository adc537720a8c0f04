import json
import shutil

import numpy as np
import pytest
from PIL import Image

from looktwice.data import open_source, open_splits
from looktwice.errors import DataError


@pytest.fixture
def pictures(tmp_path):
    for i, name in enumerate(("a.png", "deep/b.png", "c d.png", "train/e.png", "test/f.png")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 3), (i, 0, 0)).save(path)
    return tmp_path


def as_json(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


ROWS = [("c d.png", "dog"), ("a.png", "cat"), ("deep/b.png", "dog")]
CSV = "file_name,label\n" + "".join(f"{name},{label}\n" for name, label in ROWS)
JSONL = as_json(*({"file_name": name, "label": label} for name, label in ROWS))


def check(source):
    assert [source.identifier(i) for i in range(3)] == ["c d.png", "a.png", "deep/b.png"]
    assert [int(source.image(i)[0, 0, 0]) for i in range(3)] == [2, 0, 1]
    assert source.class_names == ("cat", "dog")
    assert source.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("labels.csv", CSV),
        ("labels.csv", "\ufeff" + CSV.replace("\n", "\r\n")),
        ("labels.jsonl", JSONL),
        ("labels.jsonl", JSONL.replace("\n", "\n\n")),
    ],
)
def test_a_table(pictures, file, text):
    (pictures / file).write_text(text, "utf-8", newline="")
    check(open_source(pictures / file))


@pytest.mark.parametrize(("file", "text"), [("metadata.csv", CSV), ("metadata.jsonl", JSONL)])
def test_metadata_in_a_folder(pictures, file, text):
    (pictures / file).write_text(text)
    check(open_source(pictures))


def test_metadata_in_each_split(pictures):
    (pictures / "train" / "metadata.csv").write_text("file_name,label\ne.png,x\n")
    (pictures / "test" / "metadata.jsonl").write_text(as_json({"file_name": "f.png", "label": "x"}))
    train, test = (open_source(pictures, split=split) for split in ("train", "test"))
    assert (train.identifier(0), test.identifier(0)) == ("train/e.png", "test/f.png")
    assert test.image(0)[0, 0, 0] == 4


def test_metadata_of_another_kind_is_left_alone(pictures):
    (pictures / "train" / "metadata.csv").write_text("width,height\n4,3\n")
    assert len(open_source(pictures / "train")) == 1


def test_splits_and_numbers(pictures):
    (pictures / "labels.csv").write_text(
        "split,file_name,label\ntrain,a.png,10\nTest,deep/b.png,9\ntrain,c d.png,9\nval,train/e.png,10\n"
    )
    splits = open_splits(pictures / "labels.csv")
    assert splits.train.class_names == ("9", "10")
    assert splits.train.labels.tolist() == [1, 0]
    assert (splits.validation.identifier(0), splits.validation.labels.tolist()) == (
        "train/e.png",
        [1],
    )
    assert splits.test.labels.tolist() == [0]


@pytest.mark.parametrize("text", ["file_name\na.png\n", "file_name,label\na.png,\n"])
def test_without_labels(pictures, text):
    (pictures / "labels.csv").write_text(text)
    assert open_source(pictures / "labels.csv").labels is None


def test_json_numbers_are_labels(pictures):
    text = as_json({"file_name": "a.png", "label": 3}, {"file_name": "c d.png", "label": 20})
    (pictures / "labels.jsonl").write_text(text)
    assert np.array_equal(open_source(pictures / "labels.jsonl").labels, [0, 1])
    assert open_source(pictures / "labels.jsonl").class_names == ("3", "20")


HEAD = "file_name,label\n"
BAD = {
    "no file_name": ("l.csv", "filename,label\na.png,x\n", "line 2 .* has no file_name"),
    "absent picture": ("l.csv", f"{HEAD}a.png,x\nz.png,x\n", "lists 'z.png', which is not in"),
    "a folder": ("l.csv", f"{HEAD}deep,x\n", "lists 'deep', which is not in"),
    "twice": ("l.csv", f"{HEAD}a.png,x\n./a.png,y\n", "lists 'a.png' twice"),
    "outside": ("l.csv", f"{HEAD}deep/../../a.png,x\n", "leads out of the table's folder"),
    "absolute": ("l.csv", f"{HEAD}/etc/passwd,x\n", "leads out of the table's folder"),
    "no path": ("l.csv", f"{HEAD},x\n", "is no path"),
    "some labels": ("l.csv", f"{HEAD}a.png,x\nc d.png,\n", "no label for 1 pictures .* 'c d.png'"),
    "columns": ("l.csv", f"{HEAD}a.png,x,y\n", "line 2 .* other columns"),
    "too few columns": ("l.csv", f"{HEAD}a.png\n", "line 2 .* other columns"),
    "quotes": ("l.csv", f'{HEAD}"a.png,x\n', "is no CSV after line 1"),
    "empty": ("l.csv", "", "lists no pictures"),
    "header alone": ("l.csv", HEAD, "lists no pictures"),
    "split": ("l.csv", "file_name,split\na.png,trian\n", "split 'trian' is unknown. Did you mean"),
    "no train": ("l.csv", "file_name,split\na.png,test\n", "no pictures in the train split"),
    "negative": ("l.csv", f"{HEAD}a.png,-1\n", "label -1"),
    "other class": (
        "l.csv",
        "file_name,label,split\na.png,x,train\nc d.png,y,test\n",
        "label 'y' of the test split",
    ),
    "other encoding": ("l.csv", b"file_name,label\na.png,\xe9\n", "not UTF-8"),
    "long name": ("l.csv", f"{HEAD}{'x' * 5000},x\n", "which is not in"),
    "no JSON": ("l.jsonl", "{'file_name': 'a.png'}\n", "line 1 .* is no JSON"),
    "no object": ("l.jsonl", '["a.png"]\n', "line 1 .* no JSON object"),
    "deep JSON": ("l.jsonl", "[" * 200_000, "line 1"),
    "a number": ("l.jsonl", '{"file_name": 3}\n', "file_name 3 is no path"),
    "zero byte": ("l.jsonl", '{"file_name": "a\\u0000.png"}\n', "is no path"),
    "surrogate": ("l.jsonl", '{"file_name": "\\ud800.png"}\n', "which is not in"),
    "float label": ("l.jsonl", as_json({"file_name": "a.png", "label": 0.5}), "neither a string"),
    "true": ("l.jsonl", as_json({"file_name": "a.png", "label": True}), "neither a string"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_told_in_one_line(pictures, case):
    file, text, message = BAD[case]
    (pictures / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as caught:
        open_source(pictures / file)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()  # printable anywhere


def test_two_tables_in_one_folder(pictures):
    (pictures / "metadata.csv").write_text(CSV)
    (pictures / "metadata.jsonl").write_text(JSONL)
    with pytest.raises(DataError, match=r"both metadata\.csv and metadata\.jsonl"):
        open_source(pictures)


def test_split_folders_of_any_case_have_metadata(pictures):
    for split, name in (("train", "e.png"), ("test", "f.png")):
        (pictures / split).rename(pictures / split.title())
        (pictures / split.title() / "metadata.csv").write_text(f"file_name,label\n{name},cat\n")
    for name in ("a.png", "deep", "c d.png"):
        path = pictures / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert open_source(pictures).identifier(0) == "Train/e.png"
    assert open_source(pictures, split="test").identifier(0) == "Test/f.png"


def test_a_split_without_metadata_beside_one_with_it_is_not_lost(pictures):
    (pictures / "train" / "metadata.csv").write_text("file_name,label\ne.png,cat\n")
    with pytest.raises(DataError, match=r"test' has no metadata.csv, but .*train/metadata.csv"):
        open_splits(pictures)


def test_blanks_after_commas(pictures):
    (pictures / "labels.csv").write_text(CSV.replace(",", ", "))
    check(open_source(pictures / "labels.csv"))
