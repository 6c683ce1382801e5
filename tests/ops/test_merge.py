"""Statistics of shards of the classes merge to those of whole rows, in any split and order."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.closeness import assert_close
from tests.support.oracles import cross_entropy as oracles
from tests.support.tolerances import VALUE
from xentjax.ops import Requested, Rows, Scalars, Target, row_statistics
from xentjax.ops.merge import ACROSS_FIRST_AXIS, class_shard, merge
from xentjax.ops.rows import log_normalizer

K = 11
LABELS = np.array([0, 3, 10, 7], np.int32)
EVERYTHING = Requested(uniform=True, mean=True, predicted=True, normalizer=True)
TEMPERATURE = jnp.float32(1.5)


def logits_of(seed):
    return 3 * np.random.default_rng(seed).standard_normal((4, K)).astype(np.float32)


def merged(logits, borders):
    """The statistics of rows from those of the classes between two neighbouring borders."""
    shards = []
    for first, end in itertools.pairwise(borders):
        rows = Rows(
            jnp.asarray(logits[:, first:end]),
            target=Target(labels=jnp.asarray(LABELS)),
            scalars=Scalars(temperature=TEMPERATURE),
        )
        shard = class_shard(rows, jnp.int32(first), K)
        shards.append((row_statistics(shard.rows, EVERYTHING), first, shard.owns_label))
    stats = jax.tree.map(lambda *parts: jnp.stack(parts), *(stats for stats, *_ in shards))
    first = jnp.array([[first] for _, first, _ in shards], jnp.int32)
    owns = jnp.stack([owns for *_, owns in shards])
    whole = merge(stats, first, owns, ACROSS_FIRST_AXIS, TEMPERATURE)
    return jax.tree.map(lambda x: x[0], whole)


@pytest.mark.parametrize("borders", [(0, 11), (0, 5, 11), (0, 1, 2, 10, 11), tuple(range(12))])
@pytest.mark.parametrize("impossible", [None, slice(0, 5), slice(5, 11)], ids=str)
def test_shards_merge_to_whole_rows(borders, impossible):
    """A shard whose logits are all -inf is the neutral element."""
    logits = logits_of(0)
    if impossible is not None:
        logits[:3, impossible] = -np.inf
    stats = merged(logits, borders)
    rows = Rows(jnp.asarray(logits), scalars=Scalars(temperature=TEMPERATURE))
    expected = oracles.cross_entropy(logits, LABELS, temperature=1.5)
    assert_close(log_normalizer(stats, rows), expected.log_normalizer, VALUE["float32"])
    assert_close(stats.log_sum - stats.label_logit, expected.losses, VALUE["float32"])
    np.testing.assert_array_equal(stats.predicted, expected.predicted)
    if impossible is None:
        assert_close(stats.log_sum - stats.mean_logit, expected.entropy, VALUE["float32"])
        p = np.asarray(logits, np.float64) / 1.5
        uniform = K * expected.log_normalizer - p.sum(-1)
        assert_close(stats.uniform.total * stats.log_sum - stats.uniform.dot, uniform, 1e-6)


def test_one_shard_owns_each_label():
    """A bad label belongs to all, for the gradient of each to be NaN."""
    labels = jnp.array([0, 4, 5, 10, -1, 11])
    owns, local = [], []
    for first, size in ((0, 5), (5, 6)):
        rows = Rows(jnp.zeros((6, size)), target=Target(labels=labels))
        shard = class_shard(rows, jnp.int32(first), K)
        owns.append(np.asarray(shard.owns_label))
        local.append(np.asarray(shard.rows.target.labels))
    np.testing.assert_array_equal(np.sum(owns, 0), [1, 1, 1, 1, 2, 2])
    assert [x[mine].tolist() for x, mine in zip(local, owns, strict=True)] == [
        [0, 4, -1, -1],
        [0, 5, -1, -1],
    ]
