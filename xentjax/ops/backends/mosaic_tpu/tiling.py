"""Tiles of a TPU kernel, chosen before it is compiled by their bytes in VMEM.

The model is an upper bound and a near one: given its bytes as the limit, the compiler (libtpu
0.0.42, v5e) took every kernel tried, given three quarters of them only half.
"""

from typing import NamedTuple

LANES = 128
"""Numbers side by side in a register. A column of n rows takes n x 128 numbers."""
ASKED_VMEM_BYTES = 2**25
"""VMEM limit for kernels that need more than the default: half of the smallest VMEM from v5 on.
Older TPUs have 16 MiB, and their compiler refuses."""
# Half of the 16 MiB that the compiler grants a kernel on every TPU by default.
_VMEM_BYTES = 2**23
# Larger tiles would not hide their transfer any better.
_MOST_ROWS, _MOST_CLASSES = 1024, 2048


class Footprint(NamedTuple):
    """Memory that a kernel needs for its tiles, by their size."""

    bytes_read: int
    """Bytes of all arrays with an entry for each logit, per logit."""
    temporaries: int
    """Number of float32 arrays of the tile's shape that are alive at once."""
    columns: int
    """Number of 32-bit numbers kept for each row."""

    def vmem_bytes(self, rows: int, classes: int) -> int:
        """Return the bytes of one tile and of the inputs of the next, which are read meanwhile."""
        per_logit = 2 * self.bytes_read + 4 * self.temporaries
        return rows * (classes * per_logit + LANES * 4 * self.columns)


def tile_shape(shape: tuple[int, int], footprint: Footprint) -> tuple[int, int]:
    """Return the rows and classes of a tile: as many classes as possible, then as many rows.

    Both are multiples of 128: classes lie along the lanes, and so do the results of the rows when a
    kernel writes them.
    """
    n, k = (-(-size // LANES) * LANES for size in shape)
    for classes in range(min(k, _MOST_CLASSES), 0, -LANES):
        for rows in range(min(n, _MOST_ROWS), 0, -LANES):
            if footprint.vmem_bytes(rows, classes) <= _VMEM_BYTES:
                return rows, classes
    raise NotImplementedError(
        f"logits: expected tiles of {LANES} x {LANES} in {_VMEM_BYTES} bytes, got {footprint}"
    )
