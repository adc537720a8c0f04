"""From pictures to a folder: what is read, what is found, what is written and refused."""

import csv
import io
import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from looktwice import train
from looktwice.analysis import analyze
from looktwice.analysis.points import read_points
from looktwice.cli import main
from looktwice.config import resolve
from looktwice.data import ArraySource, Splits, open_source
from looktwice.errors import DataError
from looktwice.evaluate import Subject
from looktwice.models import wrap_encoder
from looktwice.report.analysis import analyze_target, headline
from looktwice.report.heat import overlay, where
from looktwice.report.scatter import place, scatter


def bars(count, seed):
    """Noise with a bright bar: of class 0 across, of class 1 down."""
    generator = np.random.default_rng(seed)
    pictures, labels = generator.integers(0, 60, (count, 16, 16), np.uint8), np.arange(count) % 2
    for picture, label in zip(pictures, labels, strict=True):
        at = int(generator.integers(4, 12))
        picture[
            (slice(at, at + 2), slice(None)) if label == 0 else (slice(None), slice(at, at + 2))
        ] = 255
    return ArraySource(pictures, labels, name=f"bars-{seed}", class_names=("across", "down"))


@pytest.fixture(scope="module")
def splits():
    return Splits(bars(40, 0), bars(12, 1), bars(16, 2))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    source = bars(60, 3)
    for i in range(60):
        name = folder / ("across", "down")[i % 2]
        name.mkdir(exist_ok=True)
        Image.fromarray(source.image(i)[:, :, 0]).save(name / f"{i}.png")
    flags = {"data.source": str(folder), "augment.size": 16, "train.batch_size": 8, "train.steps": 2,
             "train.threads": 1, "train.device": "cpu"}  # fmt: skip
    path = tmp_path_factory.mktemp("runs") / "tiny"
    return train.start(
        resolve(recipe="simclr-tiny", flags=flags), path, command="", file=io.StringIO()
    ).path


class Sums(nn.Module):
    """A map of row sums and column sums, then what varies of each: it tells the bars apart."""

    def __init__(self):
        super().__init__()
        self.map = nn.Conv2d(1, 3, 4, stride=4)

    def forward(self, x):
        return torch.cat([self.map(x).mean(dim=(2, 3)), x.mean(2).std(2), x.mean(3).std(2)], dim=1)


@pytest.fixture
def subject(splits):
    torch.manual_seed(0)
    encoder = wrap_encoder(Sums(), image_size=16, channels=1, mean=(0.0,), std=(1.0,))
    return Subject("sums", encoder, splits, None, None, None, torch.device("cpu"))


def test_points_are_the_pictures_of_all_splits(subject, splits):
    points = read_points(splits, {"a": subject.encoder}, 1000, seed=0, max_bad=0)
    assert len(points) == 68
    assert np.bincount(points.split).tolist() == [40, 12, 16]
    whole = np.concatenate([part.labels for part in (splits.train, splits.validation, splits.test)])
    assert (points.labels == whole).all()
    last = splits.test.image(15)
    assert (points.thumbnails[-1] == last).all()
    tensor = torch.from_numpy(last).permute(2, 0, 1)[None]
    torch.testing.assert_close(
        points.features["a"][-1:], subject.encoder(tensor), rtol=1e-5, atol=1e-6
    )


def test_fewer_points_are_drawn_by_seed(subject, splits):
    def drawn(seed):
        points = read_points(splits, {"a": subject.encoder}, 20, seed=seed, max_bad=0)
        assert len(points) == len(set(zip(points.split, points.index, strict=True))) == 20
        return points.names

    assert drawn(0) == drawn(0) != drawn(1)


