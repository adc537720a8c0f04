"""Embeddings: the rows they should have, and the same bytes however often they are killed."""

import csv
import dataclasses
import filecmp
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from looktwice import features
from looktwice.checkpoint import checkpoint_name, load_checkpoint
from looktwice.cli import main
from looktwice.data import ArraySource, Source, open_source
from looktwice.embedding import About, embed_target, read_about, read_rows
from looktwice.embedding.embed import embed
from looktwice.embedding.pieces import Piece, Pieces
from looktwice.embedding.subject import Eye, data_at, open_eye
from looktwice.errors import DataError, RunError, UsageError
from looktwice.estimator import load_encoder
from looktwice.models import EncoderSpec, wrap_encoder

from .conftest import BAD

PLANTED = Path(__file__).with_name("planted_kill.py")
FORMATS = ("parquet", "npy", "csv")


def error_of(capsys, *arguments):
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err
    return code, captured.err


def expected(encoder_file, pictures):
    """What `features.encode` makes of the readable pictures of each split, and their names."""
    encoder = load_encoder(encoder_file)
    names, labels, splits, found = [], [], [], []
    for split in ("train", "test"):
        source = open_source(pictures, split=split)
        prepared, kept = features.prepare(encoder, source)
        found.append(features.encode(encoder, prepared))
        names += [source.identifier(int(i)) for i in kept]
        labels += [source.class_names[source.labels[i]] for i in kept]
        splits += [split] * len(kept)
    return splits, names, labels, torch.cat(found).numpy()


def read_back(path, kind):
    """Read a file by libraries alone: splits, names, labels, features."""
    if kind == "parquet":
        table = pyarrow.parquet.read_table(path)
        columns = [table[name].to_pylist() for name in ("split", "name", "label")]
        return *columns, np.array(table["h"].to_pylist())
    with (path if kind == "csv" else Path(f"{path}.rows.csv")).open(newline="") as file:
        lines = list(csv.DictReader(file))
    columns = [[line[name] for line in lines] for name in ("split", "name", "label")]
    if kind == "npy":
        return *columns, np.load(path)
    numbers = [[float(line[f"h.{i}"]) for i in range(len(lines[0]) - 4)] for line in lines]
    return *columns, np.array(numbers, np.float32)


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_are_the_features_of_the_readable_pictures(encoder_file, pictures, tmp_path, kind):
    out = tmp_path / f"x.{kind}"
    found = embed_target(encoder_file, out, data=pictures)
    splits, names, labels, h = read_back(out, kind)
    wanted = expected(encoder_file, pictures)
    assert (splits, names, labels) == wanted[:3]
    assert np.array_equal(h, wanted[3])
    assert found.about.rows == len(names) == 97
    said = [json.loads(line) for line in found.bad_files.read_text().splitlines()]
    assert [f"{line['path']}" for line in said] == [name.split("/", 1)[1] for name in BAD]
    assert all("cannot identify" in line["reason"] for line in said)
    ours = list(read_rows(out))
    assert [name for rows in ours for name in rows.names] == names
    assert np.array_equal(np.concatenate([rows.features["h"] for rows in ours]), h)


def test_the_file_says_what_made_it(encoder_file, pictures, tmp_path):
    about = embed_target(encoder_file, tmp_path / "x.parquet", data=pictures).about
    metadata = pyarrow.parquet.read_schema(tmp_path / "x.parquet").metadata[b"looktwice"]
    said = json.loads(metadata)
    assert said["encoder"]["spec"]["image_size"] == 12
    assert said["unreadable"] == 3
    other = embed_target(encoder_file, tmp_path / "y.parquet", data=pictures, image_size=16).about
    assert about.difference(other) == "the encoder at another size or normalisation"
    assert len(about.encoder["weights_sha256"]) == len(about.pictures["sha256"]) == 64


def test_pictures_are_named_so_that_they_are_found_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cifar10").mkdir()
    for data in ("cifar10", "https://host.org/a.tar", "hf:owner/name"):
        assert data_at(data) == data
    for data in ("flowers", Path("cifar10"), "shards/{0..9}.tar"):
        assert data_at(data) == str(tmp_path / data)


