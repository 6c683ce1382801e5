"""Names from the user's file in figures: short lines that do not overlap."""

import textwrap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from experiments.common import plots
from experiments.survey.tables import name


def wrapped(text: str, width: int = 24, lines: int = 2) -> str:
    """Break a name into a few lines, and cut it with an ellipsis if it is longer."""
    parts = textwrap.wrap(plots.legible(name(text)), width)
    if len(parts) > lines:
        parts[lines - 1] = f"{parts[lines - 1][: width - 1].rstrip()}…"
    return "\n".join(parts[:lines])


def spread(places: Sequence[float], gap: float, low: float, high: float) -> NDArray[np.floating]:
    """Move ascending places apart as little as possible, so that neighbours keep a distance.

    Args:
        places: in ascending order.
        gap: distance to keep; it is reduced if there is no room for it.
        low, high: where the places have to stay.
    """
    number = len(places)
    gap = min(gap, (high - low) / max(number - 1, 1))
    # With the gaps subtracted, the places only have to ascend: isotonic regression, by pooling.
    pools: list[tuple[float, int]] = []
    for index, place in enumerate(places):
        total, size = place - index * gap, 1
        while pools and pools[-1][0] / pools[-1][1] >= total / size:
            before, count = pools.pop()
            total, size = total + before, size + count
        pools.append((total, size))
    shrunk = np.repeat(
        np.array([total / size for total, size in pools]), [size for _, size in pools]
    )
    return np.clip(shrunk, low, high - (number - 1) * gap) + gap * np.arange(number)
