"""Loads 100 hostile checkpoints and configurations under an audit hook; prints what happened."""

import builtins
import hashlib
import json
import os
import pickle
import struct
import sys
from pathlib import Path

import safetensors.torch
import torch

from looktwice import config, recovery
from looktwice.checkpoint import FORMAT, load_checkpoint
from looktwice.errors import LooktwiceError

FOLDER = Path(sys.argv[1])
VICTIM = FOLDER / "victim"
COMMAND = f"touch {VICTIM}"
EVENTS, recording = [], False
WATCHED = ("exec", "compile", "import", "marshal.loads", "pickle.find_class", "code.__new__")
FAMILIES = ("subprocess.", "socket.", "shutil.", "ctypes.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.remove", "os.rename")  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def hook(event, arguments):
    if recording:
        written = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if written or event in WATCHED or event.startswith(FAMILIES):
            EVENTS.append(event)


class Evil:
    def __reduce__(self):
        return os.system, (COMMAND,)


def header(table, data=b""):
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + data


GOOD = safetensors.torch.save({"w": torch.zeros(2)})
STATE = {"format": FORMAT, "step": 1}
PICKLES = [pickle.dumps(Evil(), protocol) for protocol in range(6)]
PICKLES.append(b'cbuiltins\neval\n(S\'__import__("os").system("true")\'\ntR.')
F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
TENSORS = {
    "pickle": PICKLES[2], "zip": b"PK\x03\x04" + PICKLES[2], "empty": b"", "short": b"\x01",
    "huge header": struct.pack("<Q", 1 << 62) + b"{}", "negative": struct.pack("<q", -1) + b"{}",
    "no json": header(b"{" * 50), "deep": header(b"[" * 5000), "list": header([1]),
    "huge shape": header({"w": {**F32, "shape": [1 << 40, 1 << 20]}}, b"\0" * 8),
    "negative shape": header({"w": {**F32, "shape": [-2]}}, b"\0" * 8),
    "outside": header({"w": {**F32, "data_offsets": [0, 1 << 40]}}, b"\0" * 8),
    "backwards": header({"w": {**F32, "data_offsets": [8, 0]}}, b"\0" * 8),
    "overlap": header({"v": F32, "w": F32}, b"\0" * 8),
    "odd dtype": header({"w": {**F32, "dtype": "__import__('os')"}}, b"\0" * 8),
    "surplus": GOOD + PICKLES[2],
}  # fmt: skip
COUNTERS = {
    "list": [1], "null": None, "text": "x", "number": 7, "no format": {"step": 1},
    "other format": {"format": f"{FORMAT}0"}, "format is a list": {"format": [FORMAT]},
    "unknown": {**STATE, "__class__": "os.system"}, "wrong kind": {**STATE, "told": "1"},
    "nested": {**STATE, "untrained": {"__reduce__": [COMMAND]}}, "init": {**STATE, "__init__": 1},
}  # fmt: skip
RAW_STATES = {
    "pickled": PICKLES[0], "python": b"__import__('os').system('true')", "deep": b"[" * 200_000,
    "digits": b'{"step": ' + b"9" * 10_000 + b"}", "not utf-8": b"\xff\xfe{", "nothing": b"",
    "NaN": b'{"step": NaN}', "twice": b'{"format": 1, "format": 2}',
}  # fmt: skip
MANIFESTS = {
    "absolute": {"/etc/passwd": "0" * 64}, "upwards": {"../../config.toml": "0" * 64},
    "list": ["state.json"], "null": None, "text": "x", "number": 1, "nested": {"state.json": {}},
    "true": {"state.json": True}, "empty": {}, "no name": {"": "0"}, "dot": {".": "0"},
    "device": {"/dev/zero": "0"}, "NUL": {"a\0b": "0"}, "surrogate": {"\ud800": "0"},
}  # fmt: skip
RAW_MANIFESTS = {"pickle": PICKLES[2], "deep": b"{" * 200_000, "python": b"{1: __import__('os')}"}
TOMLS = [
    "x = ", "= 1", "\xff\xfe", "[train]\nsteps = '__import__(\"os\").system(\"true\")'",
    "[train]\nsteps = 1e400", "[train]\nthreads = -1", "[train]\n__class__ = 'x'",
    "[optim]\nname = 'os.system'", "[method]\nname = '__import__(\"os\")'", "[train]\nsteps = [1]",
    "[model]\nembedding_dim = 'eval'", "[os]\nsystem = 'true'", "recipe = 1", "[train]\nseed = nan",
    "[data]\nmax_bad = 'lambda: 0'", "[train.steps]\nx = 1", "[[train]]\nsteps = 1",
    "[train]\nbn_group = '!!python/object'", "[augment]\nsize = -5", "[train]\namp = 'exec'",
    "[train]\nmicro_batch = 'os'", "a." * 300 + "b = 1",
    "[train]\nsteps = 1979-05-27",
    "[train]\ndevice = 1", "[data]\nsource = 1", "[train]\nepochs = '\\u0000'", "[train",
    "[train]\nsteps = 0x", "[optim]\nschedule = \"$(true)\"", "train = 'x'", "data = []",
    "[train]\nkeep_last = 0", "[data]\nthreads = 1e3", "[method]\ntemperature = 0.0",
    "[train]\ntensorboard = 'yes'", "[train]\ncompile = 1", "[model]\nhead = 'subprocess.Popen'",
]  # fmt: skip


