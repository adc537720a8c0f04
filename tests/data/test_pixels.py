"""What pixels each kind of file gives: files written here byte by byte, pixels written down by hand.

Where a file is Pillow's or OpenCV's, it is lossless and what went in is known.
"""

import io
import itertools
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

import looktwice
from looktwice.augment import CenterCrop, Policy
from looktwice.config import resolve
from looktwice.data import Loader, join, open_source, subset
from looktwice.data.decoding import decode
from looktwice.features import prepare
from looktwice.models import EncoderSpec, build_backbone, encoder_bytes
from looktwice.run import open_data

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255,) * 3, (0,) * 3


# PNG (W3C PNG, third edition)

PASSES = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]  # fmt: skip
"""Adam7: first row, first column, steps of both (section 8.1)."""
GREY, TRUECOLOUR, PALETTE, GREY_ALPHA, TRUECOLOUR_ALPHA = 0, 2, 3, 4, 6
SAMPLES = {GREY: 1, TRUECOLOUR: 3, PALETTE: 1, GREY_ALPHA: 2, TRUECOLOUR_ALPHA: 4}


def chunk(kind, body=b""):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def scan_lines(rows, depth):
    """Rows (h, samples a row) without filter; samples of less than a byte from the left."""
    lines = b""
    for row in rows:
        bits = "".join(f"{int(sample):0{depth}b}" for sample in row)
        bits += "0" * (-len(bits) % 8)
        lines += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    return lines


def png(samples, kind, depth=8, *, before=(), after=(), interlaced=False):
    """Samples (h, w) or (h, w, c), with chunks before and after the pixels."""
    samples = np.asarray(samples).reshape(len(samples), -1, SAMPLES[kind])
    height, width, _ = samples.shape
    parts = [samples]
    if interlaced:
        parts = [samples[y::down, x::right] for y, x, down, right in PASSES]
    lines = b"".join(scan_lines(part.reshape(len(part), -1), depth) for part in parts if part.size)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(interlaced))
    body = [chunk(b"IHDR", header), *before, chunk(b"IDAT", zlib.compress(lines)), *after]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body) + chunk(b"IEND")


def palette(*colours, alphas=()):
    chunks = [chunk(b"PLTE", bytes(itertools.chain(*colours)))]
    return chunks + ([chunk(b"tRNS", bytes(alphas))] if alphas else [])


def clear(*samples):
    """The one colour that is transparent, at the file's own depth."""
    return [chunk(b"tRNS", struct.pack(f">{len(samples)}H", *samples))]


def animated_png():
    """Two frames; the first is what a reader that knows no APNG shows."""
    frame = struct.pack(">IIIIHHBB", 2, 1, 0, 0, 1, 10, 0, 0)
    second = zlib.compress(scan_lines([[*BLUE, *BLUE]], 8))
    before = [
        chunk(b"acTL", struct.pack(">II", 2, 0)),
        chunk(b"fcTL", struct.pack(">I", 0) + frame),
    ]
    after = [
        chunk(b"fcTL", struct.pack(">I", 1) + frame),
        chunk(b"fdAT", struct.pack(">I", 2) + second),
    ]
    return png([[RED, GREEN]], TRUECOLOUR, before=before, after=after)


# JPEG (ITU T.81): blocks of 8 x 8 equal samples, so that nothing is lost

_CODES = 12  # DC categories 0-11, each with the code of its own number in four bits


def jpeg(components, *, adobe=None, exif=None, progressive=False, more=()):
    """Components (c, rows of blocks, columns of blocks) of levels; quantisation is by 1."""
    components = np.asarray(components)
    num, rows, columns = components.shape
    segments = [] if exif is None else [segment(0xE1, b"Exif\0\0" + exif)]
    if adobe is not None:
        segments.append(segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, adobe)))
    segments += [*more, segment(0xDB, b"\0" + b"\1" * 64)]
    parts = b"".join(bytes([n + 1, 0x11, 0]) for n in range(num))
    frame = struct.pack(">BHHB", 8, rows * 8, columns * 8, num) + parts
    segments.append(segment(0xC2 if progressive else 0xC0, frame))
    segments.append(segment(0xC4, b"\0" + bytes([0, 0, 0, _CODES]) + bytes(12) + bytes(range(_CODES))))  # fmt: skip
    segments.append(segment(0xC4, b"\x10" + bytes([1]) + bytes(15) + b"\0"))  # AC: end of block
    end = "" if progressive else "0"
    segments.append(scan(range(num), (0, 0 if progressive else 63), dc_bits(components, end)))
    if progressive:
        segments += [scan([n], (1, 63), "0" * rows * columns) for n in range(num)]
    return b"\xff\xd8" + b"".join(segments) + b"\xff\xd9"


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def scan(numbers, band, bits):
    header = bytes([len(numbers)]) + b"".join(bytes([n + 1, 0]) for n in numbers) + bytes([*band, 0])  # fmt: skip
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return segment(0xDA, header) + coded


