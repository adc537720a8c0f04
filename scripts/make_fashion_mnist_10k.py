"""Write the shipped part of Fashion-MNIST from the official IDX files.

Of the official training file, the first 1,000 pictures of each class in the order of the file.
The same zlib writes the same bytes.

    python scripts/make_fashion_mnist_10k.py [--root FOLDER] [--out FILE]
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np

from looktwice.data.fashion_mnist import (
    NUM_PER_CLASS,
    find_official,
    rank_in_class,
    read_pair,
)

SHIPPED = Path(__file__).parents[1] / "src/looktwice/data/shipped/fashion-mnist-10k.npz"


def main() -> None:
    """Read, choose, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=None, help="folder with the IDX files")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    folder = find_official(arguments.root)
    if folder is None:
        parser.error("no folder with the IDX files of Fashion-MNIST: give --root")
    images, labels = read_pair(folder, "train")
    chosen = rank_in_class(labels) < NUM_PER_CLASS
    write_npz(arguments.out, {"images": images[chosen], "labels": labels[chosen]})
    print(f"{arguments.out}: {chosen.sum():,} pictures, {arguments.out.stat().st_size:,} bytes")


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as a compressed .npz without dates, so that equal arrays give equal bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, member.getvalue(), compresslevel=9)


if __name__ == "__main__":
    main()
