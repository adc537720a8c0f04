"""Pictures to features: which are left out, and that company does not matter."""

import numpy as np
import pytest
import torch

from looktwice.data import ArraySource, Source
from looktwice.errors import BadPictureError, DataError
from looktwice.features import encode, prepare
from looktwice.models import Encoder, EncoderSpec, build_backbone


class Mixed(Source):
    """Pictures of many sizes, every third of them unreadable."""

    def __init__(self, bad_every=3):
        super().__init__("mixed", 3, None, None)
        self._bad_every = bad_every

    def __len__(self):
        return 12

    def image(self, i):
        if i % self._bad_every == 0:
            raise BadPictureError(str(i), "broken")
        generator = np.random.default_rng(i)
        return generator.integers(0, 256, (20 + i, 45 - 2 * i, 3), dtype=np.uint8)

    def identifier(self, i):
        return str(i)

    def fingerprint(self):
        return ""


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    spec = EncoderSpec("resnet-tiny", 3, False, 24, (0.5,) * 3, (0.25,) * 3)
    backbone = build_backbone("resnet-tiny", channels=3, small_stem=False)
    return Encoder(backbone, spec).eval()


def test_each_picture_gets_what_the_encoder_alone_gives_it(encoder):
    source = Mixed()
    pictures, kept = prepare(encoder, source)
    assert kept.tolist() == [1, 2, 4, 5, 7, 8, 10, 11]
    assert pictures.shape == (8, 3, 24, 24)
    assert pictures.dtype == torch.uint8
    features = encode(encoder, pictures)
    for row, index in zip(features, kept, strict=True):
        alone = encoder(torch.from_numpy(source.image(int(index))).permute(2, 0, 1)[None])
        torch.testing.assert_close(row, alone[0], rtol=1e-4, atol=1e-5)


def test_read_only_memory_is_not_written_to(encoder):
    images = np.zeros((3, 24, 24, 3), np.uint8)
    images.flags.writeable = False
    assert prepare(encoder, ArraySource(images))[0].shape == (3, 3, 24, 24)


def test_nothing_readable_is_an_error(encoder):
    with pytest.raises(DataError, match="none of the 12 pictures in 'mixed' can be read"):
        prepare(encoder, Mixed(bad_every=1))
