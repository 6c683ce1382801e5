"""Units of information: the base of the logarithm, by number or by name."""

import math
from numbers import Real
from typing import SupportsFloat, TypeAlias

from jaxtyping import Array, Float

from xentjax._core.checks import raise_value_error
from xentjax._core.choices import Unit

Base: TypeAlias = SupportsFloat | Unit | None
"""None or "nats", 2 or "bits", 10 or "hartleys", or any other positive real except 1."""

_NAMED = {"nats": math.e, "bits": 2.0, "hartleys": 10.0}


def nats_per_unit(base: Base) -> float:
    """Return the size in nats of the unit that belongs to a base: `log(base)`.

    Args:
        base: None or "nats" (the unit is 1 nat), 2 or "bits" (0.693 nats), 10 or "hartleys" (2.303
            nats), or any other positive real except 1.

    Raises:
        ValueError: for anything else, a boolean and NaN included.

    Example:
        >>> nats_per_unit("bits") == nats_per_unit(2) == math.log(2)
        True
        >>> nats_per_unit(None)
        1.0
    """
    if base is None:
        return 1.0
    if isinstance(base, str) and base in _NAMED:
        base = _NAMED[base]
    valid = isinstance(base, Real) and not isinstance(base, bool)
    if not (valid and 0 < float(base) < math.inf and float(base) != 1):
        expected = "None, 'nats', 'bits', 'hartleys' or a positive real number except 1"
        raise_value_error("base", expected, repr(base))
    return math.log(float(base))


def in_units(nats: Float[Array, "*s"], base: Base) -> Float[Array, "*s"]:
    """Convert an amount of information from nats to the unit of `base`."""
    return in_units_of(nats, nats_per_unit(base))


def in_units_of(nats: Float[Array, "*s"], unit: float) -> Float[Array, "*s"]:
    """Convert an amount of information from nats to a unit of `unit` nats."""
    return nats if unit == 1 else nats / unit
