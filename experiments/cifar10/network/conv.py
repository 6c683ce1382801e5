"""3x3 convolution, on CPU with fewer multiplications where that is faster.

Winograd's minimal filtering computes a tile of m x m outputs from the (m + 2) x (m + 2) inputs X
below it and a kernel K, with (m + 2)^2 products for each pair of channels instead of 9 m^2:

    A^T [(G K G^T) * (B^T X B)] A

Summed over channels these are (m + 2)^2 matrix products. The gradient of the kernel takes as many,
with the transposes of the linear transforms. The result is exact up to rounding, about 1e-5 of the
largest element. Where the processor multiplies bfloat16 faster, the factors of the products may be
rounded to it, which makes an error of about 1 %; sums are always float32.

Source: S. Winograd, Arithmetic Complexity of Computations, 1980; A. Lavin and S. Gray, Fast
Algorithms for Convolutional Neural Networks, arXiv 1509.09308.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike
from numpy.polynomial.polynomial import polyfromroots, polyval

LAYOUT = ("NHWC", "HWIO", "NHWC")
# From these sizes on filtering makes a training step faster; on two cores it is up to 2.6 times as
# fast as XLA's convolution.
MIN_SIDE = 3
MIN_PAIRS = 512  # of an input channel and an output channel
BLOCK_TILES = 128  # tiles in a block of images, so that their transforms fit into a core's caches


class Filtering(NamedTuple):
    """F(m, 3): m outputs A^T [(G k) * (B^T x)] of m + 2 inputs x and three taps k.

    Attributes:
        signal: B^T [m + 2, m + 2].
        kernel: G [m + 2, 3].
        output: A^T [m, m + 2].
    """

    signal: np.ndarray
    kernel: np.ndarray
    output: np.ndarray

    @property
    def side(self) -> int:
        """m, the outputs along a side of a tile."""
        return self.output.shape[0]

    @property
    def points(self) -> int:
        """m + 2, the inputs along a side of a tile, and the products."""
        return self.output.shape[1]

    def tiles(self, size: int) -> int:
        """Return how many tiles cover `size` outputs in a row."""
        return -(-size // self.side)

    def products(self, height: int, width: int) -> int:
        """Count the multiplications for an image with this many outputs, per pair of channels."""
        return self.tiles(height) * self.tiles(width) * self.points**2


def _filtering(outputs: int, points: Sequence[float]) -> Filtering:
    """Make F(m, 3), which multiplies polynomials at m + 1 points and infinity.

    Signal and output are those of Lagrange's interpolation: row i of the signal has the
    coefficients of prod_j (x - p_j) over j != i, whose value at p_i the kernel's row divides by.
    """
    size = len(points)
    signal, scales = np.zeros((size + 1, size + 1)), np.ones((size + 1, 1))
    for i, point in enumerate(points):
        others = polyfromroots([*points[:i], *points[i + 1 :]])
        signal[i, :size], scales[i] = others, polyval(point, others)
    signal[size] = polyfromroots(points)
    kernel, output = (
        np.vstack([np.vander(points, degree, increasing=True), np.eye(degree)[-1]])
        for degree in (3, outputs)
    )
    return Filtering(np.where(np.abs(signal) < 1e-12, 0, signal), kernel / scales, output.T)


# The points are those that multiply rounding errors least, of a few that were tried.
FILTERINGS = (
    _filtering(3, (-3 / 2, -1 / 2, 1 / 2, 3 / 2)),
    _filtering(4, (-3 / 2, -2 / 3, 0, 2 / 3, 3 / 2)),
)


def conv3x3(
    x: Array, kernel: Array, *, even: bool = False, factor_dtype: DTypeLike = jnp.float32
) -> Array:
    """Convolve images with 3x3 kernels, with stride 1 and a border of zeros.

    Args:
        x: [N, H, W, C].
        kernel: [3, 3, C, D].
        even: leave out an odd last row and column, which 2x2 pooling would drop anyway.
        factor_dtype: to which minimal filtering rounds the factors of its products.

    Returns:
        [N, H', W', D], where H' and W' are H and W, rounded down to even numbers with `even`.
    """
    height, width = (size - even * (size % 2) for size in x.shape[1:3])
    inputs, outputs = kernel.shape[2:]
    fits = min(height, width) >= MIN_SIDE and inputs * outputs >= MIN_PAIRS
    if jax.default_backend() == "cpu" and x.dtype == kernel.dtype == jnp.float32 and fits:
        return _filtered(x, kernel, height, width, jnp.dtype(factor_dtype))
    padding = [
        (1, 1 + part - size) for size, part in zip(x.shape[1:3], (height, width), strict=True)
    ]
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=LAYOUT)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _filtered(
    x: Array, kernel: Array, height: int, width: int, factor_dtype: np.dtype[Any]
) -> Array:
    """Compute the first rows and columns of the convolution by minimal filtering."""
    filtering = _fewest_products(height, width)
    filters = _on_squares(filtering.kernel, kernel).astype(factor_dtype)

    def block_outputs(x: Array) -> Array:
        signal = _signal(filtering, x, height, width)
        products = _multiply("prc,pcd->prd", _matrices(signal).astype(factor_dtype), filters)
        tiles = products.reshape(*signal.shape[:-1], -1)
        return _outputs(filtering, tiles)[:, :height, :width]

    outputs = lax.map(block_outputs, _blocks(filtering, x, height, width))
    return outputs.reshape(-1, *outputs.shape[2:])[: x.shape[0]]


def _forward(
    x: Array, kernel: Array, height: int, width: int, factor_dtype: np.dtype[Any]
) -> tuple[Array, tuple[Array, Array]]:
    return _filtered(x, kernel, height, width, factor_dtype), (x, kernel)


def _backward(
    height: int,
    width: int,
    factor_dtype: np.dtype[Any],
    residuals: tuple[Array, Array],
    gradient: Array,
) -> tuple[Array, Array]:
    x, kernel = residuals
    filtering = _fewest_products(height, width)

    def add_block(total: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
        x, gradient = block
        factors = _signal(filtering, x, height, width), _output_gradient(filtering, gradient)
        signal, d_products = (_matrices(each).astype(factor_dtype) for each in factors)
        return total + _multiply("prc,prd->pcd", signal, d_products), None

    zeros = jnp.zeros((filtering.points**2, *kernel.shape[2:]), x.dtype)
    blocks = _blocks(filtering, x, height, width), _blocks(filtering, gradient, height, width)
    d_filters, _ = lax.scan(add_block, zeros, blocks)
    rest = [(0, size - part) for size, part in zip(x.shape, gradient.shape, strict=True)]
    whole = jnp.pad(gradient, (*rest[:3], (0, 0)))
    transposed = kernel[::-1, ::-1].swapaxes(2, 3)
    d_kernel = _on_squares(filtering.kernel.T, d_filters).reshape(kernel.shape)
    return _filtered(whole, transposed, *x.shape[1:3], factor_dtype), d_kernel


_filtered.defvjp(_forward, _backward)


_multiply = partial(jnp.einsum, preferred_element_type=jnp.float32)


def _fewest_products(height: int, width: int) -> Filtering:
    return min(FILTERINGS, key=lambda each: each.products(height, width))


def _on_squares(matrix: np.ndarray, squares: Array) -> Array:
    """Compute M S M^T, [P^2, ...], for a matrix M [P, K] and squares S [K, K, ...]."""
    both = np.kron(matrix, matrix).astype(np.float32)
    products = jnp.matmul(both, squares.reshape(both.shape[1], -1))
    return products.reshape(-1, *squares.shape[-2:])


def _blocks(filtering: Filtering, images: Array, height: int, width: int) -> Array:
    """Split images into [blocks, images of a block, ...], padded with zeros if need be."""
    number = images.shape[0]
    most = max(1, BLOCK_TILES // (filtering.tiles(height) * filtering.tiles(width)))
    dividing = (size for size in range(most, most // 2, -1) if number % size == 0)
    size = next(dividing, min(most, number))
    count = -(-number // size)
    filled = jnp.pad(images, ((0, count * size - number), (0, 0), (0, 0), (0, 0)))
    return filled.reshape(count, size, *images.shape[1:])


def _signal(filtering: Filtering, x: Array, height: int, width: int) -> Array:
    """Compute B^T X B of the tiles that cover the outputs, in the layout of `_transformed`."""
    # tile t reads rows and columns m t - 1 to m t + m of x
    ends = [
        filtering.side * filtering.tiles(part) + 1 - size
        for part, size in zip((height, width), x.shape[1:3], strict=True)
    ]
    zero = jnp.zeros((), x.dtype)
    x = lax.pad(x, zero, [(0, 0, 0), (1, ends[0], 0), (1, ends[1], 0), (0, 0, 0)])
    return _transformed(filtering.signal, x, filtering.side)


def _output_gradient(filtering: Filtering, gradient: Array) -> Array:
    """Compute A Y A^T of the tiles Y of the gradient, the transpose of `_outputs`."""
    ends = [(0, -size % filtering.side) for size in gradient.shape[1:3]]
    whole = jnp.pad(gradient, ((0, 0), *ends, (0, 0)))
    return _transformed(filtering.output.T, whole, filtering.side)


def _transformed(matrix: np.ndarray, images: Array, side: int) -> Array:
    """Apply a matrix [P, K] along both sides of the tiles of images.

    A tile has K rows and columns; the next one begins `side` after it.

    Returns:
        [P, P, N, rows of tiles, tiles of a row, C].
    """
    reach = matrix.shape[1]
    starts = [size - reach + 1 for size in images.shape[1:3]]  # a tile starts at every `side`-th
    rows = jnp.stack(
        [
            _combined(each, [images[:, k : k + starts[0] : side] for k in range(reach)])
            for each in matrix
        ]
    )
    both = [
        _combined(each, [rows[:, :, :, k : k + starts[1] : side] for k in range(reach)])
        for each in matrix
    ]
    return jnp.stack(both, axis=1)


def _matrices(tiles: Array) -> Array:
    """Reshape to [P^2, tiles, C]: with more dimensions XLA would transpose the operands."""
    return tiles.reshape(tiles.shape[0] ** 2, -1, tiles.shape[-1])


def _outputs(filtering: Filtering, products: Array) -> Array:
    """Compute images A^T M A of products M, [P, P, N, rows of tiles, tiles of a row, D]."""
    rows = jnp.stack([_combined(each, list(products)) for each in filtering.output], axis=3)
    both = jnp.stack([_combined(each, list(rows)) for each in filtering.output], axis=4)
    n, height, side, width, _, channels = both.shape
    return both.reshape(n, height * side, width * side, channels)


def _combined(coefficients: np.ndarray, terms: Sequence[Array]) -> Array:
    """Sum coefficient times term, leaving out zeros."""
    scaled = [
        term if factor == 1 else term * np.float32(factor)
        for factor, term in zip(coefficients, terms, strict=True)
        if factor != 0
    ]
    return sum(scaled[1:], scaled[0])
