"""JPEGs decoded no larger than their views need, against libjpeg's scales and full decoding."""

import contextlib
import io
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from looktwice.augment import CenterCrop, HorizontalFlip, Policy, RandomResizedCrop, Resize, policy
from looktwice.data import ArraySource, FileSource, Loader, loader, permute, subset
from looktwice.data.decoding import Jpeg, Whole, decode, read
from looktwice.data.files import FolderFiles
from looktwice.errors import BadPictureError
from looktwice.features import readable

ORIENTATIONS = range(1, 9)
ORIENTED = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, -1),
}
"""How an upright picture lies in a file of each orientation (Exif 2.32, section 4.6.4)."""


def _scene(height, width, seed=0):
    """Clouds with hard-edged discs in them: smooth, with corners that a shift would show."""
    chance = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    pixels = np.stack(
        [128 + 70 * np.sin(x / (31 + 7 * c) + y / (43 - 5 * c) + c) for c in range(3)], axis=-1
    )
    for _ in range(12):
        top, left, radius = chance.uniform(0, [height, width, min(height, width) / 5])
        disc = (y - top) ** 2 + (x - left) ** 2 < radius**2
        pixels[disc] = chance.uniform(0, 255, 3)
    return pixels.astype(np.uint8)


def _jpeg(pixels, orientation=1, **options):
    """Encode an upright picture (H, W, 3), or (H, W), so that EXIF has to turn it."""
    stored = np.ascontiguousarray(ORIENTED[orientation](pixels))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    given = {"quality": 90, **({} if orientation == 1 else {"exif": exif}), **options}
    Image.fromarray(stored).save(file, "JPEG", **given)
    return file.getvalue()


def _folder(path, files, channels=3):
    for name, data in files.items():
        (path / name).write_bytes(data)
    return FileSource(FolderFiles(path, list(files)), name="x", channels=channels)


def _views(source, views, start=0, stop=1, **settings):
    """Return the views of some steps, one list of arrays for each step."""
    made = Loader(source, views, **{"batch_size": len(source), "seed": 3, "threads": 0, **settings})
    return [[array.copy() for array in batch.views] for batch in made.batches(start, stop)]


def _order(source, epoch=0):
    return permute(len(source), 3, epoch, range(len(source)))