def dc_bits(components, end):
    """Code the difference of each block's mean to that before it (F.1.2.1)."""
    bits, last = "", [0] * len(components)
    for y, x in np.ndindex(components.shape[1:]):
        for n, component in enumerate(components):
            level = 8 * (int(component[y, x]) - 128)
            difference, last[n] = level - last[n], level
            size = abs(difference).bit_length()
            value = difference if difference > 0 else difference + (1 << size) - 1
            bits += f"{size:04b}" + (f"{value:0{size}b}" if size else "") + end
    return bits


def blocks(colours):
    """What a JPEG of blocks shows: (rows, columns[, c]) -> (rows * 8, columns * 8, c)."""
    colours = np.asarray(colours)
    colours = colours.reshape(*colours.shape[:2], -1)
    return colours.repeat(8, axis=0).repeat(8, axis=1)


def orientation(number, order="<"):
    """EXIF: a TIFF header and one entry (Exif 2.32, section 4.6.4)."""
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(order + "HIHHHIHHI", 42, 8, 1, 0x112, 3, 1, number, 0, 0)


def icc_profile():
    """sRGB with red and blue exchanged: what it means is another picture."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert srgb.count(b"rXYZ") == srgb.count(b"bXYZ") == 1
    return srgb.replace(b"rXYZ", b"-").replace(b"bXYZ", b"rXYZ").replace(b"-", b"bXYZ")


# GIF89a, BMP, TIFF 6.0


def gif(frames, colours, *, transparent=None):
    """Frames (h, w) of numbers below 128, which need no compression: codes of a byte each."""
    height, width = np.shape(frames[0])
    table = bytes(itertools.chain(*colours)).ljust(128 * 3, b"\0")
    data = b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF6, 0, 0) + table
    for frame in frames:
        flags, number = (0, 0) if transparent is None else (1, transparent)
        data += b"\x21\xf9\4" + struct.pack("<BHBB", flags, 10, number, 0)
        codes = bytes([128, *np.ravel(frame), 129])
        data += b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\7"
        data += bytes([len(codes)]) + codes + b"\0"
    return data + b"\x3b"


def bmp(rows, bits, *, colours=(), masks=(), top_down=False):
    """Rows of bytes, given from the top; a BITMAPV4 header where there are masks."""
    width = len(rows[0]) * 8 // bits if bits >= 8 else len(rows[0]) * 8
    table = b"".join(bytes([*colour[::-1], 0]) for colour in colours)
    size = 108 if masks else 40
    start = 14 + size + len(table)
    lines = [bytes(row) + bytes(-len(row) % 4) for row in (rows if top_down else rows[::-1])]
    height = -len(rows) if top_down else len(rows)
    header = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, 3 if masks else 0, 0, 0, 0, len(colours), 0)  # fmt: skip
    header += (struct.pack("<4I", *masks) + b"BGRs" + bytes(48)) if masks else b""
    body = b"".join(lines)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + table + body


def tiff(pages, *, order="<", bits=(8,), photometric=1, entries=()):
    """Pages (width, height, bytes), uncompressed, in one strip each; more entries as (tag, value)."""
    short, long = 3, 4
    data = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    for number, (width, height, pixels) in enumerate(pages, start=1):
        tags = {
            256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: len(bits),
            278: height, 279: len(pixels), **dict(entries),
        }  # fmt: skip
        directory = len(data) + 2 + 12 * len(tags) + 4
        extra = struct.pack(f"{order}{len(bits)}H", *bits) if len(bits) > 2 else b""
        tags[273] = directory + len(extra)
        data += struct.pack(order + "H", len(tags))
        for tag, value in sorted(tags.items()):
            if tag == 258:
                data += struct.pack(order + "HHI", tag, short, len(bits))
                where = struct.pack(order + "I", directory)
                inline = struct.pack(f"{order}{len(bits)}H", *bits).ljust(4, b"\0")
                data += where if extra else inline
            elif tag in (273, 279):
                data += struct.pack(order + "HHII", tag, long, 1, value)
            else:
                data += struct.pack(order + "HHIHH", tag, short, 1, value, 0)
        after = directory + len(extra) + len(pixels)
        data += struct.pack(order + "I", after if number < len(pages) else 0) + extra + pixels
    return data


def pillow(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, kind, **options)
    return file.getvalue()


def opencv(pixels, extension, *options):
    """Pixels in OpenCV's order, blue first."""
    return cv2.imencode(extension, np.asarray(pixels, np.uint8), options)[1].tobytes()


