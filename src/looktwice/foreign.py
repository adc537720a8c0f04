"""The one door for files made elsewhere: pickles, weights and arrays, none of which may run code.

`load_pickle` does not unpickle. It reads the opcodes with `pickletools`, which executes nothing,
and carries out those that make plain data; there is no call in it that a file could direct.
"""

from __future__ import annotations

import math
import os
import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from looktwice.errors import DataError

MAX_PICKLE_BYTES: Final = 1 << 28
"""CIFAR-100's training file, the largest pickle of any data set we read, has 155 MB."""

MAX_PICKLE_OPCODES: Final = 1 << 21
"""That file has about 400,000; each makes at most one small object."""

MEND: Final = "put the original file back"

_GLOBALS: Final = {
    "numpy.core.multiarray _reconstruct": "array",
    "numpy._core.multiarray _reconstruct": "array",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
}
"""What a pickled array names; each becomes a mark here, and nothing of numpy is called."""

_PLAIN_DTYPE: Final = re.compile(r"[biuf]\d{1,2}")


def load_pickle(path: Path) -> object:
    """Read a pickle of numpy arrays, bytes, str, list, dict, int, float, tuple, bool and None.

    Strings of Python 2 come as bytes. Keys of dicts are str, bytes or int.

    Raises:
        DataError: unreadable, over `MAX_PICKLE_BYTES`, damaged, or anything else is in it.
    """
    try:
        size = path.stat().st_size
        if size > MAX_PICKLE_BYTES:
            raise _Refused(f"{size:,} bytes are over the limit of {MAX_PICKLE_BYTES:,}")
        return _Machine().run(path.read_bytes())
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read ({error.strerror}): {MEND}") from error
    except _Refused as error:
        raise DataError(f"{str(path)!r} is not loaded: {error}; {MEND}") from error
    # pickletools raises ValueError for damaged data; the machine what Python raises for
    # an empty stack, an unknown memo entry, an operand of another type.
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, MemoryError) as error:
        raise DataError(f"{str(path)!r} is no whole pickle of plain data: {MEND}") from error


class _Refused(Exception):  # noqa: N818
    """A pickle asks for more than plain data; `load_pickle` says so."""


@final
class _Mark:
    """The opcode MARK on the stack."""


@final
class _Name:
    """One of `_GLOBALS`, or a dtype or array that BUILD has not completed."""

    def __init__(self, kind: str, dtype: str = "") -> None:
        self.kind = kind
        self.dtype = dtype
        self.array: NDArray[Any] | None = None


