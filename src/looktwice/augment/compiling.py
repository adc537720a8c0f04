"""How this package's kernels are compiled: without the GIL, cached where a cache can be kept."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, final

import numba
from llvmlite import ir
from numba import extending, types
from numba.core import cgutils as _cgutils
from numba.core import imputils
from numba.np import arrayobj

# Numba's own annotations describe only parts of it.
_njit: Final[Any] = numba.njit
_arrays: Final[Any] = arrayobj
intrinsic: Final[Any] = extending.intrinsic
cgutils: Final[Any] = _cgutils
borrowed: Final[Any] = imputils.impl_ret_borrowed

# What kernels call. Without the wrappers for calls from Python it compiles faster.
inlined: Final[Callable[..., Any]] = _njit(
    nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True
)

_KERNEL: Final = types.void(
    types.uint8[:, :, ::1], types.float64[::1], types.float64[::1], types.uint8[::1]
)


@functools.cache
def sources_digest() -> str:
    """Return a short digest of this package's sources."""
    folder = Path(__file__).parent
    sources = sorted([*folder.glob("*.py"), *folder.glob("operations/*.py")])
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]


def _cached(compiler: Callable[..., Any], function: Callable[..., None]) -> Any:
    """Compile with a cache on disk.

    Numba's cache notices a change of the function's own file only, not of what it calls
    elsewhere; the name of the cache file therefore carries a digest of the package's sources.
    """
    function.__qualname__ = f"{function.__qualname__}_{sources_digest()}"
    try:
        return compiler(cache=True)(function)
    except (RuntimeError, OSError):  # no folder to cache in: neither __pycache__ nor the user's
        return compiler(cache=False)(function)


def entry(function: Callable[..., None]) -> Any:
    """Compile what Python calls, when it is first called."""
    return _cached(functools.partial(_njit, nogil=True, error_model="numpy"), function)


_COMPILING: Final = threading.RLock()
"""Two threads shall not compile a kernel twice, nor one while another asks for what it calls."""


@final
class Kernel:
    """A function that kernels reach by its address; compiled when that is first asked for.

    What it calls is compiled with it alone: LLVM optimises the body of an ordinary callee again
    in each of its callers, and theirs.
    """

    def __init__(self, function: Callable[..., None], signature: Any) -> None:
        self._function, self._signature = function, signature

    @property
    def address(self) -> int:
        """Where the compiled function begins, for `call`."""
        with _COMPILING:
            return self._address

    @functools.cached_property
    def _address(self) -> int:
        compiler = functools.partial(numba.cfunc, self._signature, error_model="numpy")
        self._compiled = _cached(compiler, self._function)
        return int(self._compiled.address)


def separate(signature: Any) -> Callable[[Callable[..., None]], Kernel]:
    """Compile a function of a Numba signature on its own, to be reached by its address."""
    return lambda function: Kernel(function, signature)


def kernel(function: Callable[..., None]) -> Kernel:
    """Declare a function (planes, drawn, constants, room) -> None as an operation's kernel.

    It is compiled by Numba in nopython mode, may call what Numba compiles, and changes `planes`
    in place. The compiled code is kept on disk: Numba notices when the function's own file changes,
    and not when another file does whose functions or constants it uses; keep these in one file, or
    remove ``__pycache__``.

    - planes: uint8 (C, S, S), C 1 or 3: the view.
    - drawn: float64, the numbers drawn for it in the order of `Operation.draws`.
    - constants: float64, what `Operation.constants` returned.
    - room: uint8, scratch of at least `Operation.room` bytes, aligned to 64; not cleared.
    """
    return Kernel(function, _KERNEL)


@intrinsic
def call(_typing: Any, address: Any, arguments: Any) -> Any:
    """Call the kernel at an address with a tuple of arguments, of exactly its signature's types."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds = [context.get_value_type(kind) for kind in signature.args[1]]
        function = ir.FunctionType(context.get_value_type(types.void), kinds)
        values = [builder.extract_value(given[1], i) for i in range(len(kinds))]
        builder.call(builder.inttoptr(given[0], function.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(address, arguments), generate


@intrinsic
def pointer(_typing: Any, address: Any) -> Any:
    """Turn an address into what `numba.carray` takes, so that pictures in a list are not copied."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(address), generate


def _view(context: Any, builder: Any, kind: Any, data: Any, shape: list[Any], owner: Any) -> Any:
    """Return a contiguous array of Numba's type `kind` over memory that another array owns."""
    number = context.get_data_type(kind.dtype)
    size = context.get_constant(types.intp, context.get_abi_sizeof(number))
    strides = [size]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(length, strides[0]))
    result = context.make_array(kind)(context, builder)
    _arrays.populate_array(
        result,
        data=builder.bitcast(data, number.as_pointer()),
        shape=shape,
        strides=strides,
        itemsize=size,
        meminfo=owner,
    )
    return borrowed(context, builder, kind, result._getvalue())


@intrinsic
def flat(_typing: Any, planes: Any) -> Any:
    """View planes (C, S, S) as (C, S * S): what `reshape` does, compiled in a tenth of the time."""
    kind = types.Array(planes.dtype, 2, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given = context.make_array(signature.args[0])(context, builder, arguments[0])
        channels, height, width = cgutils.unpack_tuple(builder, given.shape, 3)
        shape = [channels, builder.mul(height, width)]
        return _view(context, builder, kind, given.data, shape, given.meminfo)

    return kind(planes), generate


@intrinsic
def carve(_typing: Any, array: Any, _begin: Any, _count: Any, number: Any) -> Any:
    """View so many numbers of a NumPy type, from a byte of a contiguous array on.

    It is what slicing, `view` and `reshape` do, compiled in a tenth of the time and unchecked.
    """
    kind = types.Array(number.dtype, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given = context.make_array(signature.args[0])(context, builder, arguments[0])
        data = builder.bitcast(given.data, ir.IntType(8).as_pointer())
        data = builder.gep(data, [arguments[1]])
        return _view(context, builder, kind, data, [arguments[2]], given.meminfo)

    return kind(array, types.intp, types.intp, number), generate
