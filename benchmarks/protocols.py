"""Whether the papers' slow linear protocol and the fast one agree: within .3 points is the aim.

Measures a finished run on the pictures it was trained on, or on others, by both, and prints the
difference of every row. The slow one's standard deviation over seeds says what of it is chance.

    python benchmarks/protocols.py RUN [--variant simclr] [--epochs 90] [--seeds 3] [--data D]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from looktwice.evaluate import evaluate_target
from looktwice.run import environment

AIM = 0.3  # points


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
    holds = abs(rows["encoder"]["difference"]) <= AIM
    result = {
        "rows": rows,
        "holds": holds,
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
