"""The page's pictures: views with their crop boxes, and strips of neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from looktwice.errors import BadPictureError
from looktwice.report.boxes import Stroke, badge_width, place_badges, stroke
from looktwice.report.pictures import SHOWN, Thumbnail, thumbnail
from looktwice.report.preview import ViewSet, view_pairs
from looktwice.report.record import Record

if TYPE_CHECKING:
    from looktwice.augment import Policy
    from looktwice.data import Source, Splits

VIEW_SETS = 6
VIEWS_SHOWN = 112  # pixels: height of pictures beside their views
NEIGHBOURS = 5
GAP = 8  # pixels between pictures of a line, at most


@dataclass(frozen=True)
class Frame:
    """A crop on its picture; all places and sizes in % of the picture.

    Attributes:
        left: of the crop, as `top`, `width` and `height`.
        badge: left and top of its number.
        stroke: how it is drawn.
    """

    left: float
    top: float
    width: float
    height: float
    badge: tuple[float, float]
    stroke: Stroke


@dataclass(frozen=True)
class ShownView:
    """A view, its crop, the operations that made it, and its side in pixels."""

    thumbnail: Thumbnail
    crop: str
    words: tuple[str, ...]
    size: int
    stroke: Stroke


@dataclass(frozen=True)
class ShownSet:
    """A picture, its views, and their crops."""

    name: str
    picture: Thumbnail
    frames: tuple[Frame, ...]
    views: tuple[ShownView, ...]

    @property
    def line(self) -> list[Thumbnail | None]:
        """The pictures, in order."""
        return [self.picture, *(view.thumbnail for view in self.views)]


@dataclass(frozen=True)
class Neighbour:
    """A picture of the bank; a hit is of its query's class."""

    thumbnail: Thumbnail | None
    name: str
    similarity: float
    hit: bool


@dataclass(frozen=True)
class Strip:
    """A test picture and the training pictures nearest to it; unreadable ones are None."""

    thumbnail: Thumbnail | None
    name: str
    neighbours: tuple[Neighbour, ...]

    @property
    def line(self) -> list[Thumbnail | None]:
        """The pictures, in order."""
        return [self.thumbnail, *(neighbour.thumbnail for neighbour in self.neighbours)]


def line_widths(lines: Iterable[ShownSet | Strip]) -> str:
    """Return CSS variables with the room that the longest line needs, wide and narrow."""
    wide = narrow = 0
    for line in lines:
        wide = max(wide, sum((one.width if one else SHOWN) + GAP for one in line.line))
        narrow = max(narrow, sum((one.narrow_width if one else SHOWN) + GAP for one in line.line))
    return f"--line: {wide}px; --narrow-line: {narrow}px"


def view_sets(splits: Splits | None, policy: Policy | None, seed: int) -> list[ShownSet]:
    """Return training pictures with their views, none without data and policy."""
    if splits is None or policy is None:
        return []
    sets = view_pairs(splits.train, policy, VIEW_SETS, seed)
    heights = (VIEWS_SHOWN, SHOWN)
    return [show_set(one, _name(splits.train, one.index), heights, heights) for one in sets]


def show_set(
    one: ViewSet, name: str, heights: tuple[int, int], view_heights: tuple[int, int]
) -> ShownSet:
    """Return a picture with its views, each with its heights in pixels, wide and on a telephone."""
    picture = thumbnail(one.picture, *heights)
    return ShownSet(
        name=name,
        picture=picture,
        frames=_frames(one, picture.narrow_width),
        views=tuple(
            ShownView(
                thumbnail=thumbnail(view.pixels, *view_heights),
                crop=view.crop_in_words,
                words=view.in_words,
                size=view.pixels.shape[0],
                stroke=stroke(number),
            )
            for number, view in enumerate(one.views)
        ),
    )


def strips(evaluation: Record | None, splits: Splits | None) -> list[Strip]:
    """Return the evaluation's queries with their neighbours, none without pictures to show."""
    if evaluation is None or splits is None or splits.test is None:
        return []
    classes = evaluation["data"]["classes"]
    queries = evaluation.get("neighbours") or []
    return [_strip(query, classes, splits, splits.test) for query in queries]


def _frames(one: ViewSet, shown_width: int) -> tuple[Frame, ...]:
    """Return the crops; their numbers keep apart where the picture is shown smallest."""
    rows, columns = one.picture.shape[:2]
    scale = shown_width / columns
    boxes = [view.box for view in one.views]
    badges = place_badges(
        [(top * scale, left * scale, height * scale, width * scale)
         for top, left, height, width in boxes],
        rows * scale, shown_width, [badge_width(number) for number in range(len(boxes))],
    )  # fmt: skip
    across, down = 100 / columns, 100 / rows
    return tuple(
        Frame(
            left=left * across,
            top=top * down,
            width=width * across,
            height=height * down,
            badge=(x / scale * across, y / scale * down),
            stroke=stroke(number),
        )
        for number, ((top, left, height, width), (x, y)) in enumerate(
            zip(boxes, badges, strict=True)
        )
    )


def _name(source: Source, index: int) -> str:
    if source.labels is not None and source.class_names is not None:
        return source.class_names[int(source.labels[index])]
    return source.identifier(index)


def _strip(query: Record, classes: Sequence[str], splits: Splits, test: Source) -> Strip:
    found = zip(query["neighbours"], query["labels"], query["similarity"], strict=True)
    return Strip(
        thumbnail=_thumbnail(test, query["query"]),
        name=classes[query["query_label"]],
        neighbours=tuple(
            Neighbour(
                thumbnail=_thumbnail(*_in_bank(splits, index)),
                name=classes[label],
                similarity=similarity,
                hit=label == query["query_label"],
            )
            for index, label, similarity in list(found)[:NEIGHBOURS]
        ),
    )


def _in_bank(splits: Splits, index: int) -> tuple[Source, int]:
    """Return where a picture of the bank lies: the bank is train, then validation."""
    train = len(splits.train)
    return (splits.train, index) if index < train else (splits.validation, index - train)


def _thumbnail(source: Source, index: int) -> Thumbnail | None:
    try:
        return thumbnail(source.image(index))
    except BadPictureError:
        return None
