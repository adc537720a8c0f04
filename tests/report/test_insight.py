"""What a run's page shows of its features: computed from a real run, or left out with a line."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from looktwice import train
from looktwice.analysis import Similarities
from looktwice.config import resolve
from looktwice.models import encoder_bytes, read_encoder
from looktwice.report import report_run
from looktwice.report.histograms import histograms


def draw(folder: Path, *, labelled: bool) -> Path:
    generator = np.random.default_rng(0)
    for number in range(60):
        place = folder / (("dark", "light")[number % 2] if labelled else "")
        place.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 100, (16, 16), np.uint8) + np.uint8(100 * (number % 2))
        Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def trained(out: Path, pictures: Path, **settings: object) -> Path:
    flags = {"data.source": str(pictures), "augment.size": 16, "train.batch_size": 8,
             "train.steps": 2, "train.threads": 1, "train.device": "cpu", **settings}  # fmt: skip
    config = resolve(recipe="simclr-tiny", flags=flags)
    return train.start(config, out, command="", file=io.StringIO()).path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    return trained(folder / "run", draw(folder / "pictures", labelled=True))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_run_shows_its_features(run: Path) -> None:
    text = report_run(run).read_text("utf-8")
    assert text.count('class="plot histogram"') == 2
    assert "Before training" in text
    assert text.count('class="map wide"') == 1
    assert text.count('class="map-data"') == 1
    assert text.count(", mostly ") + text.count(": looks ") >= 12
    assert 'class="missing">Map' not in text
    assert report_run(run).read_text("utf-8") == text


def test_without_labels_there_are_map_and_similarity_alone(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", draw(tmp_path / "pictures", labelled=False))
    text = report_run(run).read_text("utf-8")
    assert 'class="map wide"' in text
    assert "map-filter" not in text.split("<body>")[1].split("<script>")[0]
    assert "looks" in text
    assert "taken for" not in text.split("<body>")[1].replace("Taken for", "")


@pytest.mark.parametrize("gone", ["encoder", "pictures"])
def test_what_is_gone_is_told(run: Path, gone: str, tmp_path: Path) -> None:
    if gone == "encoder":
        (run / "encoder.safetensors").unlink()
    else:
        config = (run / "config.toml").read_text()
        source = next(line for line in config.splitlines() if line.startswith("source = "))
        (run / "config.toml").write_text(
            config.replace(source, f'source = "{tmp_path / "nowhere"}"')
        )
    text = report_run(run).read_text("utf-8")
    assert "CAM left out: they need the run’s encoder and its pictures" in text
    assert "<script" not in text


def test_a_collapsed_encoder_has_no_map_and_says_why(run: Path) -> None:
    encoder = read_encoder(run / "encoder.safetensors")
    with torch.no_grad():
        for parameter in encoder.backbone.parameters():
            parameter.zero_()
    written = encoder_bytes(encoder.backbone, encoder.spec)
    (run / "encoder.safetensors").write_bytes(written)
    text = report_run(run).read_text("utf-8")
    assert "Map left out: " in text
    assert "<script" not in text
    assert "After training" in text


def test_a_backbone_of_tokens_has_no_cam_and_says_why(tmp_path: Path) -> None:
    pictures = draw(tmp_path / "pictures", labelled=True)
    settings = {"model.backbone": "test_vit", "augment.size": 160, "model.image_size": 160}
    text = report_run(trained(tmp_path / "run", pictures, **settings)).read_text("utf-8")
    assert "CAM left out: CAM needs a backbone that ends in a feature map" in text
    assert 'class="map wide"' in text


def test_histograms_share_an_axis_and_hold_all_pairs() -> None:
    generator = np.random.default_rng(0)
    near = Similarities(*(generator.uniform(0.9, 1.0, n).astype(np.float32) for n in (50, 900)))
    far = Similarities(*(generator.uniform(-0.3, 1.0, n).astype(np.float32) for n in (50, 900)))
    before, after = histograms({"Before": near, "After": far})
    assert before.ticks == after.ticks
    assert before.ticks[0][1] == "−0.4"
    for figure in (before, after):
        for shape in figure.shapes:
            places = [tuple(map(float, point.split(","))) for point in shape.points.split()]
            assert places[0] == (0, 100)
            assert places[-1] == (100, 100)
    # Equal areas: a share is a share, of however many pairs.
    areas = [
        sum((100 - y) for _, y in (map(float, p.split(",")) for p in shape.points.split()))
        for shape in after.shapes
    ]
    assert areas[0] == pytest.approx(areas[1], rel=1e-3)
