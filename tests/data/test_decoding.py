"""Pixels of picture files, against Pillow's own conversions and closed forms."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from looktwice.data import decoding
from looktwice.data.decoding import decode
from looktwice.data.files import FolderFiles
from looktwice.data.sources import FileSource
from looktwice.errors import BadPictureError


def _smooth(height=37, width=53, channels=3):
    y, x = np.mgrid[:height, :width]
    waves = [128 + 120 * np.sin(x / (5 + c) + y / (9 - c) + c) for c in range(channels)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def _encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


COLOUR = Image.fromarray(_smooth())
GREY = Image.fromarray(_smooth(channels=1)[..., 0])


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_colour_is_exact(kind):
    assert np.array_equal(decode(_encode(COLOUR, kind), 3), np.asarray(COLOUR))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"quality": 30}, {"keep_rgb": True}]
)
def test_jpeg_pixels_are_pillows(subsampling, options):
    if options.get("keep_rgb") and subsampling:
        pytest.skip("RGB JPEGs are not subsampled")
    data = _encode(COLOUR, "JPEG", subsampling=subsampling, **options)
    assert isinstance(decoding.read(data, 3), decoding.Jpeg)
    assert np.array_equal(decode(data, 3), np.asarray(Image.open(io.BytesIO(data))))


def test_grey_jpeg_in_grey_and_colour_folders():
    data = _encode(GREY, "JPEG")
    grey = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(decode(data, 1), grey[..., None])
    assert np.array_equal(decode(data, 3), np.repeat(grey[..., None], 3, axis=2))


def test_colour_jpeg_in_a_grey_folder_is_pillows_grey():
    data = _encode(COLOUR, "JPEG")
    assert np.array_equal(
        decode(data, 1)[..., 0], np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = _encode(COLOUR, kind, exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(decode(data, 3), np.asarray(expected.convert("RGB")))
    assert decode(data, 3).shape[:2] == ((53, 37) if orientation > 4 else (37, 53))


def test_damaged_exif_leaves_the_pixels(tmp_path):
    damaged = b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 30
    (tmp_path / "x.jpg").write_bytes(_encode(COLOUR, "JPEG", exif=damaged))
    source = FileSource(FolderFiles(tmp_path, ["x.jpg"]), name="x", channels=3)
    assert np.array_equal(source.image(0), decode(_encode(COLOUR, "JPEG"), 3))


def test_alpha_lies_over_white():
    alpha = np.full((37, 53), 64, np.uint8)
    alpha[:10], alpha[10:20] = 0, 255
    image = Image.fromarray(np.dstack([_smooth(), alpha]))
    found = decode(_encode(image, "PNG"), 3)
    opacity = alpha[..., None] / 255.0
    assert np.abs(found - (_smooth() * opacity + 255 * (1 - opacity))).max() <= 1
    assert (found[:10] == 255).all()
    assert np.array_equal(found[10:20], _smooth()[10:20])


def test_grey_with_alpha():
    image = Image.fromarray(np.dstack([_smooth(channels=1), np.zeros((37, 53), np.uint8)]))
    assert image.mode == "LA"
    assert (decode(_encode(image, "PNG"), 1) == 255).all()


def test_palette_and_its_transparent_colour():
    image = Image.new("P", (4, 2))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1, 0, 1, 0, 0, 0, 0])
    opaque, clear = (
        decode(_encode(image, "PNG"), 3),
        decode(_encode(image, "GIF", transparency=1), 3),
    )
    assert opaque[0].tolist() == [[10, 20, 30], [200, 100, 50]] * 2
    assert clear[0].tolist() == [[10, 20, 30], [255, 255, 255]] * 2


def test_cmyk():
    data = _encode(COLOUR.convert("CMYK"), "JPEG", quality=100)
    found = decode(data, 3)
    assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert np.abs(found.astype(int) - _smooth()).mean() < 5


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = decode(_encode(Image.fromarray(levels), kind), 1)[..., 0]
    assert np.array_equal(found, np.round(levels / 257).astype(np.uint8))


def test_one_bit():
    bits = np.arange(64).reshape(8, 8) % 3 == 0
    assert np.array_equal(
        decode(_encode(Image.fromarray(bits), "PNG"), 1)[..., 0], bits * np.uint8(255)
    )


def test_floats_are_refused_with_a_reason():
    with pytest.raises(ValueError, match="floating-point"):
        decode(_encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), 1)


def test_first_frame_of_an_animation():
    other = ImageOps.invert(COLOUR)
    data = _encode(COLOUR, "WEBP", save_all=True, append_images=[other], lossless=True)
    assert np.array_equal(decode(data, 3), np.asarray(COLOUR))


def _bad_files():
    jpeg, png = _encode(COLOUR, "JPEG"), _encode(COLOUR, "PNG")
    broken = bytearray(png)
    broken[60:80] = bytes(20)
    header = b"\x89PNG\r\n\x1a\n" + _chunk(
        b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    )
    return {
        "empty": b"",
        "text": b"not a picture",
        "jpeg-begin": jpeg[:3],
        "jpeg-header": jpeg[:300],
        "jpeg-half": jpeg[: len(jpeg) // 2],
        "jpeg-progressive": _encode(COLOUR, "JPEG", progressive=True)[:-300],
        "png-half": png[: len(png) // 2],
        "png-corrupt": bytes(broken),
        "webp-half": _encode(COLOUR, "WEBP")[:200],
        "gif-header": _encode(COLOUR, "GIF")[:20],
        "bomb": header + _chunk(b"IDAT", zlib.compress(bytes(100))) + _chunk(b"IEND", b""),
        "another kind": b"P6 2 2 255\n" + bytes(12),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    }


def _chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("name", list(_bad_files()))
def test_bad_files_are_bad(tmp_path, name):
    (tmp_path / f"{name}.jpg").write_bytes(_bad_files()[name])
    source = FileSource(FolderFiles(tmp_path, [f"{name}.jpg"]), name="x", channels=3)
    with pytest.raises(BadPictureError) as caught:
        source.image(0)
    assert caught.value.identifier == f"{name}.jpg"
    assert caught.value.reason
    assert "\n" not in str(caught.value)


def test_random_damage_is_bad_or_a_picture_but_never_another_error(tmp_path):
    chance = np.random.default_rng(0)
    encoded = [_encode(COLOUR, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")] + [
        _encode(COLOUR, "TIFF", compression="tiff_lzw"),
        _encode(COLOUR, "JPEG", exif=_exif()),
    ]
    source = FileSource(FolderFiles(tmp_path, ["x.jpg"]), name="x", channels=3)
    num_bad = 0
    for trial in range(240):
        data = bytearray(encoded[trial % len(encoded)])
        for _ in range(chance.integers(1, 8)):
            data[int(chance.integers(0, min(len(data), 400)))] = int(chance.integers(256))
        (tmp_path / "x.jpg").write_bytes(data)
        try:
            picture = source.image(0)
        except BadPictureError:
            num_bad += 1
        else:
            assert picture.dtype == np.uint8
            assert picture.shape[2] == 3
    assert num_bad > 20


def _exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_pillows_warnings_stay_inside(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 37 * 53 - 1)
    (tmp_path / "large.png").write_bytes(_encode(COLOUR, "PNG"))
    (tmp_path / "large.jpg").write_bytes(_encode(COLOUR, "JPEG"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = FileSource(FolderFiles(tmp_path, ["large.png", "large.jpg"]), name="x", channels=3)
        shapes = [source.image(i).shape for i in range(2)]
    assert shapes == [(37, 53, 3)] * 2
    assert not caught


def test_a_few_bytes_that_claim_a_large_picture_are_refused():
    flat = _encode(Image.new("L", (3000, 3000)), "PNG")
    assert decode(flat, 1).shape == (3000, 3000, 1)
    data = bytearray(_encode(COLOUR, "WEBP", save_all=True, append_images=[COLOUR.rotate(180)]))
    assert data[12:16] == b"VP8X"
    data[24:30] = (3999).to_bytes(3, "little") * 2
    with pytest.raises(ValueError, match=f"claims 4000 x 4000 pixels in {len(data)} bytes"):
        decode(bytes(data), 3)
