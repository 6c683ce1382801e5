"""Softmax and log_softmax by a Pallas kernel for TPUs, which reads and writes each row once."""

import math
from functools import partial
from typing import Any

import jax
import jax.custom_batching
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from xentjax.ops.backends.contexts import interpret_for_tpu
from xentjax.ops.backends.mosaic_tpu.operands import as_2d_float, logits_for_tpu
from xentjax.ops.backends.mosaic_tpu.tiling import ASKED_VMEM_BYTES, LANES
from xentjax.ops.backends.pallas import finite

_MOST_ROWS = 512
# Smallest number of rows that fills a register of any dtype.
_SUBLANES = 16
# Float32 arrays of a block's shape that are alive at once: logits, exponentials, results.
_TEMPORARIES = 3


def normalized(logits: Float[Array, "*rows k"], log: bool) -> Float[Array, "*rows k"]:
    """Compute log-softmax or softmax of each row in its dtype, without a derivative."""

    @jax.custom_batching.custom_vmap
    def batchable(a: Float[Array, "*rows k"]) -> Float[Array, "*rows k"]:
        flat = as_2d_float(a, (math.prod(a.shape[:-1]), a.shape[-1]))
        return _normalized(flat, log).astype(a.dtype).reshape(a.shape)

    @batchable.def_vmap
    def _(axis_size: int, in_batched: list[bool], a: Array) -> tuple[Array, bool]:
        """Treat the batch as more rows."""
        del axis_size, in_batched
        return batchable(a), True

    return batchable(logits_for_tpu(logits))


def _normalized(a: Float[Array, "n k"], log: bool) -> Float[Array, "n k"]:
    """Run the kernel on blocks of whole rows.

    In VMEM, for a block of r rows: the logits and the result, r x k in their dtype, twice each (a
    block is computed while its neighbours are on their way), and `_TEMPORARIES` float32 arrays of
    r x k, which the compiler makes.
    """
    n, k = a.shape
    if n == 0:
        return a
    rows = _block_rows(n, k, a.dtype.itemsize)
    block = pl.BlockSpec((rows, k), lambda i: (i, 0))
    return pl.pallas_call(
        partial(_kernel, log=log),
        grid=(pl.cdiv(n, rows),),
        in_specs=[block],
        out_specs=block,
        out_shape=jax.eval_shape(lambda a: a, a),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",), vmem_limit_bytes=ASKED_VMEM_BYTES
        ),
        # XLA cannot see inside the kernel; it schedules by this estimate.
        cost_estimate=pl.CostEstimate(
            flops=5 * n * k, transcendentals=n * k, bytes_accessed=2 * n * k * a.dtype.itemsize
        ),
        interpret=interpret_for_tpu.value,
        name="log_softmax" if log else "softmax",
    )(a)


def _block_rows(n: int, k: int, itemsize: int) -> int:
    """Return the largest number of rows of k logits that fits in VMEM."""
    row = -(-k // LANES) * LANES * (4 * itemsize + 4 * _TEMPORARIES)
    rows = min(ASKED_VMEM_BYTES // row, _MOST_ROWS, n + _SUBLANES - 1) // _SUBLANES * _SUBLANES
    if rows == 0:
        raise NotImplementedError(
            f"logits: expected rows of at most {ASKED_VMEM_BYTES // _SUBLANES} bytes in VMEM for "
            f"'mosaic_tpu', got {row} for {k} classes"
        )
    return rows


def _kernel(logits: Any, result: Any, *, log: bool) -> None:
    """Normalise one block of rows."""
    a = logits[...].astype(jnp.float32)
    z = a - finite(jnp.max(a, 1, keepdims=True))
    exp_z = jnp.exp(z)
    sum_exp = jnp.sum(exp_z, 1, keepdims=True)
    normal = z - jnp.log(sum_exp) if log else exp_z / sum_exp
    result[...] = normal.astype(result.dtype)
