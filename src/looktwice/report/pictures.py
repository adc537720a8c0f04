"""Pictures within the page: data URIs at a size that shows their pixels as they are."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SHOWN = 84  # pixels: height in a strip
NARROW = 56  # pixels: the same on a telephone
WIDEST = 2  # times the height: wider pictures are shown lower
SMALL = 64  # pixels: up to this side a picture is enlarged by whole pixels only
JPEG_QUALITY = 82

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Thumbnail:
    """A picture as an ``img`` element takes it; widths in CSS pixels, height follows."""

    uri: str
    width: int
    narrow_width: int
    aspect: str
    crisp: bool


def thumbnail(picture: Pixels, shown: int = SHOWN, narrow: int = NARROW) -> Thumbnail:
    """Return a (H, W, C) picture, C in {1, 3}, as a data URI with the sizes to show it at.

    ``shown`` and ``narrow`` are heights in pixels, on a wide page and on a telephone.
    """
    height, width = picture.shape[:2]
    crisp = is_small(height, width)
    image = as_image(picture)
    if not crisp:
        factor = min(1.0, 2 * display_scale(height, width, shown))  # twice, for dense screens
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return Thumbnail(
        uri=_data_uri(image, "PNG" if crisp else "JPEG"),
        width=max(1, round(width * display_scale(height, width, shown))),
        narrow_width=max(1, round(width * display_scale(height, width, narrow))),
        aspect=f"{width} / {height}",
        crisp=crisp,
    )


def is_small(height: int, width: int) -> bool:
    """Whether a picture is enlarged by whole pixels (and never shrunk)."""
    return max(height, width) <= SMALL


def display_scale(height: int, width: int, shown: int) -> float:
    """Return the enlargement that shows a picture at most ``shown`` pixels high, if it can be."""
    if is_small(height, width):
        return max(1, min(shown // height, WIDEST * shown // width))
    return min(shown / height, WIDEST * shown / width)


def as_image(picture: Pixels) -> Image.Image:
    """Return a (H, W, 1) or (H, W, 3) uint8 array as a Pillow image."""
    return Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)


def _data_uri(image: Image.Image, kind: str) -> str:
    options: dict[str, Any] = {"optimize": True} if kind == "PNG" else {"quality": JPEG_QUALITY}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
