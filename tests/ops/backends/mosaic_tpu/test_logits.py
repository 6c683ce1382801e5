"""The TPU kernel without a TPU: interpreted against float64, and lowered by the TPU's compiler."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, PartitionSpec as P

import xentjax
from tests.support import kernels
from tests.support.closeness import assert_close
from tests.support.kernels import lowered_for_tpu
from tests.support.oracles import cross_entropy as oracles
from tests.support.problems import EVERYTHING, PROBLEMS, WEIGHTS_7, Problem
from tests.support.tolerances import LOSS_GRADIENT, VALUE
from xentjax.ops.backends import contexts
from xentjax.ops.backends.mosaic_tpu import tiling

pytestmark = pytest.mark.kernels

INF, NAN = np.inf, np.nan
NAME = "mosaic_tpu"
TPU: dict[str, Any] = {"implementation": NAME}
WEIGHTS_300 = np.resize(WEIGHTS_7, 300)
integer_loss = xentjax.softmax_cross_entropy_with_integer_labels


@pytest.fixture
def interpreted(monkeypatch):
    """Interpret kernels with tiles of 128 x 128: small arrays have several, the last ragged."""
    monkeypatch.setattr(tiling, "_MOST_ROWS", 128)
    monkeypatch.setattr(tiling, "_MOST_CLASSES", 128)
    with contexts.interpret_for_tpu(True):
        yield


def wide(problem: Problem) -> Problem:
    """The problem with as many classes as three tiles hold."""
    keywords = dict(problem.keywords)
    if "class_weights" in keywords:
        keywords["class_weights"] = WEIGHTS_300
    return replace(problem, shape=(7, 300), keywords=keywords)


# To the kernel, these are the same as others of the table.
REPEATED = ("weights", "smoothing", "smoothing of 1", "z-loss", "ignored class")
WIDE = {p.name: wide(p) for p in PROBLEMS if p.shape == (6, 7) and p.name not in REPEATED}


@pytest.mark.parametrize("problem", WIDE.values(), ids=WIDE)
@pytest.mark.usefixtures("interpreted")
def test_value_and_gradient(problem):
    kernels.check_value_and_gradient(NAME, problem)


@pytest.mark.parametrize("shape", [(1, 2), (7, 10), (33, 129), (130, 1000), (1, 1000)], ids=str)
@pytest.mark.usefixtures("interpreted")
def test_sizes(shape):
    """Every statistic."""
    kernels.check_size(NAME, shape)


@pytest.mark.usefixtures("interpreted")
def test_no_rows():
    kernels.check_no_rows(NAME)


@pytest.mark.parametrize("order", ["rising", "falling"])
@pytest.mark.usefixtures("interpreted")
def test_sums_move_with_the_maximum(order):
    """Logits of +-1000 whose largest lies in the last tile, or in the first."""
    rng = np.random.default_rng(5)
    logits = np.sort(1000 * rng.standard_normal((4, 300)), -1).astype(np.float32)
    logits = logits if order == "rising" else logits[:, ::-1]
    targets = rng.dirichlet(np.ones(300), 4).astype(np.float32)
    kernels.check_statistics(NAME, logits, targets, label_smoothing=0.1)


@pytest.mark.usefixtures("interpreted")
def test_bad_values():
    kernels.check_bad_values(NAME)


@pytest.mark.usefixtures("interpreted")
def test_predicted_is_the_first_of_the_largest():
    logits = np.zeros((3, 300), np.float32)
    logits[0, [200, 250]] = 1
    logits[1] = -INF
    labels = np.zeros(3, np.int32)
    _, stats = jax.jit(lambda x: integer_loss(x, labels, return_stats=True, **TPU))(logits)
    np.testing.assert_array_equal(stats.predicted, [200, 0, 0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.usefixtures("interpreted")
def test_half_precision(dtype):
    kernels.check_half_precision(NAME, WIDE["everything"].arguments(), dtype)


@pytest.mark.usefixtures("interpreted")
def test_forward_mode_and_second_order():
    kernels.check_forward_mode_and_second_order(NAME, WIDE["everything"].arguments())


@pytest.mark.parametrize("batched", ["rows", "class_weights", "temperature"])
@pytest.mark.usefixtures("interpreted")
def test_vmap(batched):
    """Logits and labels are batched together, with one mask; weights and temperature each alone."""
    rng = np.random.default_rng(7)
    logits = rng.standard_normal((3, 4, 200)).astype(np.float32)
    labels = rng.integers(0, 200, (3, 4)).astype(np.int32)
    weights = rng.random((3, 200)).astype(np.float32)
    temperature = np.array([0.5, 1.0, 2.0], np.float32)
    where = np.arange(200)[None] % 5 != 4
    labels -= labels % 5
    axes = (
        0 if batched == "rows" else None,
        None,
        0 if batched == "class_weights" else None,
        0 if batched == "temperature" else None,
    )
    arguments = [
        x if axis == 0 else x[0]
        for x, axis in zip((logits, labels, weights, temperature), axes, strict=True)
    ]

    def losses(x, y, w, t):
        return integer_loss(x, y, -1, where, class_weights=w, temperature=t, **TPU)

    value = jax.jit(jax.vmap(losses, axes))(*arguments)
    for i in range(3):
        x, y, w, t = (a[i] if axis == 0 else a for a, axis in zip(arguments, axes, strict=True))
        expected = oracles.cross_entropy(x, y, where=where, class_weights=w, temperature=float(t))
        assert_close(value[i], expected.losses, VALUE["float32"])


@pytest.mark.parametrize("split", ["rows", "classes"])
def test_inside_shard_map(split):
    """The numbers of each row vary over the mesh where their inputs do, not where they do not."""
    mesh = jax.make_mesh((1,), ("devices",), axis_types=(AxisType.Auto,))
    logits, labels, keywords = WIDE["weights and smoothing"].arguments()
    spec = P("devices", None) if split == "rows" else P(None, "devices")

    def losses(x, y):
        axis_name = "devices" if split == "classes" else None
        return integer_loss(x, y, axis_name=axis_name, **TPU, **keywords)

    sharded = jax.shard_map(losses, mesh=mesh, in_specs=(spec, P(spec[0])), out_specs=P(spec[0]))
    # This interpreter keeps the memories of a TPU apart and knows the axes of a mesh.
    with contexts.interpret_for_tpu(pltpu.InterpretParams()):
        value, gradient = jax.jit(jax.value_and_grad(lambda x: jnp.sum(sharded(x, labels))))(logits)
    expected = oracles.cross_entropy(logits, labels, **keywords)
    assert_close(value, expected.losses.sum(), VALUE["float32"])
    assert_close(gradient, expected.gradient, LOSS_GRADIENT)


@pytest.mark.usefixtures("interpreted")
def test_tiles_of_the_linear_loss():
    kernels.check_tiles_of_the_linear_loss(NAME, 70)


def call(shape: tuple[int, int], dtype: Any, soft: bool, **keywords: Any) -> tuple[Any, Any, Any]:
    """A loss of traced logits and labels, and their shapes."""
    loss = xentjax.softmax_cross_entropy if soft else integer_loss
    labels = jax.ShapeDtypeStruct(shape if soft else shape[:1], jnp.float32 if soft else jnp.int32)
    logits = jax.ShapeDtypeStruct(shape, dtype)
    return lambda x, y: loss(x, y, **TPU, **keywords), logits, labels


def mask(shape: tuple[int, int]) -> np.ndarray:
    return np.arange(shape[0] * shape[1]).reshape(shape) % 3 != 0


LOWERED = {
    "plain": call((9, 10), jnp.float32, False),
    "aligned": call((256, 256), jnp.bfloat16, False),
    "large": call((8192, 131072), jnp.bfloat16, False),
    "half precision": call((300, 1000), jnp.float16, False),
    "everything": call(
        (9, 7), jnp.bfloat16, False, where=mask((9, 7)), return_stats=True, **EVERYTHING
    ),
    "soft, everything": call(
        (9, 7), jnp.float32, True, where=mask((1, 7)), return_stats=True, **EVERYTHING
    ),
}


@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "value_and_grad"])
@pytest.mark.parametrize("name", LOWERED)
def test_lowers_for_tpu(name, gradient):
    function, *arguments = LOWERED[name]

    def total(x, y):
        return sum(jnp.sum(a) for a in jax.tree.leaves(function(x, y)) if a.dtype == jnp.float32)

    text = lowered_for_tpu(jax.value_and_grad(total) if gradient else function, *arguments)
    assert "tpu_custom_call" in text


def test_lowers_with_64_bit_integers():
    with jax.enable_x64(True):
        labels = jax.ShapeDtypeStruct((11,), jnp.int64)
        function, logits, _ = call((11, 10), jnp.float32, False, return_stats=True)
        assert "tpu_custom_call" in lowered_for_tpu(function, logits, labels)


def test_needs_a_tpu():
    with pytest.raises(NotImplementedError, match="expected a TPU for 'mosaic_tpu', got "):
        integer_loss(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32), **TPU)


@pytest.mark.usefixtures("interpreted")
def test_refuses_64_bits():
    kernels.check_refuses_64_bits(NAME)


@pytest.mark.parametrize("shape", [(1, 1), (8192, 1000), (7, 2**20), (2**20, 10)], ids=str)
@pytest.mark.parametrize("bytes_read", [2, 9])
def test_tiles_fit_and_cover_no_more_than_the_array_needs(shape, bytes_read):
    footprint = tiling.Footprint(bytes_read, temporaries=4, columns=9)
    tile = tiling.tile_shape(shape, footprint)
    assert footprint.vmem_bytes(*tile) <= tiling._VMEM_BYTES
    for size, whole in zip(tile, shape, strict=True):
        assert size % 128 == 0
        assert size - 128 < whole


def test_a_kernel_that_cannot_fit_is_refused_before_it_is_compiled():
    footprint = tiling.Footprint(bytes_read=4, temporaries=200, columns=3)
    with pytest.raises(NotImplementedError, match="logits: expected tiles of 128 x 128 in"):
        tiling.tile_shape((128, 128), footprint)
