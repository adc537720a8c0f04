from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from looktwice.augment import Policy
from looktwice.augment import policy as named_policy
from looktwice.data import ArraySource, Splits
from looktwice.report import write_report

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
TRAIN, VALIDATION, TEST = 7200, 800, 2000
EPOCHS = 12


def epoch_line(epoch: int, last: int = EPOCHS) -> dict[str, Any]:
    done = epoch / last
    learnt = 1 - math.exp(-4 * done)
    return {
        "epoch": epoch,
        "step": 28 * epoch,
        "loss": 6.1 - 1.9 * learnt if epoch else None,
        "chance_loss": math.log(511),
        "top1": 0.5 * learnt if epoch else None,
        "learning_rate": 0.2 * (1 + math.cos(math.pi * done)) / 2 if epoch else None,
        "temperature": 0.2,
        "knn": 0.752 + 0.08 * learnt,
        "knn_chance": 0.1,
        "health": {
            "positive_similarity": 0.94 - 0.12 * learnt,
            "negative_similarity": 0.81 - 0.79 * learnt,
            "alignment": 0.12 + 0.24 * learnt,
            "uniformity": -0.7 - 2.4 * learnt,
            "effective_rank": 9.1 + 52.0 * learnt,
            "dimensions": 128,
            "infonce_bound": 0.4 + 2.8 * learnt,
            "infonce_ceiling": math.log(511),
        },
        "verdict": "healthy: views of one picture are near (0.82), others apart (0.03); rank 61 of 128",
        "time": {
            "seconds": 7.4,
            "pictures_per_second": 1523.0,
            "waiting_percent": 0.4,
            "memory_mb": 812.0,
        },
    }


def _row(accuracy: float, chosen: dict[str, float], sd: float | None = None) -> dict[str, Any]:
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / TEST) + (sd or 0)
    return {
        "accuracy": accuracy,
        "interval": [accuracy - half, accuracy + half],
        "chosen": chosen,
        "validation_accuracy": accuracy + 0.006,
        "sd": sd,
        "draws": 1 if sd is None else 5,
    }


def _protocol(
    name: str, title: str, accuracies: tuple[float, float, float], chosen: dict[str, float],
    sds: tuple[float, float, float] | tuple[None, None, None] = (None, None, None),
) -> dict[str, Any]:  # fmt: skip
    rows = dict(zip(("encoder", "raw-pixels", "untrained"), accuracies, strict=True))
    return {
        "name": name,
        "title": title,
        "rows": {key: _row(rows[key], chosen, sd) for key, sd in zip(rows, sds, strict=True)},
        "differences": {
            key: {
                "difference": rows["encoder"] - value,
                "interval": [rows["encoder"] - value - 0.0146, rows["encoder"] - value + 0.0152],
            }
            for key, value in rows.items()
            if key != "encoder"
        },
    }


def evaluation(
    classes: tuple[str, ...], neighbours: list[dict[str, Any]], confusion: list[list[int]]
) -> dict[str, Any]:
    return {
        "data": {
            "name": "fashion-mnist-10k",
            "train": TRAIN,
            "validation": VALIDATION,
            "test": TEST,
            "classes": list(classes),
        },
        "encoder": {"backbone": "resnet-tiny", "dimensions": 128, "step": 28 * EPOCHS},
        "seconds": 21.4,
        "protocols": [
            _protocol("knn", "weighted k-NN", (0.8395, 0.820, 0.789), {"k": 10}),
            _protocol("linear", "linear probe", (0.8675, 0.835, 0.808), {"l2": 0.01}),
            _protocol("labels-1", "1 label a class", (0.578, 0.473, 0.452), {"l2": 1.0},
                      (0.031, 0.038, 0.036)),
            _protocol("labels-10", "10 labels a class", (0.757, 0.718, 0.692), {"l2": 0.3, "scaling": "standardised"},
                      (0.008, 0.011, 0.012)),
            _protocol("labels-100", "100 labels a class", (0.829, 0.801, 0.774), {"l2": 0.1},
                      (0.004, 0.005, 0.006)),
        ],
        "headline": {
            "protocol": "labels-10",
            "better_baseline": "raw-pixels",
            "difference": 0.039,
            "interval": [0.0244, 0.0542],
            "accuracy": 0.757,
            "sd": 0.008,
        },
        "confusion": confusion,
        "neighbours": neighbours,
    }  # fmt: skip


def neighbours(
    classes: int, test_labels: np.ndarray, bank_labels: np.ndarray
) -> list[dict[str, Any]]:
    generator = np.random.default_rng(5)
    found = []
    for number in range(12):
        label = number % classes
        query = int(generator.choice(np.flatnonzero(test_labels == label)))
        same = generator.choice(np.flatnonzero(bank_labels == label), 4)
        other = generator.choice(np.flatnonzero(bank_labels != label), 2)
        mixed = [*same[:3], other[0], same[3]] if number % 3 else [*same[:4], same[0]]
        found.append(
            {
                "query": query,
                "query_label": label,
                "neighbours": [int(i) for i in mixed],
                "labels": [int(bank_labels[i]) for i in mixed],
                "similarity": [0.97 - 0.013 * place for place in range(5)],
            }
        )
    return found


