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


def views():
    """Return a0, a1, b0 and b1, uint8 (4, 16, 16, 1): SimCLR's, without blur."""
    crops = policy("simclr", size=16, min_scale=0.2, blur=False)
    return crops(pictures(), seed=SEED, epoch=0, indices=range(2)).reshape(4, 16, 16, 1)


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
    numbers = ["".join(map(form.format, row)) for row in rows]
    head = "   " + "".join(f"{head:>{len(form.format(0))}}" for head in heads)
    return [head, *(f"{name} {line}" for name, line in zip(NAMES, numbers, strict=True))]


def steps():
    """Return the batch step by step: title to lines."""
    z = [embed(view) for view in views()]
    s = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in z] for a in z]
    p = [chances(row, i) for i, row in enumerate(s)]
    losses = [-math.log(p[i][PARTNER[i]]) for i in range(4)]
    slopes = [
        [(x - (j == PARTNER[i])) / 4 / TEMPERATURE for j, x in enumerate(p[i])] for i in range(4)
    ]
    pairs = torch.tensor(z).view(2, 2, 4)
    ours = nt_xent(pairs[:, 0], pairs[:, 1], temperature=TEMPERATURE).item()
    summands = " + ".join(f"{loss:.3f}" for loss in losses)
    quarters = ("top left", "top right", "bottom left", "bottom right")
    return {
        "embeddings": table(z, quarters, "{:14.3f}"),
        "similarities": table(s),
        "chances": table(p),
        "loss": [f"({summands}) / 4 = {sum(losses) / 4:.3f}", f"nt_xent: {ours:.3f}"],
        "slopes": table(slopes),
    }


if __name__ == "__main__":
    for title, lines in steps().items():
        print(title, *lines, sep="\n", end="\n\n")
