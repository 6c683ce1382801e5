"""The tiles a GPU kernel goes through, chosen before it is compiled by what the hardware takes.

A tile comes into shared memory by copies of the tensor memory accelerator (TMA): boxes of at most
256 x 256 numbers out of a matrix whose rows begin 16 bytes apart or a multiple of it. Logits whose
K classes take another number of bytes are seen as a matrix of fewer, longer rows: `phases` rows
one after the other are one, and the box of a phase begins at its column. No number is moved.
"""

import math
from typing import NamedTuple

_ALIGNMENT = 16
"""Bytes between the rows of a matrix that the TMA reads, and those that a lane reads at once."""
_LANES = 128
"""Threads of a warpgroup, which owns a tile."""
_BOX = 256
_FEWEST_ROWS = 8
"""Minimum rows of a tile: eight float32 fill one 32-byte sector."""
_NUMBERS = 2**12
"""Logits of a tile, 32 a lane: what is computed from them lives in registers, 255 a lane."""
_STAGES = 4
"""Most tiles in shared memory: one is read while the others are on their way."""
_BLOCKS = 4 * 132
"""The fewest that fill an H100 of 132 multiprocessors; rows are split over blocks to get there."""
_SMEM_BYTES = 227 * 2**10 // 4
"""Shared memory of a block: four blocks share a multiprocessor's."""


class Plan(NamedTuple):
    """The order in which a kernel reads logits of N rows and K classes."""

    phases: int
    """Rows of logits in one row of the matrix that is read."""
    lanes: int
    """Lanes side by side in a row; each has `vector` numbers of it, neighbours."""
    vector: int
    copies: int
    """Boxes of a tile, side by side."""
    rows: int
    """Rows of a tile, of one phase."""
    row_blocks: int
    """Blocks of rows of each phase."""
    splits: int
    """Parts of each row, in as many blocks."""
    tiles: int
    """Tiles of a part, one after the other."""
    stages: int

    @property
    def columns(self) -> int:
        """Columns of a box."""
        return self.lanes * self.vector

    @property
    def classes(self) -> int:
        """Classes of a tile."""
        return self.columns * self.copies


def plan(shape: tuple[int, int], itemsize: int) -> Plan:
    """The plan for logits of that shape, of numbers of so many bytes."""
    n, k = shape
    phases = _ALIGNMENT // math.gcd(_ALIGNMENT, k * itemsize)
    if phases * k > 2**30:  # a column, with what tiles overshoot, has 32 bits
        raise NotImplementedError(
            f"logits: expected rows of at most {2**30 // phases} classes for 'mosaic_gpu', got {k}"
        )
    vector = _ALIGNMENT // itemsize
    # As few lanes side by side as short rows need: the others take further rows.
    lanes = min(32, max(4, 2 ** math.ceil(math.log2(max(1, k / vector)))))
    columns = lanes * vector
    copies = min(-(-k // columns), _NUMBERS // (_FEWEST_ROWS * columns))
    together = max(_FEWEST_ROWS, _LANES // lanes)
    in_phase = -(-n // phases)
    rows = min(_BOX, _NUMBERS // (columns * copies), -(-in_phase // together) * together)
    rows = max(together, rows // together * together)
    row_blocks = -(-in_phase // rows)
    all_tiles = -(-k // (columns * copies))
    splits = min(all_tiles, max(1, _BLOCKS // (row_blocks * phases)))
    tiles = -(-all_tiles // splits)
    splits = -(-all_tiles // tiles)  # none without a class
    return Plan(
        phases=phases,
        lanes=lanes,
        vector=vector,
        copies=copies,
        rows=rows,
        row_blocks=row_blocks,
        splits=splits,
        tiles=tiles,
        stages=min(_STAGES, tiles, _SMEM_BYTES // (rows * columns * copies * itemsize)),
    )
