"""Data sets by name: where they are looked for, what opens them, what could download them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from looktwice.data import cifar, fashion_mnist, stl10
from looktwice.data.class_names import read_class_list
from looktwice.data.download import download
from looktwice.data.folders import holds_imagenet, open_folder
from looktwice.data.places import download_folder, find
from looktwice.data.sources import Source
from looktwice.errors import DataError

_IMAGENET: Final = ("imagenet", "ImageNet", "ILSVRC/Data/CLS-LOC", "")
_FASHION_BY_HAND: Final = (
    "put its four train-… and t10k-…-ubyte.gz files under {roots}, or install Debian's package "
    "dataset-fashion-mnist; fashion-mnist-10k needs none of them"
)


@dataclass(frozen=True)
class Named:
    """A data set that lies on this machine, or does not.

    Attributes:
        find: looks under the data root for its folder.
        open: opens the official splits of that folder.
        by_hand: what to do when it is not there; ``{roots}`` is where.
        downloads: torchvision's class that knows its address; "" where there is none.
        has_classes: whether it is class folders, of which some may be chosen.
    """

    find: Callable[[Path | None], Path | None]
    open: Callable[[Path], dict[str, Source]]
    by_hand: str
    downloads: str = ""
    has_classes: bool = False


def open_named(
    name: str, root: Path | None, *, may_download: bool, chosen: tuple[str, ...] | None = None
) -> dict[str, Source]:
    """Open the official splits of one of `DATA_SETS`, of class folders those chosen alone.

    Raises:
        DataError: it is not on this machine, cannot be downloaded, or is damaged.
    """
    if name == "fashion-mnist-10k":
        return fashion_mnist.open_shipped()
    named = DATA_SETS[name]
    folder = named.find(root)
    if folder is None and may_download and named.downloads:
        target = download_folder(root)
        download(named.downloads, target, lambda: named.find(root) is not None)
        folder = named.find(root)
    if folder is None:
        fetch = f"add --download to fetch it into {str(download_folder(root))!r}, or "
        by_hand = named.by_hand.format(roots="--data-root or $LOOKTWICE_DATA")
        raise DataError(
            f"{name} is not on this machine, and nothing is downloaded silently: "
            f"{fetch if named.downloads else ''}{by_hand}"
        )
    return open_folder(folder, chosen) if chosen else named.open(folder)


def _cifar(name: str, torchvision_class: str) -> Named:
    """Any form of a CIFAR that lies in its own folder, or is the folder given."""
    forms = [form for form in cifar.FORMS if form.name == name]

    def find_one(root: Path | None) -> Path | None:
        found = (find(root, (form.folder, ""), form.is_in) for form in forms)
        return next((folder for folder in found if folder), None)

    def open_one(folder: Path) -> dict[str, Source]:
        return cifar.open_cifar(folder, next(form for form in forms if form.is_in(folder)))

    by_hand = f"put {' or '.join(form.folder for form in forms)} under {{roots}}"
    return Named(find_one, open_one, by_hand, torchvision_class)


def _stl10(holds: Callable[[Path], bool], open_: Callable[[Path], dict[str, Source]]) -> Named:
    def find_one(root: Path | None) -> Path | None:
        return find(root, ("stl10_binary", ""), holds)

    return Named(find_one, open_, "put stl10_binary under {roots}", "STL10")


def _imagenet(folders: tuple[str, ...], classes: tuple[str, ...] | None) -> Named:
    def find_one(root: Path | None) -> Path | None:
        return find(root, folders, holds_imagenet)

    by_hand = (
        "get it from https://image-net.org, under its terms, and put train/ and val/, with one "
        "folder a class, into imagenet/ under {roots}"
    )
    open_one = partial(open_folder, chosen=classes)
    return Named(find_one, open_one, by_hand, has_classes=classes is None)


DATA_SETS: Final[Mapping[str, Named]] = {
    "fashion-mnist-10k": Named(lambda _: None, lambda _: {}, ""),
    "fashion-mnist": Named(
        fashion_mnist.find_official, fashion_mnist.open_official, _FASHION_BY_HAND, "FashionMNIST"
    ),
    "cifar10": _cifar("cifar10", "CIFAR10"),
    "cifar100": _cifar("cifar100", "CIFAR100"),
    "stl10": _stl10(stl10.holds_stl10, stl10.open_stl10),
    "stl10-unlabelled": _stl10(stl10.holds_unlabelled, stl10.open_unlabelled),
    **{
        f"stl10-fold{fold}": _stl10(stl10.holds_stl10, partial(stl10.open_stl10, fold=fold))
        for fold in range(stl10.NUM_FOLDS)
    },
    "imagenet": _imagenet(_IMAGENET, None),
    "imagenet100": _imagenet(("imagenet100", *_IMAGENET), read_class_list("imagenet100")),
}
"""Name to data set; a folder of the same name is reached as ``./name``."""