def confusion(classes: int) -> list[list[int]]:
    per_class = TEST // classes
    table = np.zeros((classes, classes), int)
    for true in range(classes):
        table[true, (true + 2) % classes] = true * per_class // 60
        table[true, (true + 5) % classes] = per_class // 40
        table[true, true] = per_class - table[true].sum()
    return table.tolist()


def dump(path: Path, *objects: object) -> None:
    path.write_text("".join(json.dumps(item) + "\n" for item in objects), "utf-8")


def write_run(folder: Path, test_labels: np.ndarray, bank_labels: np.ndarray,
              classes: tuple[str, ...] = CLASSES) -> Path:  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(CONFIG, "utf-8")
    (folder / "encoder.safetensors").write_bytes(bytes(1000))
    dump(folder / "metrics.jsonl", *(epoch_line(epoch) for epoch in range(EPOCHS + 1)))
    dump(
        folder / "evaluation.json",
        evaluation(
            classes, neighbours(len(classes), test_labels, bank_labels), confusion(len(classes))
        ),
    )
    dump(folder / "summary.json", SUMMARY)
    dump(folder / "environment.json", ENVIRONMENT)
    return folder


CONFIG = """recipe = "simclr-tiny"

[data]
source = "fashion-mnist-10k"

[method]
temperature = 0.2

[train]
minutes = 1.5
seed = 0
"""
SUMMARY = {
    "steps": 336, "epochs": 12, "pictures": 86016, "train_seconds": 93.2,
    "pictures_per_second": 1523.0, "peak_memory_mb": 812.0, "waiting_percent": 0.4,
    "verdict": "healthy: views of one picture are near (0.82), others apart (0.03); rank 61 of 128",
    "bad_pictures": 0,
}  # fmt: skip
ENVIRONMENT = {
    "looktwice": "0.1.0", "python": "3.11.7", "torch": "2.14.1", "numpy": "2.4.6", "numba": "0.68.0",
    "timm": "1.0.15", "platform": "Linux-6.1-x86_64", "cpu": "AMD EPYC 7B13", "cores": 2,
    "command": "looktwice pretrain --data fashion-mnist-10k --recipe simclr-tiny --minutes 1.5 --out runs/demo",
    "pictures": "0" * 64, "created": "2025-11-22T10:14:03+00:00",
}  # fmt: skip


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write the folder of a run that was evaluated; labels go by position, as in `splits`."""

    def make(name: str = "demo", classes: tuple[str, ...] = CLASSES) -> Path:
        test = np.arange(TEST) % len(classes)
        bank = np.concatenate([np.arange(TRAIN), np.arange(VALIDATION)]) % len(classes)
        return write_run(tmp_path / name, test, bank, classes)

    return make


@pytest.fixture(scope="session")
def splits() -> Splits:
    """Random one-channel pictures, as many as the evaluation speaks of."""
    sizes = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    generator = np.random.default_rng(0)
    return Splits(
        **{
            name: ArraySource(
                generator.integers(0, 256, (size, 28, 28), np.uint8),
                np.arange(size) % len(CLASSES),
                name=name,
                class_names=CLASSES,
            )
            for name, size in sizes.items()
        }
    )


@pytest.fixture(scope="session")
def policy() -> Policy:
    return named_policy("simclr", size=20, min_scale=0.2, blur_p=0.0)


HOSTILE = (
    "<script>alert(1)</script>",
    "</style><script>alert(2)</script>",
    "\"><img src=x onerror='alert(3)'>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;already escaped&gt; &amp;",
    "-->]]><!--",
    "javascript:alert(4)",
    "שלום \u202eevil\u202c",
    "two\nlines\tand a tab",
    "nul\x00bell\x07",
    "stray \udcff surrogate",
    "😀 مرحبا",
    "l" * 5000,
)


@pytest.fixture(scope="session")
def hostile() -> tuple[str, ...]:
    """Names that try to be something else than text."""
    return HOSTILE


@pytest.fixture
def hostile_page(make_run: Callable[..., Path], policy: Policy) -> Path:
    """The report of a run where every name is hostile, of 500 classes."""
    classes = tuple(f"{number}{HOSTILE[number % len(HOSTILE)]}" for number in range(500))
    run = make_run("<b>run</b>", classes)
    bad = [{"path": f"pictures/{name}.png", "reason": f"not {name}"} for name in HOSTILE]
    (run / "bad_files.jsonl").write_text("".join(json.dumps(line) + "\n" for line in bad))
    environment = dict(zip(HOSTILE, reversed(HOSTILE), strict=True))
    (run / "environment.json").write_text(json.dumps(environment))
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["data"]["name"] = HOSTILE[0]
    for protocol, name in zip(evaluation["protocols"], HOSTILE, strict=False):
        protocol["title"] = name
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    return write_report(run, splits=_labelled(classes), policy=policy)


def _labelled(classes: tuple[str, ...]) -> Splits:
    def source(size: int) -> ArraySource:
        return ArraySource(
            np.full((size, 8, 8, 3), 90, np.uint8), np.arange(size) % 500, class_names=classes
        )

    return Splits(source(7200), source(800), source(2000))