def test_unreadable_pictures_are_left_out_or_too_many(subject, tmp_path):
    for i in range(10):
        Image.fromarray(np.full((16, 16), 20 * i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"no picture")
    source = open_source(tmp_path)
    splits = Splits(source, bars(4, 0), None)
    points = read_points(splits, {"a": subject.encoder}, 99, seed=0, max_bad=0.2)
    assert len(points) == 13
    assert not any("3.png" in name for name in points.names)
    assert points.labels[0] == -1
    with pytest.raises(DataError, match="cannot be read"):
        read_points(splits, {"a": subject.encoder}, 99, seed=0, max_bad=0.0)


def test_analysis_of_a_foreign_encoder(subject):
    analysis = analyze(subject, against={"other": subject.encoder}, seed=1)
    (h,) = analysis.layouts
    assert h.layer == "h"
    assert analysis.missing == ("No z: the encoder comes without a projection head.",)
    # 34 of each class, by hand: pairs of one class among all pairs.
    assert analysis.chance == pytest.approx(2 * 34 * 33 / (68 * 67))
    assert "in z" not in headline(analysis).sentence
    assert len(analysis.panels) == 6
    for panel in analysis.panels:
        assert [one.encoder for one in panel.seen] == ["sums", "sums", "other", "other"]
        mine, other = panel.seen[:2], panel.seen[2:]
        for one, same in zip(mine, other, strict=True):
            assert (one.heat == same.heat).all()
            assert one.words == same.words
        named = panel.seen[1]
        assert named.right == (named.words == f"taken for {panel.name}")


def test_neighbours_are_nearest_of_the_other_splits(subject, splits):
    found = analyze(subject, cam=False).neighbours["neighbours"]
    bank = torch.cat([subject.encoder(torch.from_numpy(np.stack([p.image(i) for i in range(len(p))])).permute(0, 3, 1, 2))
                      for p in (splits.train, splits.validation)])  # fmt: skip
    for strip in found:
        picture = torch.from_numpy(splits.test.image(strip["query"])).permute(2, 0, 1)[None]
        cosine = torch.cosine_similarity(subject.encoder(picture), bank)
        assert strip["similarity"][0] == pytest.approx(float(cosine.max()), abs=1e-5)
        assert float(cosine[strip["neighbours"][0]]) == pytest.approx(float(cosine.max()), abs=1e-5)


def test_command_writes_a_new_folder_and_never_over_one(run, capsys):
    (run / "analysis.former").write_text("mine")
    assert main(["analyze", str(run), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written == {"analysis": str(run / "analysis" / "analysis.html")}
    with (run / "analysis" / "tsne.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert {row["class"] for row in rows} == {"across", "down"}
    assert np.isfinite(
        [float(row[key]) for row in rows for key in ("h_x", "h_y", "z_x", "z_y")]
    ).all()
    before = (run / "analysis" / "analysis.html").read_bytes()
    assert (run / "analysis.former").read_text() == "mine"
    assert main(["analyze", str(run)]) == 1
    error = capsys.readouterr().err
    assert "exists already" in error
    assert error.count("\n") == 1
    assert (run / "analysis" / "analysis.html").read_bytes() == before


def test_equal_arguments_give_an_equal_page(run, tmp_path):
    pages = [
        analyze_target(run, out=tmp_path / name, device="cpu", against=run).read_bytes()
        for name in "ab"
    ]
    assert pages[0] == pages[1]
    text = pages[0].decode()
    assert "Before and after the projection head" in text
    assert "(again)" in text


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--count", "7"], "--count is 7", 2),
        (["--seed", "-1"], "--seed is -1", 2),
        (["--against", "nowhere"], "no run, encoder file or network 'nowhere'", 2),
        (["--out", "/dev/null/all"], "/dev/null is not a folder", 1),
    ],
)
def test_refusals_are_one_line(run, tmp_path, monkeypatch, capsys, arguments, message, code):
    monkeypatch.chdir(tmp_path)
    rest = [] if "--out" in arguments else ["--out", "new"]
    assert main(["analyze", str(run), *arguments, *rest]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_without_labels_there_is_a_map_and_no_shares(subject, splits):
    def bare(source):
        return ArraySource(
            np.stack([source.image(i) for i in range(len(source))]), name=source.name
        )

    plain = Splits(bare(splits.train), bare(splits.validation), None)
    analysis = analyze(Subject(**{**vars(subject), "splits": plain}))
    assert analysis.layouts[0].agreement is None
    assert analysis.neighbours is None
    assert [one.score for one in analysis.panels[0].seen] == ["similarity"]
    assert headline(analysis).sentence.startswith("52 pictures on a plane")


def test_a_collapsed_encoder_is_told(subject):
    for parameter in subject.encoder.backbone.parameters():
        parameter.data.zero_()
    subject.encoder.backbone.map.bias.data.fill_(1)
    subject.encoder.backbone.forward = lambda x: subject.encoder.backbone.map(x).mean(dim=(2, 3))
    with pytest.raises(DataError, match="collapsed"):
        analyze(subject)


def test_overlay_keeps_the_picture_where_nothing_is_hot():
    pixels = np.full((2, 2, 3), (255, 0, 0), np.uint8)
    heat = np.array([[0, 1], [0, 0]], np.float32)
    shown = overlay(pixels, heat)
    assert shown[0, 0].tolist() == [76, 76, 76]  # 0.299 of 255
    assert shown[0, 1].tolist() == [210, 124, 19]  # a quarter of that, three quarters of orange


def test_where_in_words():
    heat = np.zeros((10, 10), np.float32)
    assert where(heat) == "nowhere"
    heat[8, 1] = 1
    assert where(heat) == "mostly lower left"
    assert where(np.ones((4, 4), np.float32)) == "mostly in the middle"


def test_places_keep_proportions_and_names_keep_apart():
    flat = np.array([[0, 0], [10, 0], [10, 5], [0, 5]], np.float32)
    places = place(flat)
    assert places.tolist() == [[0, 2500], [10000, 2500], [10000, 7500], [0, 7500]]
    crowd = np.full((300, 2), 5000)
    drawn = scatter(crowd, np.arange(300) % 100, [f"class {i}" for i in range(100)], "")
    heights = sorted(label.y for label in drawn.labels)
    assert 1 < len(heights) < 10
    assert all(b - a >= 5 for a, b in itertools.pairwise(heights))
    assert [group.shape for group in drawn.groups][::10][:4] == [0, 1, 2, 0]
