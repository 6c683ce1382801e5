"""softmax and log_softmax by a Pallas kernel for TPUs: a row is on the chip as a whole, read once
and written once.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.custom_batching
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from xentjax.ops.mosaic_tpu import as_2d_float, interpret, logits_for_tpu
from xentjax.ops.mosaic_tpu_blocks import ASKED_VMEM_BYTES, LANES

_MOST_ROWS = 512
# The fewest rows that fill a register of any dtype.
_SUBLANES = 16
# Float32 arrays of a block's shape alive at once: logits, exponentials, results.
_TEMPORARIES = 3


def normalized(logits: Float[Array, "*rows k"], log: bool) -> Float[Array, "*rows k"]:
    """log softmax, or softmax, of each row in its dtype. It has no derivative."""

    @jax.custom_batching.custom_vmap
    def of_rows(a: Float[Array, "*rows k"]) -> Float[Array, "*rows k"]:
        flat = as_2d_float(a, (math.prod(a.shape[:-1]), a.shape[-1]))
        return _of_rows(flat, log).astype(a.dtype).reshape(a.shape)

    @of_rows.def_vmap
    def _(axis_size: int, in_batched: list[bool], a: Array) -> tuple[Array, bool]:
        """A batch of rows is more rows."""
        del axis_size, in_batched
        return of_rows(a), True

    return of_rows(logits_for_tpu(logits))


def _of_rows(a: Float[Array, "n k"], log: bool) -> Float[Array, "n k"]:
    n, k = a.shape
    if n == 0:
        return a
    rows = _rows_of_block(n, k, a.dtype.itemsize)
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
        # The compiler sees into no kernel: it plans what to do meanwhile by this.
        cost_estimate=pl.CostEstimate(
            flops=5 * n * k, transcendentals=n * k, bytes_accessed=2 * n * k * a.dtype.itemsize
        ),
        interpret=interpret.value,
        name="log_softmax" if log else "softmax",
    )(a)


def _rows_of_block(n: int, k: int, itemsize: int) -> int:
    # Read and written twice: while one block is computed, its neighbours are on their way.
    row = -(-k // LANES) * LANES * (4 * itemsize + 4 * _TEMPORARIES)
    rows = min(ASKED_VMEM_BYTES // row, _MOST_ROWS, n + _SUBLANES - 1) // _SUBLANES * _SUBLANES
    if rows == 0:
        raise NotImplementedError(
            f"logits: expected rows of at most {ASKED_VMEM_BYTES // _SUBLANES} bytes in VMEM for "
            f"'mosaic_tpu', got {row} for {k} classes"
        )
    return rows


def _kernel(logits: Any, result: Any, *, log: bool) -> None:
    a = logits[...].astype(jnp.float32)
    top = jnp.max(a, 1, keepdims=True)
    z = a - jnp.where(jnp.isfinite(top), top, 0)
    exp_z = jnp.exp(z)
    sum_exp = jnp.sum(exp_z, 1, keepdims=True)
    normal = z - jnp.log(sum_exp) if log else exp_z / sum_exp
    result[...] = normal.astype(result.dtype)
