"""A small labelled folder of pictures."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Three classes of 40 colour pictures that differ a little in their tint."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for label, name in enumerate(["red", "green", "blue"]):
        (folder / name).mkdir()
        for number in range(40):
            pixels = generator.integers(0, 150, (16, 16, 3), dtype=np.uint8)
            pixels[..., label] += 4
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder
