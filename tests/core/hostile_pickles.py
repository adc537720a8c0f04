"""Loads hostile pickles under an audit hook: `python hostile_pickles.py safe|plain FOLDER`.

Prints JSON: by name what happened and, with "safe", the error. "plain" is the control: the plain
unpickler on those that would run something, which shows that the hook would see it.
"""

import copyreg
import json
import os
import pickle
import resource
import struct
import sys
from pathlib import Path

import numpy as np

from looktwice.errors import DataError
from looktwice.foreign import load_pickle

MODE, FOLDER = sys.argv[1], Path(sys.argv[2])
VICTIM = str(FOLDER / "victim")


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def value(*arguments):
    return pickle.dumps(arguments, 2)[2:-1]


def call(module, attribute, *arguments):
    return b"\x80\x02" + name(module, attribute) + value(*arguments) + b"R."


def short(text):
    return b"\x8c" + bytes([len(text)]) + text.encode()


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


def arrays():
    good = pickle.dumps({b"data": np.arange(24, dtype=np.uint8).reshape(2, 12)}, 4)
    empty = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray")
    empty += b"K\x00\x85C\x01b\x87R"
    dtype = name("numpy", "dtype") + b"C\x02u1K\x00K\x01\x87R"
    return good, b"\x80\x03" + empty, dtype


GOOD, EMPTY_ARRAY, BYTE = arrays()
SYSTEM = name("os", "system")
IMPORT_OS = name("builtins", "__import__") + b"\x8c\x02os\x85R"

# Those that do something when unpickled plainly.
LIVE = {
    "system, protocol 0": b"cos\nsystem\n(S'true'\ntR.",
    "posix": call("posix", "system", "true"),
    "Popen": call("subprocess", "Popen", ["true"]),
    "check_output": call("subprocess", "check_output", ["true"]),
    "eval": call("builtins", "eval", "__import__('os').system('true')"),
    "exec": call("builtins", "exec", "import os; os.system('true')"),
    "eval of Python 2": call("__builtin__", "eval", "__import__('os').system('true')"),
    "compile": call("builtins", "compile", "1", "x", "eval"),
    "getattr chain": b"\x80\x04" + name("builtins", "getattr") + IMPORT_OS + short("system") + b"\x86R" + value("true") + b"R.",
    "import": call("builtins", "__import__", "chunk" if sys.version_info < (3, 13) else "wave"),
    "open": call("builtins", "open", VICTIM, "w"),
    "io.open": call("io", "open", VICTIM, "ab"),
    "os.open": call("os", "open", VICTIM, os.O_WRONLY | os.O_CREAT),
    "nested name": b"\x80\x04" + short("pathlib") + short("Path.write_text") + b"\x93" + name("pathlib", "Path") + value(VICTIM) + b"R" + short("x") + b"\x86R.",
    "STACK_GLOBAL": b"\x80\x04" + short("os") + short("system") + b"\x93" + value("true") + b"R.",
    "OBJ": b"(csubprocess\nPopen\n]S'true'\nao.",
    "INST": b"(S'true'\nios\nsystem\n.",
    "NEWOBJ_EX then call": b"\x80\x04" + name("functools", "partial") + SYSTEM + b"\x85}\x92" + value("true") + b"R.",
    "NEWOBJ then call": b"\x80\x02" + name("functools", "partial") + SYSTEM + b"\x85\x81" + value("true") + b"R.",
    "EXT1": b"\x80\x02\x82\x07" + value("true") + b"R.",
    "EXT2": b"\x80\x02\x83\x07\x01" + value("true") + b"R.",
    "EXT4": b"\x80\x02\x84\x07\x01\x01\x00" + value("true") + b"R.",
    "BUILD of a partial": b"\x80\x02" + name("functools", "partial") + name("builtins", "print") + b"\x85R(" + SYSTEM + b")}Ntb" + value("true") + b"R.",
    "runstring": call("numpy.testing._private.utils", "runstring", "import os; os.system('true')", {}),
    "f2py": call("numpy.f2py.crackfortran", "myeval", "__import__('os').system('true')", {}, {}),
    "memmap": call("numpy", "memmap", VICTIM, "u1", "w+", 0, 1),
    "object array": pickle.dumps(np.array([Evil(), 1], object), 4),
    "pickle in a pickle": call("_pickle", "loads", pickle.dumps(Evil(), 2)),
    "socket": call("socket", "create_connection", ("127.0.0.1", 9), 0.1),
    "rmtree": call("shutil", "rmtree", str(FOLDER / "tree")),
    "timeit": call("timeit", "timeit", "1", "pass"),
    "ctypes": call("ctypes", "CDLL", "libc.so.6"),
    "methodcaller": b"\x80\x02" + name("operator", "methodcaller") + value("system", "true") + b"R" + IMPORT_OS.replace(b"\x8c\x02os", b"X\x02\x00\x00\x00os") + b"\x85R.",
}  # fmt: skip

