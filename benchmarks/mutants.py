"""Whether damaged and hostile files can crash a run, hang it, fill its memory, or go untold.

1. 20,000 mutants of pictures in 8 formats (cut, bits turned, bytes overwritten, inserted, doubled,
   left out, fields at their extremes) and 60 files made by hand (bombs, pipes, devices, loops of
   links, odd names, other formats), as a folder; the mutants as tar shards, too. Each goes through
   the loader for an epoch, with two threads, in a process of its own.
   Held: every process ends by itself within its time; the loader lists exactly the pictures that
   cannot be read alone, each once; folder and shard agree; two processes' shares of an epoch are as
   many steps, and together the same views; resident memory grows by at most 300 MB.
2. A tar of 40 samples, cut at 1,000 offsets, and 50 tars with a hostile member between good ones.
   Held: every intact earlier picture is used; nothing is written outside the cache (audit hook).

Ends with 1 when something does not hold.

    python benchmarks/mutants.py [--mutants 20000] [--cuts 1000] [--seed 0] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from looktwice.augment import policy
from looktwice.data import Loader, Source, open_source
from looktwice.errors import BadPictureError

AT_ONCE = 2000
SECONDS = 300
MOST_GROWN = 300 << 20
GIGABYTE = 1 << 30


def picture(seed: int, mode: str = "RGB") -> Image.Image:
    chance = np.random.default_rng(seed)
    small = Image.fromarray(chance.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return small.resize((40, 30), Image.Resampling.BICUBIC).convert(mode)


def saved(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    picture(1, mode).save(file, kind, **options)
    return file.getvalue()


def seeds() -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [picture(n) for n in range(3)]
    return {
        "a.jpg": saved("JPEG", quality=85, exif=exif),
        "b.jpeg": saved("JPEG", progressive=True, quality=40),
        "c.png": saved("PNG", "RGBA"),
        "d.PNG": saved("PNG", "P"),
        "e.webp": saved("WEBP", quality=70),
        "f.gif": saved("GIF", save_all=True, append_images=frames),
        "g.bmp": saved("BMP"),
        "h.tif": saved("TIFF", compression="tiff_lzw"),
    }


def mutant(data: bytes, chance: np.random.Generator) -> bytes:
    """Damage a file in one to three ways."""
    found = bytearray(data)
    for _ in range(int(chance.integers(1, 4))):
        at = int(chance.integers(0, max(1, len(found))))
        # Half of all damage goes where headers are.
        at = min(at, int(chance.integers(0, 80))) if chance.random() < 0.5 else at
        length = int(chance.integers(1, 9))
        kind = int(chance.integers(0, 8))
        noise = chance.integers(0, 256, length, dtype=np.uint8).tobytes()
        if kind == 0:
            del found[max(1, int(chance.integers(0, len(found) + 1))) :]
        elif kind == 1 and found:
            found[min(at, len(found) - 1)] ^= 1 << int(chance.integers(0, 8))
        elif kind == 2:
            found[at : at + length] = noise
        elif kind == 3:
            found[at:at] = noise
        elif kind == 4:
            del found[at : at + length]
        elif kind == 5:
            found[at : at + 4] = b"\xff\xff\xff\xff" if length % 2 else b"\0\0\0\0"
        elif kind == 6:
            found[at:at] = found[at : at + 40 * length]
        else:
            found[at : at + 2] = b"\x7f\xff"
    return bytes(found)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes, body: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [
        chunk(b"IHDR", head),
        *chunks,
        chunk(b"IDAT", zlib.compress(body)),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(*fields: tuple[int, int, int, int], follow: int = 0) -> bytes:
    body = b"".join(struct.pack("<HHII", *field) for field in fields)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(fields)) + body + struct.pack("<I", follow)


def by_hand() -> dict[str, bytes]:
    """Files by name; what the name begins with says how it must be read: good, bad, any."""
    bomb, whole = zlib.compress(bytes(64 << 20), 9), seeds()
    large = struct.pack("<I", 50_000)
    return {
        "bad-bomb.png": png(50_000, 50_000, body=bytes(1000)),
        "bad-bomb-rows.png": png(1, 2**31 - 1),
        "bad-bomb.gif": b"GIF89a\xff\xff\xff\xff\x80\0\0" + whole["f.gif"][13:],
        "bad-bomb.bmp": whole["g.bmp"][:18] + large + large + whole["g.bmp"][26:],
        "bad-bomb.tif": tiff((256, 4, 1, 60_000), (257, 4, 1, 60_000), (262, 3, 1, 1)),
        "bad-bomb.webp": b"RIFF\x1e\0\0\0WEBPVP8X\x0a" + bytes(7) + b"\xff" * 6 + bytes(8),
        "bad-bomb.jpg": whole["a.jpg"].replace(struct.pack(">HH", 30, 40), b"\xff\xff\xff\xff"),
        "any-text-bomb.png": png(1, 1, chunk(b"zTXt", b"k\0\0" + bomb), body=b"\0\0"),
        "any-profile-bomb.png": png(1, 1, chunk(b"iCCP", b"k\0\0" + bomb), body=b"\0\0"),
        "any-more-data.png": png(1, 1, body=bytes(32 << 20)),
        "bad-circle.tif": tiff((256, 4, 1, 4), follow=8),
        "bad-many-tags.tif": b"II*\0\x08\0\0\0\xff\xff" + bytes(200),
        "bad-far.tif": b"II*\0\xf0\xff\xff\xff",
        "bad-big.tif": b"II+\0\x08\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
        "bad-no-size.tif": tiff((262, 3, 1, 1)),
        "bad-strips.tif": tiff((256, 4, 1, 40), (257, 4, 1, 30), (273, 4, 2**31, 8)),
        "bad-zero.png": b"",
        "bad-one.png": b"\x89",
        "bad-magic.png": b"\x89PNG\r\n\x1a\n",
        "bad-magic.jpg": b"\xff\xd8",
        "bad-end.jpg": b"\xff\xd8\xff\xd9",
        "bad-magic.gif": b"GIF89a",
        "bad-magic.bmp": b"BM",
        "bad-magic.webp": b"RIFF\0\0\0\0WEBP",
        "bad-zeros.jpg": bytes(10_000),
        "bad-ones.png": b"\xff" * 10_000,
        "bad-text.jpg": b"Not Found\n",
        "bad-page.jpg": b"<!DOCTYPE html><html><body>403</body></html>",
        "bad-code.png": b"#!/bin/sh\ntouch /tmp/looktwice-was-run\n",
        "bad-postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nquit\n",
        "bad-pdf.jpg": b"%PDF-1.4\n%%EOF",
        "bad-svg.png": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "bad-icon.png": b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0\x20\0" + bytes(100),
        "bad-heic.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
        "bad-photoshop.png": b"8BPS\0\x01" + bytes(100),
        "bad-gzip.png": gzip.compress(whole["c.png"]),
        "bad-zip.png": b"PK\x03\x04" + bytes(100),
        "bad-pickle.png": b"cos\nsystem\n(S'touch /tmp/looktwice-was-run'\ntR.",
        "bad-elf.png": b"\x7fELF" + bytes(100),
        "bad-cut.jpg": whole["a.jpg"][: len(whole["a.jpg"]) // 2],
        "bad-cut.png": whole["c.png"][: len(whole["c.png"]) // 2],
        "bad-sum.png": whole["c.png"][:-20] + b"\0\0\0\0" + whole["c.png"][-16:],
        "bad-float.tif": saved("TIFF", "F"),
        "any-no-end.png": whole["c.png"][:-12],
        "good-more.jpg": whole["a.jpg"] + b"more behind the end" * 100,
        "good-other-ending.png": whole["a.jpg"],
        "good-other-ending.jpg": whole["c.png"],
        "good-gif.webp": whole["f.gif"],
        "good-exif.jpg": saved("JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        "good-grey-alpha.png": saved("PNG", "LA"),
    }  # fmt: skip


def special(folder: Path) -> None:
    """Make what is no file, or has an odd name; together with `by_hand` 60 entries."""
    good = seeds()["c.png"]
    os.mkfifo(folder / "bad-pipe.png")
    (folder / "bad-device.png").symlink_to("/dev/zero")
    (folder / "bad-null.jpg").symlink_to("/dev/null")
    (folder / "bad-gone.png").symlink_to("nowhere.png")
    (folder / "bad-loop.png").symlink_to("bad-loop.png")
    (folder / "folder-loop").symlink_to(folder)
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(folder):
        made.bind("bad-socket.png")
    with (folder / "bad-sparse.png").open("wb") as file:
        file.truncate(1 << 40)
    for name in (
        b"good-caf\xe9.png",
        b"good-new\nline.png",
        b"good-'\"`$(x).png",
        b"good-" + b"x" * 246 + b".png",
    ):
        (folder / os.fsdecode(name)).write_bytes(good)


def look(folder: str) -> dict[str, Any]:
    """Load an epoch of a folder or a tar; run in a process of its own."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    views = policy("simclr", size=16)
    with tempfile.TemporaryDirectory() as name:  # the kernels are compiled before memory is read
        for file, data in seeds().items():
            (Path(name) / file).write_bytes(data)
        list(Loader(open_source(name), views, batch_size=8, seed=0, threads=2).batches(0, 2))
    source = open_source(folder)
    before = resident()
    size = next((n for n in range(50, 1, -1) if len(source) % n == 0), len(source))
    halves = slice(0, size // 2), slice(size // 2, size)

    def epoch(share: slice | None) -> tuple[Loader, list[Any]]:
        """Return a loader after an epoch, and sums of each step's views, by half of the batch."""
        loader = Loader(source, views, batch_size=size, seed=0, threads=2, max_bad=1.0, share=share)
        parts = halves if share is None else (slice(None),)
        made = loader.batches(0, loader.steps_per_epoch)
        return loader, [
            [[zlib.crc32(v[p].tobytes()) for v in batch.views] for p in parts] for batch in made
        ]

    loader, sums = epoch(None)
    shares = [epoch(half)[1] for half in halves]
    listed = [bad.identifier for bad in loader.bad_pictures.values()]
    alone = [source.identifier(i) for i in range(len(source)) if not readable(source, i)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    reasons = {bad.identifier: bad.reason for bad in loader.bad_pictures.values()}
    return {
        "count": len(source),
        "listed": sorted(listed),
        "alone": sorted(alone),
        "shares": [first + second for first, second in zip(*shares, strict=True)] == sums,
        "grown": peak - before,
        "told": all(reasons.values()) and not any("\n" in reason for reason in reasons.values()),
    }


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def readable(source: Source, i: int) -> bool:
    try:
        source.image(i)
    except BadPictureError:
        return False
    return True


def looked(folder: Path) -> dict[str, Any]:
    """Run `look` in a process; a crash or a hang is an answer, too."""
    command = [sys.executable, __file__, "--look", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"hangs: {SECONDS} s"}
    if done.returncode:
        return {"failed": f"exit code {done.returncode}: {done.stderr.strip()[-300:]}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def mutants(count: int, seed: int, room: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield results of folders of mutants, and whether their tars agree."""
    chance = np.random.default_rng(seed)
    originals = list(seeds().items())
    for first in range(0, count, AT_ONCE):
        folder, tar = room / "mutants", room / "x.tar"
        folder.mkdir()
        with tarfile.open(tar, "w") as packed:
            for n in range(first, min(first + AT_ONCE, count)):
                name, data = originals[n % len(originals)]
                path = folder / f"{n:06}{Path(name).suffix}"
                path.write_bytes(mutant(data, chance))
                packed.add(path, path.name)
        plain, shard = looked(folder), looked(tar)
        if "failed" not in plain and "failed" not in shard:
            names = [name.split(":", 1)[1] for name in shard["listed"]]
            plain["agree"] = names == plain["listed"] and shard["alone"] == shard["listed"]
            plain["grown"] = max(plain["grown"], shard["grown"])
        yield min(AT_ONCE, count - first), plain if "failed" in plain else {**shard, **plain}
        shutil.rmtree(folder)


def faults(result: dict[str, Any]) -> list[str]:
    if "failed" in result:
        return [result["failed"]]
    return [
        text
        for text, holds in {
            "a bad file is listed twice": len({*result["listed"]}) == len(result["listed"]),
            "listed and bad differ": result["listed"] == result["alone"],
            "a reason is missing or has lines": result["told"],
            "folder and shard differ": result.get("agree", True),
            "two processes' shares are not the whole": result["shares"],
            f"memory grew by {result['grown'] >> 20} MB": result["grown"] <= MOST_GROWN,
        }.items()
        if not holds
    ]


def hand_made(room: Path) -> tuple[int, dict[str, Any], list[str]]:
    folder = room / "by-hand"
    folder.mkdir()
    for name, data in by_hand().items():
        (folder / name).write_bytes(data)
    special(folder)
    made = [path.name for path in folder.iterdir()]
    result = looked(folder)
    wrong = faults(result)
    if not wrong:
        bad = {name[:4] for name in result["listed"] if name.startswith("good")}
        wrong += ["a good file is called bad"] if bad else []
        must = {name for name in made if name.startswith("bad")}
        wrong += [f"{name} is called good" for name in sorted(must - {*result["listed"]})]
        wrong += ["some are missing"] if result["count"] != len(made) - 1 else []  # the folder loop
    return len(made), result, wrong


def entry(name: str, data: bytes = b"", **facts: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in facts.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def resigned(head: bytes) -> bytes:
    """Give a header the sum that it should have."""
    made = bytearray(head)
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made[:512])
    return bytes(made)


def hostile(outside: Path) -> list[bytes]:
    """50 members, as they lie in a tar, none of which may do anything."""
    good = seeds()["c.png"]
    names = [
        "../evil.png", "../../../../tmp/evil.png", f"{outside}/evil.png", "/etc/passwd",
        "a/../../evil.png", "C:\\evil.png", "..\\evil.png", "~/evil.png", "$(touch evil).png",
        "-rf.png", "\x1b[2Jevil.png", "new\nline.png", "x" * 99, "caf\udce9.png", "con.png", ".",
        "..", "/", "\u202egnp.exe",
    ]  # fmt: skip
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
             tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE, b"Z", b"V", b"M", b"D"]  # fmt: skip
    pax = [
        b"20 path=../evil.png\n", b"25 linkpath=/etc/passwd.\n", b"30 size=99999999999999999999\n",
        b"9 size=-1",
        b"99999999 path=x\n", b"0 path=x\n", b"22 GNU.sparse.major=1\n", b"x" * 5000, b"\0" * 600,
        b"11 path=a\0\n",
    ]  # fmt: skip
    plain = entry("odd.png", good)
    facts: dict[str, Any] = {"linkname": f"{outside}/evil", "devmajor": 1, "devminor": 5}
    sizes = [
        b"\xff" * 12,
        b"\x80" + b"\xff" * 11,
        b"77777777777\0",
        b"-0000000001\0",
        b"99999999999\0",
        b"\0" * 12,
    ]
    return [
        *(entry(name, good) for name in names),
        *(entry("odd.png", type=kind, **facts) for kind in kinds),
        *(entry("pax", data, type=tarfile.XHDTYPE) + plain for data in pax),
        *(resigned(plain[:124] + size + plain[136:]) for size in sizes),
        entry("long", b"../evil.png\0", type=tarfile.GNUTYPE_LONGNAME) + plain,
        entry("global", b"20 path=../evil.png\n", type=tarfile.XGLTYPE) + plain,
        b"\xff" * 512 + plain,
        entry("odd.cls", b"__import__('os').system('true')"),
    ]  # fmt: skip


def tars(cuts: int, seed: int, room: Path) -> list[str]:
    """Cut a tar, and put hostile members in one; return what does not hold."""
    events: list[str] = []
    cache = room / "cache"
    os.environ["LOOKTWICE_CACHE"] = str(cache)
    parts = [entry(f"{n:03}.png", saved("PNG")) for n in range(40)]
    whole, ends = b"".join(parts) + bytes(1024), np.cumsum([len(part) for part in parts])
    sizes = [len(saved("PNG"))] * 40
    path = room / "cut.tar"
    offsets = np.random.default_rng(seed).integers(ends[0], len(whole), cuts).tolist()
    cases = [(whole[:cut], int(sum(end - len(part) + 512 + size <= cut for end, part, size in
              zip(ends, parts, sizes, strict=True)))) for cut in offsets]  # fmt: skip
    outside = room / "outside"
    outside.mkdir()
    cases += [
        (b"".join([*parts[:5], odd, *parts[5:]]) + bytes(1024), 5) for odd in hostile(outside)
    ]
    open_tar(path, whole)  # what is imported is imported now
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def hook(event: str, given: tuple[Any, ...]) -> None:
        writes = event == "open" and (given[2] or 0) & writing
        acts = event in (
            "os.system",
            "os.exec",
            "os.posix_spawn",
            "subprocess.Popen",
            "os.symlink",
            "os.link",
        )
        if (writes or acts) and not str(given[0]).startswith((str(cache), str(path))):
            events.append(f"{event} {given[0]}")

    sys.addaudithook(hook)
    wrong = []
    for number, (data, expected) in enumerate(cases):
        found = open_tar(path, data)
        if found < expected or (number < cuts and found != expected):
            wrong.append(f"case {number}: {found} of {expected} pictures used")
    if len(cases) != cuts + 50:
        wrong.append(f"{len(cases) - cuts} hostile members, not 50")
    return wrong + [f"an event: {event}" for event in events] + [str(p) for p in outside.iterdir()]


def open_tar(path: Path, data: bytes) -> int:
    path.write_bytes(data)
    source = open_source(path)
    return sum(readable(source, i) for i in range(len(source)))


def main() -> None:
    arguments = _arguments()
    if arguments.look:
        print(json.dumps(look(arguments.look)))
        return
    wrong: list[str] = []
    totals = {
        "mutants": 0,
        "bad": 0,
        "by hand": 0,
        "cuts": arguments.cuts,
        "hostile": 50,
        "grown_mb": 0,
    }
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        os.environ["LOOKTWICE_CACHE"] = str(room / "cache")
        for count, result in mutants(arguments.mutants, arguments.seed, room):
            wrong += faults(result)
            totals["mutants"] += count
            totals["bad"] += len(result.get("listed", []))
            totals["grown_mb"] = max(totals["grown_mb"], result.get("grown", 0) >> 20)
        totals["by hand"], result, others = hand_made(room)
        totals["grown_mb"] = max(totals["grown_mb"], result.get("grown", 0) >> 20)
        wrong += others + tars(arguments.cuts, arguments.seed, room)
    print(
        json.dumps({**totals, "wrong": wrong})
        if arguments.json
        else f"{totals}\nwrong: {wrong or 'nothing'}"
    )
    sys.exit(1 if wrong else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--cuts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--look", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
