"""What a recipe reaches, by default the demo's: several seeds, beside tuned baselines.

Trains and evaluates once a seed, then prints each protocol's mean over seeds and the 95 % interval
of the gain over the better baseline: Student's t over the seeds and the paired interval over test
pictures (and draws of labels), added in quadrature.

    python benchmarks/quality.py [--recipe simclr-tiny] [--data fashion-mnist-10k] [--seeds 3]
        [--minutes 1.6] [--out runs/quality] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from scipy import stats

from looktwice import train
from looktwice.commands import DEMO_RECIPE, DEMO_SOURCE
from looktwice.config import resolve
from looktwice.evaluate import evaluate_run
from looktwice.run import environment


def main() -> None:
    arguments = _arguments()
    results = [_one(seed, arguments) for seed in range(arguments.seeds)]
    rows = [_row([r["protocols"][i] for r in results]) for i in range(len(results[0]["protocols"]))]
    if arguments.json:
        print(json.dumps({"rows": rows, "machine": environment("benchmarks/quality.py")}, indent=1))
        return
    print(f"{'accuracy, %':22}{'encoder':>14}{'baseline':>22}   gain [95 %]")
    for row in rows:
        baseline = f"{row['baseline_accuracy']:.1f} {row['baseline']}"
        low, high = row["interval"]
        encoder = f"{row['accuracy']:.1f} ± {row['sd']:.1f}"
        print(
            f"{row['title']:22}{encoder:>14}{baseline:>22}   "
            f"{row['gain']:+.1f} [{low:+.1f}, {high:+.1f}]"
        )


def _one(seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    flags: dict[str, object] = {"data.source": arguments.data, "train.seed": seed}
    if arguments.minutes:
        flags["train.minutes"] = arguments.minutes
    config = resolve(recipe=arguments.recipe, flags=flags, environ={})
    out = arguments.out / f"seed-{seed}"
    run = train.start(config, out, command="benchmarks/quality.py", file=sys.stderr)
    return evaluate_run(run.path)


def _row(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise one protocol over seeds, in %; the baseline is the better one on the mean."""
    names = entries[0]["differences"]
    means = {n: statistics.mean(e["rows"][n]["accuracy"] for e in entries) for n in names}
    baseline = max(means, key=means.__getitem__)
    gains = [e["differences"][baseline]["difference"] for e in entries]
    ends = [e["differences"][baseline]["interval"] for e in entries]
    # Test pictures are shared by the seeds, so their spread does not shrink with more seeds.
    over_pictures = statistics.mean((high - low) / 2 for low, high in ends)
    over_seeds = 0.0
    if len(gains) > 1:
        t = float(stats.t.ppf(0.975, len(gains) - 1))
        over_seeds = t * statistics.stdev(gains) / len(gains) ** 0.5
    half = float((over_pictures**2 + over_seeds**2) ** 0.5)
    gain = statistics.mean(gains)
    accuracies = [e["rows"]["encoder"]["accuracy"] for e in entries]
    return {
        "title": entries[0]["title"],
        "seeds": len(entries),
        "accuracy": 100 * statistics.mean(accuracies),
        "sd": 100 * statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
        "baseline": baseline,
        "baseline_accuracy": 100 * means[baseline],
        "gain": 100 * gain,
        "interval": [100 * (gain - half), 100 * (gain + half)],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default=DEMO_RECIPE)
    parser.add_argument("--data", default=DEMO_SOURCE)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=0.0, help="0: the recipe's own length")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
