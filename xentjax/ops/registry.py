"""The back-ends by name. All but XLA's are imported when first asked for, and Pallas with them."""

from typing import Literal, get_args

from xentjax._core.checks import raise_value_error
from xentjax.ops.backends import xla
from xentjax.ops.backends.interface import Backend

Implementation = Literal["xla", "reference", "mosaic_tpu", "mosaic_gpu"]


def backend(implementation: str | None) -> Backend:
    """Return the back-end of that name; None is "xla".

    A kernel becomes the default of a device once it has been measured there as the faster one,
    which no kernel has been yet.
    """
    match implementation:
        case None | "xla":
            return xla.BACKEND
        case "reference":
            from xentjax.ops.backends.reference import BACKEND
        case "mosaic_tpu":
            from xentjax.ops.backends.mosaic_tpu import BACKEND
        case "mosaic_gpu":
            from xentjax.ops.backends.mosaic_gpu import BACKEND
        case _:
            raise_value_error(
                "implementation", f"one of {get_args(Implementation)}", implementation
            )
    return BACKEND
