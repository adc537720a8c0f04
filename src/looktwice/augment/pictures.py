"""Pictures as the kernels want them: addresses and sizes, without a copy where possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import numpy as np
import numpy.typing as npt

from looktwice.errors import UsageError

Images = npt.NDArray[np.uint8] | Sequence[npt.NDArray[np.uint8]]

_CHANNELS: Final = (1, 3)


@final
class Pictures:
    """N uint8 pictures (h, w, C), C in {1, 3}; keeps what the addresses point to alive.

    Attributes:
        channels: C.
        addresses: uintp (N,), where each contiguous picture begins.
        heights: int64 (N,), pixels.
        widths: int64 (N,), pixels.

    Raises:
        UsageError: pictures of another dtype, shape or number of channels.
    """

    def __init__(self, images: Images) -> None:
        if isinstance(images, np.ndarray):
            self._from_array(images)
        else:
            self._from_sequence(images)

    def __len__(self) -> int:
        return len(self.addresses)

    def _from_array(self, images: npt.NDArray[np.uint8]) -> None:
        if images.ndim != 4:
            raise UsageError(f"pictures: an array must be (N, H, W, C), found {images.shape}")
        _check_picture(
            "pictures", images[0] if len(images) else np.empty(images.shape[1:], images.dtype)
        )
        images = np.ascontiguousarray(images)
        self._alive: object = images
        count, height, width, self.channels = images.shape
        start, step = images.ctypes.data, images.strides[0]
        self.addresses = np.arange(count, dtype=np.uintp) * np.uintp(step) + np.uintp(start)
        self.heights = np.full(count, height, np.int64)
        self.widths = np.full(count, width, np.int64)

    def _from_sequence(self, images: Sequence[npt.NDArray[np.uint8]]) -> None:
        if not len(images):
            raise UsageError("pictures: the sequence is empty; give at least one (h, w, C) array")
        for n, image in enumerate(images):
            _check_picture(f"pictures[{n}]", image)
        channels = {image.shape[2] for image in images}
        if len(channels) > 1:
            raise UsageError("pictures: some have 1 channel and some 3; convert them to one kind")
        alive = [np.ascontiguousarray(image) for image in images]
        self._alive = alive
        self.channels = channels.pop()
        self.addresses = np.array(
            [image.__array_interface__["data"][0] for image in alive], dtype=np.uintp
        )
        self.heights = np.array([image.shape[0] for image in alive], np.int64)
        self.widths = np.array([image.shape[1] for image in alive], np.int64)


def _check_picture(name: str, image: npt.NDArray[np.uint8]) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        found = getattr(image, "dtype", type(image).__name__)
        raise UsageError(f"{name}: must be a uint8 array, found {found}")
    if image.ndim != 3 or image.shape[2] not in _CHANNELS or 0 in image.shape:
        raise UsageError(f"{name}: must be (height, width, 1 or 3), not empty, found {image.shape}")