# (255, 0, 0) at alpha a over white is (255, 255 - a, 255 - a); grey v is round(255 - (255 - v)a/255)
RAMP = [[0, 255], [128, 7]]
ODD = np.arange(7 * 11 * 3).reshape(7, 11, 3) % 251
TALL = [[[9, 8, 7]]] * 5
ICC = icc_profile()
ICCP = [chunk(b"iCCP", b"x\0\0" + zlib.compress(ICC))]
SRGB_IGNORED = [chunk(b"gAMA", struct.pack(">I", 100000)), *ICCP]
WEBP_LOSSLESS = {"lossless": True, "exact": True}
CLEAR_RED = [[(255, 0, 0, 255), (255, 0, 0, 0)], [(255, 0, 0, 51), (0, 0, 0, 102)]]
OVER_WHITE = [[RED, WHITE], [(255, 204, 204), (153, 153, 153)]]

COLOUR = {
    "png": (png([[RED, GREEN], [BLUE, (1, 2, 3)]], TRUECOLOUR), [[RED, GREEN], [BLUE, (1, 2, 3)]]),
    "png interlaced": (png(ODD, TRUECOLOUR, interlaced=True), ODD),
    "png 1x1": (png([[(9, 8, 7)]], TRUECOLOUR), [[(9, 8, 7)]]),
    "png 1x1 interlaced": (png([[(9, 8, 7)]], TRUECOLOUR, interlaced=True), [[(9, 8, 7)]]),
    "png one wide": (png(TALL, TRUECOLOUR), TALL),
    "png one high": (png([[RED, GREEN, BLUE]], TRUECOLOUR), [[RED, GREEN, BLUE]]),
    "png by opencv": (opencv(ODD[..., ::-1], ".png"), ODD),
    "png palette": (png([[2, 0], [1, 2]], PALETTE, before=palette(RED, GREEN, BLUE)), [[BLUE, RED], [GREEN, BLUE]]),
    "png palette of 1 bit": (png([[1, 0, 1]], PALETTE, 1, before=palette(RED, GREEN)), [[GREEN, RED, GREEN]]),
    "png palette of 4 bits": (png([[15, 1]], PALETTE, 4, before=palette(*[(n, 0, 0) for n in range(16)])), [[(15, 0, 0), (1, 0, 0)]]),
    "png palette, one clear": (png([[0, 1]], PALETTE, before=palette(RED, GREEN, alphas=[0])), [[WHITE, GREEN]]),
    "png palette, part clear": (png([[0, 1, 2]], PALETTE, before=palette(RED, GREEN, BLUE, alphas=[51, 255])), [[(255, 204, 204), GREEN, BLUE]]),
    "png rgba": (png(CLEAR_RED, TRUECOLOUR_ALPHA), OVER_WHITE),
    "png rgba of 16 bits": (png(np.multiply(CLEAR_RED, 257), TRUECOLOUR_ALPHA, 16), OVER_WHITE),
    "png grey and alpha": (png([[(0, 255), (0, 0), (0, 51)]], GREY_ALPHA), [[BLACK, WHITE, (204,) * 3]]),
    "png rgb, one clear": (png([[RED, GREEN]], TRUECOLOUR, before=clear(255, 0, 0)), [[WHITE, GREEN]]),
    # Pillow keeps the upper byte of 16-bit colour: 0x01ff -> 1, where rounding would give 2.
    "png rgb of 16 bits": (png([[(0, 32768, 65535), (0x01FF, 0x1234, 0xFEFF)]], TRUECOLOUR, 16), [[(0, 128, 255), (1, 0x12, 0xFE)]]),
    "png rgb of 16 bits, one clear": (png([[(0x1234, 0, 0), (0x3412, 0, 0)]], TRUECOLOUR, 16, before=clear(0x1234, 0, 0)), [[WHITE, (0x34, 0, 0)]]),
    "png animated": (animated_png(), [[RED, GREEN]]),
    "png with profile and gamma": (png([[(200, 100, 50)]], TRUECOLOUR, before=SRGB_IGNORED), [[(200, 100, 50)]]),
    "jpeg grey": (jpeg([[[0, 128, 255]]]), blocks([[[0] * 3, [128] * 3, [255] * 3]])),
    # R = Y + 1.402 (Cr - 128), G = Y - .344136 (Cb - 128) - .714136 (Cr - 128), B = Y + 1.772 (Cb - 128)
    "jpeg": (jpeg([[[100, 77]], [[128, 128]], [[228, 128]]]), blocks([[(240, 29, 100), (77,) * 3]])),
    "jpeg blue": (jpeg([[[100]], [[178]], [[128]]]), blocks([[(100, 83, 189)]])),
    "jpeg progressive": (jpeg([[[100, 77]], [[128, 128]], [[228, 128]]], progressive=True), blocks([[(240, 29, 100), (77,) * 3]])),
    "jpeg stored as rgb": (jpeg([[[240]], [[29]], [[100]]], adobe=0), blocks([[(240, 29, 100)]])),
    # Stored inverted: 255 is no ink. Each colour is ink times key: 200 * 128 / 255 = 100.4.
    "jpeg cmyk of adobe": (jpeg([[[200, 200]], [[255, 255]], [[0, 0]], [[255, 128]]], adobe=0), blocks([[(200, 255, 0), (100, 128, 0)]])),
    "jpeg cmyk without a mark": (jpeg([[[200]], [[255]], [[0]], [[255]]]), blocks([[(200, 255, 0)]])),
    # Colours (240, 29, 100) as above stand for inks 255 - 240 and so on, which are stored inverted.
    "jpeg ycck": (jpeg([[[100]], [[128]], [[228]], [[255]]], adobe=2), blocks([[(15, 226, 155)]])),
    "jpeg with profile": (jpeg([[[100]], [[128]], [[228]]], more=[segment(0xE2, b"ICC_PROFILE\0\1\1" + ICC)]), blocks([[(240, 29, 100)]])),
    "gif": (gif([[[0, 1], [2, 0]]], [RED, GREEN, BLUE]), [[RED, GREEN], [BLUE, RED]]),
    "gif animated": (gif([[[0, 1]], [[2, 2]]], [RED, GREEN, BLUE]), [[RED, GREEN]]),
    "gif, one clear": (gif([[[0, 1]], [[1, 1]]], [RED, GREEN], transparent=0), [[WHITE, GREEN]]),
    "webp": (pillow(ODD, "WEBP", **WEBP_LOSSLESS), ODD),
    "webp by opencv": (opencv(ODD[..., ::-1], ".webp", cv2.IMWRITE_WEBP_QUALITY, 101), ODD),
    "webp rgba": (pillow(CLEAR_RED, "WEBP", **WEBP_LOSSLESS), OVER_WHITE),
    "webp animated": (pillow(ODD, "WEBP", save_all=True, append_images=[Image.new("RGB", (11, 7))], **WEBP_LOSSLESS), ODD),
    "bmp of 24 bits": (bmp([[*BLUE, *GREEN], [3, 2, 1, *RED]], 24), [[RED, GREEN], [(1, 2, 3), BLUE]]),
    "bmp from the top": (bmp([[*BLUE], [3, 2, 1]], 24, top_down=True), [[RED], [(1, 2, 3)]]),
    "bmp of 32 bits, the fourth byte unused": (bmp([[3, 2, 1, 0, 6, 5, 4, 255]], 32), [[(1, 2, 3), (4, 5, 6)]]),
    "bmp of 32 bits with alpha": (bmp([[0, 0, 255, 51, 3, 2, 1, 255]], 32, masks=(0xFF0000, 0xFF00, 0xFF, 0xFF000000)), [[(255, 204, 204), (1, 2, 3)]]),
    "bmp of 1 bit, white first": (bmp([[0b01000000]], 1, colours=[WHITE, BLACK]), [[WHITE, BLACK, *[WHITE] * 6]]),
    "tiff": (tiff([(2, 1, bytes([*RED, 1, 2, 3]))], bits=(8,) * 3, photometric=2), [[RED, (1, 2, 3)]]),
    "tiff of several pages": (tiff([(1, 1, bytes(RED)), (2, 1, bytes(6))], bits=(8,) * 3, photometric=2), [[RED]]),
    "tiff rgb of 16 bits": (tiff([(1, 1, struct.pack("<3H", 0, 32768, 65535))], bits=(16,) * 3, photometric=2), [[(0, 128, 255)]]),
    "tiff cmyk": (tiff([(1, 1, bytes([55, 0, 255, 127]))], bits=(8,) * 4, photometric=5), [[(100, 128, 0)]]),
    "tiff with premultiplied alpha": (tiff([(1, 1, bytes([51, 0, 0, 51]))], bits=(8,) * 4, photometric=2, entries=[(338, 1)]), [[(255, 204, 204)]]),
}  # fmt: skip
"""Name: (file, pixels as colour)."""

