"""Two loops that compilers do not find by themselves, written as vectors for any machine.

LLVM turns them into the machine's own instructions (on x86 `punpcklbw`, `pmaddwd`, ...).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types

from looktwice.augment.compiling import cgutils, inlined, intrinsic

Bytes = npt.NDArray[np.uint8]
Shorts = npt.NDArray[np.int16]

TILE: Final = 16
"""Side of the squares that `transpose` works on, in bytes."""

SPAN: Final = 32
"""Bytes that `blend` writes at once: it may write and read so many less one beyond an end."""

_byte: Final = ir.IntType(8)
_long: Final = ir.IntType(64)
_row: Final = ir.VectorType(_byte, TILE)


def _start(context: Any, builder: Any, kind: Any, array: Any, offset: Any) -> Any:
    """Return a pointer to an element of an array, counted as if it were flat."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [offset])


def _load(builder: Any, pointer: Any, offset: Any, kind: Any) -> Any:
    return builder.load(builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer()), align=1)


def _store(builder: Any, value: Any, pointer: Any, offset: Any) -> None:
    place = builder.bitcast(builder.gep(pointer, [offset]), value.type.as_pointer())
    builder.store(value, place, align=1)


def _shuffled(builder: Any, a: Any, b: Any, order: list[int]) -> Any:
    return builder.shuffle_vector(
        a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
    )


