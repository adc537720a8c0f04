"""Raw pixels of sources of every kind."""

import numpy as np
import pytest
import torch
from PIL import Image

from looktwice.augment import policy
from looktwice.data import Splits, open_source
from looktwice.errors import BadPictureError, DataError
from looktwice.evaluate import Subject, cached, raw_pixels
from looktwice.features import encode, prepare
from looktwice.models import Encoder, EncoderSpec, build_backbone

GENERATOR = np.random.default_rng(0)


def test_small_pictures_are_taken_whole():
    images = GENERATOR.integers(256, size=(5, 28, 20, 3), dtype=np.uint8)
    pixels, kept = raw_pixels(open_source(images))
    assert pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels.numpy(), images.reshape(5, -1) / 255, atol=1e-7)
    assert kept.tolist() == [0, 1, 2, 3, 4]


def test_large_pictures_are_resized_and_cropped_to_the_centre():
    wide = np.zeros((1, 64, 128, 1), dtype=np.uint8)
    wide[:, :, 32:96] = 200  # exactly the central square
    pixels, _ = raw_pixels(open_source(wide))
    square = pixels.view(32, 32)
    assert pixels.shape == (1, 32 * 32)
    torch.testing.assert_close(square[:, 1:-1], torch.full((32, 30), 200 / 255))
    high = np.ascontiguousarray(wide.transpose(0, 2, 1, 3))
    torch.testing.assert_close(raw_pixels(open_source(high))[0].view(32, 32).T, square)


def test_resizing_is_pillows(tmp_path):
    picture = GENERATOR.integers(256, size=(90, 90, 3), dtype=np.uint8)
    pixels, _ = raw_pixels(open_source(picture[None]))
    expected = np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(pixels.numpy() * 255 - expected.reshape(1, -1)).max() <= 1


def test_a_folder_of_many_sizes_gives_one_width_and_leaves_out_what_is_bad(tmp_path):
    for number, size in enumerate([(28, 28), (40, 33), (1, 70)]):
        Image.new("RGB", size, (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "00.png").write_bytes(b"not a picture")
    pixels, kept = raw_pixels(open_source(tmp_path))
    assert pixels.shape == (3, 32 * 32 * 3)
    assert kept.tolist() == [0, 2, 3]
    torch.testing.assert_close(pixels[:, 0] * 255, torch.tensor([0.0, 1.0, 2.0]))


def test_nothing_readable_is_one_line(monkeypatch):
    source = open_source(np.zeros((2, 4, 4), dtype=np.uint8), split="train")

    def bad(i):
        raise BadPictureError(str(i), "broken")

    monkeypatch.setattr(source, "image", bad)
    with pytest.raises(DataError, match="none of the 2 pictures"):
        raw_pixels(source)


def test_one_pass_over_the_pictures_serves_every_row(monkeypatch):
    source = open_source(GENERATOR.integers(256, size=(300, 40, 33, 1), dtype=np.uint8))
    encoders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        backbone = build_backbone("resnet-tiny", channels=1, small_stem=False)
        spec = EncoderSpec("resnet-tiny", 1, False, 24, (0.5,), (0.25,))
        encoders.append(Encoder(backbone, spec).eval())
    pictures, _ = prepare(encoders[0], source)
    expected = {
        "encoder": encode(encoders[0], pictures),
        "raw-pixels": raw_pixels(source)[0],
        "untrained": encode(encoders[1], pictures),
    }
    original, read = source.image, []

    def image(i):
        read.append(i)
        if i == 7:
            raise BadPictureError("7", "broken")
        return original(i)

    monkeypatch.setattr(source, "image", image)
    subject = Subject(
        name="made up",
        encoder=encoders[0],
        splits=Splits(source, source, None),
        untrained=encoders[1],
        initial=None,
        policy=policy("simclr", size=24),
        device=torch.device("cpu"),
        threads=2,
    )
    found, kept = cached._features(subject, source)
    assert sorted(read) == list(range(300))
    assert kept.tolist() == [i for i in range(300) if i != 7]
    assert list(found) == list(expected)
    for name, features in found.items():
        whole = expected[name][torch.from_numpy(kept)]
        torch.testing.assert_close(features, whole, rtol=1e-4, atol=1e-5)
    assert torch.equal(found["raw-pixels"], expected["raw-pixels"][torch.from_numpy(kept)])