SIXTEEN = [0, 128, 129, 385, 386, 32767, 32768, 65406, 65407, 65535]
EIGHT = [0, 0, 1, 1, 2, 127, 128, 254, 255, 255]  # the nearest to v / 257
GREYS = {
    "png": (png(RAMP, GREY), RAMP),
    "png of 1 bit": (png([[0, 1, 1]], GREY, 1), [[0, 255, 255]]),
    "png of 2 bits": (png([[0, 1, 2, 3]], GREY, 2), [[0, 85, 170, 255]]),
    "png of 4 bits": (png([[0, 1, 8, 15]], GREY, 4), [[0, 17, 136, 255]]),
    "png of 16 bits": (png([SIXTEEN], GREY, 16), [EIGHT]),
    "png of 16 bits by opencv": (cv2.imencode(".png", np.array([SIXTEEN], np.uint16))[1].tobytes(), [EIGHT]),
    "png, one clear": (png(RAMP, GREY, before=clear(128)), [[0, 255], [255, 7]]),
    "png of 1 bit, white clear": (png([[0, 1]], GREY, 1, before=clear(1)), [[0, 255]]),
    "png of 1 bit, black clear": (png([[0, 1]], GREY, 1, before=clear(0)), [[255, 255]]),
    "png of 2 bits, one clear": (png([[0, 1, 2, 3]], GREY, 2, before=clear(1)), [[0, 255, 170, 255]]),
    "png of 4 bits, one clear": (png([[0, 5, 8, 1]], GREY, 4, before=clear(5)), [[0, 255, 136, 17]]),
    "png of 16 bits, one clear": (png([[0, 1000, 1001]], GREY, 16, before=clear(1000)), [[0, 255, 4]]),
    "png with alpha": (png([[(0, 255), (0, 0), (0, 51), (100, 128)]], GREY_ALPHA), [[0, 255, 204, 177]]),
    "png with alpha of 16 bits": (png([[(0, 65535), (0, 0), (0, 51 * 257)]], GREY_ALPHA, 16), [[0, 255, 204]]),
    "jpeg": (jpeg([[[0, 200], [255, 1]]]), blocks([[0, 200], [255, 1]])[..., 0]),
    # .299 * 240 + .587 * 29 + .114 * 100 = 100.2; .299 * 100 + .587 * 83 + .114 * 189 = 100.2
    "jpeg in colour": (jpeg([[[100, 100]], [[128, 178]], [[228, 128]]]), blocks([[100, 100]])[..., 0]),
    "png in colour": (png([[RED, GREEN, BLUE]], TRUECOLOUR), [[76, 150, 29]]),
    "bmp of 1 bit": (bmp([[0b10100000]], 1, colours=[BLACK, WHITE]), [[255, 0, 255, 0, 0, 0, 0, 0]]),
    "tiff of 16 bits": (tiff([(10, 1, struct.pack("<10H", *SIXTEEN))], bits=(16,)), [EIGHT]),
    "tiff of 16 bits, big-endian": (tiff([(10, 1, struct.pack(">10H", *SIXTEEN))], order=">", bits=(16,)), [EIGHT]),
    "tiff of 16 bits, white is 0": (tiff([(3, 1, struct.pack("<3H", 0, 257, 65535))], bits=(16,), photometric=0), [[255, 254, 0]]),
    "tiff of 8 bits, white is 0": (tiff([(3, 1, bytes([0, 1, 255]))], photometric=0), [[255, 254, 0]]),
    "tiff of 1 bit, white is 0": (tiff([(8, 1, b"\x80")], bits=(1,), photometric=0), [[0] + [255] * 7]),
    "tiff of 12 bits": (tiff([(2, 1, bytes([0xFF, 0xF8, 0x00]))], bits=(12,)), [[255, 128]]),
    "tiff of several pages": (tiff([(2, 1, b"\1\2"), (1, 1, b"\3")]), [[1, 2]]),
}  # fmt: skip
"""Name: (file, pixels as grey)."""


