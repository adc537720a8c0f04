"""Make a class-foldered data set of emoji by two artists, without one emoji on both sides.

    python scripts/emoji_dataset.py OUT [--google DIR --twitter DIR]
    python scripts/emoji_dataset.py OUT --check

The drawings are those of the npm packages emoji-datasource-google and emoji-datasource-twitter;
without folders of the unpacked packages, `npm pack` fetches both (some 100 MB) and their checksums
are compared with the ones below. OUT gets

    train/ val/ test/   <category>/<artist>-<codepoints>.png, 64 x 64 RGB, transparency over white
    artists.csv         file_name, label, artist, emoji, group
    NOTICE, LICENSE-…   whose drawings these are, and under which licences; Google's in full text

Both artists' drawings of an emoji, and all its skin tones, genders, kinds of hair and directions,
are one group, as are couples and families of any make-up, and emoji that an artist draws with the
same pixels. A group lies in one split alone: 70 % of each category's pictures in train, 10 % in
val, 20 % in test, as nearly as whole groups allow. Component (skin tones on their own) is no class
and is left out. The same packages and the same Pillow give the same bytes.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from looktwice.errors import DataError, LooktwiceError, RunError

SIDE: Final = 64
VERSION: Final = "16.0.0"
SHARES: Final = {"train": 0.7, "val": 0.1, "test": 0.2}
NO_CLASS: Final = ("Component",)
TABLE: Final = "artists.csv"
COLUMNS: Final = ("file_name", "label", "artist", "emoji", "group")

INTEGRITY: Final = {
    "google": "sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88"
    "CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
    "twitter": "sha512-7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP"
    "/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
}
"""What npm's registry says of emoji-datasource-<artist>, by artist."""

DRAWINGS_LICENCES: Final = {"google": Path(__file__).parent / "licences/Apache-2.0.txt"}
"""Texts that have to go with an artist's drawings: the packages hold that of their makers alone."""

NOTICE: Final = """\
The drawings in this folder are not looktwice's. They come from the npm packages
emoji-datasource-google and emoji-datasource-twitter, version 16.0.0
(https://github.com/iamcal/emoji-data), and were laid over white and sorted into folders by
scripts/emoji_dataset.py, without other change.

google-*.png: Noto Emoji, https://github.com/googlefonts/noto-emoji, Copyright Google LLC, under
the Apache License, Version 2.0, whose text is in LICENSE-google-drawings.txt

twitter-*.png: Twemoji, https://github.com/twitter/twemoji, Copyright Twitter, Inc and other
contributors, under CC-BY 4.0, https://creativecommons.org/licenses/by/4.0/
"""

_CHILD, _PERSON, _FAMILY = "1F9D2", "1F9D1", "1F46A"
_LEFT_OUT: Final = frozenset(
    (
        *("FE0E", "FE0F", "200D"),  # how to show a character, and what joins several
        *("2640", "2642", "27A1"),  # woman, man, facing right
        *("1F9B0", "1F9B1", "1F9B2", "1F9B3"),  # hair: red, curly, none, white
        *("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"),  # skin tones
    )
)
"""Codepoints that join, or make a variant."""
_SAME: Final = {
    **dict.fromkeys(("1F468", "1F469", "1F471", "1F9D4"), _PERSON),  # man, woman, fair, bearded
    **dict.fromkeys(("1F466", "1F467"), _CHILD),
    **dict.fromkeys(("1F474", "1F475"), "1F9D3"),  # older person
    **dict.fromkeys(("1F46C", "1F46D"), "1F46B"),  # two who hold hands
    **dict.fromkeys(("1F478", "1FAC5"), "1F934"),  # prince, princess, person with crown
    **dict.fromkeys(("1F930", "1FAC3"), "1FAC4"),  # pregnant
    "1F483": "1F57A",  # dancing
    "1F936": "1F385",  # Santa and Mrs. Claus
}
"""Codepoints that differ in gender, hair or make-up from another."""
_SEQUENCES: Final = {
    (_PERSON, "1F91D", _PERSON): "1F46B",
    (_PERSON, "2764", _PERSON): "1F491",  # couple with heart
    (_PERSON, "2764", "1F48B", _PERSON): "1F48F",  # kiss
    (_PERSON, "1F384"): "1F385",
}
"""Sequences that have a codepoint of their own, variants left out."""


@dataclass(frozen=True)
class Drawing:
    """One artist's picture of one emoji.

    Attributes:
        artist: who drew it.
        emoji: its codepoints, as in "1F9D1-1F3FB-200D-1F33E".
        label: its category, as a folder is called.
        group: codepoints that all its variants share.
        pixels: SIDE x SIDE x 3 bytes.
    """

    artist: str
    emoji: str
    label: str
    group: str
    pixels: bytes

    @property
    def place(self) -> str:
        """Return the file's path within its split."""
        return f"{self.label}/{self.artist}-{self.emoji.lower()}.png"


