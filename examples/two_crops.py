"""What two crops of a picture are to each other: one inside the other, or side by side.

python examples/two_crops.py
"""

import numpy as np

from looktwice.augment import policy

COUNT, SIDE = 100_000, 256


def boxes(min_scale):
    """Return two crops of COUNT pictures, as SimCLR draws them: (COUNT, 2, 4) in pixels."""
    crops = policy("simclr", size=224, min_scale=min_scale)
    sides = np.full(COUNT, SIDE)
    rows = crops.sample(seed=0, epoch=0, indices=np.arange(COUNT), heights=sides, widths=sides)
    return rows[:, :, 1:5]  # top, left, height, width


def shared(boxes):
    """Return which share of the smaller box lies in the larger: boxes (N, 2, 4) to (N,)."""
    (t0, l0, h0, w0), (t1, l1, h1, w1) = boxes[:, 0].T, boxes[:, 1].T
    height = np.clip(np.minimum(t0 + h0, t1 + h1) - np.maximum(t0, t1), 0, None)
    width = np.clip(np.minimum(l0 + w0, l1 + w1) - np.maximum(l0, l1), 0, None)
    return height * width / np.minimum(h0 * w0, h1 * w1)


def lines():
    """Return a head, and a line for each smallest crop, in shares of pairs."""
    form = "{:>8}{:>10}{:>10}{:>10}{:>10}"
    found = [form.format("smallest", "nested", "partly", "apart", "shared")]
    for min_scale in (0.08, 0.2, 0.5):
        part = shared(boxes(min_scale))
        nested, apart = (part >= 0.9).mean(), (part <= 0.1).mean()
        numbers = (nested, 1 - nested - apart, apart, part.mean())
        found.append(form.format(min_scale, *(f"{number:.1%}" for number in numbers)))
    return found


if __name__ == "__main__":
    print("\n".join(lines()))