@pytest.mark.parametrize("name", list(COLOUR))
def test_colour(name):
    data, expected = COLOUR[name]
    assert decode(data, 3).tolist() == np.asarray(expected).tolist()


@pytest.mark.parametrize("name", list(GREYS))
def test_grey_and_the_same_as_colour(name):
    data, expected = GREYS[name]
    assert decode(data, 1)[..., 0].tolist() == np.asarray(expected).tolist()
    if "in colour" not in name:
        assert decode(data, 3).tolist() == np.repeat(np.asarray(expected)[..., None], 3, 2).tolist()


UPRIGHT = {
    1: ["abc", "def"],
    2: ["cba", "fed"],
    3: ["fed", "cba"],
    4: ["def", "abc"],
    5: ["ad", "be", "cf"],
    6: ["da", "eb", "fc"],
    7: ["fc", "eb", "da"],
    8: ["cf", "be", "ad"],
}
"""What each orientation makes of the rows "abc", "def" in the file (Exif 2.32, section 4.6.4)."""
LEVELS = dict(zip("abcdef", (10, 60, 110, 160, 210, 250), strict=True))


def levels(rows):
    return [[LEVELS[letter] for letter in row] for row in rows]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("number", UPRIGHT)
def test_orientation_of_jpegs(number, order):
    stored, expected = levels(UPRIGHT[1]), blocks(levels(UPRIGHT[number]))
    exif = orientation(number, order)
    plain, progressive, cmyk = (
        jpeg([stored], exif=exif),
        jpeg([stored], exif=exif, progressive=True),
        jpeg([stored] * 3 + [np.full((2, 3), 255)], exif=exif, adobe=0),
    )
    assert np.array_equal(decode(plain, 1), expected)
    assert np.array_equal(decode(progressive, 1), expected)
    assert np.array_equal(decode(cmyk, 3), expected.repeat(3, axis=2))