def write(number, files, manifest=None):
    path = FOLDER / f"step-{number:08d}"
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    whole = json.dumps(digests, indent=1).encode()
    (path / "manifest.json").write_bytes(whole if manifest is None else manifest)
    return lambda: use(path)


def use(path):
    """What `resume` does with it, as far as a run without a network can."""
    parts, state = load_checkpoint(path)
    recovery.put_back(None, parts, state)


def configuration(number, text):
    path = FOLDER / f"{number}.toml"
    path.write_text(text, encoding="latin-1")
    return lambda: config.load(path)


def cases():
    state = json.dumps(STATE).encode()
    for name, data in TENSORS.items():
        yield f"tensors: {name}", {"state.json": state, "method.safetensors": data}, None
    for number, data in enumerate(PICKLES):
        yield f"pickle {number}", {"state.json": state, "method.pt": data}, None
        yield f"pickled state {number}", {"state.json": data}, None
    for name, counters in COUNTERS.items():
        yield f"state: {name}", {"state.json": json.dumps(counters).encode()}, None
    for name, data in RAW_STATES.items():
        yield f"state: {name}", {"state.json": data}, None
    for name, manifest in MANIFESTS.items():
        yield f"manifest: {name}", {"state.json": state}, json.dumps(manifest, indent=1).encode()
    for name, data in RAW_MANIFESTS.items():
        yield f"manifest: {name}", {"state.json": state}, data


def attempt(load):
    global recording
    EVENTS.clear()
    recording = True
    try:
        load()
        error = "nothing: it was taken"
    except LooktwiceError as told:
        error = f"{type(told).__name__}: {told}"
    except Exception as told:
        error = f"unexpected {told!r}"
    finally:
        recording = False
    return list(EVENTS), error


def main():
    loads = {n: write(i, f, m) for i, (n, f, m) in enumerate(cases())}
    loads |= {f"config {i}": configuration(i, t) for i, t in enumerate(TOMLS)}
    for load in list(loads.values()):
        attempt(load)  # whatever is imported late is by now
    sys.addaudithook(hook)
    found = {name: attempt(load) for name, load in loads.items()}
    control, _ = attempt(lambda: pickle.loads(pickle.dumps(builtins.eval)) and eval("1"))
    print(json.dumps({"cases": found, "control": control}))


if __name__ == "__main__":
    main()
