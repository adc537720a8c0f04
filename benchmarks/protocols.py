"""Whether the papers' slow linear protocol and the fast one agree: within .3 points is the aim.

Measures a finished run on the pictures it was trained on, or on others, by both, and prints the
difference of every row. The slow one's standard deviation over seeds says what of it is chance.
What of the encoder's difference is the optimiser, and what the crops that the slow one trains on,
a third figure tells: the optimum, as the fast one finds it, on features of such crops.

    python benchmarks/protocols.py RUN [--variant simclr] [--epochs 90] [--seeds 3] [--data D]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from looktwice import load_encoder
from looktwice.data import Loader, join
from looktwice.evaluate import evaluate_target
from looktwice.evaluate.fitting import crop_and_flip
from looktwice.evaluate.linear import Standardiser, fit_path
from looktwice.features import BLOCK, encode, prepare
from looktwice.run import environment, open_data, open_run

AIM = 0.3  # points
VIEWS, STRENGTH = 4, 1e-4  # crops a picture; l2, a tenth and ten times of which change little


def main() -> int:
    arguments = _arguments()
    fast, fast_seconds = _measured(arguments, "linear-fast", {})
    options = {
        "variant": arguments.variant,
        "epochs": arguments.epochs,
        "seeds": arguments.seeds,
    }
    slow, slow_seconds = _measured(arguments, "linear", options)
    rows = {row: _compared(fast[row], slow[row]) for row in slow}
    on_crops = 100 * _optimum_on_crops(arguments)
    holds = abs(rows["encoder"]["difference"]) <= AIM
    result = {
        "rows": rows,
        "holds": holds,
        "optimum on crops": on_crops,
        "seconds": {"fast": fast_seconds, "slow": slow_seconds},
        "settings": options,
        "machine": environment("benchmarks/protocols.py"),
    }
    if arguments.json:
        print(json.dumps(result, indent=1))
        return 0
    print(f"{'accuracy, %':12}{'fast':>8}{'slow':>14}{'slow - fast':>14}")
    for row, found in rows.items():
        spread = f" ± {found['sd']:.2f}" if found["sd"] is not None else ""
        slow_cell = f"{found['slow']:.2f}{spread}"
        print(f"{row:12}{found['fast']:8.2f}{slow_cell:>14}{found['difference']:+14.2f}")
    by_optimiser = 100 * slow["encoder"]["accuracy"] - on_crops
    print(f"optimum on crops: encoder {on_crops:.2f}, slow - this {by_optimiser:+.2f}")
    print(f"{fast_seconds:.0f} s and {slow_seconds:.0f} s")
    print(f"within {AIM} points: {'yes' if holds else 'no'}")
    return 0


def _measured(
    arguments: argparse.Namespace, protocol: str, options: dict[str, Any]
) -> tuple[dict[str, Any], float]:
    begun = time.perf_counter()
    out = arguments.out / f"{protocol}-{arguments.variant}.json"
    found = evaluate_target(
        arguments.run, protocol, data=arguments.data, out=out, again=True, **options
    )
    if not arguments.json:
        print(f"{protocol}: {found.file}", file=sys.stderr)
    (entry,) = found.result["protocols"]
    rows: dict[str, Any] = entry["rows"]
    return rows, time.perf_counter() - begun


def _optimum_on_crops(arguments: argparse.Namespace) -> float:
    """Return the test accuracy, 0-1, of logistic regression on features of random crops."""
    run = open_run(arguments.run)
    config = run.config().data
    splits = open_data(dataclasses.replace(config, source=arguments.data or config.source))
    encoder = load_encoder(run.encoder_file)
    pool = join(splits.train, splits.validation)
    crops = crop_and_flip(encoder.spec.image_size)
    loader = Loader(pool, crops, batch_size=BLOCK, seed=0, threads=1)
    assert pool.labels is not None
    assert splits.test is not None
    assert splits.test.labels is not None
    parts, labels = [], []
    for batch in loader.batches(0, VIEWS * loader.steps_per_epoch):
        pictures = torch.from_numpy(batch.views[0][:, 0]).permute(0, 3, 1, 2)
        parts.append(encode(encoder, pictures))
        labels.append(torch.from_numpy(pool.labels[batch.indices]))
    features = torch.cat(parts)
    scaled = Standardiser.of(features)
    classes = int(pool.labels.max()) + 1
    (model,) = fit_path(scaled(features), torch.cat(labels), classes, [STRENGTH])
    pictures, kept = prepare(encoder, splits.test)
    found = model.predict(scaled(encode(encoder, pictures)))
    return float((found == torch.from_numpy(splits.test.labels[kept])).double().mean())


def _compared(fast: dict[str, Any], slow: dict[str, Any]) -> dict[str, Any]:
    difference = 100 * (slow["accuracy"] - fast["accuracy"])
    return {
        "fast": 100 * fast["accuracy"],
        "slow": 100 * slow["accuracy"],
        "sd": None if slow["sd"] is None else 100 * slow["sd"],
        "difference": difference,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--variant", default="simclr")
    parser.add_argument("--epochs", type=float, default=None)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data", default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/protocols"))
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