def main() -> None:
    """Build or check a data set, and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write, which must not exist")
    for artist in INTEGRITY:
        parser.add_argument(f"--{artist}", type=Path, help="folder of the unpacked npm package")
    parser.add_argument("--check", action="store_true", help="check a folder written before")
    given = parser.parse_args()
    try:
        if not given.check:
            build(given.out, {artist: getattr(given, artist) for artist in INTEGRITY})
        print(check(given.out))
    except LooktwiceError as error:
        sys.exit(f"error: {error}")


def build(out: Path, folders: Mapping[str, Path | None]) -> None:
    """Write the data set to a new folder, which appears when it is whole.

    Args:
        out: the folder.
        folders: artist to unpacked package; None fetches it.

    Raises:
        RunError: out is there already, or npm fails.
        DataError: a package is not what it should be.
    """
    if out.exists():
        raise RunError(f"{str(out)!r} is there already: give a new folder, or move it away")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        places = {
            artist: folder or fetch(artist, Path(temporary)) for artist, folder in folders.items()
        }
        drawings = with_groups_joined(
            drawing for artist, place in places.items() for drawing in read(place, artist)
        )
        partial = out.with_name(f".{out.name}.{os.getpid()}")
        try:
            write(partial, drawings, assign(drawings))
            for artist, place in places.items():
                copy_licences(place, partial, artist)
            partial.rename(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def fetch(artist: str, folder: Path) -> Path:
    """Fetch an artist's package by npm, compare its checksum, and unpack what is needed."""
    name = f"emoji-datasource-{artist}"
    command = ["npm", "pack", "--silent", f"{name}@{VERSION}"]
    try:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RunError(
            f"`{' '.join(command)}` failed ({error}): install npm and connect, or give the "
            f"unpacked package with --{artist}"
        ) from error
    archive = folder / f"{name}-{VERSION}.tgz"
    found = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != INTEGRITY[artist]:
        raise DataError(
            f"{archive.name} has checksum {found}, not {INTEGRITY[artist]}: fetch it anew"
        )
    unpack(archive, folder / artist, artist)
    return folder / artist / "package"


def unpack(archive: Path, folder: Path, artist: str) -> None:
    """Unpack the pictures of SIDE pixels and the files beside them, and nothing out of place."""
    pictures = f"package/img/{artist}/{SIDE}/"
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.startswith(pictures) or member.name.count("/") == 1:
                tar.extract(member, folder, filter="data")


