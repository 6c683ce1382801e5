"""A transformer that turns tokens into features, and the linear head that predicts the next one."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

HEAD_WIDTH = 32  # features of an attention head
AnyArray = Array | np.ndarray
Cache = tuple[tuple[Array, Array], ...]  # keys and values of each block, [B, T, heads, HEAD_WIDTH]


class LanguageModel(nn.Module):
    """A causal transformer; logits are features @ head(params), which nobody stores whole.

    Attributes:
        vocabulary: number of tokens K.
        context: the longest text, in tokens.
        width: features of a token D, a multiple of 32.
        blocks: number of blocks.
    """

    vocabulary: int
    context: int
    width: int
    blocks: int

    @nn.compact
    def __call__(
        self, tokens: AnyArray, cache: Cache | None = None, position: ArrayLike = 0
    ) -> tuple[Array, Cache]:
        """Compute the features after each token.

        Args:
            tokens: int32 [B, T].
            cache: keys and values of the tokens before these, see `empty_cache`; None if there are
                none.
            position: number of the tokens before these.

        Returns:
            Features [B, T, D], and the cache with the keys and values of these tokens added.
        """
        length = tokens.shape[1]
        embed = nn.Embed(
            self.vocabulary, self.width, embedding_init=_normal(self.width), name="tokens"
        )
        places = self.param("places", _normal(self.width), (self.context, self.width))
        x = embed(tokens) + lax.dynamic_slice_in_dim(places, position, length)[None]
        x *= math.sqrt(self.width)
        # a token sees itself and those before it
        keys = jnp.arange(length if cache is None else self.context)
        mask = keys[None] <= position + jnp.arange(length)[:, None]
        updated = []
        for block in range(self.blocks):
            old = None if cache is None else cache[block]
            x, new = Block(name=f"block_{block}")(x, mask, old, position)
            updated.append(new)
        return nn.RMSNorm(name="norm")(x), tuple(updated)


class Block(nn.Module):
    """Attention to the tokens seen, then a layer for each token by itself; both are added."""

    @nn.compact
    def __call__(
        self, x: Array, mask: Array, cache: tuple[Array, Array] | None, position: ArrayLike
    ) -> tuple[Array, tuple[Array, Array]]:
        batch, length, width = x.shape
        projected = nn.Dense(3 * width, use_bias=False, name="attend")(nn.RMSNorm()(x))
        shape = batch, length, 3, width // HEAD_WIDTH, HEAD_WIDTH
        query, key, value = jnp.moveaxis(projected.reshape(shape), 2, 0)
        if cache is not None:
            key, value = (
                lax.dynamic_update_slice_in_dim(old, new, position, axis=1)
                for old, new in zip(cache, (key, value), strict=True)
            )
        seen = jax.nn.dot_product_attention(query, key, value, mask=mask[None, None])
        x += nn.Dense(width, use_bias=False, name="attended")(seen.reshape(x.shape))
        inner = nn.Dense(4 * width, use_bias=False, name="inner")(nn.RMSNorm()(x))
        return x + nn.Dense(width, use_bias=False, name="outer")(nn.gelu(inner)), (key, value)


def _normal(width: int) -> nn.initializers.Initializer:
    return nn.initializers.normal(1 / math.sqrt(width))


@partial(jax.jit, static_argnums=0)
def initial_params(model: LanguageModel, key: Array) -> Any:
    """Draw the parameters."""
    return model.init(key, jnp.zeros((1, 1), jnp.int32))["params"]


def features(model: LanguageModel, params: Any, tokens: AnyArray) -> Array:
    """Compute the features [B, T, D] after each of the tokens [B, T]."""
    result: Any = model.apply({"params": params}, tokens)
    return result[0]


def head(params: Any) -> Array:
    """Return the kernel of the linear head, [D, K]: the embeddings of the tokens, used again."""
    return params["tokens"]["embedding"].T


def empty_cache(model: LanguageModel, batch_size: int) -> Cache:
    """Allocate the keys and values of a whole context."""
    shape = batch_size, model.context, model.width // HEAD_WIDTH, HEAD_WIDTH
    return tuple((jnp.zeros(shape), jnp.zeros(shape)) for _ in range(model.blocks))


def size(params: Any) -> int:
    """Count the parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
