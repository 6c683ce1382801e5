"""Back-ends by name. All except XLA's, and Pallas with them, are imported on first use."""

from typing import Literal, get_args

from xentjax._core.checks import raise_value_error
from xentjax.ops.backends import xla
from xentjax.ops.backends.interface import Backend

Implementation = Literal["xla", "reference", "mosaic_tpu", "mosaic_gpu"]


def backend(implementation: str | None) -> Backend:
    """Return the back-end of that name; None is "xla".

    A kernel becomes a device's default once measurements there show that it is faster; none has
    yet.
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
