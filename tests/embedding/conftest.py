import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from looktwice.cli import main
from looktwice.models import EncoderSpec, build_backbone
from looktwice.models.encoder import encoder_bytes

SIDE = 12
BAD = ("train/day/003.png", "train/night/039.png", "test/night/000.png")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_encoder(path, seed=0):
    torch.manual_seed(seed)
    spec = EncoderSpec("resnet-tiny", 3, True, SIDE, (0.5,) * 3, (0.25,) * 3)
    network = build_backbone("resnet-tiny", channels=3, small_stem=True)
    path.write_bytes(encoder_bytes(network, spec))
    return path


@pytest.fixture(scope="session")
def encoder_file(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoder") / "encoder.safetensors")


@pytest.fixture(scope="session")
def other_encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("other") / "encoder.safetensors", seed=1)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Train of 80 and test of 20 pictures in two classes, three of them damaged."""
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 10)):
        for shade, name in enumerate(("day", "night")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                size = (14 + number % 3, 17, 3)
                pixels = generator.integers(0, 128, size, np.uint8) + 127 * (1 - shade)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03}.png")
    for name in BAD:
        (root / name).write_bytes(b"no picture")
    return root


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with 60 pictures, pixels.npy, and a run of two steps on them."""
    folder = tmp_path_factory.mktemp("trained")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
    np.save(folder / "pixels.npy", pixels)
    quick = ["--size", "8", "-b", "8", "--steps", "2", "--threads", "1", "--model.image-size", "8"]
    given = ["pretrain", "-d", str(folder / "pixels.npy"), "-o", str(folder / "run"), *quick]
    assert main(given) == 0
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of that run, on a copy of its pictures."""
    folder = tmp_path / "trained"
    shutil.copytree(trained, folder)
    config = folder / "run" / "config.toml"
    config.write_text(config.read_text().replace(str(trained), str(folder)))
    return folder / "run"


@pytest.fixture
def small_pieces(monkeypatch):
    """Blocks of 8 pictures and pieces of 16."""
    from looktwice import features
    from looktwice.embedding import embed

    monkeypatch.setattr(features, "BLOCK", 8)
    monkeypatch.setattr(embed, "PIECE_BLOCKS", 2)
