"""Tiles of a GPU kernel, chosen before it is compiled to suit the hardware.

A tile comes into shared memory by copies of the tensor memory accelerator (TMA): boxes of at most
256 x 256 numbers out of a matrix whose rows begin 16 bytes apart or a multiple of it. Logits whose
K classes take another number of bytes are seen as a matrix of fewer, longer rows: `phases` rows
one after the other are one, and the box of a phase begins at its column. No number is moved.
"""

import math
from typing import NamedTuple

_ALIGNMENT = 16
"""Alignment in bytes of a matrix's rows for the TMA; also the bytes that a lane reads at once."""
_LANES = 128
"""Number of threads of a warpgroup, which owns a tile."""
_BOX = 256
_FEWEST_ROWS = 8
"""Smallest number of rows of a tile: eight float32 fill one 32-byte sector."""
_NUMBERS = 2**12
"""Logits of a tile, 32 a lane: what is computed from them lives in registers, 255 a lane."""
_STAGES = 4
"""Largest number of tiles in shared memory: one is read while the others are fetched."""
_BLOCKS = 4 * 132
"""Smallest number that fills an H100 of 132 multiprocessors; rows are split to reach it."""
_SMEM_BYTES = 227 * 2**10 // 4
"""Shared memory of a block; four blocks share that of a multiprocessor."""


class Plan(NamedTuple):
    """Order in which a kernel reads logits of N rows and K classes."""

    phases: int
    """Rows of logits in one row of the matrix that is read."""
    lanes: int
    """Number of lanes side by side in a row; each has `vector` neighbouring numbers."""
    vector: int
    copies: int
    """Boxes of a tile, side by side."""
    rows: int
    """Rows of a tile, of one phase."""
    row_blocks: int
    """Blocks of rows of each phase."""
    splits: int
    """Number of parts of each row; each is in a block of its own."""
    tiles: int
    """Number of tiles of a part, which are read one after the other."""
    stages: int

    @property
    def columns(self) -> int:
        """Number of columns of a box."""
        return self.lanes * self.vector

    @property
    def classes(self) -> int:
        """Number of classes of a tile."""
        return self.columns * self.copies


def plan(shape: tuple[int, int], itemsize: int) -> Plan:
    """Return the plan for logits of that shape, of `itemsize` bytes each."""
    n, k = shape
    phases = _ALIGNMENT // math.gcd(_ALIGNMENT, k * itemsize)
    if phases * k > 2**30:  # a column, with what tiles overshoot, has 32 bits
        raise NotImplementedError(
            f"logits: expected rows of at most {2**30 // phases} classes for 'mosaic_gpu', got {k}"
        )
    vector = _ALIGNMENT // itemsize
    # Short rows get only the lanes that they need; the other lanes take further rows.
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
    splits = -(-all_tiles // tiles)  # no part without a class
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