@intrinsic
def _transpose_tile(
    _typing: Any,
    source: Any,
    begin: Any,
    pitch: Any,
    last: Any,
    target: Any,
    to: Any,
    to_pitch: Any,
) -> Any:
    """Transpose 16 x 16 bytes; source rows beyond `last` are read as that row."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        origin = _start(context, builder, signature.args[0], given[0], given[1])
        place = _start(context, builder, signature.args[4], given[4], given[5])
        rows = []
        for i in range(TILE):
            number = ir.Constant(_long, i)
            beyond = builder.icmp_signed(">", number, given[3])
            number = builder.select(beyond, given[3], number)
            rows.append(_load(builder, origin, builder.mul(number, given[2]), _row))
        half = TILE // 2
        low = [n for i in range(half) for n in (i, TILE + i)]
        high = [n + half for n in low]
        for _ in range(4):  # log2(16) perfect shuffles of rows and of the bytes in them
            rows = [
                _shuffled(builder, rows[i], rows[i + half], order)
                for i in range(half)
                for order in (low, high)
            ]
        for i, row in enumerate(rows):
            _store(builder, row, place, builder.mul(ir.Constant(_long, i), given[6]))
        return context.get_dummy_value()

    return types.void(source, begin, pitch, last, target, to, to_pitch), generate


@inlined
def transpose(
    source: Bytes,
    begin: int,
    pitch: int,
    rows: int,
    columns: int,
    target: Bytes,
    to: int,
    to_pitch: int,
    padded: bool,
) -> None:
    """Write `target[to + j to_pitch + i] = source[begin + i pitch + j]`, both counted as flat.

    Args:
        source: read for i < rows, j < columns; if not `padded`, for j up to a multiple of 16.
        begin: first byte.
        pitch: bytes from row to row of the source.
        rows: their number; not `padded` needs 16.
        columns: their number; `padded` needs 16.
        target: what is written. If `padded`, i runs on to a multiple of 16, else j does.
        to: first byte.
        to_pitch: bytes from row to row of the target.
        padded: see above.
    """
    for i in range(0, rows, TILE):
        if not padded:
            i = min(i, rows - TILE)
        for j in range(0, columns, TILE):
            if padded:
                j = min(j, columns - TILE)
            _transpose_tile(
                source, begin + i * pitch + j, pitch, rows - 1 - i, target, to + j * to_pitch + i,
                to_pitch,
            )  # fmt: skip


@intrinsic
def _blend_span(
    _typing: Any, source: Any, begin: Any, pitch: Any, weights: Any, first: Any, pairs: Any,
    bits: Any, target: Any, to: Any,
) -> Any:  # fmt: skip
    """Write 32 bytes: rows of the source times their weights, in pairs of rows."""
    quarter = ir.VectorType(ir.IntType(32), 8)
    parts = SPAN // 8
    wide = ir.VectorType(_byte, SPAN)

    def splat(builder: Any, value: Any, kind: Any) -> Any:
        single = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
        return _shuffled(builder, single, single, [0] * kind.count)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        origin = _start(context, builder, signature.args[0], given[0], given[1])
        weight = _start(context, builder, signature.args[3], given[3], given[4])
        place = _start(context, builder, signature.args[7], given[7], given[8])
        bits = builder.trunc(given[6], ir.IntType(32))
        one = ir.Constant(ir.IntType(32), 1)
        half = splat(builder, builder.shl(one, builder.sub(bits, one)), quarter)
        sums = [cgutils.alloca_once_value(builder, half) for _ in range(parts)]
        for total in sums:
            builder.store(half, total)
        two = ir.Constant(_long, 2)
        with cgutils.for_range(builder, given[5], intp=_long) as loop:
            number = builder.mul(loop.index, two)
            even = _load(builder, origin, builder.mul(number, given[2]), wide)
            following = builder.add(number, ir.Constant(_long, 1))
            odd = _load(builder, origin, builder.mul(following, given[2]), wide)
            both = ir.VectorType(ir.IntType(16), 2)
            pointer = builder.bitcast(builder.gep(weight, [number]), both.as_pointer())
            pair = builder.load(pointer, align=2)
            factors = builder.sext(
                _shuffled(builder, pair, pair, [0, 1] * 8), ir.VectorType(ir.IntType(32), 16)
            )
            for part, total in enumerate(sums):
                order = [n for i in range(8) for n in (8 * part + i, SPAN + 8 * part + i)]
                mixed = _shuffled(builder, even, odd, order)
                products = builder.mul(
                    builder.zext(mixed, ir.VectorType(ir.IntType(32), 16)), factors
                )
                added = builder.add(
                    _shuffled(builder, products, products, list(range(0, 16, 2))),
                    _shuffled(builder, products, products, list(range(1, 16, 2))),
                )
                builder.store(builder.add(builder.load(total), added), total)
        shift = splat(builder, bits, quarter)
        zero, top = (ir.Constant(quarter, [value] * 8) for value in (0, 255))
        results = []
        for total in sums:
            level = builder.ashr(builder.load(total), shift)
            level = builder.select(builder.icmp_signed("<", level, zero), zero, level)
            level = builder.select(builder.icmp_signed(">", level, top), top, level)
            results.append(builder.trunc(level, ir.VectorType(_byte, 8)))
        halves = [_shuffled(builder, results[i], results[i + 1], list(range(16))) for i in (0, 2)]
        _store(
            builder,
            _shuffled(builder, halves[0], halves[1], list(range(SPAN))),
            place,
            ir.Constant(_long, 0),
        )
        return context.get_dummy_value()

    kinds = (source, begin, pitch, weights, first, pairs, bits, target, to)
    return types.void(*kinds), generate


@inlined
def blend(
    source: Bytes,
    begin: int,
    pitch: int,
    weights: Shorts,
    first: int,
    pairs: int,
    bits: int,
    target: Bytes,
    to: int,
    width: int,
) -> None:
    """Write `target[to + x]` = the weighted sum of rows of bytes, for x < width.

    The sum of 2 `pairs` rows, from `source[begin + x]` on and `pitch` apart, times
    `weights[first ...]`, is divided by 2^`bits`, rounded half up and clamped to 0-255. Up to
    `SPAN` - 1 bytes beyond the ends are read and written too, and a row of weight 0 is read.
    """
    for x in range(0, width, SPAN):
        _blend_span(source, begin + x, pitch, weights, first, pairs, bits, target, to + x)
