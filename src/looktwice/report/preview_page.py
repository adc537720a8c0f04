"""The preview as a page: pictures, their views, and everything that was sampled for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from looktwice.report import gallery, numbers
from looktwice.report.preview import ViewSet
from looktwice.report.templating import render_page

if TYPE_CHECKING:
    from looktwice.augment import Policy
    from looktwice.data import Source

HEIGHTS = (168, 168)  # pixels: of a picture, on a wide page and on a telephone
VIEW_HEIGHTS = (128, 128)


def render_preview(
    sets: Sequence[ViewSet], source: Source, policy: Policy, *, seed: int, epoch: int
) -> str:
    """Return the page's text: one offline file, without scripts.

    Args:
        sets: what `view_pairs` returned for the other arguments.
        source: where the pictures are from.
        policy: what made their views.
        seed: of the sampled numbers and the choice of pictures.
        epoch: whose views these are.
    """
    many = numbers.plural(len(sets), "picture")
    return render_page(
        "preview.html.j2",
        source=source.name,
        headline=f"{many}, and the {_views(policy)} that training would see of each",
        facts=[
            f"seed {seed}",
            f"epoch {epoch}",
            f"drawn by seed from {numbers.plural(len(source), 'training picture')}",
        ],
        epoch=epoch,
        policy=str(policy),
        sizes_differ=len(policy.groups) > 1,
        view_sets=[gallery.show_set(one, one.identifier, HEIGHTS, VIEW_HEIGHTS) for one in sets],
    )


def _views(policy: Policy) -> str:
    """Return ``2 views``, or ``8 views (2 of 224 px, 6 of 96 px)``."""
    groups = policy.groups
    many = numbers.plural(policy.num_views, "view")
    if len(groups) == 1:
        return many
    return f"{many} ({', '.join(f'{len(group)} of {side} px' for side, group in groups.items())})"