@pytest.mark.parametrize("number", UPRIGHT)
@pytest.mark.parametrize(
    "kind", ["png", "png after", "png of 16 bits", "png palette", "webp", "tiff"]
)
def test_orientation_of_others(kind, number):
    stored = np.array(levels(UPRIGHT[1]), np.uint8)
    exif = orientation(number)
    grey_palette = palette(*[(n, n, n) for n in range(256)])
    data = {
        "png": lambda: png(stored, GREY, before=[chunk(b"eXIf", exif)]),
        "png after": lambda: png(stored, GREY, after=[chunk(b"eXIf", exif)]),
        "png of 16 bits": lambda: png(stored.astype(int) * 257, GREY, 16, before=[chunk(b"eXIf", exif)]),
        "png palette": lambda: png(stored, PALETTE, before=[chunk(b"eXIf", exif), *grey_palette]),
        "webp": lambda: pillow(stored[..., None].repeat(3, 2), "WEBP", exif=exif, **WEBP_LOSSLESS),
        "tiff": lambda: tiff([(3, 2, stored.tobytes())], entries=[(274, number)]),
    }[kind]()  # fmt: skip
    assert decode(data, 1)[..., 0].tolist() == levels(UPRIGHT[number])


def test_alpha_over_white_and_black_is_rounded_to_the_nearest():
    values, alphas = np.mgrid[:256, :256]
    data = png(np.dstack([values, alphas]), GREY_ALPHA)
    shown = values * alphas / 255
    for ground, behind in (("white", 255 - alphas), ("black", 0)):
        found = decode(data, 1, ground)[..., 0]
        assert np.abs(found - (shown + behind)).max() <= 0.5  # 255 is odd: there are no halves


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("png rgba", [[RED, BLACK], [(51, 0, 0), BLACK]]),
        ("webp rgba", [[RED, BLACK], [(51, 0, 0), BLACK]]),
        ("png palette, part clear", [[(51, 0, 0), GREEN, BLUE]]),
        ("png rgb, one clear", [[BLACK, GREEN]]),
        ("gif, one clear", [[BLACK, GREEN]]),
        ("png", [[RED, GREEN], [BLUE, (1, 2, 3)]]),
    ],
)
def test_over_black(name, expected):
    assert decode(COLOUR[name][0], 3, "black").tolist() == np.asarray(expected).tolist()