@final
class _Machine:
    """The part of the pickle machine (see the source of `pickletools`) that makes plain data."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._actions: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self._stack.append(_Mark()),
            "APPEND": lambda _: self._append([self._stack.pop()]),
            "APPENDS": lambda _: self._append(self._above_mark()),
            "SETITEM": lambda _: self._set_items([self._stack.pop(-2), self._stack.pop()]),
            "SETITEMS": lambda _: self._set_items(self._above_mark()),
            "DICT": lambda _: self._dict(self._above_mark()),
            "LIST": lambda _: self._stack.append(self._above_mark()),
            "TUPLE": lambda _: self._stack.append(tuple(self._above_mark())),
            "TUPLE1": lambda _: self._tuple(1),
            "TUPLE2": lambda _: self._tuple(2),
            "TUPLE3": lambda _: self._tuple(3),
            "MEMOIZE": lambda _: self._put(len(self._memo)),
            "GLOBAL": self._global,
            "STACK_GLOBAL": lambda _: self._global(
                " ".join((self._stack.pop(-2), self._pop_str()))
            ),
            "REDUCE": lambda _: self._reduce(self._stack.pop(-2), self._stack.pop()),
            "BUILD": lambda _: self._build(self._stack[-2], self._stack.pop()),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._put),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), self._get),
            **dict.fromkeys(("PROTO", "FRAME"), lambda _: None),
        }

    def run(self, data: bytes) -> object:
        """Carry out the opcodes up to STOP, and return what is then on the stack alone."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count >= MAX_PICKLE_OPCODES:
                raise _Refused(f"it has more than {MAX_PICKLE_OPCODES:,} opcodes")
            if opcode.name == "STOP":
                break
            if opcode.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode.name]())
            elif opcode.name in _LITERALS:
                self._stack.append(argument)
            elif opcode.name in _PYTHON_2_STRINGS:
                self._stack.append(str(argument).encode("latin-1"))
            elif opcode.name in self._actions:
                self._actions[opcode.name](argument)
            else:
                raise _Refused(f"its opcode {opcode.name} could make more than plain data")
        (result,) = map(_complete, self._stack)
        _check_plain(result)
        return result

    def _above_mark(self) -> list[Any]:
        """Take off the stack what lies above the last mark, and the mark."""
        items: list[Any] = []
        while not isinstance(item := self._stack.pop(), _Mark):
            items.append(_complete(item))
        return items[::-1]

    def _append(self, items: list[Any]) -> None:
        self._of(list).extend(map(_complete, items))

    def _of(self, kind: type[Any]) -> Any:
        target = self._stack[-1]
        if type(target) is not kind:
            raise TypeError(type(target))
        return target

    def _dict(self, items: list[Any]) -> None:
        self._stack.append({})
        self._set_items(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._of(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, bytes, int):  # a tuple of tuples may take for ever to hash
                raise _Refused(f"a key of a dict is {type(key).__name__.lstrip('_')}")
            target[key] = _complete(value)

    def _tuple(self, length: int) -> None:
        if len(self._stack) < length:
            raise IndexError(length)
        items = self._stack[-length:]
        del self._stack[-length:]
        self._stack.append(tuple(_complete(item) for item in items))

    def _put(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def _get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def _pop_str(self) -> str:
        name = self._stack.pop()
        if type(name) is not str:
            raise TypeError(type(name))
        return name

    def _global(self, name: str) -> None:
        if name not in _GLOBALS:
            raise _Refused(f"it names {name.replace(' ', '.')!r}, which is no plain data")
        self._stack.append(_Name(_GLOBALS[name]))

    def _reduce(self, called: Any, arguments: Any) -> None:
        kind = called.kind if isinstance(called, _Name) and not called.dtype else None
        if kind == "array":
            self._stack.append(_Name("empty array"))
        elif kind == "dtype" and type(arguments) is tuple:
            name = arguments[0]
            name = name.decode("ascii") if isinstance(name, bytes) else name
            if not (isinstance(name, str) and _PLAIN_DTYPE.fullmatch(name)):
                raise _Refused("an array in it does not hold plain numbers")
            self._stack.append(_Name("dtype", name))
        else:
            raise _Refused("it calls what is no plain data")

    def _build(self, target: Any, state: Any) -> None:
        """Complete a dtype by its byte order, or an array by shape, dtype and bytes.

        The states are those of ``numpy.dtype.__reduce__`` and ``numpy.ndarray.__reduce__``.
        """
        if not isinstance(target, _Name) or type(state) is not tuple:
            raise _Refused("it changes the state of what is no array")
        if target.kind == "dtype" and target.dtype:
            order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
            if order not in ("|", "<", ">", "="):
                raise ValueError(order)
            target.dtype = order + target.dtype.lstrip("|<>=")
        elif target.kind == "empty array":
            _, *parts = state  # the first is the version of numpy's format
            target.array = _array(*parts)
        else:
            raise _Refused("it changes the state of what is no array")


_CONSTANTS: Final[Mapping[str, Callable[[], Any]]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_LITERALS: Final = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
))  # fmt: skip
_PYTHON_2_STRINGS: Final = frozenset(("STRING", "BINSTRING", "SHORT_BINSTRING"))


def _complete(value: Any) -> Any:
    """Replace an array that BUILD has completed."""
    if isinstance(value, _Name) and value.array is not None:
        return value.array
    return value


def _check_plain(result: object) -> None:
    """Refuse data with names or marks left in it; parts may be shared, and contain themselves."""
    waiting, seen = [result], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, _Name | _Mark):
            raise _Refused("it names what is no plain data by itself")
        if isinstance(value, list | tuple | dict) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _array(shape: Any, dtype: Any, fortran: object, data: Any) -> NDArray[Any]:
    """Make an array over bytes that are all there: no header can ask for memory."""
    if not (isinstance(dtype, _Name) and dtype.dtype) or type(data) is not bytes:
        raise _Refused("an array in it does not hold plain numbers")
    if type(shape) is not tuple or any(type(side) is not int or side < 0 for side in shape):
        raise ValueError(shape)
    made = np.dtype(dtype.dtype)
    if len(data) != math.prod(shape) * made.itemsize:
        raise _Refused(f"an array of shape {shape} has {len(data):,} bytes")
    return np.frombuffer(data, made).reshape(shape, order="F" if fortran else "C")


