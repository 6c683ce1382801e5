"""Airbench's network: a fixed whitening of small patches, then three groups of convolutions.

Source: K. Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv 2404.00498, and
https://github.com/KellerJordan/cifar10-airbench.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from experiments.cifar10.network.conv import conv3x3
from experiments.cifar10.network.norm import BatchNorm
from experiments.cifar10.state import FIXED

PATCH = 2  # side of a whitened patch in pixels
LOGIT_SCALE = 1 / 9
WHITENING_EPSILON = 5e-4


class Airbench(nn.Module):
    """Airbench's network, from images to logits.

    Attributes:
        widths: channels of each group of convolutions.
        num_classes: K.
        norm_momentum: the part of batch normalisation's running statistics that a step keeps.
        dtype: of the computation; parameters are float32.
        convs: number of convolutions per group; if it is 3, the last two have a residual path.
        whiten: start from the fixed filters of `whitening_filters`, rather than from trained ones.
        whiten_components: half the number of filters.
        identity_init: start each convolution as a copy of its input.
        train_whitening: let the gradient reach the bias of the whitening.
        factor_dtype: see `conv3x3`.
    """

    widths: tuple[int, ...]
    num_classes: int
    norm_momentum: float
    dtype: DTypeLike
    convs: int = 2
    whiten: bool = True
    whiten_components: int = 12
    identity_init: bool = True
    train_whitening: bool = False
    factor_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Compute float32 logits [N, K].

        Args:
            images: normalised images [N, H, W, C].
            train: normalise by the statistics of the batch, which is split along the mesh axis
                `DATA`, and update the running ones.
        """
        norm = partial(BatchNorm, self.norm_momentum, self.dtype, train, use_scale=False)
        x = activation(self._first_layer(images.astype(self.dtype)))
        for index, width in enumerate(self.widths):
            name = f"group{index}"
            x = self._convolve(f"{name}_conv0", x, width, even=True)
            x = activation(norm(name=f"{name}_norm0")(max_pool(x)))
            after_pool = x
            for k in range(1, self.convs):
                x = norm(name=f"{name}_norm{k}")(self._convolve(f"{name}_conv{k}", x, width))
                if k == 2:
                    x += after_pool
                x = activation(x)
        x = x.max(axis=(1, 2))
        head = self.param("head", uniform_by_fan_in, (x.shape[-1], self.num_classes))
        return (x @ head.astype(self.dtype)).astype(jnp.float32) * LOGIT_SCALE

    def _first_layer(self, images: Array) -> Array:
        """Convolve 2x2 patches with the whitening's filters, or with trained ones."""
        x = patches(images)
        shape = (x.shape[-1], 2 * self.whiten_components)
        if not self.whiten:
            filters = self.param("first", uniform_by_fan_in, shape)
            bias = self.param("first_bias", nn.initializers.zeros, shape[1:])
            return x @ filters.astype(self.dtype) + bias.astype(self.dtype)[None, None, None]
        filters = self.variable(FIXED, "whitening", jnp.zeros, shape).value
        bias = self.param("whitening_bias", nn.initializers.zeros, shape[1:])
        x = x @ filters.astype(self.dtype) + bias.astype(self.dtype)[None, None, None]
        # nothing below the bias is trained
        return x if self.train_whitening else lax.stop_gradient(x)

    def _convolve(self, name: str, x: Array, width: int, *, even: bool = False) -> Array:
        init = identity_kernel if self.identity_init else uniform_by_fan_in
        kernel = self.param(name, init, (3, 3, x.shape[-1], width))
        return conv3x3(x, kernel.astype(self.dtype), even=even, factor_dtype=self.factor_dtype)


@jax.checkpoint
def activation(x: Array) -> Array:
    """Apply SiLU; its gradient recomputes the sigmoid, which is cheaper than storing it."""
    return jax.nn.silu(x)


def patches(images: Array) -> Array:
    """Return all 2x2 patches [N, H - 1, W - 1, 2 * 2 * C] of images [N, H, W, C]."""
    height, width = (size - PATCH + 1 for size in images.shape[1:3])
    corners = [(i, j) for i in range(PATCH) for j in range(PATCH)]
    return jnp.concatenate([images[:, i : i + height, j : j + width] for i, j in corners], axis=-1)


def whitening_filters(images: Array, components: int) -> Array:
    """Compute filters that decorrelate the components of patches, and their negatives.

    Column k is v_k / sqrt(lambda_k + epsilon), where lambda_k and v_k are the eigenvalues, largest
    first, and eigenvectors of the patches' second moments P^T P / n.

    Args:
        images: normalised images [N, H, W, C].
        components: number of filters before negation, for the largest eigenvalues.

    Returns:
        [2 * 2 * C, 2 * components].
    """
    rows = patches(images.astype(jnp.float32)).reshape(-1, PATCH * PATCH * images.shape[-1])
    values, vectors = jnp.linalg.eigh(rows.T @ rows / rows.shape[0])
    filters = (vectors / jnp.sqrt(values + WHITENING_EPSILON)[None])[:, ::-1][:, :components]
    return jnp.concatenate([filters, -filters], axis=1)


@jax.custom_vjp
def max_pool(x: Array) -> Array:
    """Take the maximum of each 2x2 square of images [N, H, W, C] with even H and W.

    It is a maximum of strided slices: on CPU its gradient is 14 times faster than that of
    reduce_window, and the custom gradient below saves another tenth of a training step. Equal
    maxima share the gradient.
    """
    rows = jnp.maximum(x[:, 0::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, 0::2], rows[:, :, 1::2])


def _max_pool_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    largest = max_pool(x)
    return largest, (x, largest)


def _max_pool_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array]:
    x, largest = residuals
    n, height, width, channels = largest.shape
    squares = x.reshape(n, height, 2, width, 2, channels)
    is_largest = squares == largest[:, :, None, :, None]
    share = gradient / is_largest.sum((2, 4)).astype(x.dtype)
    return (jnp.where(is_largest, share[:, :, None, :, None], 0).reshape(x.shape),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def identity_kernel(key: Array, shape: tuple[int, int, int, int]) -> Array:
    """Draw a 3x3 kernel [3, 3, C, D] whose first outputs copy the inputs; the others are random.

    Otherwise the identity has to be learned first, which takes a sixth of the training.
    """
    kernel = uniform_by_fan_in(key, shape)
    copied = min(shape[2:])
    copies = jnp.zeros((*shape[:3], copied)).at[1, 1].set(jnp.eye(shape[2], copied))
    return kernel.at[..., :copied].set(copies)


def uniform_by_fan_in(key: Array, shape: tuple[int, ...]) -> Array:
    """Draw uniform values in +-1 / sqrt(fan-in), as PyTorch's layers do."""
    bound = jnp.prod(jnp.asarray(shape[:-1], jnp.float32)) ** -0.5
    return bound * jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0)
