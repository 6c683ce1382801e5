"""The 3x3 convolution, and a form of it whose gradients XLA computes fast on CPUs."""

from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

LAYOUT = ("NHWC", "HWIO", "NHWC")
CHUNK = 16  # images whose activations fit the cache


class Convolution(Protocol):
    """The arguments and the result of `conv3x3`."""

    def __call__(self, x: Array, kernel: Array, *, even: bool = False) -> Array: ...


def conv3x3(x: Array, kernel: Array, *, even: bool = False) -> Array:
    """3x3 convolution with stride 1 and a border of zeros.

    Args:
        x: [N, H, W, C].
        kernel: [3, 3, C, D].
        even: leave out an odd last row and column, which 2x2 pooling would drop anyway.

    Returns:
        [N, H', W', D], where H' and W' are H and W, rounded down to even numbers with `even`.
    """
    padding = [(1, 1 - size % 2 if even else 1) for size in x.shape[1:3]]
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=LAYOUT)


def conv3x3_cpu(x: Array, kernel: Array, *, even: bool = False) -> Array:
    """`conv3x3` with the kernel's gradient as matrix products."""
    return _conv(x, kernel, even)


def _conv(x: Array, kernel: Array, even: bool) -> Array:
    return conv3x3(x, kernel, even=even)


def _forward(x: Array, kernel: Array, even: bool) -> tuple[Array, tuple[Array, Array]]:
    return conv3x3(x, kernel, even=even), (x, kernel)


def _backward(even: bool, residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    del even
    x, kernel = residuals
    # a cotangent row y reaches the rows y - 1, y, y + 1 of x
    padding = [(1, 1 + xs - ys) for xs, ys in zip(x.shape[1:3], cotangent.shape[1:3], strict=True)]
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    x_gradient = lax.conv_general_dilated(
        cotangent, flipped, (1, 1), padding, dimension_numbers=LAYOUT
    )
    return x_gradient, _kernel_gradient(x, cotangent)


_conv = jax.custom_vjp(_conv, nondiff_argnums=(2,))
_conv.defvjp(_forward, _backward)


def _kernel_gradient(x: Array, cotangent: Array) -> Array:
    """sum over n, y, x of x[n, y + i - 1, x + j - 1, c] cotangent[n, y, x, d], for all i, j, c, d.

    Nine products of [C, pixels] and [pixels, D], over a few images at a time so that they stay in
    the cache.
    """
    num_images, height, width, _ = cotangent.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def of_chunk(x: Array, cotangent: Array) -> Array:
        taps = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        return jnp.stack([jnp.einsum("nyxc,nyxd->cd", tap, cotangent) for tap in taps])

    size = next(size for size in range(min(CHUNK, num_images), 0, -1) if num_images % size == 0)
    chunks = [a.reshape(-1, size, *a.shape[1:]) for a in (padded, cotangent)]
    zero = jnp.zeros((9, x.shape[-1], cotangent.shape[-1]), x.dtype)
    total, _ = lax.scan(lambda sum, chunk: (sum + of_chunk(*chunk), None), zero, chunks)
    return total.reshape(3, 3, *total.shape[1:])
