"""Embedding: memory beyond the model, and whether twenty kills change a byte.

100,000 made-up grey pictures of 28 px as PNG files in ten class folders, every 10,000th of them
damaged, through `resnet-tiny` with random weights. First without a kill: the most memory held
beyond what the process had with the model loaded and used once. Then the command itself, killed
(SIGKILL) after random times, some of them while the file is being joined, and started again until
it ends: its files must be those of the first, byte for byte. Names are compared with the folder's
own list, and 1,000 rows with the encoder's features of single pictures.

    python benchmarks/embed.py [--pictures 100000] [--kills 20] [--format parquet] [--folder DIR]

Asked: at most 500 MB; no row lost, repeated or changed. Parquet comes with the extra `parquet`.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from looktwice.embedding import read_rows
from looktwice.embedding.embed import embed
from looktwice.embedding.subject import open_eye, widths
from looktwice.models import Encoder, EncoderSpec, build_backbone, read_encoder
from looktwice.models.encoder import encoder_bytes

SIDE, CLASSES, BAD_EVERY = 28, 10, 10_000
SAMPLE = 1000
LIMIT = 500.0
MEGABYTE = 1e6


def make_pictures(folder: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    for name in range(CLASSES):
        (folder / f"{name}").mkdir(parents=True)
    for i in range(count):
        path = folder / f"{i % CLASSES}" / f"{i:07}.png"
        if i % BAD_EVERY == BAD_EVERY // 2:
            path.write_bytes(b"no picture")
            continue
        coarse = generator.integers(0, 256, (7, 7), np.uint8)
        Image.fromarray(coarse).resize((SIDE, SIDE)).save(path, compress_level=1)


def make_encoder(path: Path) -> None:
    torch.manual_seed(0)
    spec = EncoderSpec("resnet-tiny", 1, True, SIDE, (0.5,), (0.25,))
    path.write_bytes(
        encoder_bytes(build_backbone("resnet-tiny", channels=1, small_stem=True), spec)
    )


def megabytes(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key)) / MEGABYTE


def measured(folder: Path, out: Path) -> None:
    """Embed once, and print the most memory beyond the model and the pictures a second."""
    torch.set_num_threads(1)
    eye = open_eye(folder / "encoder.safetensors")
    widths(eye)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
    before = megabytes("VmRSS")
    begun = time.perf_counter()
    found = embed(eye, out, data=folder / "pictures", file=sys.stderr)
    assert found.about.rows is not None
    rate = found.about.rows / (time.perf_counter() - begun)
    beyond = megabytes("VmHWM") - before
    print(f"{found.about.rows:,} rows, {found.about.unreadable} unreadable, {rate:,.0f} a second")
    verdict = "met" if beyond <= LIMIT else "MISSED"
    print(f"memory beyond the model: {beyond:,.0f} MB; asked: at most {LIMIT:.0f}: {verdict}")
    if beyond > LIMIT:
        sys.exit(1)


def killed(folder: Path, out: Path, kills: int, seed: int) -> int:
    """Run the command, killing it again and again; return how often a kill met the joining."""
    command = [sys.executable, "-m", "looktwice", "embed", str(folder / "encoder.safetensors")]
    command += ["--data", str(folder / "pictures"), "--out", str(out)]
    hidden = out.with_name(f".{out.name}-unfinished")
    chance = random.Random(seed)
    total = -(-len(list((folder / "pictures").rglob("*.png"))) // 1024)
    joining = 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for number in range(kills):
        shutil.rmtree(hidden / "whole", ignore_errors=True)  # when it is there, this one joins
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        last = number >= kills - max(1, kills // 5)  # these meet the joining, or what is near it
        wanted = total if last else (number + 1) * total // (kills + 1)
        while process.poll() is None:
            pieces = len(list(hidden.glob("piece-*.safetensors")))
            if pieces >= wanted and (not last or (hidden / "whole").exists()):
                break
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.5 if not last else 0.1))
        joining += (hidden / "whole").exists()
        process.kill()
        if process.wait() != -signal.SIGKILL:
            raise SystemExit(f"finished before kill {number + 1}: nothing is shown")
    subprocess.run(command, check=True, env=environment)
    assert not hidden.exists()
    return joining


def compare(folder: Path, whole: Path, out: Path) -> None:
    """Raise AssertionError unless the files are equal and hold what they should."""
    for file in whole.parent.iterdir():
        other = out.parent / file.name
        assert filecmp.cmp(file, other, shallow=False), f"{other} differs from {file}"
    encoder = read_encoder(folder / "encoder.safetensors")
    names: list[str] = []
    count = sum(1 for _ in (folder / "pictures").rglob("*.png"))
    chosen = set(np.random.default_rng(2).integers(0, count, SAMPLE).tolist())
    most = 0.0
    for rows in read_rows(out):
        for i, name in enumerate(rows.names):
            if len(names) in chosen:
                most = max(most, off(encoder, folder / "pictures" / name, rows.features["h"][i]))
            names.append(name)
    expected = sorted(
        str(path.relative_to(folder / "pictures"))
        for path in (folder / "pictures").rglob("*.png")
        if path.stat().st_size > len(b"no picture")
    )
    assert sorted(names) == expected, "rows are lost or repeated"
    print(f"{len(names):,} rows, each once; {len(chosen):,} of them off by at most {most:.1e} of 1")


def off(encoder: Encoder, path: Path, found: NDArray[np.float32]) -> float:
    with Image.open(path) as image:
        picture = torch.from_numpy(np.array(image))[None, None]
    alone = encoder(picture)[0].numpy()
    return float(np.linalg.norm(alone - found) / np.linalg.norm(alone))


def main() -> None:
    arguments = _arguments()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if arguments.measured:
            measured(folder, arguments.measured)
            return
        print(f"load {os.getloadavg()[0]:.1f}", flush=True)
        if not (folder / "encoder.safetensors").exists():
            make_pictures(folder / "pictures", arguments.pictures)
            make_encoder(folder / "encoder.safetensors")
        name = f"features.{arguments.format}"
        for part in ("whole", "killed"):
            (folder / part).mkdir()
        command = [sys.executable, __file__, "--folder", str(folder)]
        subprocess.run([*command, "--measured", str(folder / "whole" / name)], check=True)
        out = folder / "killed" / name
        joining = killed(folder, out, arguments.kills, seed=0)
        print(f"killed {arguments.kills} times, {joining} of them while joining")
        compare(folder, folder / "whole" / name, out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--format", choices=("parquet", "npy", "csv"), default="parquet")
    parser.add_argument(
        "--folder", type=Path, help="where everything is kept; new but for pictures"
    )
    parser.add_argument("--measured", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