# --- Decoding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
def test_full_decoding_is_pillows_bit_for_bit(orientation, options):
    data = _jpeg(_scene(101, 150), orientation, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    picture = read(data, 3)
    assert isinstance(picture, Jpeg)
    assert (picture.height, picture.width) == expected.shape[:2] == (101, 150)
    decoded = picture.decode()
    assert (decoded.eighths, decoded.top, decoded.left) == (8, 0.0, 0.0)
    assert np.array_equal(decoded.pixels, expected)
    assert np.array_equal(decode(data, 3), expected)


def _draft(data, eighths):
    """Decode a JPEG with Pillow at 1/8, 2/8 or 4/8 of its size, upright."""
    image = Image.open(io.BytesIO(data))
    orientation = image.getexif().get(0x0112, 1)
    image.draft(None, tuple(max(1, side * eighths // 8) for side in image.size))
    image.load()
    upright = Image.new(image.mode, image.size)
    upright.paste(image)
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright.info["exif"] = exif.tobytes()
    return np.asarray(ImageOps.exif_transpose(upright))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("shape", [(101, 150), (64, 96), (9, 23), (8, 8)])
def test_scaled_decoding_is_libjpegs_own(orientation, shape):
    for options in ({}, {"subsampling": 0}, {"progressive": True}):
        data = _jpeg(_scene(*shape), orientation, **options)
        for eighths in (1, 2, 4):
            decoded = read(data, 3).decode(eighths)
            assert decoded.eighths == eighths
            assert decoded.pixels.shape == (*(-(-side * eighths // 8) for side in shape), 3)
            assert np.array_equal(decoded.pixels, _draft(data, eighths))


def test_grey_jpegs_are_scaled_in_grey_and_colour_folders():
    data = _jpeg(_scene(50, 77)[..., 0], 6)
    expected = _draft(data, 2)
    assert np.array_equal(read(data, 1).decode(2).pixels, expected[..., None])
    assert np.array_equal(read(data, 3).decode(2).pixels, np.repeat(expected[..., None], 3, 2))


def test_slow_scales_give_way_to_the_next_fast_one():
    picture = read(_jpeg(_scene(64, 96)), 3)
    found = [picture.decode(eighths).eighths for eighths in range(1, 9)]
    assert found == [1, 2, 4, 4, 8, 8, 8, 8]


def _block_means(pixels, eighths):
    """Average what each pixel at eighths / 8 covers; the encoder repeats the edges."""
    height, width, _ = pixels.shape
    covered = 8 // eighths
    shape = -(-height // covered), -(-width // covered)
    padding = [(0, n * covered - side) for n, side in zip(shape, (height, width), strict=True)]
    padded = np.pad(pixels.astype(float), [*padding, (0, 0)], mode="edge")
    return padded.reshape(shape[0], covered, shape[1], covered, 3).mean(axis=(1, 3))


@pytest.mark.parametrize("side", range(1, 12))
def test_scales_of_tiny_pictures_are_what_they_say(side):
    for shape in ((side, side), (1, side), (side, 2)):
        y, x = np.mgrid[: shape[0], : shape[1]]
        pixels = np.stack([20 * x, 20 * y, 0 * x], axis=-1).astype(np.uint8)
        data = _jpeg(pixels, quality=100, subsampling=0)
        for eighths in range(1, 9):
            decoded = read(data, 3).decode(eighths)
            assert decoded.eighths >= eighths
            expected = _block_means(pixels, decoded.eighths)
            assert decoded.pixels.shape == expected.shape
            assert np.abs(decoded.pixels - expected).max() < 6


def _other_files():
    file = io.BytesIO()
    Image.fromarray(_scene(64, 96)).save(file, "PNG")
    cmyk = io.BytesIO()
    Image.fromarray(_scene(64, 96)).convert("CMYK").save(cmyk, "JPEG")
    return {"png": file.getvalue(), "cmyk": cmyk.getvalue()}


@pytest.mark.parametrize("name", ["png", "cmyk"])
def test_other_pictures_are_decoded_in_full(name):
    data = _other_files()[name]
    picture = read(data, 3)
    assert isinstance(picture, Whole)
    assert (picture.height, picture.width, picture.nbytes) == (64, 96, 64 * 96 * 3)
    decoded = picture.decode(1)
    assert decoded.eighths == 8
    assert np.array_equal(decoded.pixels, decode(data, 3))


def test_a_colour_jpeg_in_a_grey_folder_is_decoded_in_full():
    assert isinstance(read(_jpeg(_scene(64, 96)), 1), Whole)


def test_more_pixels_than_pillow_takes_are_left_to_pillow(monkeypatch):
    data = _jpeg(_scene(64, 96))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 96 // 2 - 1)
    with pytest.raises(Image.DecompressionBombError):
        read(data, 3)


def test_arrays_give_themselves():
    images = np.random.default_rng(0).integers(0, 256, (3, 9, 7, 3), dtype=np.uint8)
    source = ArraySource(images)
    assert not source.is_encoded
    picture = source.encoded(1)
    assert (picture.height, picture.width) == (9, 7)
    assert np.shares_memory(picture.decode(1).pixels, images)


def test_folders_and_their_subsets_give_headers(tmp_path):
    source = _folder(
        tmp_path, {"a.jpg": _jpeg(_scene(20, 30)), "b.jpg": _jpeg(_scene(40, 24), 6), "c": b""}
    )
    part = subset(source, np.array([1, 2]))
    assert source.is_encoded
    assert part.is_encoded
    assert (part.encoded(0).height, part.encoded(0).width) == (40, 24)
    with pytest.raises(BadPictureError) as caught:
        part.encoded(1)
    assert caught.value.identifier == "c"


def test_whoever_measures_sees_pictures_in_full(tmp_path):
    data = _jpeg(_scene(160, 240), 6)
    source = _folder(tmp_path, {"a.jpg": data})
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    ((_, picture),) = readable(source)
    assert np.array_equal(picture, expected)


# --- The scale that is chosen -------------------------------------------------------------------


def _slow_smallest(sides, boxes):
    """Try 1, 2, … 8 in exact fractions."""
    for eighths in range(1, 8):
        if all(
            Fraction(length) * eighths / 8 >= side
            for side, box in zip(sides, boxes, strict=True)
            for length in box[2:]
        ):
            return eighths
    return 8


lengths = st.integers(1, 400)
boxes = st.tuples(st.just(0), st.just(0), lengths, lengths)


@given(
    sides=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    pictures=st.data(),
    count=st.integers(1, 4),
)
def test_the_smallest_scale_is_the_slow_search(sides, pictures, count):
    views = Policy(tuple((RandomResizedCrop(side), HorizontalFlip()) for side in sides))
    keys = np.arange(count)
    rows = views.sample(seed=0, epoch=0, indices=keys, heights=keys + 500, widths=keys + 400)
    expected = []
    for row in rows:
        drawn = pictures.draw(st.lists(boxes, min_size=len(sides), max_size=len(sides)))
        row[:, 1:5] = drawn
        expected.append(_slow_smallest(sides, drawn))
    assert views.smallest_eighths(rows).tolist() == expected


def test_exact_multiples_stay_exact():
    views = Policy(((RandomResizedCrop(30),),))
    rows = views.sample(seed=0, epoch=0, indices=range(9), heights=[240] * 9, widths=[240] * 9)
    rows[:, 0, 3:5] = np.array([29, 30, 40, 48, 60, 80, 120, 240, 239])[:, None]
    assert views.smallest_eighths(rows).tolist() == [8, 8, 6, 5, 4, 3, 2, 1, 2]


@pytest.mark.parametrize("crop", [CenterCrop(32), CenterCrop(33, 37), Resize(32)])
def test_crops_that_are_not_drawn_choose_by_their_boxes(crop):
    views = Policy(((crop,),))
    heights, widths = [32, 64, 128, 256, 300], [32, 64, 128, 400, 257]
    rows = views.sample(seed=0, epoch=0, indices=range(5), heights=heights, widths=widths)
    short = np.minimum(heights, widths)
    resized = getattr(crop, "resize", None) or crop.size
    expected = np.clip(np.ceil(8 * resized / short - 1e-9), 1, 8)
    assert views.smallest_eighths(rows).tolist() == expected.tolist()


def test_rescaling_touches_the_boxes_alone():
    views = policy("simclr", size=16)
    rows = views.sample(seed=0, epoch=0, indices=range(3), heights=[90] * 3, widths=[70] * 3)
    before = rows.copy()
    origins = np.array([[0.0, 0.0], [0.5, 0.25], [0.0, 0.0]])
    moved = views.rescale(rows, [8, 4, 1], origins)
    assert np.array_equal(rows, before)
    assert np.array_equal(moved[0], rows[0])
    assert np.array_equal(moved[:, :, 5:], rows[:, :, 5:])
    assert np.array_equal(moved[:, :, 0], rows[:, :, 0])
    for view in range(2):
        top, left, height, width = rows[1, view, 1:5]
        assert moved[1, view, 1:5].tolist() == [
            top / 2 + 0.5, left / 2 + 0.25, height / 2, width / 2
        ]  # fmt: skip


# --- Views --------------------------------------------------------------------------------------

PLAIN = Policy(((RandomResizedCrop(24, (0.3, 1.0)),), (RandomResizedCrop(24, (0.3, 1.0)),)))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(("shape", "eighths"), [((203, 307), 2), ((401, 499), 1), ((99, 117), 4)])
def test_views_lie_where_their_crops_say(tmp_path, orientation, shape, eighths):
    """Red rises to the right and green to the bottom: the mean level of a view tells its place."""
    height, width = shape
    y, x = np.mgrid[:height, :width]
    slopes = 200 / height, 200 / width
    ramps = np.stack([20 + slopes[1] * x, 20 + slopes[0] * y, 0 * x + 120], axis=-1)
    data = _jpeg(np.round(ramps).astype(np.uint8), orientation, quality=100, subsampling=0)
    views = Policy(((RandomResizedCrop(24, (0.5, 1.0)),),) * 8)
    rows = views.sample(seed=3, epoch=0, indices=[0], heights=[height], widths=[width])
    assert views.smallest_eighths(rows)[0] in (eighths, eighths - (eighths == 4))
    ((found,),) = _views(_folder(tmp_path, {"a.jpg": data}), views)
    for row, view in zip(rows[0], found[0].astype(float), strict=True):
        top, left, tall, wide = row[1:5]
        middles = (
            (view[..., 0].mean() - 20) / slopes[1] + 0.5 - (left + wide / 2),
            (view[..., 1].mean() - 20) / slopes[0] + 0.5 - (top + tall / 2),
        )
        assert abs(middles[0]) * 24 / wide < 0.1  # pixels of the view
        assert abs(middles[1]) * 24 / tall < 0.1


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_views_are_close_to_those_of_full_decoding(tmp_path, orientation):
    shapes = [(203, 307), (401, 299), (155, 161), (777, 601)]
    files = {f"{n}.jpg": _jpeg(_scene(*s, n), orientation) for n, s in enumerate(shapes)}
    source = _folder(tmp_path, files)
    ((scaled,),) = _views(source, PLAIN)
    ((full,),) = _views(source, PLAIN, scaled_decoding=False)
    difference = np.abs(scaled.astype(int) - full).mean(axis=(1, 2, 3, 4))
    assert (difference > 0).all()  # else nothing was scaled
    assert difference.max() < 2.0


@pytest.mark.parametrize(
    "crop", [CenterCrop(32, 40, "bicubic"), CenterCrop(32, None, "bicubic"), Resize(32, "bicubic")]
)
def test_crops_that_read_beyond_their_box(tmp_path, crop):
    files = {f"{o}.jpg": _jpeg(_scene(203, 309, o), o) for o in ORIENTATIONS}
    source = _folder(tmp_path, files)
    ((scaled,),) = _views(source, Policy(((crop,),)))
    ((full,),) = _views(source, Policy(((crop,),)), scaled_decoding=False)
    difference = np.abs(scaled.astype(int) - full).mean(axis=(1, 2, 3, 4))
    assert (difference > 0).all()
    assert difference.max() < 2.0


def _mixed(tmp_path):
    """Photographs of several sizes and orientations, and a PNG."""
    files = {
        f"{n}.jpg": _jpeg(_scene(60 + 37 * n, 200 - 11 * n, n), 1 + n % 8) for n in range(9)
    } | {"9.png": _other_files()["png"]}
    return _folder(tmp_path, files)


def test_switched_off_views_are_the_policys_own(tmp_path):
    source, views = _mixed(tmp_path), policy("simclr", size=16)
    ((found,),) = _views(source, views, scaled_decoding=False)
    order = _order(source)
    expected = views([source.image(i) for i in order], seed=3, epoch=0, indices=order)
    assert np.array_equal(found, expected)
    ((scaled,),) = _views(source, views)
    same = (scaled == found).all(axis=(1, 2, 3, 4))
    assert not same.all()
    assert same[order == 9].all()  # the PNG


def test_crops_smaller_than_views_are_the_same_bits_in_every_epoch(tmp_path):
    source, views = _mixed(tmp_path), policy("simclr", size=224)
    scaled = _views(source, views, 0, 3)
    assert np.array_equal(scaled, _views(source, views, 0, 3, scaled_decoding=False))
    assert not np.array_equal(scaled[0], scaled[1])


def test_views_of_several_sizes(tmp_path):
    source = _mixed(tmp_path)
    views = Policy((*PLAIN.views, (RandomResizedCrop(12, (0.05, 0.2)),)))
    for scaled_decoding in (True, False):
        ((large, small),) = _views(source, views, scaled_decoding=scaled_decoding)
        assert large.shape == (10, 2, 24, 24, 3)
        assert small.shape == (10, 1, 12, 12, 3)
    order = _order(source)
    whole = views([source.image(i) for i in order], seed=3, epoch=0, indices=order)
    assert np.array_equal(large, whole[0])
    assert np.array_equal(small, whole[1])


@pytest.mark.parametrize(("threads", "depth"), [(1, 1), (2, 3), (3, 5)])
def test_threads_and_restarts_change_nothing(tmp_path, threads, depth):
    source, views = _mixed(tmp_path), policy("simclr", size=16)
    reference = _views(source, views, 0, 6, batch_size=3)
    settings = {"batch_size": 3, "threads": threads, "depth": depth}
    again = _views(source, views, 0, 2, **settings) + _views(source, views, 2, 6, **settings)
    assert np.array_equal(again, reference)


def test_what_is_held_is_bounded_and_changes_nothing(tmp_path, monkeypatch):
    source, views = _mixed(tmp_path), policy("simclr", size=16)
    ((reference,),) = _views(source, views)
    parts = []
    apply = Policy.apply

    def spy(self, images, rows, **rest):
        parts.append(len(images))
        return apply(self, images, rows, **rest)

    monkeypatch.setattr(Policy, "apply", spy)
    monkeypatch.setattr(loader, "MAX_HELD", 60 * 200 * 3 * 3)
    ((found,),) = _views(source, views)
    assert np.array_equal(found, reference)
    assert sum(parts) == 10
    assert max(parts) <= 4
    assert len(parts) > 2


def _damaged():
    whole = _jpeg(_scene(120, 90))
    return {
        "cut": whole[: len(whole) // 2],  # its header is good
        "header": whole[:100],
        "turned": _jpeg(_scene(120, 90), 6)[:-800],
    }


@pytest.mark.parametrize("kind", ["cut", "header", "turned"])
@pytest.mark.parametrize("scaled_decoding", [True, False])
def test_bad_pictures_are_replaced_by_the_next_good_one(tmp_path, kind, scaled_decoding):
    bad = _damaged()[kind]
    good = {n: _jpeg(_scene(200 + 9 * n, 310, n), 1 + n) for n in (1, 4, 5)}
    source = _folder(tmp_path, {f"{n}.jpg": good.get(n, bad) for n in range(6)})
    made = Loader(source, PLAIN, batch_size=6, seed=3, threads=0, max_bad=0.5,
                  scaled_decoding=scaled_decoding)  # fmt: skip
    (batch,) = made.batches(0, 1)
    assert sorted(made.bad_pictures) == [0, 2, 3]
    assert {entry.identifier for entry in made.bad_pictures.values()} == {"0.jpg", "2.jpg", "3.jpg"}
    next_good = [1, 1, 4, 4, 4, 5]
    for index, views in zip(batch.indices, batch.views[0], strict=True):
        picture = source.image(next_good[index])
        expected = PLAIN([picture], seed=3, epoch=0, indices=[index])[0]
        assert np.abs(views.astype(int) - expected).mean() < 2.0
        if not scaled_decoding:
            assert np.array_equal(views, expected)


def test_damage_that_pillow_reads_past_is_not_bad(tmp_path):
    data = _jpeg(_scene(200, 300))
    data = data[:-2] + bytes(9) + data[-2:]
    with pytest.raises(ValueError, match="extraneous"):
        read(data, 3).decode(1)
    source = _folder(tmp_path, {"a.jpg": data})
    ((found,),) = _views(source, PLAIN)
    expected = PLAIN([source.image(0)], seed=3, epoch=0, indices=[0])
    assert np.array_equal(found, expected)


def test_the_caller_may_leave_while_pictures_are_decoded(tmp_path, monkeypatch):
    decoded, second = [], threading.Event()
    whole = Jpeg.decode

    def slow(self, eighths):
        decoded.append(eighths)
        if len(decoded) > 5:  # of the second batch
            second.set()
            time.sleep(0.3)
        return whole(self, eighths)

    monkeypatch.setattr(Jpeg, "decode", slow)
    made = Loader(_mixed(tmp_path), PLAIN, batch_size=5, seed=3, threads=1, depth=2)
    with contextlib.closing(made.batches(0, 2)) as batches:
        next(batches)
        assert second.wait(10)
    assert len(decoded) < 9  # of 9 JPEGs and a PNG