def test_an_encoder_that_is_no_runs_reads_pictures_on_all_cores(encoder_file, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    assert open_eye(encoder_file).threads == 3
    monkeypatch.delattr("os.sched_getaffinity")  # as on macOS
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    assert open_eye(encoder_file).threads == 5


@pytest.mark.parametrize("kind", FORMATS)
def test_float16_is_rounded_once(encoder_file, pictures, tmp_path, kind):
    embed_target(encoder_file, tmp_path / f"x.{kind}", data=pictures, dtype="float16")
    h = np.concatenate([rows.features["h"] for rows in read_rows(tmp_path / f"x.{kind}")])
    assert h.dtype == np.float16
    assert np.array_equal(h, expected(encoder_file, pictures)[3].astype(np.float16))


def test_what_float16_cannot_hold_is_refused():
    from looktwice.embedding.subject import as_dtype

    assert np.isnan(as_dtype(torch.tensor([[float("nan")]]), "float16", "x")).all()
    with pytest.raises(DataError, match="choose --dtype float32"):
        as_dtype(torch.tensor([[7e4]]), "float16", "x")


def test_unlabelled_pictures_hostile_names_and_a_single_one(encoder_file, tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    names = ['a,"b".png', "line\nbreak.png", "=1+1.png", "ü\u202e.png"]
    for number, name in enumerate(names):
        Image.fromarray(np.full((9, 9, 3), 40 * number + 5, np.uint8)).save(folder / name)
    for kind in FORMATS:
        out = tmp_path / f"x.{kind}"
        embed_target(encoder_file, out, data=folder)
        rows = next(read_rows(out))
        assert sorted(rows.names) == sorted(names)
        assert rows.labels == [None] * 4
    one = ArraySource(np.zeros((1, 9, 9, 3), np.uint8))
    assert embed_target(encoder_file, tmp_path / "one.npy", data=one).about.rows == 1


def test_what_is_there_already_is_kept_and_another_is_refused(
    encoder_file, other_encoder, pictures, tmp_path, capsys
):
    out = tmp_path / "x.npy"
    arguments = ["embed", str(encoder_file), "--data", str(pictures), "--out", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "written" in printed
    assert f"3 could not be read, listed in {out}.bad_files.jsonl" in printed
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert main(arguments) == 0
    assert "there already" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    for changed, what in (
        (["embed", other_encoder, *arguments[2:]], "another encoder"),
        ([*arguments[:3], pictures / "test", *arguments[4:]], "other pictures"),
        ([*arguments, "--dtype", "float16"], "float16"),
    ):
        code, text = error_of(capsys, *changed)
        assert (code, what in text, "left as it is" in text) == (1, True, True), text
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message", "expected_code"),
    [
        ({"--out": "x.txt"}, "must end in one of .parquet, .npy, .csv", 2),
        ({"--out": "none/x.npy"}, "no folder", 1),
        ({"--dtype": "float64"}, "must be float32 or float16", 2),
        ({"--layers": "h,z"}, "the folder of a run", 2),
        ({"--layers": "h,h"}, "each once", 2),
        ({"--layers": "q"}, "the folder of a run", 2),
        ({"--image-size": "0"}, "--image-size is 0; it must be 1 or more", 2),
        ({"--image-size": "-5"}, "--image-size is -5; it must be 1 or more", 2),
        ({"--data": "nowhere"}, "there is no folder or data set 'nowhere'", 1),
    ],
)
def test_bad_input_is_one_line(
    encoder_file, pictures, tmp_path, capsys, monkeypatch, change, message, expected_code
):
    monkeypatch.chdir(tmp_path)
    given = {"--data": str(pictures), "--out": "x.npy"} | change
    code, text = error_of(
        capsys, "embed", encoder_file, *(a for pair in given.items() for a in pair)
    )
    assert (code, message in text) == (expected_code, True), text
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_names_the_extra(encoder_file, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    given = ["embed", encoder_file, "--data", pictures, "--out", tmp_path / "x.parquet"]
    code, text = error_of(capsys, *given)
    assert (code, "pip install 'looktwice[parquet]'" in text) == (2, True), text


@pytest.mark.parametrize("kind", FORMATS)
def test_half_a_file_is_told_in_one_line(encoder_file, pictures, tmp_path, capsys, kind):
    out = tmp_path / f"x.{kind}"
    embed_target(encoder_file, out, data=pictures)
    os.truncate(out, out.stat().st_size // 2)
    given = ["embed", encoder_file, "--data", pictures, "--out", out]
    code, text = error_of(capsys, *given)
    assert (code, "half-written" in text) == (1, True), text
    with pytest.raises(RunError, match="half-written"):
        read_about(out)


def test_other_peoples_files_are_no_embeddings(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 4)))
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "x.parquet")
    for name in ("x.npy", "x.parquet"):
        with pytest.raises(RunError, match="no embedding of looktwice"):
            read_about(tmp_path / name)


def test_a_file_in_the_way_is_refused_before_any_work(encoder_file, pictures, tmp_path, capsys):
    (tmp_path / "x.npy.json").write_text("mine")
    given = ["embed", encoder_file, "--data", pictures, "--out", tmp_path / "x.npy"]
    code, text = error_of(capsys, *given)
    assert (code, "in the way" in text) == (1, True), text
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy.json"]


# --- killed -------------------------------------------------------------------------------------


def planted(where, encoder_file, pictures, out):
    """Run the command killed or stopped at some places; return how it ended, and what it said."""
    command = [sys.executable, PLANTED, where, "embed", encoder_file, "--data", pictures, "-o", out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.stderr == ""
    codes = [int(code) for code in re.findall(r" ended with (-?\d+)$", done.stdout, re.MULTILINE)]
    return codes, re.sub(r"^\S+ ended with .*\n", "", done.stdout, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def whole(encoder_file, pictures, tmp_path_factory):
    """What is written in small pieces when nothing goes wrong."""
    folder = tmp_path_factory.mktemp("whole")
    for kind in FORMATS:
        assert planted("none", encoder_file, pictures, folder / f"x.{kind}")[0] == [0]
    return folder


def check_same(whole, folder, kind):
    files = sorted(path.name for path in whole.iterdir() if path.name.startswith(f"x.{kind}"))
    assert sorted(path.name for path in folder.iterdir()) == files
    assert filecmp.cmpfiles(whole, folder, files, shallow=False)[0] == files


@pytest.mark.parametrize("kind", FORMATS)
def test_killed_again_and_again_it_ends_with_the_same_bytes(
    encoder_file, pictures, whole, tmp_path, kind
):
    out = tmp_path / f"x.{kind}"
    places = "kill:0,kill:2,kill:0,int:1,join:3,names,none"
    codes, said = planted(places, encoder_file, pictures, out)
    assert codes == [-9, -9, -9, 130, -9, -9, 0], said
    assert "going on after" in said
    check_same(whole, tmp_path, kind)


def test_ctrl_c_says_what_is_kept(encoder_file, pictures, whole, tmp_path):
    codes, said = planted("int:2", encoder_file, pictures, tmp_path / "x.npy")
    assert codes == [130]
    assert "of 100 pictures, which are kept; the same command goes on" in said
    assert said.endswith("looktwice: interrupted\n")


def test_a_full_disk_is_one_line_and_nothing_is_lost(encoder_file, pictures, whole, tmp_path):
    codes, said = planted("full:2,none", encoder_file, pictures, tmp_path / "x.npy")
    assert codes == [1, 0]
    assert re.search("^looktwice: .*No space left on device.*$", said, re.MULTILINE), said
    check_same(whole, tmp_path, "npy")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_disk_that_is_really_full_at_the_join(encoder_file, pictures, tmp_path, capsys, kind):
    """A file system with room for the pieces and not for the whole beside them."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=520k", "tmpfs", small], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        codes, said = planted("none", encoder_file, pictures, small / f"x.{kind}")
        assert (codes, said.count("\n")) == ([1], 1), said
        assert "No space left on device" in said
        assert not (small / f"x.{kind}").exists()
        subprocess.run(["mount", "-o", "remount,size=8m", small], check=True)
        assert planted("none", encoder_file, pictures, small / f"x.{kind}")[0] == [0]
        assert sum(len(rows) for rows in read_rows(small / f"x.{kind}")) == 97
    finally:
        subprocess.run(["umount", small], check=True)


def test_unfinished_work_of_another_command_is_refused(
    encoder_file, other_encoder, pictures, tmp_path
):
    out = tmp_path / "x.npy"
    assert planted("kill:2", encoder_file, pictures, out)[0] == [-9]
    codes, said = planted("none", other_encoder, pictures, out)
    assert (codes, said.count("\n")) == ([1], 1)
    assert "unfinished embedding, and this command asks for another encoder" in said


@pytest.mark.parametrize("lost", ["about.json", "piece-00000001.safetensors"])
def test_pieces_of_which_something_is_lost_are_refused(tmp_path, lost):
    """Also the last one of train, where some of test are there."""
    spec = dataclasses.asdict(EncoderSpec("resnet-tiny", 1, True, 12, [0.5], [0.25]))
    about = About(
        {"target": "x", "weights": None, "weights_sha256": "0", "spec": spec},
        {"sha256": "0", "name": "x", "run": None, "of_run": False, "data": "x", "alpha": "white"},
        {"h": 2}, "float32",
    )  # fmt: skip
    pieces = Pieces(tmp_path, about)
    for split, first in (("train", 0), ("train", 4), ("test", 0)):
        h = np.zeros((4, 2), np.float32)
        pieces.add(Piece(split, first, first + 4, [], np.arange(first, first + 4), {"h": h}))
    assert Pieces(tmp_path, about).rows == 12
    (tmp_path / lost).unlink()
    with pytest.raises(RunError, match="missing: remove .*, and begin anew"):
        Pieces(tmp_path, about)


def test_a_kill_while_pieces_are_removed_leaves_none_of_them(
    encoder_file, other_encoder, pictures, tmp_path, monkeypatch
):
    out = tmp_path / "x.npy"

    def killed(path, ignore_errors=False):
        if path.name != "whole":
            (path / "about.json").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        embed_target(encoder_file, out, data=pictures)
    monkeypatch.undo()
    for path in tmp_path.glob("x.*"):
        path.unlink()
    made = embed_target(other_encoder, out, data=pictures)
    embed_target(other_encoder, tmp_path / "y.npy", data=pictures)
    assert np.array_equal(np.load(made.path), np.load(tmp_path / "y.npy"))
    assert not list(tmp_path.glob(".*"))


def test_a_split_that_ends_in_unreadable_pictures(encoder_file, tmp_path, small_pieces):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(20):
        path = folder / f"{number:02}.png"
        Image.fromarray(np.full((9, 9, 3), number, np.uint8)).save(path)
        if number >= 16:  # the first piece ends with 15
            path.write_bytes(b"x")
    found = embed_target(encoder_file, tmp_path / "x.npy", data=folder)
    assert (found.about.rows, found.about.unreadable) == (16, 4)
    assert len(found.bad_files.read_text().splitlines()) == 4


def test_a_run_labels_no_pictures_with_splits_it_was_not_trained_on(run, tmp_path, capsys):
    pixels = np.load(run.parent / "pixels.npy")
    np.save(run.parent / "pixels.npy", pixels[:59])
    code, text = error_of(capsys, "embed", run, "--out", tmp_path / "x.npy")
    assert (code, "does not hold the pictures" in text) == (1, True), text
    data = ["--data", run.parent / "pixels.npy"]  # these are train, as distributed
    assert main([str(a) for a in ["embed", run, *data, "--out", tmp_path / "x.npy"]]) == 0


def test_layers_of_a_run_are_those_of_its_head(run, tmp_path, capsys):
    out = tmp_path / "x.parquet"
    assert main(["embed", str(run), "--layers", "h,hidden-1,z", "-o", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert list(said["layers"]) == ["h", "hidden-1", "z"]
    table = pyarrow.parquet.read_table(out)
    assert set(table["split"].to_pylist()) == {"train", "validation"}
    h, hidden, z = (np.array(table[layer].to_pylist()) for layer in ("h", "hidden-1", "z"))
    weights = load_checkpoint(run / "checkpoints" / checkpoint_name(2))[0]["method"]
    of = {
        name.removeprefix("projection_head."): tensor.double().numpy()
        for name, tensor in weights.items()
        if name.startswith("projection_head.")
    }
    middle = (h @ of["0.weight"].T - of["1.running_mean"]) / np.sqrt(of["1.running_var"] + 1e-5)
    middle = np.maximum(middle * of["1.weight"] + of["1.bias"], 0)
    np.testing.assert_allclose(hidden, middle, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(z, middle @ of["3.weight"].T, rtol=1e-3, atol=1e-4)
    with pytest.raises(UsageError, match="--image-size: the run .* has its own"):
        embed_target(run, tmp_path / "y.npy", image_size=16)
    with pytest.raises(UsageError, match="no layer 'y'"):
        embed_target(run, tmp_path / "y.npy", layers=["h", "y"])


# --- memory -------------------------------------------------------------------------------------


class Endless(Source):
    """Many small pictures that take no memory."""

    def __init__(self, count):
        super().__init__("endless", 3, None, None)
        self._count = count

    def __len__(self):
        return self._count

    def image(self, i):
        return np.full((8, 8, 3), i % 251, np.uint8)

    def identifier(self, i):
        return str(i)

    def fingerprint(self):
        return str(self._count)


def peak_megabytes(work):
    """The most memory held while something is done, beyond what was held before."""
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    work()
    return status("VmHWM") - before


def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(key))


@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_memory_does_not_grow_with_the_pictures(tmp_path, kind):
    """60,000 rows of 192 numbers are 46 MB; what is held of them is a piece or two."""
    encoder = wrap_encoder(torch.nn.Flatten(), image_size=8)
    eye = Eye("pixels", None, encoder, None, None, 1)
    embed(eye, tmp_path / f"few.{kind}", data=Endless(3000))
    few = peak_megabytes(lambda: embed(eye, tmp_path / f"a.{kind}", data=Endless(6000)))
    many = peak_megabytes(lambda: embed(eye, tmp_path / f"b.{kind}", data=Endless(60_000)))
    assert many < few + 20
    rows = list(read_rows(tmp_path / f"b.{kind}"))
    assert [int(name) for some in rows for name in some.names] == list(range(60_000))
    sample = rows[-1].features["h"][-1]
    np.testing.assert_allclose(sample[:64], ((59_999 % 251) / 255 - 0.485) / 0.229, rtol=1e-5)
