"""The sums of exponentials of a set's similarities with itself, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, final

import torch
from torch import Tensor

# Fixed numbers, so that machines of a kind add in one order. On idle cores 512 is a few percent
# faster than 1024, but torch's threads wait for each other after every operation on a tile: beside
# busy cores, as when a loader's threads augment, fewer tiles mean less waiting. A GPU needs larger
# ones to be busy.
CPU_TILE = 1024
GPU_TILE = 4096


class Pattern(NamedTuple):
    """Which similarities of a matrix are positives, and which are no candidates: its diagonals.

    Attributes:
        positives: offsets of the diagonals that together hold each row's one positive.
        excluded: offsets of the diagonals left out of each row's sum.
    """

    positives: tuple[int, ...]
    excluded: tuple[int, ...]


def diagonals(
    block: Tensor, row: int, column: int, offsets: tuple[int, ...]
) -> Iterator[tuple[slice, Tensor]]:
    """Yield parts of a matrix's diagonals that are in a block, writable, and the rows they are in.

    Args:
        block: part of the matrix, (R, C).
        row: where the block begins.
        column: where the block begins.
        offsets: of the matrix's diagonals, columns less rows.
    """
    for offset in offsets:
        inside = offset + row - column
        if -len(block) < inside < block.shape[1]:
            part = block.diagonal(inside)
            first = row + max(0, -inside)
            yield slice(first, first + len(part)), part


def cross_entropy_in_tiles(
    z: Tensor, pattern: Pattern, *, with_gradient: bool, tile: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return each row's log2 of its summed exponentials less its positive, and the sum's gradient.

    With e_ij = 2^(z_i·z_j) and s_i the sum of e_ij over the candidates j of i, row i's entropy is
    log2 s_i - z_i·z_positive, and the gradient of all rows' sum at z_k is
    Σ_j (e_kj (1/s_k + 1/s_j) - 2 [j is k's positive]) z_j. As e is symmetric, only tiles above or
    on the diagonal are made, once for s and once more for the gradient: 4 M² D operations and
    O(M·D) memory. No maximum is subtracted, so |z_i·z_j| must stay below 60.

    Args:
        z: (M, D), float32 or float64.
        pattern: symmetric, of the (M, M) similarities.
        with_gradient: whether to compute it.
        tile: side of the tiles; by default fixed for each kind of device.

    Returns:
        (M,), and (M, D) or None.
    """
    made = _Tiles(z, pattern, tile or (CPU_TILE if z.device.type == "cpu" else GPU_TILE))
    sums, positives = z.new_zeros(len(z)), z.new_empty(len(z))
    corners = made.corners()
    for row, column in corners:
        e = made.exponentials(row, column, positives)
        sums[row : row + len(e)] += e.sum(dim=1)
        if row != column:
            sums[column : column + e.shape[1]] += e.sum(dim=0)
    entropies = sums.log2() - positives
    return entropies, made.gradient(corners, sums.reciprocal_()) if with_gradient else None


@final
class _Tiles:
    """Tiles of a symmetric matrix's upper half, each overwriting the one before."""

    def __init__(self, z: Tensor, pattern: Pattern, tile: int) -> None:
        self.z = z
        self.pattern = pattern
        self.tile = min(tile, len(z))
        self.memory = self.last = z.new_empty(self.tile**2)

    def corners(self) -> list[tuple[int, int]]:
        """Return where the tiles begin, row and column."""
        starts = range(0, len(self.z), self.tile)
        return [(row, column) for row in starts for column in starts if row <= column]

    def exponentials(self, row: int, column: int, positives: Tensor | None = None) -> Tensor:
        """Return a tile of 2^(z·z), 0 where excluded; fill in its positives' z·z, (M,)."""
        z0, z1 = self.z[row : row + self.tile], self.z[column : column + self.tile]
        e = self.memory[: len(z0) * len(z1)].view(len(z0), len(z1))
        torch.mm(z0, z1.T, out=e)
        if positives is not None:
            for rows, part in diagonals(e, row, column, self.pattern.positives):
                positives[rows] = part
            if row != column:
                for rows, part in diagonals(e.T, column, row, self.pattern.positives):
                    positives[rows] = part
        e.exp2_()
        for _, part in diagonals(e, row, column, self.pattern.excluded):
            part.zero_()
        self.last = e
        return e

    def gradient(self, corners: list[tuple[int, int]], inverse: Tensor) -> Tensor:
        """Return the gradient, given 1 / s, (M,); the last tile made is made no second time."""
        total = torch.zeros_like(self.z)
        second_memory = torch.empty_like(self.memory)
        for number, (row, column) in enumerate(reversed(corners)):
            e = self.exponentials(row, column) if number else self.last
            rows, columns = slice(row, row + len(e)), slice(column, column + e.shape[1])
            weights = second_memory[: e.numel()].view_as(e)
            torch.add(inverse[rows, None], inverse[columns], out=weights)
            e.mul_(weights)
            for _, part in diagonals(e, row, column, self.pattern.positives):
                part.sub_(2)
            total[rows].addmm_(e, self.z[columns])
            if row != column:
                total[columns].addmm_(e.T, self.z[rows])
        return total
