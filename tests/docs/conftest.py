"""A folder in which the documentation's commands and Python run quickly."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import looktwice

QUICK = {
    "LOOKTWICE_AUGMENT_SIZE": "16",
    "LOOKTWICE_TRAIN_BATCH_SIZE": "8",
    "LOOKTWICE_TRAIN_BN_GROUP": "8",
    "LOOKTWICE_TRAIN_STEPS": "2",
    "LOOKTWICE_TRAIN_THREADS": "1",
}
"""What every run here is given: a length, and sizes that keep it quick."""

COUNTS = {"train": 12, "val": 8, "test": 8}
"""Pictures a class, of three."""


def draw_pictures(folder, seed, side):
    """Write labelled pictures in colour, in the three splits."""
    random = np.random.default_rng(seed)
    for split, count in COUNTS.items():
        for kind, name in enumerate(("ash", "birch", "cedar")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 128, (side, side, 3), dtype=np.uint8)
                pixels[5:15, 5:15, kind] += 120
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Two folders of pictures, two runs, an encoder's file, and foreign weights."""
    import timm

    place = tmp_path_factory.mktemp("prepared")
    draw_pictures(place / "pictures", 0, 20)
    draw_pictures(place / "others", 1, 24)
    settings = {"augment.size": 16, "train.batch_size": 8, "train.steps": 2, "train.threads": 1}
    for run in ("simclr-small-001", "other"):
        looktwice.pretrain(
            place / "pictures", recipe="simclr-small", out=place / "runs" / run, settings=settings
        )
    shutil.copy(place / "runs/other/encoder.safetensors", place)
    Image.new("RGB", (30, 20), "teal").save(place / "QUERY.jpg")
    Image.new("RGB", (20, 30), "olive").save(place / "OTHER.jpg")
    torch.save(timm.create_model("resnet18").state_dict(), place / "moco.pth")
    return place


@pytest.fixture
def place(prepared, tmp_path, monkeypatch):
    """Return a copy of what is prepared, as the working folder, with `QUICK` in the environment."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    return tmp_path