def load_weights(path: Path) -> dict[str, object]:
    """Read a checkpoint of torch or safetensors, told apart by content, onto the CPU.

    Torch's are read by `torch.load(weights_only=True)`: tensors and plain data alone.

    Returns:
        What the file holds: tensors by name, or an outer mapping such as ``state_dict``.

    Raises:
        DataError: unreadable, neither format, damaged, no mapping, or more than weights.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read ({error.strerror}): {MEND}") from error
    try:
        found = _safetensors(path) if head[8:] == b"{" else _torch(path)
    # Both readers raise many things for damaged bytes (KeyError, EOFError, struct.error …).
    except Exception as error:
        raise DataError(f"{str(path)!r} is not loaded: {_reason(error)}") from error
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise DataError(
            f"{str(path)!r} holds {type(found).__name__}, not weights by name: save "
            "model.state_dict()"
        )
    return dict(found)


def _safetensors(path: Path) -> object:
    import safetensors.torch  # imports torch

    return safetensors.torch.load_file(path)


def _torch(path: Path) -> object:
    import torch  # takes seconds

    with path.open("rb") as file:  # of a path, torch would believe the end of its name
        return torch.load(file, map_location="cpu", weights_only=True)


def _reason(error: Exception) -> str:
    """Say in one line what is wrong; torch's own reasons are many lines."""
    name = re.search(r"GLOBAL ([\w.]+)", str(error))
    if name:
        return f"it names {name[1]!r}, and only weights are read: save model.state_dict() alone"
    return f"it is no whole file of weights of torch or safetensors: {MEND}"


def load_npy(path: Path) -> NDArray[Any]:
    """Memory-map the array of an .npy file, read only.

    Raises:
        DataError: unreadable, damaged, or an array of Python objects.
    """
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read ({error.strerror or error})") from error
    # The header is parsed as Python literals: nearly any error can come of a damaged one.
    except Exception as error:
        raise DataError(f"{str(path)!r} is no whole .npy file of plain numbers: {MEND}") from error
    return array


def load_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of an .npz file by name.

    Raises:
        DataError: unreadable, damaged, larger than the memory, or arrays of Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_fits_memory(path, sum(entry.file_size for entry in archive.infolist()))
        with np.load(path, allow_pickle=False) as arrays:
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise TypeError(type(arrays))
            return {name: arrays[name] for name in arrays.files}
    except DataError:
        raise
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise DataError(f"{str(path)!r} cannot be read ({error.strerror})") from error
    except Exception as error:  # of a damaged archive or header, as in `load_npy`
        raise DataError(f"{str(path)!r} is no whole .npz file of plain arrays: {MEND}") from error


def check_fits_memory(path: Path, size: int) -> None:
    """Refuse to unpack `size` bytes when the machine has less memory.

    Raises:
        DataError: it has less.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory:
        raise DataError(
            f"{str(path)!r} unpacks to {size / 1e9:,.0f} GB, more than this machine's memory: "
            f"{MEND}, or save the pictures as .npy, which is memory-mapped"
        )
