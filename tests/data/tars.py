"""Tars for tests: made by tarfile, so that it is the oracle, or by hand where it refuses."""

import io
import tarfile

import numpy as np
from PIL import Image


def encoded(value, kind="PNG", size=(8, 6)):
    """A small picture of its own for each value below 2^16."""
    file = io.BytesIO()
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[0, :, 2] = value % 256, value // 256, 200
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def entry(name, data=b"", **facts):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in facts.items():
        setattr(info, key, value)
    return info, data


def write_tar(path, entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return path


def samples(first, count, labels=None):
    """Entries of WebDataset samples: picture, then label."""
    for n in range(first, first + count):
        yield entry(f"{n:06}.png", encoded(n))
        if labels:
            yield entry(f"{n:06}.cls", str(labels[n % len(labels)]).encode())
