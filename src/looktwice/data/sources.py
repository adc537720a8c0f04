"""Sources: a length, and picture i as uint8, with its label if there is one and its name."""

from __future__ import annotations

import hashlib
import io
import stat
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from looktwice.errors import BadPictureError, DataError

Picture = NDArray[np.uint8]
Labels = NDArray[np.int64]

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Pillow's decoders that may see a file; the others (EPS calls Ghostscript) never do."""

NUM_PROBED: Final = 64
"""Pictures looked at to tell whether a folder is grey."""

_SIXTEEN_BIT: Final = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_GREY: Final = ("1", "L", *_SIXTEEN_BIT)
_ORIENTATION: Final = 0x0112
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation (Exif 2.32, section 4.6.4) to what makes the picture upright."""


class Source(ABC):
    """Pictures in a fixed order.

    Attributes:
        name: what a person calls it.
        channels: 1 or 3, the same for every picture.
        labels: int64 (N,), each in 0 … len(class_names) - 1, or None.
        class_names: one a label, or None.
    """

    def __init__(
        self, name: str, channels: int, labels: Labels | None, class_names: tuple[str, ...] | None
    ) -> None:
        self.name = name
        self.channels = channels
        self.labels = labels
        self.class_names = class_names

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of pictures."""

    @abstractmethod
    def image(self, i: int) -> Picture:
        """Return picture i, uint8 (H, W, channels).

        Raises:
            BadPictureError: it cannot be decoded.
        """

    @abstractmethod
    def identifier(self, i: int) -> str:
        """Return what to call picture i: stable, unique in the source, always UTF-8."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a sha256 (hex), equal for sources of the same pictures and labels."""

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """Height and width in pixels, when shared by all and known without decoding."""
        return None