# Those that would crash, fill the memory or last for ever, or are data of another kind.
OTHERS = {
    "persistent id": b"Pos.system\n.",
    "binary persistent id": b"\x80\x02" + short("os.system") + b"Q.",
    "BUILD of a class": b"\x80\x02" + name("collections", "OrderedDict") + b"N}" + short("x") + b"K\x01s\x86b.",
    "BUILD of ndarray": b"\x80\x02" + name("numpy", "ndarray") + b"N}" + short("x") + b"K\x01s\x86b.",
    "names alone": b"\x80\x02]" + name("numpy", "ndarray") + b"a.",
    "harmless object array": pickle.dumps(np.array([1, "a"], object), 4),
    "structured array": pickle.dumps(np.zeros(2, [("a", "u1"), ("b", "O")]), 4),
    "huge ndarray": call("numpy", "ndarray", (1 << 44,)),
    "huge shape": EMPTY_ARRAY + b"(K\x01" + value(1 << 44)[:-1] + b"\x85" + BYTE + b"\x89C\x01xtb.",
    "negative shape": EMPTY_ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + BYTE + b"\x89C\x01xtb.",
    "huge memo": b"\x80\x02Nr\xff\xff\xff\x7f\x8a\x01x.",
    "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
    "long to hash": b"\x80\x02}K\x01" + b"q\x00h\x00h\x00\x86" * 60 + b"K\x01s.",
    "many objects": b"\x80\x02]" + b"]a" * (1 << 21) + b".",
    "truncated": GOOD[:-30],
    "no stop": GOOD[:-1],
    "text": b"hello, world",
    "nothing": b"",
    "mark as an item": b"\x80\x02](a.",
    "bytearray": pickle.dumps(bytearray(b"x"), 5),
    "set": pickle.dumps({1}, 4),
}  # fmt: skip

EVENTS = []
recording = False
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
WATCHED = ("exec", "compile", "import", "marshal.loads", "pickle.find_class")
FAMILIES = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.")


def hook(event, arguments):
    if not recording:
        return
    opened = event == "open" and (arguments[2] or 0) & WRITING
    if opened or event in WATCHED or event.startswith(FAMILIES):
        EVENTS.append(event)


def attempt(load):
    global recording
    EVENTS.clear()
    error = None
    recording = True
    try:
        load()
    except Exception as caught:
        error = caught
    finally:
        recording = False
    return list(EVENTS), error


def main():
    (FOLDER / "tree").mkdir()
    for code in (7, 7 + (1 << 8), 7 + (1 << 8) + (1 << 16)):
        copyreg._inverted_registry[code] = ("os", "system")  # add_extension takes one code a name
    files = {}
    for number, (case, data) in enumerate({**LIVE, **OTHERS}.items()):
        files[case] = FOLDER / f"{number}.pkl"
        files[case].write_bytes(data)
    good = FOLDER / "good.pkl"
    good.write_bytes(GOOD)
    assert load_pickle(good)[b"data"].tolist() == np.arange(24).reshape(2, 12).tolist()
    sys.addaudithook(hook)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {}
    for case, path in files.items():
        if MODE == "safe":
            events, error = attempt(lambda path=path: load_pickle(path))
            known = isinstance(error, DataError)
            found[case] = {"events": events, "error": str(error) if known else repr(error), "known": known, "path": str(path)}  # fmt: skip
        elif case in LIVE:
            data = path.read_bytes()
            events, error = attempt(lambda data=data: pickle.loads(data))
            found[case] = {
                "events": [e for e in events if e != "pickle.find_class"],
                "error": repr(error),
            }
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"cases": found, "grown_kib": grown, "victim": Path(VICTIM).exists()}))


if __name__ == "__main__":
    main()
