"""One batch followed by hand: two pictures, four views, one loss (docs/one_batch.md).

python examples/one_batch.py
"""

import math

import numpy as np
import torch

import looktwice
from looktwice.augment import policy
from looktwice.losses import nt_xent

NAMES, PARTNER = ("a0", "a1", "b0", "b1"), (1, 0, 3, 2)  # pictures a and b, views 0 and 1
SEED, TEMPERATURE = 7, 0.5


def pictures():
    """Return a trouser and an ankle boot, uint8 (2, 28, 28, 1)."""
    source = looktwice.open_source("fashion-mnist-10k", split="train")
    kinds = [source.class_names.index(name) for name in ("Trouser", "Ankle boot")]
    return np.stack([source.image(int(np.argmax(source.labels == kind))) for kind in kinds])


def embed(view):
    """Stand in for the network: the means of the view's quarters, less their mean, length 1."""
    means = view[..., 0].reshape(2, 8, 2, 8).mean(axis=(1, 3)).ravel()
    centred = [float(mean - means.mean()) for mean in means]
    length = math.sqrt(sum(x * x for x in centred))
    return [x / length for x in centred]


def chances(similarities, i):
    """Return what view i makes of the others: exp(s/τ) over the sum of all but itself."""
    powers = [math.exp(s / TEMPERATURE) if j != i else 0.0 for j, s in enumerate(similarities)]
    return [power / sum(powers) for power in powers]


def table(rows, heads=NAMES, form="{:7.3f}"):
    """Return lines: a head, and a line of numbers for each view."""
    body = [
        name + " " + "".join(map(form.format, row)) for name, row in zip(NAMES, rows, strict=True)
    ]
    return ["   " + "".join(f"{head:>{len(form.format(0))}}" for head in heads), *body]


def crop_pairs(count=100_000):
    """Return, over pairs of SimCLR's crops, what is shared of the smaller: ≥ 90 %, ≤ 10 %, mean."""
    keys, side = np.arange(count), np.full(count, 256)
    rows = policy("simclr", size=224).sample(
        seed=0, epoch=0, indices=keys, heights=side, widths=side
    )
    (t0, l0, h0, w0), (t1, l1, h1, w1) = rows[:, 0, 1:5].T, rows[:, 1, 1:5].T
    height = np.clip(np.minimum(t0 + h0, t1 + h1) - np.maximum(t0, t1), 0, None)
    width = np.clip(np.minimum(l0 + w0, l1 + w1) - np.maximum(l0, l1), 0, None)
    shared = height * width / np.minimum(h0 * w0, h1 * w1)
    return float((shared >= 0.9).mean()), float((shared <= 0.1).mean()), float(shared.mean())


def steps():
    """Return the batch step by step: title to lines."""
    crops = policy("simclr", size=16, min_scale=0.2, blur=False)
    key = {"seed": SEED, "epoch": 0, "indices": np.arange(2)}
    boxes = crops.sample(**key, heights=np.full(2, 28), widths=np.full(2, 28))[..., 1:5]
    z = [embed(view) for view in crops(pictures(), **key).reshape(4, 16, 16, 1)]
    s = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in z] for a in z]
    p = [chances(row, i) for i, row in enumerate(s)]
    losses = [-math.log(p[i][PARTNER[i]]) for i in range(4)]
    pairs = torch.tensor(z).view(2, 2, 4)
    ours = nt_xent(pairs[:, 0], pairs[:, 1], temperature=TEMPERATURE).item()
    summands = " + ".join(f"{loss:.3f}" for loss in losses)
    quarters = ("top left", "top right", "bottom left", "bottom right")
    shares = "≥ 90 % shared: {:.0%}   ≤ 10 % shared: {:.0%}   mean: {:.0%}"
    return {
        "boxes": table(boxes.reshape(4, 4), ("top", "left", "height", "width"), "{:7.0f}"),
        "embeddings": table(z, quarters, "{:14.3f}"),
        "similarities": table(s),
        "chances": table(p),
        "loss": [f"({summands}) / 4 = {sum(losses) / 4:.3f}", f"nt_xent: {ours:.3f}"],
        "guessing": [f"log 3 = {math.log(3):.3f}"],
        "crops": [shares.format(*crop_pairs())],
    }


if __name__ == "__main__":
    for title, lines in steps().items():
        print(title, *lines, sep="\n", end="\n\n")
