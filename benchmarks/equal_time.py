"""Whether looktwice is in 1 / 2.5 of the time as good as lightly, tuned, becomes in ten minutes.

Recipe `simclr-tiny` on Fashion-MNIST. lightly trains the same network for --minutes, as fast as
`benchmarks/train.py` could make it, and with one of two sets of settings:

- `ours`: those of our recipe: its transform makes our operations, its rate follows the clock along
  our warm-up and cosine. Then only speed can differ.
- `example`: those of its own examples/pytorch/simclr.py: batch 256, SGD at 0.06 without momentum or
  decay, temperature 0.5, its transform's own defaults, at the pictures' 28 px.

Then looktwice trains for --share of that time. Both are judged by k-NN, k = 20, from all training
pictures on all validation pictures: the test set is not read.

    python benchmarks/equal_time.py [--settings ours] [--minutes 10] [--share 0.4] [--json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightly.transforms import SimCLRTransform
from train import AsPil, Peer, lightly_loader, lightly_step, peer_loader

from looktwice import load_encoder
from looktwice import train as looktwice_train
from looktwice.build import settle
from looktwice.config import Config, resolve
from looktwice.data import Splits
from looktwice.features import encode, prepare
from looktwice.metrics import knn_predict
from looktwice.models import Encoder, EncoderSpec
from looktwice.optim import learning_rate
from looktwice.run import environment, open_data

NUM_NEIGHBOURS = 20
EXAMPLE_BATCH, EXAMPLE_RATE, EXAMPLE_SIZE = 256, 0.06, 28


def knn(encoder: Encoder, splits: Splits) -> float:
    """Return the validation accuracy of k-NN on features, 0-1."""
    torch.set_num_threads(os.cpu_count() or 1)
    encoder.eval()
    features, labels = [], []
    for part in (splits.train, splits.validation):
        pictures, kept = prepare(encoder, part)
        assert part.labels is not None
        features.append(encode(encoder, pictures))
        labels.append(torch.from_numpy(part.labels[kept]))
    classes = int(labels[0].max()) + 1
    found = knn_predict(features[0], labels[0], features[1], [NUM_NEIGHBOURS], classes)
    return float((found[NUM_NEIGHBOURS] == labels[1]).double().mean())


def train_lightly(config: Config, splits: Splits, arguments: argparse.Namespace) -> tuple[Any, int]:
    """Train for the given minutes; return the encoder and the number of pictures seen."""
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    example = arguments.settings == "example"
    size = EXAMPLE_SIZE if example else config.augment.size
    batch_size = EXAMPLE_BATCH if example else config.train.batch_size
    network = Peer("resnet-tiny", size, 1).to(memory_format=torch.channels_last).train()
    if example:
        step = lightly_step(network, momentum=0.0, weight_decay=0.0)
        transform = SimCLRTransform(input_size=size, normalize={"mean": [0.5], "std": [0.25]})
        data = AsPil(splits.train, transform, colour=False)
        loader = peer_loader(data, batch_size, arguments.workers)
    else:
        step = lightly_step(network, weight_decay=config.optim.weight_decay)
        loader = lightly_loader(splits.train, size, batch_size, arguments.workers)
    peak, seconds = config.optim.base_lr * batch_size / 256, arguments.minutes * 60
    warm_up = round(config.optim.warmup_epochs * len(splits.train) / batch_size)

    def rate(number: int, progress: float) -> float:
        if example:
            return EXAMPLE_RATE
        course = learning_rate(int(1e6 * progress), total_steps=10**6, warmup_steps=0, peak_lr=peak)
        return course * min(1.0, (number + 1) / warm_up)

    begun = time.perf_counter()
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    for number, views in enumerate(batches):
        progress = (time.perf_counter() - begun) / seconds
        if progress >= 1:
            break
        step(views, rate(number, progress))
    spec = EncoderSpec("resnet-tiny", 1, False, config.model.image_size, (0.5,), (0.25,))
    return Encoder(network.backbone, spec), number * batch_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0, help="of lightly's training")
    parser.add_argument("--share", type=float, default=0.4, help="of that time for looktwice")
    parser.add_argument("--settings", choices=("ours", "example"), default="ours")
    parser.add_argument("--workers", type=int, default=1, help="lightly's")
    parser.add_argument("--threads", type=int, default=1, help="torch's, beside lightly's workers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    flags = {
        "data.source": "fashion-mnist",
        "train.minutes": arguments.minutes * arguments.share,
        "train.seed": arguments.seed,
    }
    config = resolve(recipe="simclr-tiny", flags=flags, environ={})
    splits = open_data(config.data)
    theirs, seen = train_lightly(settle(config, splits), splits, arguments)
    with tempfile.TemporaryDirectory() as name:
        begun = time.perf_counter()
        run = looktwice_train.start(
            config, Path(name) / "run", command="benchmarks/equal_time.py", file=sys.stderr
        )
        taken = (time.perf_counter() - begun) / 60
        ours = load_encoder(run.path)
        result = {
            "lightly": {
                "knn": knn(theirs, splits), "minutes": arguments.minutes,
                "pictures": seen,
            },
            "looktwice": {
                "knn": knn(ours, splits), "minutes": taken,
                "pictures": json.loads(run.summary_file.read_text())["pictures"],
            },
        }  # fmt: skip
    if arguments.json:
        machine = environment("benchmarks/equal_time.py")
        print(json.dumps(result | {"machine": machine}, indent=1))
        return
    for peer, one in result.items():
        print(
            f"{peer:12}k-NN {one['knn']:.1%} after {one['minutes']:.1f} minutes, "
            f"{one['pictures']:,} pictures"
        )


if __name__ == "__main__":
    main()