@final
class ArraySource(Source):
    """Pictures in one array; nothing is copied.

    Args:
        images: uint8 (N, H, W) or (N, H, W, C), C in {1, 3}.
        labels: (N,) integers or strings, or None.
        name: what to call it.
        class_names: names of the labels 0 … C-1; without them the distinct labels, sorted,
            become the classes.

    Raises:
        DataError: another dtype, shape or length.
    """

    def __init__(
        self,
        images: NDArray[Any],
        labels: NDArray[Any] | None = None,
        *,
        name: str = "array",
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        _check_images(images)
        self._images = images if images.ndim == 4 else images[..., None]
        numbers = None
        if labels is not None:
            numbers, class_names = _checked_labels(np.asarray(labels), len(images), class_names)
        super().__init__(name, self._images.shape[3], numbers, class_names)

    def __len__(self) -> int:
        return len(self._images)

    def image(self, i: int) -> Picture:
        """See `Source.image`."""
        picture: Picture = self._images[i]
        return picture

    def identifier(self, i: int) -> str:
        """See `Source.identifier`."""
        return f"{self.name}[{i}]"

    def fingerprint(self) -> str:
        """See `Source.fingerprint`."""
        digest = hashlib.sha256(repr((self._images.shape, self.class_names)).encode())
        for picture in self._images:
            digest.update(picture.tobytes())
        if self.labels is not None:
            digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """See `Source.picture_size`."""
        _, height, width, _ = self._images.shape
        return height, width


@final
class FolderSource(Source):
    """Picture files under one folder, decoded when asked for.

    Args:
        root: the folder.
        files: paths relative to it, in the order of the source.
        name: what to call it.
        channels: 1 or 3.
        labels: int64 (N,) or None.
        class_names: one a label, or None.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        *,
        name: str,
        channels: int,
        labels: Labels | None = None,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(name, channels, labels, class_names)
        self._root = root
        self._files = tuple(files)
        _quieten_pillow()

    def __len__(self) -> int:
        return len(self._files)

    def image(self, i: int) -> Picture:
        """See `Source.image`."""
        try:
            return decode(_read(self._root / self._files[i]), self.channels)
        # Decoders of untrusted bytes raise nearly anything (struct.error, KeyError, zlib.error,
        # SyntaxError, MemoryError, DecompressionBombError …); no file may end a run.
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise BadPictureError(self.identifier(i), printable(reason)) from error

    def identifier(self, i: int) -> str:
        """See `Source.identifier`."""
        return printable(self._files[i])

    def fingerprint(self) -> str:
        """See `Source.fingerprint`."""
        digest = hashlib.sha256(repr((self.channels, self.class_names)).encode())
        for i, file in enumerate(self._files):
            path = self._root / file
            size = path.stat().st_size if path.is_file() else -1
            digest.update(f"{self.identifier(i)}\0{size}\0".encode())
        return digest.hexdigest()


@final
class _Subset(Source):
    """Some pictures of a source, in the order of their indices."""

    def __init__(self, source: Source, indices: NDArray[np.int64]) -> None:
        labels = None if source.labels is None else source.labels[indices]
        super().__init__(source.name, source.channels, labels, source.class_names)
        self._source = source
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def image(self, i: int) -> Picture:
        """See `Source.image`."""
        return self._source.image(int(self._indices[i]))

    def identifier(self, i: int) -> str:
        """See `Source.identifier`."""
        return self._source.identifier(int(self._indices[i]))

    def fingerprint(self) -> str:
        """See `Source.fingerprint`."""
        digest = hashlib.sha256(self._source.fingerprint().encode())
        digest.update(self._indices.astype("<i8").tobytes())
        return digest.hexdigest()

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """See `Source.picture_size`."""
        return self._source.picture_size


def subset(source: Source, indices: NDArray[np.int64]) -> Source:
    """Take the pictures of a source at some indices (M,), in that order; labels go with them."""
    return _Subset(source, np.asarray(indices, np.int64))


def printable(text: str) -> str:
    """Escape the undecodable bytes of a file name, so that any UTF-8 file or terminal takes it."""
    return text.encode("utf-8", "backslashreplace").decode()


def probe_channels(root: Path, files: Sequence[str]) -> int:
    """Return 1 when `NUM_PROBED` pictures, evenly spread, are all grey and opaque, else 3."""
    _quieten_pillow()
    modes: list[str] = []
    for file in files[:: -(-len(files) // NUM_PROBED)]:
        try:
            with Image.open(io.BytesIO(_read(root / file)), formats=FORMATS) as image:
                modes.append("alpha" if image.has_transparency_data else image.mode)
        except Exception:  # a bad picture says nothing about colour; decoding reports it
            continue
        if len(modes) == NUM_PROBED or modes[-1] not in _GREY:
            break
    return 1 if modes and set(modes) <= set(_GREY) else 3


def decode(data: bytes, channels: int) -> Picture:
    """Decode a picture into uint8 (H, W, channels), upright, alpha over white.

    Raises:
        Exception: whatever a decoder raises for bytes that are no whole picture.
    """
    if data[:2] == b"\xff\xd8":
        picture = _decode_plain_jpeg(data, channels)
        if picture is not None:
            return picture
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        pixels = np.asarray(_flatten(image, "L" if channels == 1 else "RGB"))
    if turn is not None:
        pixels = np.asarray(Image.fromarray(pixels).transpose(turn))
    return pixels.reshape(*pixels.shape[:2], channels)


def _decode_plain_jpeg(data: bytes, channels: int) -> Picture | None:
    """Decode an upright, undamaged RGB or grey JPEG, with Pillow's pixels; None for all others.

    It is 8 times faster than Pillow at 32 px and 1.5 times at 400 px (the same libjpeg-turbo).
    """
    if b"Exif\0" in data or b"rientation" in data:
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=True)
        plain = colorspace == "Gray" or (channels == 3 and colorspace in ("YCbCr", "RGB"))
        if not plain or height * width > (Image.MAX_IMAGE_PIXELS or 0):
            return None
        wanted = "GRAY" if channels == 1 else "RGB"
        pixels: Picture = simplejpeg.decode_jpeg(data, wanted, strict=True)
    except ValueError:  # damaged: whether that matters is for Pillow to say
        return None
    return pixels


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation, 1 for none; damaged EXIF does not make the pixels bad."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    """Convert a loaded image to mode L or RGB: 16 bits scaled, transparent parts over white."""
    if image.mode in _SIXTEEN_BIT:
        image = _scale_16_bit(image)
    elif image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, coloured).convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _scale_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"its grey levels run from {values.min()} to {values.max()}, not 0 to 65535"
        )
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _read(path: Path) -> bytes:
    """Read a regular file; a pipe or a device is not opened, since that could block."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("not a regular file")
    return path.read_bytes()


def _quieten_pillow() -> None:
    """Ignore Pillow's warnings about odd files, for good.

    `warnings.catch_warnings` around each call would not be safe in threads.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _check_images(images: NDArray[Any]) -> None:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        found = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
        raise DataError(f"pictures must be a uint8 array with values 0-255; found {found}")
    shape = images.shape
    if images.ndim == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3):
        raise DataError(
            f"pictures must be (N, H, W, C), channels last; found {shape}: "
            "pass images.transpose(0, 2, 3, 1)"
        )
    if images.ndim not in (3, 4) or (images.ndim == 4 and shape[3] not in (1, 3)):
        raise DataError(f"pictures must be (N, H, W) or (N, H, W, C) with C 1 or 3; found {shape}")
    if 0 in shape:
        raise DataError(f"there are no pixels in an array of shape {shape}")


def _checked_labels(
    labels: NDArray[Any], length: int, class_names: tuple[str, ...] | None
) -> tuple[Labels, tuple[str, ...]]:
    if labels.shape != (length,):
        raise DataError(f"labels must be one a picture, shape ({length},); found {labels.shape}")
    if labels.dtype.kind not in "iubU":
        raise DataError(f"labels must be integers or strings; found {labels.dtype}")
    if labels.dtype.kind == "U" and class_names is not None:
        raise DataError("labels are strings already: leave class_names out, or number the labels")
    if labels.dtype.kind == "i" and labels.min() < 0:
        raise DataError(
            f"labels must be 0 or more; found {labels.min()}: leave unlabelled pictures out, "
            "or pass no labels"
        )
    if class_names is None:
        distinct, inverse = np.unique(labels, return_inverse=True)
        return inverse.astype(np.int64), tuple(str(value) for value in distinct)
    numbers = labels.astype(np.int64)
    if numbers.max() >= len(class_names):
        raise DataError(
            f"label {numbers.max()} found, but there are {len(class_names)} class names"
        )
    return numbers, class_names
