"""Sources: a length, and picture i as uint8, with its label if there is one and its name."""

from __future__ import annotations

import contextlib
import errno
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar, final

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from looktwice.data.decoding import Encoded, Ground, Picture, Whole, decode, read
from looktwice.data.files import Files, printable, quieten_pillow
from looktwice.errors import BadPictureError, DataError

Labels = NDArray[np.int64]
_Made = TypeVar("_Made")

_OF_THE_MACHINE: Final = (
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENODEV,
    errno.EMFILE, errno.ENFILE, errno.ENOMEM,
)  # fmt: skip
"""What the system says where a disk, a server or this process fails, and no picture is bad."""


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

    @property
    def is_encoded(self) -> bool:
        """Whether pictures have to be decoded, so that `encoded` may spare work."""
        return False

    def encoded(self, i: int) -> Encoded:
        """Return picture i with its size known, to be decoded at the scale that is wanted.

        Raises:
            BadPictureError: its size cannot be read.
        """
        return Whole(self.image(i))

    def over(self, ground: Ground) -> Source:  # noqa: ARG002
        """Return the source with the transparent parts of its pictures over a ground, if any."""
        return self

    @abstractmethod
    def identifier(self, i: int) -> str:
        """Return what to call picture i: stable, unique in the source, always UTF-8."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a sha256 (hex), equal for sources of the same pictures and labels."""

    def file(self, i: int) -> bytes | None:  # noqa: ARG002
        """Return the file of picture i as it is; None where pictures are no files.

        Raises:
            BadPictureError: it cannot be read.
            DataError: nothing can, since a disk or a server fails.
        """
        return None

    @property
    def skipped(self) -> Mapping[str, str]:
        """What lies among the pictures, is none of them, and should have been: name to reason."""
        return {}

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
        names: of the pictures, (N,) and distinct; without them ``name[i]``.

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
        names: Sequence[str] | None = None,
    ) -> None:
        _check_images(images)
        if names is not None and len(names) != len(images):
            raise DataError(f"there are {len(names)} names for {len(images)} pictures")
        self._names = names
        self._images = images if images.ndim == 4 else images[..., None]
        numbers = None
        if labels is not None:
            numbers, class_names = _checked_labels(np.asarray(labels), len(images), class_names)
        super().__init__(name, self._images.shape[3], numbers, class_names)

    def __len__(self) -> int:
        return len(self._images)

    def image(self, i: int) -> Picture:
        """See `Source.image`."""
        # A copy only where pixels lie in another order, as STL-10's columns in a mapped file.
        picture: Picture = np.ascontiguousarray(self._images[i])
        return picture

    def identifier(self, i: int) -> str:
        """See `Source.identifier`."""
        return f"{self.name}[{i}]" if self._names is None else printable(self._names[i])

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
class FileSource(Source):
    """Picture files, decoded when asked for.

    Args:
        files: the files, in the order of the source.
        name: what to call it.
        channels: 1 or 3.
        labels: int64 (N,) or None.
        class_names: one a label, or None.
        ground: what lies under transparent parts.
        skipped: as `Source.skipped`.

    Raises:
        DataError: labels of another length.
    """

    def __init__(
        self,
        files: Files,
        *,
        name: str,
        channels: int,
        labels: Labels | None = None,
        class_names: tuple[str, ...] | None = None,
        ground: Ground = "white",
        skipped: Mapping[str, str] | None = None,
    ) -> None:
        if labels is not None and len(labels) != len(files):
            raise DataError(f"there are {len(labels)} labels for {len(files)} pictures of {name!r}")
        super().__init__(name, channels, labels, class_names)
        self._files = files
        self._ground = ground
        self._skipped = skipped or {}
        quieten_pillow()

    def __len__(self) -> int:
        return len(self._files)

    def image(self, i: int) -> Picture:
        """See `Source.image`."""
        return self._read_as(decode, i)

    @property
    def is_encoded(self) -> bool:
        """See `Source.is_encoded`."""
        return True

    def encoded(self, i: int) -> Encoded:
        """See `Source.encoded`."""
        return self._read_as(read, i)

    def file(self, i: int) -> bytes | None:
        """See `Source.file`."""
        with self._named(i, OSError):
            try:
                return self._files.read(i)
            except OSError as error:
                if error.errno not in _OF_THE_MACHINE:
                    raise
                raise DataError(
                    f"{self.identifier(i)!r} in {self.name!r} cannot be read: {error.strerror}; "
                    "mend the disk, the connection or the limit, or remove it; then go on"
                ) from error

    def over(self, ground: Ground) -> Source:
        """See `Source.over`."""
        return FileSource(
            self._files,
            name=self.name,
            channels=self.channels,
            labels=self.labels,
            class_names=self.class_names,
            ground=ground,
            skipped=self._skipped,
        )

    def _read_as(self, make: Callable[[bytes, int, Ground], _Made], i: int) -> _Made:
        data = self.file(i)
        assert data is not None
        # Decoders of untrusted bytes raise nearly anything (struct.error, KeyError, zlib.error,
        # SyntaxError, MemoryError, DecompressionBombError …); no file may end a run.
        with self._named(i, Exception):
            return make(data, self.channels, self._ground)

    @contextlib.contextmanager
    def _named(self, i: int, kind: type[Exception]) -> Iterator[None]:
        try:
            yield
        except kind as error:
            reason = str(error) or type(error).__name__
            if isinstance(error, OSError) and error.strerror:
                reason = error.strerror
            if isinstance(error, UnidentifiedImageError):  # its text tells an address in memory
                reason = "cannot identify a picture of any known format"
            raise BadPictureError(self.identifier(i), printable(reason)) from error

    def identifier(self, i: int) -> str:
        """See `Source.identifier`."""
        return self._files.identifier(i)

    def fingerprint(self) -> str:
        """See `Source.fingerprint`; of names, sizes and labels, not of pixels."""
        digest = hashlib.sha256(repr((self.channels, self.class_names)).encode())
        if self._ground != "white":
            digest.update(self._ground.encode())
        digest.update(self._files.digest())
        if self.labels is not None:
            digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    @property
    def skipped(self) -> Mapping[str, str]:
        """See `Source.skipped`."""
        return self._skipped


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

    @property
    def is_encoded(self) -> bool:
        """See `Source.is_encoded`."""
        return self._source.is_encoded

    def encoded(self, i: int) -> Encoded:
        """See `Source.encoded`."""
        return self._source.encoded(int(self._indices[i]))

    def over(self, ground: Ground) -> Source:
        """See `Source.over`."""
        return _Subset(self._source.over(ground), self._indices)

    def file(self, i: int) -> bytes | None:
        """See `Source.file`."""
        return self._source.file(int(self._indices[i]))

    @property
    def skipped(self) -> Mapping[str, str]:
        """See `Source.skipped`."""
        return self._source.skipped

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


