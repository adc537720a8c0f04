"""A policy as a transform of one picture, for other people's data sets and loaders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import numpy.typing as npt

from looktwice.augment.policy import Policy
from looktwice.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


@final
@dataclass(frozen=True)
class Transform:
    """Turns one picture into its views, as torchvision's transforms do.

    Its random numbers come from torch's generator, as theirs: under `torch.manual_seed` they are
    reproducible, and a DataLoader gives each of its workers, in each epoch, a seed of its own. It
    may be pickled, so that workers may be spawned.

    Attributes:
        policy: makes the views.
        scale: True gives float32 in [0, 1], as `ToTensor` does; False uint8 in 0-255.
    """

    policy: Policy
    scale: bool = True

    def __call__(self, picture: Any) -> Tensor | list[Tensor]:
        """Return the views of a picture.

        Args:
            picture: a PIL image, a uint8 tensor (C, H, W), or a uint8 array (H, W[, C]); C is 1
                or 3. PIL images of other modes than L become RGB as `Image.convert` makes them:
                what is transparent shows what it hides, and 16 bits are clipped to 8.
                (`looktwice.data` lays them over a ground, and scales.)

        Returns:
            A tensor (C, S, S) for each view in a list; of a policy of one view that tensor itself.

        Raises:
            UsageError: something else than such a picture.
        """
        import torch

        seed = int(torch.randint(1 << 62, ()))
        made = self.policy([_pixels(picture)], seed=seed, epoch=0, indices=[0])
        groups = made if isinstance(made, tuple) else (made,)
        views: list[Any] = [None] * self.policy.num_views
        for positions, group in zip(self.policy.groups.values(), groups, strict=True):
            for place, position in enumerate(positions):
                view = torch.from_numpy(group[0, place]).permute(2, 0, 1).contiguous()
                views[position] = view.to(torch.float32).div_(255) if self.scale else view
        return views[0] if len(views) == 1 else views


def _pixels(picture: Any) -> npt.NDArray[np.uint8]:
    """Return a picture's pixels as (H, W, C)."""
    if hasattr(picture, "getbands"):  # a PIL image; Pillow itself need not be imported
        picture = np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"))
    elif hasattr(picture, "permute"):  # a tensor
        if picture.ndim != 3 or picture.shape[0] not in (1, 3):
            raise UsageError(
                f"Transform: a tensor must be (1 or 3, height, width), found {tuple(picture.shape)}"
            )
        picture = picture.permute(1, 2, 0).numpy()
    if isinstance(picture, np.ndarray) and picture.ndim == 2:
        picture = picture[..., None]
    pixels: npt.NDArray[np.uint8] = picture  # what else it may be, `Pictures` refuses
    return pixels
