"""The network: a fixed whitening of small patches, then three groups of convolutions.

Source: K. Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv 2404.00498, and
https://github.com/KellerJordan/cifar10-airbench.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from experiments.cifar10.config import Config
from experiments.cifar10.network.conv import conv3x3
from experiments.cifar10.network.norm import BatchNorm

PATCH = 2  # side of a whitened patch in pixels
LOGIT_SCALE = 1 / 9
WHITENING_EPSILON = 5e-4


class Network(nn.Module):
    """Logits of images.

    Attributes:
        config: the settings, of which the network's are read.
        num_classes: K.
        dtype: of the computation; parameters are float32.
    """

    config: Config
    num_classes: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, images: Array, whitening: Array, *, train: bool, train_whitening: bool = False
    ) -> Array:
        """float32 logits [N, K].

        Args:
            images: normalised images [N, H, W, C].
            whitening: filters [2 * 2 * C, F], of `whitening_filters`; they are not trained.
            train: normalise by the statistics of the batch, which is split along the mesh axis
                `DATA`, and update the running ones.
            train_whitening: let the gradient reach the whitening's bias.
        """
        norm = partial(BatchNorm, self.config.norm_momentum, self.dtype, train, use_scale=False)
        x = activation(self._first(images.astype(self.dtype), whitening, train_whitening))
        for index, width in enumerate(self.config.widths):
            name = f"group{index}"
            x = self._convolve(f"{name}_conv0", x, width, even=True)
            x = activation(norm(name=f"{name}_norm0")(max_pool(x)))
            after_pool = x
            for k in range(1, self.config.convs):
                x = norm(name=f"{name}_norm{k}")(self._convolve(f"{name}_conv{k}", x, width))
                if k == 2:
                    x += after_pool
                x = activation(x)
        x = x.max(axis=(1, 2))
        head = self.param("head", uniform_by_fan_in, (x.shape[-1], self.num_classes))
        return (x @ head.astype(self.dtype)).astype(jnp.float32) * LOGIT_SCALE

    def _first(self, images: Array, whitening: Array, train_whitening: bool) -> Array:
        """The first layer, of 2x2 patches."""
        bias_name = "whitening_bias"
        if not self.config.whiten:  # filter and bias are trained as any other
            whitening = self.param("first", uniform_by_fan_in, whitening.shape)
            bias_name = "first_bias"
        x = patches(images) @ whitening.astype(self.dtype)
        bias = self.param(bias_name, nn.initializers.zeros, x.shape[-1:])
        x = x + bias.astype(self.dtype)[None, None, None]
        if self.config.whiten and not train_whitening:
            x = lax.stop_gradient(x)  # nothing below is trained
        return x

    def _convolve(self, name: str, x: Array, width: int, *, even: bool = False) -> Array:
        init = identity_kernel if self.config.identity_init else uniform_by_fan_in
        kernel = self.param(name, init, (3, 3, x.shape[-1], width))
        return conv3x3(x, kernel.astype(self.dtype), even=even)


@jax.checkpoint
def activation(x: Array) -> Array:
    """SiLU. Its gradient computes the sigmoid again, which is cheaper than to keep it."""
    return jax.nn.silu(x)


def patches(images: Array) -> Array:
    """All 2x2 patches [N, H - 1, W - 1, 2 * 2 * C] of images [N, H, W, C]."""
    height, width = (size - PATCH + 1 for size in images.shape[1:3])
    corners = [(i, j) for i in range(PATCH) for j in range(PATCH)]
    return jnp.concatenate([images[:, i : i + height, j : j + width] for i, j in corners], axis=-1)


def whitening_filters(images: Array) -> Array:
    """Filters that make the patches' components uncorrelated, and the filters' negatives.

    Column k is v_k / sqrt(lambda_k + epsilon), where lambda_k and v_k are the eigenvalues, largest
    first, and eigenvectors of the patches' second moments P^T P / n.

    Args:
        images: normalised images [N, H, W, C].

    Returns:
        [2 * 2 * C, 2 * 2 * 2 * C].
    """
    rows = patches(images.astype(jnp.float32)).reshape(-1, PATCH * PATCH * images.shape[-1])
    values, vectors = jnp.linalg.eigh(rows.T @ rows / rows.shape[0])
    filters = (vectors / jnp.sqrt(values + WHITENING_EPSILON)[None])[:, ::-1]
    return jnp.concatenate([filters, -filters], axis=1)


@jax.custom_vjp
def max_pool(x: Array) -> Array:
    """The largest of each 2x2 square of images [N, H, W, C] with even H and W.

    A maximum of strided slices: on CPU its gradient is 14 times faster than reduce_window's, and
    written out as below another tenth of a training step faster. Where several elements are the
    largest, they share the gradient.
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
    """3x3 kernel [3, 3, C, D] whose first outputs copy the inputs; the others are random.

    Without it the identity has to be learned first, which takes a sixth of the training.
    """
    kernel = uniform_by_fan_in(key, shape)
    copied = min(shape[2:])
    copies = jnp.zeros((*shape[:3], copied)).at[1, 1].set(jnp.eye(shape[2], copied))
    return kernel.at[..., :copied].set(copies)


def uniform_by_fan_in(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform in +-1 / sqrt(fan-in), the initial values of PyTorch's layers."""
    bound = jnp.prod(jnp.asarray(shape[:-1], jnp.float32)) ** -0.5
    return bound * jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0)