@final
class _Joined(Source):
    """The pictures of one source, then those of another."""

    def __init__(self, first: Source, second: Source) -> None:
        labels = (
            None
            if first.labels is None or second.labels is None
            else np.concatenate([first.labels, second.labels])
        )
        super().__init__(first.name, first.channels, labels, first.class_names)
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def _at(self, i: int) -> tuple[Source, int]:
        own = len(self._first)
        return (self._first, i) if i < own else (self._second, i - own)

    def image(self, i: int) -> Picture:
        """See `Source.image`."""
        source, place = self._at(i)
        return source.image(place)

    @property
    def is_encoded(self) -> bool:
        """See `Source.is_encoded`."""
        return self._first.is_encoded or self._second.is_encoded

    def encoded(self, i: int) -> Encoded:
        """See `Source.encoded`."""
        source, place = self._at(i)
        return source.encoded(place)

    def over(self, ground: Ground) -> Source:
        """See `Source.over`."""
        return _Joined(self._first.over(ground), self._second.over(ground))

    def file(self, i: int) -> bytes | None:
        """See `Source.file`."""
        source, place = self._at(i)
        return source.file(place)

    @property
    def skipped(self) -> Mapping[str, str]:
        """See `Source.skipped`."""
        return {**self._first.skipped, **self._second.skipped}

    def identifier(self, i: int) -> str:
        """See `Source.identifier`."""
        source, place = self._at(i)
        return source.identifier(place)

    def fingerprint(self) -> str:
        """See `Source.fingerprint`."""
        both = f"{self._first.fingerprint()}\0{self._second.fingerprint()}"
        return hashlib.sha256(both.encode()).hexdigest()

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """See `Source.picture_size`."""
        first, second = self._first.picture_size, self._second.picture_size
        return first if first == second else None


def join(first: Source, second: Source) -> Source:
    """Return the pictures of one source, then those of another; labels go with them.

    Raises:
        DataError: one is grey and the other in colour, or their classes differ.
    """
    if (first.channels, first.class_names) != (second.channels, second.class_names):
        raise DataError(
            f"{first.name!r} and {second.name!r} cannot be joined: they differ in channels or "
            "classes"
        )
    return _Joined(first, second)


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
