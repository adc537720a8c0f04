"""Search beside brute force, and what it refuses."""

import dataclasses
import json
import re
import shutil

import faiss
import numpy as np
import pytest
import torch
from PIL import Image

from looktwice.cli import main
from looktwice.data import ArraySource
from looktwice.embedding import (
    About,
    Rows,
    build_index,
    embed_target,
    read_rows,
    search_target,
)
from looktwice.embedding.formats import format_of
from looktwice.errors import DataError, RunError, UsageError
from looktwice.models import EncoderSpec, build_backbone

SPEC = EncoderSpec("resnet-tiny", 3, True, 12, (0.5,) * 3, (0.25,) * 3)


def error_of(capsys, *arguments):
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err
    return code, captured.err


def write_vectors(path, features, names=None):
    """An embedding of given features, without pictures."""
    count, width = features.shape
    about = About(
        {"target": "x", "weights": None, "weights_sha256": "0" * 64, "spec": dataclasses.asdict(SPEC)},
        {"sha256": "0" * 64, "name": "x", "run": None, "of_run": False, "data": None,
         "alpha": "white"},
        {"h": width}, "float32", count, 0,
    )  # fmt: skip
    names = names or [f"{i}.png" for i in range(count)]
    rows = Rows(["train"] * count, np.arange(count), names, [None] * count, {"h": features})
    format_of(path).write(path, about, [rows])
    return path


