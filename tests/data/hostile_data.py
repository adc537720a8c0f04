"""Opens data sets that would run code, under an audit hook: `python hostile_data.py MODE FOLDER`.

The code is that of the hostile pickles, in arrays (.npy, .npz), CIFAR's batches and tar shards.
"safe" opens them with `open_source` and decodes all; "plain" loads the arrays with numpy, pickles
allowed, which shows that the hook sees what runs. Prints JSON: by case its events and outcome.
"""

import io
import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
from tars import encoded, entry, samples, write_tar

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))
import hostile_pickles

from looktwice.data import open_source
from looktwice.errors import BadPictureError, DataError

MODE, FOLDER = sys.argv[1], Path(sys.argv[2])
CACHE = FOLDER / "cache"
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
WATCHED = ("exec", "import", "marshal.loads", "pickle.find_class", "os.system", "os.exec",
           "os.posix_spawn", "os.fork", "os.symlink", "os.link")  # fmt: skip
FAMILIES = ("subprocess.", "socket.", "shutil.", "ctypes.")

events: list[str] = []
recording = False


def hook(event, arguments):
    if not recording:
        return
    writes = event == "open" and (arguments[2] or 0) & WRITING
    if writes and str(arguments[0]).startswith(str(CACHE)):
        return
    if writes or event in WATCHED or event.startswith(FAMILIES):
        events.append(f"{event} {arguments[:1]}")


def npy(payload, shape="(1,)"):
    head = f"{{'descr': '|O', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head = head.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + payload


def npz(path, member, data):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(member, data)
    return path


def cifar(folder, payload):
    folder.mkdir()
    for name in ("batches.meta", "data_batch_1", "test_batch"):
        (folder / name).write_bytes(payload)
    return folder


def cases():
    """By name: the array with the payload, and what is opened."""
    for number, (name, payload) in enumerate(hostile_pickles.LIVE.items()):
        array, where = npy(payload), FOLDER / f"{number}"
        where.with_suffix(".npy").write_bytes(array)
        yield f"npy: {name}", array, where.with_suffix(".npy")
        yield f"npz: {name}", array, npz(where.with_suffix(".npz"), "images.npy", array)
        yield f"cifar: {name}", array, cifar(FOLDER / f"cifar-{number}", payload)
        odd = [entry(f"a.{end}", payload) for end in ("pyd", "pkl", "pth", "npy")]
        labels = [entry("a.cls", payload), entry("a.json", payload)][number % 2]
        tar = [entry("a.png", payload), *odd, labels, *samples(1, 2, [0])]
        yield f"tar: {name}", array, write_tar(where.with_suffix(".tar"), tar)
    for number, head in enumerate((
        b"{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (1,)}",
        b"__import__('os').system('true')",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (10**9, 10**9)}",
        b"(" * 5000,
    )):  # fmt: skip
        data = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head
        path = FOLDER / f"head-{number}.npy"
        path.write_bytes(data)
        yield f"npy: header {number}", data, path


def opened(path):
    try:
        source = open_source(path)
        for i in range(len(source)):
            try:
                source.image(i)
            except BadPictureError:
                continue
    except DataError as error:
        return str(error)
    return "opened"


def plain(array):
    try:
        np.load(io.BytesIO(array), allow_pickle=True)
    except Exception as error:
        return type(error).__name__
    return "opened"


def main():
    global recording
    os.environ["LOOKTWICE_CACHE"] = str(CACHE)
    (FOLDER / "tree").mkdir()
    warm = FOLDER / "warm.npy"
    np.save(warm, np.zeros((2, 4, 4), np.uint8))
    opened(warm)
    opened(npz(FOLDER / "warm.npz", "images.npy", warm.read_bytes()))
    opened(
        write_tar(FOLDER / "warm.tar", [*samples(0, 2, [1]), entry("x.jpg", encoded(1, "JPEG"))])
    )
    words = [*samples(0, 4, ["a", "b"]), entry("x.png", b"no picture"), entry("x.cls", b"a")]
    opened(write_tar(FOLDER / "words.tar", words))
    opened(cifar(FOLDER / "warm", hostile_pickles.GOOD))
    made = list(cases())
    sys.addaudithook(hook)
    found = {}
    for name, array, path in made:
        if MODE == "plain" and not name.startswith("npy"):
            continue
        events.clear()
        recording = True
        try:
            outcome = opened(path) if MODE == "safe" else plain(array)
        except Exception as error:
            outcome = f"unexpected {error!r}"
        recording = False
        found[name] = [list(events), outcome]
    print(json.dumps({"cases": found, "victim": (FOLDER / "victim").exists()}))


if __name__ == "__main__":
    main()
