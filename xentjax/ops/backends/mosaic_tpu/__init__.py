"""Pallas kernels for TPUs."""

from xentjax.ops.backends.interface import Backend
from xentjax.ops.backends.mosaic_tpu.linear import linear_statistics
from xentjax.ops.backends.mosaic_tpu.linear_gradients import layer_gradients
from xentjax.ops.backends.mosaic_tpu.logits import row_statistics
from xentjax.ops.backends.mosaic_tpu.softmax import normalized

BACKEND = Backend(
    row_statistics=row_statistics,
    linear_statistics=linear_statistics,
    layer_gradients=layer_gradients,
    softmax=normalized,
)
