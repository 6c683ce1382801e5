"""3x3 convolution; on CPU with fewer multiplications where that is faster.

Winograd's minimal filtering along the width makes m outputs of a row from m + 2 products instead of
3 m, for each of the kernel's three rows: with F(3, 3) and F(4, 3) a convolution takes 5/9 or 1/2 of
the multiplications. The result is exact but for rounding, 4e-6 of the largest element at most.

Source: S. Winograd, Arithmetic Complexity of Computations, 1980; A. Lavin and S. Gray, Fast
Algorithms for Convolutional Neural Networks, arXiv 1509.09308.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

LAYOUT = ("NHWC", "HWIO", "NHWC")
# Processor time of result and both gradients, ms a core of 64 images (2 cores, jax 0.10.2):
#     side, C, D     lax    F(3, 3)   F(4, 3)
#     24, 24, 64     43.8    42.5      42.3
#     12, 64, 64     27.5    26.6      23.5
#     12, 64, 128    47.2    38.7      40.4
#      6, 64, 128    12.1     9.9      11.6
#      6, 256, 256   89.2    67.8      75.6
#      3, 128, 128    6.0     5.2       5.8
# The kernel's gradient is lax's in all three. Narrower layers gain nothing.
MIN_CHANNELS = 32
MIN_WIDTH = 3


class Filtering(NamedTuple):
    """F(m, 3): m outputs y = A^T [(G g) * (B^T d)] of a filter g [3] and a signal d [m + 2].

    Attributes:
        signal: B^T [m + 2, m + 2].
        kernel: G [m + 2, 3].
        output: A^T [m, m + 2].
    """

    signal: np.ndarray
    kernel: np.ndarray
    output: np.ndarray

    @property
    def outputs(self) -> int:
        """m."""
        return self.output.shape[0]

    def products(self, width: int) -> int:
        """How many products a row of `width` outputs takes, for each row of the kernel."""
        return -(-width // self.outputs) * (self.outputs + 2)


# The polynomials of signal and filter are evaluated at 0, 1, -1, 2 and infinity, or at 0, 1, -1,
# 1/2, -1/2 and infinity.
FILTERINGS = (
    Filtering(
        signal=np.array(
            [
                [2, -1, -2, 1, 0],
                [0, -2, -1, 1, 0],
                [0, 2, -3, 1, 0],
                [0, -1, 0, 1, 0],
                [0, 2, -1, -2, 1],
            ]
        ),
        kernel=np.array([[3, 0, 0], [-3, -3, -3], [-1, 1, -1], [1, 2, 4], [0, 0, 6]]) / 6,
        output=np.array([[1, 1, 1, 1, 0], [0, 1, -1, 2, 0], [0, 1, 1, 4, 1]]),
    ),
    Filtering(
        signal=np.array(
            [
                [1, 0, -5, 0, 4, 0],
                [0, -1, -1, 4, 4, 0],
                [0, 1, -1, -4, 4, 0],
                [0, -2, -4, 2, 4, 0],
                [0, 2, -4, -2, 4, 0],
                [0, 1, 0, -5, 0, 4],
            ]
        )
        / 4,
        kernel=np.array([[12, 0, 0], [2, 2, 2], [2, -2, 2], [-8, -4, -2], [-8, 4, -2], [0, 0, 3]])
        / 3,
        output=np.array(
            [[8, 8, 8, 8, 8, 0], [0, 8, -8, 4, -4, 0], [0, 8, 8, 2, 2, 0], [0, 8, -8, 1, -1, 8]]
        )
        / 8,
    ),
)


def conv3x3(x: Array, kernel: Array, *, even: bool = False) -> Array:
    """3x3 convolution with stride 1 and a border of zeros.

    Args:
        x: [N, H, W, C].
        kernel: [3, 3, C, D].
        even: leave out an odd last row and column, which 2x2 pooling would drop anyway.

    Returns:
        [N, H', W', D], where H' and W' are H and W, rounded down to even numbers with `even`.
    """
    fits = (
        x.shape[2] - even * (x.shape[2] % 2) >= MIN_WIDTH and min(kernel.shape[2:]) >= MIN_CHANNELS
    )
    if jax.default_backend() == "cpu" and x.dtype == jnp.float32 and fits:
        return _with_fast_gradient(x, kernel, even)
    return _plain(x, kernel, even)


def _plain(x: Array, kernel: Array, even: bool) -> Array:
    padding = [(1, 1 - size % 2 if even else 1) for size in x.shape[1:3]]
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=LAYOUT)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _with_fast_gradient(x: Array, kernel: Array, even: bool) -> Array:
    return _filtered(x, kernel, even)


def _forward(x: Array, kernel: Array, even: bool) -> tuple[Array, tuple[Array, Array]]:
    return _filtered(x, kernel, even), (x, kernel)


def _backward(even: bool, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    """The kernel's gradient needs its sum over all images at once: XLA's own is the fastest."""
    x, kernel = residuals
    _, transpose = jax.vjp(lambda kernel: _plain(x, kernel, even), kernel)
    rest = [(0, whole - part) for whole, part in zip(x.shape, gradient.shape, strict=True)]
    whole = jnp.pad(gradient, (*rest[:3], (0, 0)))
    return _filtered(whole, kernel[::-1, ::-1].swapaxes(2, 3), False), transpose(gradient)[0]


_with_fast_gradient.defvjp(_forward, _backward)


def _filtered(x: Array, kernel: Array, even: bool) -> Array:
    """The convolution by minimal filtering along the width."""
    n, height, width, _ = x.shape
    height, width = (size - size % 2 if even else size for size in (height, width))
    filtering = min(FILTERINGS, key=lambda each: each.products(width))
    m = filtering.outputs
    tiles = -(-width // m)
    # tile t reads columns m t - 1 to m t + m of x
    x = lax.pad(
        x,
        jnp.zeros((), x.dtype),
        [(0, 0, 0), (0, 0, 0), (1, m * tiles + 1 - x.shape[2], 0), (0, 0, 0)],
    )
    columns = [x[:, :, k : k + m * (tiles - 1) + 1 : m] for k in range(m + 2)]
    rows = ((1, height - x.shape[1] + 1), (0, 0))
    products = [
        lax.conv_general_dilated(
            _combine(signal, columns),
            _combine(taps, list(kernel.swapaxes(0, 1)))[:, None],
            (1, 1),
            rows,
            dimension_numbers=LAYOUT,
        )
        for signal, taps in zip(filtering.signal, filtering.kernel, strict=True)
    ]
    outputs = jnp.stack([_combine(weights, products) for weights in filtering.output], axis=3)
    return outputs.reshape(n, height, tiles * m, -1)[:, :, :width]


def _combine(coefficients: np.ndarray, terms: Sequence[Array]) -> Array:
    """Sum of coefficient times term, leaving out zeros."""
    scaled = [
        term if factor == 1 else term * np.float32(factor)
        for factor, term in zip(coefficients, terms, strict=True)
        if factor != 0
    ]
    return sum(scaled[1:], scaled[0])