def read(folder: Path, artist: str) -> Iterator[Drawing]:
    """Read an artist's drawings from an unpacked package, skin tones after their emoji.

    Raises:
        DataError: no package of that artist, or a picture that is missing or not SIDE wide.
    """
    try:
        entries = json.loads((folder / "emoji.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{str(folder)!r} holds no emoji.json that can be read ({error}): give the unpacked "
            f"npm package emoji-datasource-{artist}"
        ) from error
    for entry in entries:
        if entry["category"] in NO_CLASS:
            continue
        group, label = group_of(entry["unified"]), folder_name(entry["category"])
        for form in (entry, *entry.get("skin_variations", {}).values()):
            if form[f"has_img_{artist}"]:
                path = folder / "img" / artist / str(SIDE) / form["image"]
                yield Drawing(artist, form["unified"], label, group, pixels_over_white(path))


def folder_name(category: str) -> str:
    """Make a category a name for a folder: "Food & Drink" to "food-and-drink"."""
    return category.lower().replace("&", "and").replace(" ", "-")


def group_of(emoji: str) -> str:
    """Return the codepoints that all variants of an emoji share, its skin tones aside.

    Skin tones of couples and handshakes change more than a codepoint; they go with the entry
    whose `skin_variations` they are.
    """
    codes = [code for code in emoji.upper().split("-") if code != "FE0F"]
    kept = tuple(_SAME.get(code, code) for code in codes if code not in _LEFT_OUT) or tuple(codes)
    if len(kept) > 1 and set(kept) <= {_PERSON, _CHILD}:
        return _FAMILY.lower()
    return _SEQUENCES.get(kept, "-".join(kept)).lower()


def pixels_over_white(path: Path) -> bytes:
    """Read a picture of SIDE x SIDE, its transparent parts over white, as RGB bytes."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            coloured = image.convert("RGBA")
    except OSError as error:
        raise DataError(
            f"{str(path)!r} cannot be read ({error}): unpack the package anew"
        ) from error
    if coloured.size != (SIDE, SIDE):
        raise DataError(f"{str(path)!r} is {coloured.size}, not {(SIDE, SIDE)}: see its package")
    white = Image.new("RGBA", coloured.size, "white")
    return Image.alpha_composite(white, coloured).convert("RGB").tobytes()


def with_groups_joined(drawings: Iterable[Drawing]) -> list[Drawing]:
    """Join groups in which one artist has the same picture; flags of dependencies are such.

    A group is called as the first of those it was made of.
    """
    drawings = list(drawings)
    above: dict[str, str] = {}

    def first(group: str) -> str:
        while group in above:
            group = above[group]
        return group

    seen: dict[tuple[str, bytes], str] = {}
    for drawing in drawings:
        one = first(drawing.group)
        other = first(seen.setdefault((drawing.artist, drawing.pixels), one))
        if one != other:
            above[max(one, other)] = min(one, other)
    return [Drawing(d.artist, d.emoji, d.label, first(d.group), d.pixels) for d in drawings]


def assign(drawings: list[Drawing]) -> dict[str, str]:
    """Give each group a split.

    Within a category the largest come first, equal ones by the hash of their name; each goes
    where, its pictures added, the split is least full for its share.
    """
    sizes = Counter(drawing.group for drawing in drawings)
    labels = {drawing.group: drawing.label for drawing in reversed(drawings)}
    filled: dict[tuple[str, str], int] = defaultdict(int)
    splits: dict[str, str] = {}
    for group in sorted(sizes, key=lambda group: (-sizes[group], name_hash(group))):

        def fullness(split: str, group: str = group) -> float:
            return (filled[labels[group], split] + sizes[group]) / SHARES[split]

        splits[group] = min(SHARES, key=fullness)
        filled[labels[group], splits[group]] += sizes[group]
    return splits


def name_hash(group: str) -> str:
    """Return what decides the order of groups of one size."""
    return hashlib.sha256(group.encode()).hexdigest()


def write(folder: Path, drawings: list[Drawing], splits: Mapping[str, str]) -> None:
    """Write pictures, table and notice to a new folder."""
    folder.mkdir()
    rows = []
    for drawing in drawings:
        name = f"{splits[drawing.group]}/{drawing.place}"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (SIDE, SIDE), drawing.pixels).save(path, "PNG")
        rows.append((name, drawing.label, drawing.artist, drawing.emoji, drawing.group))
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([COLUMNS, *sorted(rows)])
    (folder / TABLE).write_text(table.getvalue(), "utf-8")
    (folder / "NOTICE").write_text(NOTICE, "utf-8")


def copy_licences(package: Path, folder: Path, artist: str) -> None:
    """Keep the licence files that a package carries, and add that of the drawings."""
    for path in sorted(package.glob("LICENSE*")):
        shutil.copyfile(path, folder / f"{path.stem}-{artist}{path.suffix}")
    if artist in DRAWINGS_LICENCES:
        shutil.copyfile(DRAWINGS_LICENCES[artist], folder / f"LICENSE-{artist}-drawings.txt")


def check(out: Path) -> str:
    """Check a data set that was written, and return what is in it, a table.

    Raises:
        DataError: a picture is missing, unlisted or not as written, or a group is in two splits.
    """
    try:
        with (out / TABLE).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise DataError(
            f"{str(out)!r} has no {TABLE}: it was not written by this script"
        ) from error
    listed = {row["file_name"] for row in rows}
    found = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    if listed != found:
        raise DataError(f"{min(listed ^ found)!r} is in {str(out)!r} or its {TABLE}, not in both")
    splits: dict[str, str] = {}
    for row in rows:
        split = row["file_name"].split("/")[0]
        if splits.setdefault(row["group"], split) != split:
            raise DataError(f"group {row['group']} is in {split} and in {splits[row['group']]}")
        with Image.open(out / row["file_name"]) as image:
            if (image.mode, image.size) != ("RGB", (SIDE, SIDE)):
                raise DataError(f"{row['file_name']!r} is {image.mode} {image.size}")
    return summary(rows)


def summary(rows: list[dict[str, Any]]) -> str:
    """Count pictures by class and split, and groups."""
    counts = Counter((row["label"], row["file_name"].split("/")[0]) for row in rows)
    labels = sorted({row["label"] for row in rows})
    lines = ["| class | groups | " + " | ".join(SHARES) + " |", "|---|" + "---:|" * 4]
    for label in labels:
        groups = {row["group"] for row in rows if row["label"] == label}
        cells = " | ".join(f"{counts[label, split]:,}" for split in SHARES)
        lines.append(f"| {label} | {len(groups):,} | {cells} |")
    groups = {row["group"] for row in rows}
    total = f"{len(rows):,} pictures, {len(groups):,} groups, {len(labels)} classes"
    return "\n".join([*lines, total])


if __name__ == "__main__":
    main()
