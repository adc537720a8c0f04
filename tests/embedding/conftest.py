import numpy as np
import pytest
import torch
from PIL import Image

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


@pytest.fixture
def small_pieces(monkeypatch):
    """Blocks of 8 pictures and pieces of 16."""
    from looktwice import features
    from looktwice.embedding import embed

    monkeypatch.setattr(features, "BLOCK", 8)
    monkeypatch.setattr(embed, "PIECE_BLOCKS", 2)