SIDE = 16


def square_files():
    """Files of 16 x 16 of several kinds with their pixels, none of which needs resizing."""
    chance = np.random.default_rng(0)
    stored = chance.integers(0, 256, (SIDE, SIDE, 4))
    grey = chance.integers(0, 256, (SIDE, SIDE))
    stored[..., 3] = 255 * (stored[..., 3] > 99)
    seen = stored[..., 3:] == 255
    turned = jpeg([[[10, 60], [110, 160]]], exif=orientation(6))
    return {
        "alpha.png": (png(stored, TRUECOLOUR_ALPHA), np.where(seen, stored[..., :3], 255)),
        "cmyk.jpg": (jpeg([np.full((2, 2), v) for v in (200, 255, 0, 128)], adobe=0), np.full((SIDE, SIDE, 3), (100, 128, 0))),
        "sixteen.png": (png(grey * 257, GREY, 16), grey[..., None].repeat(3, 2)),
        "turned.jpg": (turned, blocks([[110, 10], [160, 60]]).repeat(3, 2)),
    }  # fmt: skip


@pytest.mark.parametrize("scaled", [False, True])
def test_training_evaluation_and_the_loaded_encoder_see_the_same_bytes(tmp_path, scaled):
    files = square_files()
    for name, (data, _) in files.items():
        (tmp_path / name).write_bytes(data)
    expected = np.stack([files[name][1] for name in sorted(files)])
    source = open_source(tmp_path)
    assert source.channels == 3

    same = Policy(((CenterCrop(SIDE),),))
    loader = Loader(source, same, batch_size=4, seed=0, threads=0, scaled_decoding=scaled)
    batch = next(loader.batches(0, 1))
    assert np.array_equal(batch.views[0][:, 0], expected[batch.indices])

    encoder = looktwice.load_encoder(written_encoder(tmp_path / "encoder.safetensors"))
    evaluated, kept = prepare(encoder, source)
    assert kept.tolist() == [0, 1, 2, 3]
    assert np.array_equal(evaluated.permute(0, 2, 3, 1).numpy(), expected)

    entered = []
    encoder.backbone.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    for i in range(4):
        encoder(torch.from_numpy(source.image(i).copy()).permute(2, 0, 1)[None])
    bytes_again = ((torch.cat(entered) * 0.25 + 0.5) * 255).permute(0, 2, 3, 1)
    assert np.abs(bytes_again.numpy() - expected).max() < 1e-3


def written_encoder(path):
    spec = EncoderSpec("resnet-tiny", 3, False, SIDE, (0.5,) * 3, (0.25,) * 3)
    backbone = build_backbone("resnet-tiny", channels=3, small_stem=False, init="")
    path.write_bytes(encoder_bytes(backbone, spec))
    return path


@pytest.mark.parametrize(
    ("ground", "expected"), [("white", (255, 204, 204)), ("black", (51, 0, 0))]
)
def test_the_ground_is_an_option_that_every_split_sees(tmp_path, ground, expected):
    for name in range(10):
        (tmp_path / f"{name}.png").write_bytes(png([[(255, 0, 0, 51)]], TRUECOLOUR_ALPHA))
    flags = {"data.source": str(tmp_path), "data.alpha": ground}
    splits = open_data(resolve(recipe="simclr-tiny", flags=flags, environ={}).data)
    for part in (splits.train, splits.validation):
        assert part.image(0).tolist() == [[list(expected)]]
        assert part.encoded(0).decode().pixels.tolist() == [[list(expected)]]
    as_white = open_source(tmp_path).fingerprint()
    assert (open_source(tmp_path).over(ground).fingerprint() == as_white) == (ground == "white")


def test_the_ground_reaches_every_kind_of_source(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "clear.png").write_bytes(png([[(255, 0, 0, 0)]], TRUECOLOUR_ALPHA))
    folder = open_source(tmp_path)
    for source in (folder, subset(folder, np.array([1, 0])), join(folder, folder)):
        for ground, level in (("white", 255), ("black", 0)):
            assert source.over(ground).image(0).tolist() == [[[level] * 3]]
