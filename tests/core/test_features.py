"""Pictures to features: which are left out, and that company does not matter."""

import contextlib
import threading
import time

import numpy as np
import pytest
import torch

from looktwice import features
from looktwice.data import ArraySource, Source
from looktwice.errors import BadPictureError, DataError
from looktwice.features import encode, prepare, stream
from looktwice.models import Encoder, EncoderSpec, build_backbone


class Mixed(Source):
    """Pictures of many sizes, some neighbours equal, every third of them unreadable."""

    def __init__(self, bad_every=3, count=12, channels=3):
        super().__init__("mixed", channels, None, None)
        self._bad_every = bad_every
        self._count = count
        self.read = []

    def __len__(self):
        return self._count

    def image(self, i):
        self.read.append(i)
        if i % self._bad_every == 0:
            raise BadPictureError(str(i), "broken")
        generator = np.random.default_rng(i)
        kind = i // 4 % 7
        size = (20 + kind, 45 - 4 * kind, self.channels)
        return generator.integers(0, 256, size, dtype=np.uint8)

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
    for row, index in zip(encode(encoder, pictures), kept, strict=True):
        alone = encoder(torch.from_numpy(source.image(int(index))).permute(2, 0, 1)[None])
        torch.testing.assert_close(row, alone[0], rtol=1e-4, atol=1e-5)


def one_by_one(encoder, source):
    """The pictures that can be read, each prepared alone, and where they are."""
    prepared, kept = [], []
    for index in range(len(source)):
        try:
            picture = torch.from_numpy(np.array(source.image(index)))
        except BadPictureError:
            continue
        prepared.append(encoder.prepare(picture.permute(2, 0, 1)[None]))
        kept.append(index)
    return torch.cat(prepared), kept


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("together", [1, 5000, 1 << 24])
def test_a_stream_gives_the_bits_of_one_by_one(encoder, monkeypatch, channels, threads, together):
    monkeypatch.setattr(features, "BLOCK", 16)
    monkeypatch.setattr(features, "PIECE", 9)
    monkeypatch.setattr(features, "MAX_TOGETHER", together)
    source = Mixed(count=115, channels=channels)
    expected, kept = one_by_one(encoder, source)
    blocks = list(stream(source, [encoder.prepare, lambda p: p[:, 0, 0, 0]], threads=threads))
    assert [len(indices) for indices, _ in blocks] == [16, 16, 16, 16, 12]
    assert np.concatenate([indices for indices, _ in blocks]).tolist() == kept
    assert torch.equal(torch.cat([pictures for _, (pictures, _) in blocks]), expected)
    corners = [int(source.image(i)[0, 0, 0]) for i in kept]
    assert torch.cat([corner for _, (_, corner) in blocks]).tolist() == corners
    of_blocks = torch.cat([encode(encoder, pictures) for _, (pictures, _) in blocks])
    assert torch.equal(of_blocks, encode(encoder, expected))


def test_arrays_give_the_bits_of_one_by_one(encoder):
    for size in ((24, 24), (31, 57), (24, 30), (13, 9)):
        images = np.random.default_rng(0).integers(0, 256, (300, *size, 3), dtype=np.uint8)
        source = ArraySource(images)
        assert torch.equal(prepare(encoder, source)[0], one_by_one(encoder, source)[0])


def test_reading_runs_ahead_but_no_further_than_it_may(encoder):
    source = Mixed(count=5000)
    with contextlib.closing(stream(source, [encoder.prepare], threads=2)) as blocks:
        next(blocks)
        deadline = time.monotonic() + 20
        while (ahead := len(source.read)) < features.BLOCK + 4 * features.PIECE:
            assert time.monotonic() < deadline, f"{ahead} pictures read ahead"
            time.sleep(0.01)
        time.sleep(0.2)
        # A third of the pictures is bad: a block takes half as many again.
        pieces = 3 * features.BLOCK // (2 * features.PIECE) + 1 + features.NUM_AHEAD
        assert len(source.read) <= pieces * features.PIECE
    assert not [t for t in threading.enumerate() if t.name.startswith("looktwice-features")]


def test_what_a_source_raises_reaches_the_caller(encoder, monkeypatch):
    source = Mixed()

    def image(i):
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(source, "image", image)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        prepare(encoder, source)
    assert not [t for t in threading.enumerate() if t.name.startswith("looktwice-features")]


def test_read_only_memory_is_not_written_to(encoder):
    images = np.zeros((3, 24, 24, 3), np.uint8)
    images.flags.writeable = False
    assert prepare(encoder, ArraySource(images))[0].shape == (3, 3, 24, 24)


def test_nothing_readable_is_an_error(encoder):
    with pytest.raises(DataError, match="none of the 12 pictures in 'mixed' can be read"):
        prepare(encoder, Mixed(bad_every=1))