@pytest.fixture(scope="module")
def embedding(encoder_file, pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("embedding") / "x.npy"
    embed_target(encoder_file, out, data=pictures)
    return out


@pytest.mark.parametrize("k", [1, 10, 3000])
def test_an_index_finds_what_brute_force_finds(tmp_path, k):
    generator = np.random.default_rng(0)
    # Integers: sums of products are exact, and ties and zero vectors are among them.
    features = generator.integers(-3, 4, (3000, 24)).astype(np.float32)
    features[7] = 0
    queries = generator.integers(-3, 4, (30, 24)).astype(np.float32)
    index = build_index(write_vectors(tmp_path / "x.npy", features), tmp_path / "index")
    similarity, rows = index.search(queries, k)
    lengths = np.linalg.norm(features.astype(np.float64), axis=1)
    lengths[7] = 1
    exact = queries.astype(np.float64) @ features.T.astype(np.float64) / lengths
    exact /= np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(similarity, -np.sort(-exact, axis=1)[:, :k], atol=1e-6)
    np.testing.assert_allclose(similarity, np.take_along_axis(exact, rows, axis=1), atol=1e-6)
    assert all(len(set(found)) == k for found in rows.tolist())


def test_faiss_itself_reads_the_index(embedding, tmp_path):
    index = build_index(embedding, tmp_path / "index")
    theirs = faiss.read_index(str(tmp_path / "index" / "vectors.faiss"))
    h = np.load(embedding)
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    assert theirs.ntotal == len(index) == len(h)
    np.testing.assert_allclose(theirs.reconstruct_n(0, len(h)), unit, atol=1e-6)
    rows = next(read_rows(embedding))
    for number in (0, 50, 96):
        expected = (rows.splits[number], int(rows.indices[number]), rows.names[number])
        assert index.row(number)[:3] == expected


def test_a_picture_finds_itself_and_its_class(encoder_file, pictures, embedding):
    queries = [pictures / "train" / "night" / "007.png", pictures / "test" / "day" / "004.png"]
    index, answers = search_target(embedding, queries, k=5)
    h = np.load(embedding).astype(np.float64)
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    rows = next(read_rows(embedding))
    for answer, (split, name) in zip(
        answers, [("train", "night/007.png"), ("test", "day/004.png")], strict=True
    ):
        first = answer.hits[0]
        assert (first.split, first.name) == (split, name)
        assert first.similarity == pytest.approx(1, abs=1e-5)
        itself = list(zip(rows.splits, rows.names, strict=True)).index((split, name))
        best = np.argsort(-(h @ h[itself]), kind="stable")[:5]
        assert [(hit.split, hit.name, hit.label) for hit in answer.hits] == [
            (rows.splits[i], rows.names[i], rows.labels[i]) for i in best
        ]
    assert index.path.name == "x.npy.index"


def test_the_command_prints_a_table_and_json_and_writes_a_page(
    embedding, pictures, tmp_path, capsys
):
    query = pictures / "train" / "day" / "000.png"
    page = tmp_path / "page.html"
    assert main(["search", str(embedding), str(query), "-k", "3", "-o", str(page)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"the nearest 3 of 97 pictures\n +1 +1\.000 +day +day/000\.png\n", printed)
    text = page.read_text()
    assert text.count("<img") == 4
    assert 'src="data:image' in text
    assert "http" not in text.replace("http-equiv", "")
    index = str(embedding) + ".index"
    assert main(["search", index, str(query), str(query), "-k", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["pictures"] == 97
    assert [len(answer["found"]) for answer in said["queries"]] == [2, 2]
    assert said["queries"][0]["found"][0]["name"] == "day/000.png"
    code, text = error_of(capsys, "search", index, query, "-o", page)
    assert (code, "exists already" in text) == (1, True)


def test_pictures_that_moved_are_found_by_data_and_gone_ones_are_named(
    encoder_file, pictures, tmp_path, capsys
):
    shutil.copytree(pictures, tmp_path / "old")
    embed_target(encoder_file, tmp_path / "x.npy", data=tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    query = tmp_path / "new" / "train" / "day" / "001.png"
    given = ["search", tmp_path / "x.npy", query, "-k", "4"]
    code, text = error_of(capsys, *given, "-o", tmp_path / "a.html")
    assert (code, "there is no folder" in text) == (1, True), text
    moved = ["--data", tmp_path / "new", "-o", tmp_path / "b.html"]
    (tmp_path / "new" / "train" / "day" / "000.png").unlink()  # all others of train move up
    assert main([str(a) for a in [*given, *moved]]) == 0
    assert (tmp_path / "b.html").read_text().count("not readable") > 0


def test_another_encoder_is_refused_and_the_same_elsewhere_is_taken(
    encoder_file, other_encoder, embedding, pictures, tmp_path, capsys
):
    query = pictures / "train" / "day" / "001.png"
    code, text = error_of(capsys, "search", embedding, query, "--encoder", other_encoder)
    assert (code, "was made by another encoder" in text) == (1, True), text
    shutil.copy(encoder_file, tmp_path / "same.safetensors")
    given = ["search", embedding, query, "--encoder", tmp_path / "same.safetensors"]
    assert main([str(a) for a in given]) == 0


def test_of_few_pictures_all_are_found(embedding, pictures):
    index, (answer,) = search_target(embedding, [pictures / "train" / "day" / "001.png"], k=98)
    assert len(answer.hits) == len(index) == 97
    with pytest.raises(UsageError, match=re.escape("-k must lie in 1 .. 97")):
        index.search(np.ones((1, 768), np.float32), 98)


def test_weights_of_a_foreign_encoder_may_move(pictures, tmp_path, capsys):
    torch.manual_seed(0)
    old, new = tmp_path / "old.pth", tmp_path / "new.pth"
    torch.save(build_backbone("timm:resnet10t", channels=3, small_stem=False).state_dict(), old)
    given = {"weights": old, "image_size": 16}
    embed_target("timm:resnet10t", tmp_path / "x.npy", data=pictures / "test", **given)
    old.rename(new)
    query = pictures / "test" / "day" / "004.png"
    code, text = error_of(capsys, "search", tmp_path / "x.npy", query)
    assert (code, "old.pth" in text, "the same file with --weights" in text) == (1, True, True), (
        text
    )
    found = ["search", tmp_path / "x.npy", query, "--weights", new, "-k", "1"]
    assert main([str(a) for a in found]) == 0
    assert "day/004.png" in capsys.readouterr().out


def test_an_encoder_that_is_gone_is_named(encoder_file, pictures, tmp_path, capsys):
    mine = tmp_path / "mine.safetensors"
    shutil.copy(encoder_file, mine)
    embed_target(mine, tmp_path / "x.npy", data=pictures)
    mine.unlink()
    query = pictures / "train" / "day" / "001.png"
    assert main(["search", str(tmp_path / "x.npy"), str(query)]) == 1
    error = capsys.readouterr().err
    assert "mine.safetensors, which cannot be opened" in error
    assert "name the same encoder with --encoder" in error


def test_bad_input_is_one_line(embedding, pictures, tmp_path, capsys):
    search_target(embedding, [pictures / "train" / "day" / "001.png"])  # builds the index
    bad, good = pictures / "train" / "day" / "003.png", pictures / "train" / "day" / "001.png"
    for arguments, code, message in (
        ([embedding, bad], 1, "003.png' is not a readable picture"),
        ([embedding, tmp_path / "none.png"], 1, "there is no picture"),
        ([embedding, good, "-k", "0"], 2, "-k is 0; it must be 1 or more"),
        ([embedding], 2, "name one picture or more"),
        ([pictures, good], 2, "is no index, embedding or run"),
        ([tmp_path / "none.npy", good], 1, "there is no embedding"),
    ):
        found, text = error_of(capsys, "search", *arguments)
        assert (found, message in text) == (code, True), text


def test_versions_damage_and_missing_libraries_are_one_line(
    embedding, pictures, tmp_path, capsys, monkeypatch
):
    good = pictures / "train" / "day" / "001.png"
    build_index(embedding, tmp_path / "index")
    about = tmp_path / "index" / "about.json"
    text = about.read_text()
    about.write_text(text.replace("looktwice-index/1", "looktwice-index/2"))
    code, said = error_of(capsys, "search", tmp_path / "index", good)
    assert (code, "'looktwice-index/2', and this version of looktwice reads" in said) == (1, True)
    about.write_text("{}")
    assert "is damaged" in error_of(capsys, "search", tmp_path / "index", good)[1]
    for key, holder in (("weights", "encoder"), ("alpha", "pictures")):
        said = json.loads(text)
        del said[holder][key]
        about.write_text(json.dumps(said))
        assert "is damaged" in error_of(capsys, "search", tmp_path / "index", good)[1]
    about.write_text(text)
    places = tmp_path / "index" / "places.npy"
    kept = places.read_bytes()
    places.write_bytes(b"")
    assert "is damaged" in error_of(capsys, "search", tmp_path / "index", good)[1]
    places.write_bytes(kept)
    vectors = tmp_path / "index" / "vectors.faiss"
    vectors.write_bytes(vectors.read_bytes()[:-100])
    assert "is damaged" in error_of(capsys, "search", tmp_path / "index", good)[1]
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    code, said = error_of(capsys, "search", tmp_path / "index", good)
    assert (code, "pip install 'looktwice[search]'" in said) == (2, True), said


def test_features_that_are_no_numbers_and_no_h_make_no_index(tmp_path, encoder_file, pictures):
    features = np.ones((3, 4), np.float32)
    features[1, 2] = np.nan
    with pytest.raises(DataError, match="not finite"):
        build_index(write_vectors(tmp_path / "x.npy", features), tmp_path / "index")
    assert not (tmp_path / "index").exists()
    write_vectors(tmp_path / "y.npy", np.ones((3, 4), np.float32))
    said = (tmp_path / "y.npy.json").read_text().replace('"h"', '"z"')
    (tmp_path / "y.npy.json").write_text(said)
    with pytest.raises(UsageError, match="no layer h"):
        build_index(tmp_path / "y.npy", tmp_path / "index")


def test_an_index_of_another_embedding_is_refused(encoder_file, pictures, tmp_path):
    embed_target(encoder_file, tmp_path / "x.npy", data=pictures)
    build_index(tmp_path / "x.npy", tmp_path / "x.npy.index")
    for path in tmp_path.glob("x.npy*"):
        if path.is_file():
            path.unlink()
    embed_target(encoder_file, tmp_path / "x.npy", data=pictures / "test")
    with pytest.raises(RunError, match="has other pictures than its index"):
        search_target(tmp_path / "x.npy", [pictures / "train" / "day" / "001.png"])


def test_a_run_is_embedded_once_and_searched(run, tmp_path, capsys):
    query = tmp_path / "query.png"
    Image.fromarray(np.load(run.parent / "pixels.npy")[17]).save(query)
    page = tmp_path / "page.html"
    assert main(["search", str(run), str(query), "-k", "4", "-o", str(page)]) == 0
    assert re.search(r"\n +1 +1\.000 .*\[17\]", capsys.readouterr().out)
    assert page.read_text().count("<img") == 5
    written = (run / "embeddings" / "pictures.npy").stat().st_mtime_ns
    assert main(["search", str(run), str(query), "-k", "1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["queries"][0]["found"]) == 1
    assert (run / "embeddings" / "pictures.npy").stat().st_mtime_ns == written
    assert error_of(capsys, "search", run, query, "--encoder", "x")[0] == 2
    np.save(run.parent / "pixels.npy", np.zeros((60, 8, 8, 3), np.uint8))
    code, text = error_of(capsys, "search", run, query)
    assert (code, "does not hold the pictures" in text, "pictures.npy* and" in text) == (
        1,
        True,
        True,
    )


def test_mistakes_are_told_before_a_run_is_embedded(run, tmp_path, capsys, monkeypatch):
    query = tmp_path / "query.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(query)
    pixels = np.load(run.parent / "pixels.npy")
    for given, code, message in (
        ([tmp_path / "none.png"], 1, "there is no picture"),
        ([query, "-k", "0"], 2, "-k is 0"),
        ([query, "--weights", "x"], 2, "has its own"),
    ):
        found, text = error_of(capsys, "search", run, *given)
        assert (found, message in text) == (code, True), text
    with pytest.raises(UsageError, match="data in memory has no name"):
        search_target(run, [query], data=pixels)
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    assert "looktwice[search]" in error_of(capsys, "search", run, query)[1]
    assert not (run / "embeddings").exists()
    monkeypatch.undo()
    (run / "embeddings").write_text("in the way")
    assert "cannot write" in error_of(capsys, "search", run, query)[1]


def test_the_folder_one_is_in_has_a_name(run, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(pictures / "test" / "day")
    search_target(run, [pictures / "test" / "day" / "004.png"], data=".")
    assert (run / "embeddings" / "day.npy").is_file()


def test_a_run_that_was_renamed_shows_its_pictures(run, tmp_path, capsys):
    query, page = tmp_path / "query.png", tmp_path / "page.html"
    Image.fromarray(np.load(run.parent / "pixels.npy")[17]).save(query)
    assert main(["search", str(run), str(query)]) == 0
    new = run.rename(tmp_path / "new")
    index = new / "embeddings" / "pictures.npy"
    for number, given in enumerate(([new], [index, "--encoder", new])):
        page = tmp_path / f"{number}.html"
        assert main([str(a) for a in ["search", *given, query, "-k", "4", "-o", page]]) == 0
        assert page.read_text().count("<img") == 5
    capsys.readouterr()
    file = ["--encoder", new / "encoder.safetensors", "-o", tmp_path / "none.html"]
    assert main([str(a) for a in ["search", index, query, *file]]) == 1
    printed = capsys.readouterr()
    assert "the nearest 10 of" in printed.out  # what was found is told, and then why no page is
    assert "no run at" in printed.err


def test_an_index_of_fewer_rows_is_refused(encoder_file, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(5):
        Image.fromarray(np.full((9, 9, 3), 40 * number, np.uint8)).save(folder / f"{number}.png")
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(bytes(len(whole)))  # a folder's fingerprint: names and sizes
    embed_target(encoder_file, tmp_path / "x.npy", data=folder)
    search_target(tmp_path / "x.npy", [folder / "0.png"])
    for path in tmp_path.glob("x.npy*"):
        if path.is_file():
            path.unlink()
    (folder / "3.png").write_bytes(whole)
    embed_target(encoder_file, tmp_path / "x.npy", data=folder)
    with pytest.raises(RunError, match="has more or fewer rows than its index"):
        search_target(tmp_path / "x.npy", [folder / "0.png"])


def test_pictures_in_memory_can_be_searched_and_a_page_needs_them(encoder_file, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 12, 12, 3), np.uint8)
    embed_target(encoder_file, tmp_path / "x.npy", data=ArraySource(pixels))
    Image.fromarray(pixels[3]).save(tmp_path / "q.png")
    index, (answer,) = search_target(tmp_path / "x.npy", [tmp_path / "q.png"], k=1)
    assert answer.hits[0].index == 3
    from looktwice.embedding.search import open_pictures

    with pytest.raises(UsageError, match="in memory"):
        open_pictures(index.about)
    assert len(open_pictures(index.about, ArraySource(pixels))["train"]) == 20
