"""ResNet-18 for small images, the usual baseline on CIFAR-10.

Source: K. He et al., Deep Residual Learning for Image Recognition, arXiv 1512.03385, with a 3x3
first layer of stride 1, and no pooling before the blocks.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.initializers import he_normal
from jax import Array
from jax.typing import DTypeLike

from experiments.cifar10.network.norm import BatchNorm

BLOCKS = 2  # in each group


class ResNet(nn.Module):
    """ResNet-18, from images to logits.

    Attributes:
        widths: channels of each group of blocks.
        num_classes: K.
        norm_momentum: the part of batch normalisation's running statistics that a step keeps.
        dtype: of the computation; parameters are float32.
    """

    widths: tuple[int, ...]
    num_classes: int
    norm_momentum: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Compute float32 logits [N, K].

        Args:
            images: normalised images [N, H, W, C].
            train: normalise by the statistics of the batch, which is split along the mesh axis
                `DATA`, and update the running ones.
        """
        norm = partial(BatchNorm, self.norm_momentum, self.dtype, train, use_scale=True)

        def convolve(name: str, x: Array, width: int, *, side: int = 3, stride: int = 1) -> Array:
            return nn.Conv(
                width,
                (side, side),
                stride,
                padding=side // 2,  # "SAME" is off by a pixel where the stride is 2
                use_bias=False,
                kernel_init=he_normal(),
                dtype=self.dtype,
                name=name,
            )(x)

        x = convolve("first", images.astype(self.dtype), self.widths[0])
        x = nn.relu(norm(name="first_norm")(x))
        for group, width in enumerate(self.widths):
            for block in range(BLOCKS):
                name = f"group{group}_block{block}"
                stride = 2 if group > 0 and block == 0 else 1
                y = convolve(f"{name}_conv0", x, width, stride=stride)
                y = nn.relu(norm(name=f"{name}_norm0")(y))
                y = norm(name=f"{name}_norm1")(convolve(f"{name}_conv1", y, width))
                if x.shape != y.shape:
                    x = convolve(f"{name}_shortcut", x, width, side=1, stride=stride)
                    x = norm(name=f"{name}_shortcut_norm")(x)
                x = nn.relu(x + y)
        x = x.mean(axis=(1, 2))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)
