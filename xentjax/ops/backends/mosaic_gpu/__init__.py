"""Pallas kernels, by Mosaic, for GPUs of the Hopper generation and later."""

from xentjax.ops.backends.interface import Backend
from xentjax.ops.backends.mosaic_gpu.linear import linear_statistics
from xentjax.ops.backends.mosaic_gpu.logits import row_statistics

BACKEND = Backend(row_statistics=row_statistics, linear_statistics=linear_statistics)
