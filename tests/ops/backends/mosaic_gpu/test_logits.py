"""The GPU kernel without a GPU: interpreted against float64, and lowered by Mosaic's compiler."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec as P

import xentjax
from tests.support import kernels
from tests.support.closeness import assert_close
from tests.support.oracles import cross_entropy as oracles
from tests.support.problems import PROBLEMS, SCALARS, Problem
from tests.support.tolerances import VALUE
from xentjax.ops.backends import contexts
from xentjax.ops.backends.mosaic_gpu import hardware, tiling

pytestmark = pytest.mark.kernels

INF, NAN = np.inf, np.nan
NAME = "mosaic_gpu"
GPU: dict[str, Any] = {"implementation": NAME}
integer_loss = xentjax.softmax_cross_entropy_with_integer_labels


@pytest.fixture
def interpreted(monkeypatch):
    """Interpret tiles of one box, two blocks a row: small arrays have several, the last ragged."""
    monkeypatch.setattr(tiling, "_NUMBERS", 1024)
    monkeypatch.setattr(tiling, "_BLOCKS", 2)
    with contexts.interpret_for_gpu(kernels.gpu_interpreter()):
        yield


def wide(name: str) -> Problem:
    """The problem of the table, with as many classes as three tiles hold."""
    problem = next(p for p in PROBLEMS if p.name == name)
    return replace(problem, shape=(7, 300))


# To the kernel, the others of the table are the same as one of these, or refused.
TABLE = ("small logits", "smoothing", "soft cap", "offset 1e5, temperature", "ignored")


def everything(shape: tuple[int, int] = (5, 300)) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    problem = Problem("row mask", shape, where="rows", keywords=SCALARS)
    return problem.arguments()


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.usefixtures("interpreted")
def test_value_and_gradient(name):
    kernels.check_value_and_gradient(NAME, wide(name))


@pytest.mark.parametrize("shape", [(1, 2), (33, 10), (3, 129), (2, 1000)], ids=str)
@pytest.mark.usefixtures("interpreted")
def test_sizes(shape):
    """Every statistic."""
    kernels.check_size(NAME, shape)


@pytest.mark.usefixtures("interpreted")
def test_boxes_side_by_side_in_stages_that_are_used_again(monkeypatch):
    monkeypatch.setattr(tiling, "_NUMBERS", 2048)
    monkeypatch.setattr(tiling, "_BLOCKS", 1)
    monkeypatch.setattr(tiling, "_STAGES", 2)
    plan = tiling.plan((9, 900), 4)
    assert plan.copies > 1
    assert plan.tiles > plan.stages
    kernels.check_size(NAME, (9, 900))


@pytest.mark.usefixtures("interpreted")
def test_no_rows():
    kernels.check_no_rows(NAME)


@pytest.mark.usefixtures("interpreted")
def test_sums_move_with_the_maximum():
    """Logits of +-1000 whose largest lies in the last tile, or in the first; several equal."""
    rng = np.random.default_rng(5)
    rising = np.sort(1000 * rng.standard_normal((4, 300)), -1).astype(np.float32)
    logits = np.concatenate([rising, rising[:, ::-1], np.zeros((2, 300), np.float32)])
    logits[-2, [200, 270]] = 1
    labels = rng.integers(0, 300, 10).astype(np.int32)
    kernels.check_statistics(NAME, logits, labels, label_smoothing=0.1)


@pytest.mark.usefixtures("interpreted")
def test_bad_values():
    kernels.check_bad_values(NAME)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.usefixtures("interpreted")
def test_half_precision(dtype, monkeypatch):
    monkeypatch.setattr(tiling, "_NUMBERS", 2048)
    kernels.check_half_precision(NAME, everything(), dtype)


@pytest.mark.usefixtures("interpreted")
def test_forward_mode_and_second_order():
    kernels.check_forward_mode_and_second_order(NAME, everything((3, 140)))


@pytest.mark.parametrize("batched", ["logits", "temperature"])
@pytest.mark.usefixtures("interpreted")
def test_vmap(batched):
    """Logits are batched with one set of labels for all, and so is the temperature."""
    rng = np.random.default_rng(7)
    logits = rng.standard_normal((3, 4, 140)).astype(np.float32)
    labels = rng.integers(0, 140, 4).astype(np.int32)
    temperature = np.array([0.5, 1.0, 2.0], np.float32)
    axes = (0, None) if batched == "logits" else (None, 0)
    arguments = (logits, temperature[0]) if batched == "logits" else (logits[0], temperature)
    value = jax.jit(jax.vmap(lambda x, t: integer_loss(x, labels, temperature=t, **GPU), axes))(
        *arguments
    )
    for i in range(3):
        x, t = (a[i] if axis == 0 else a for a, axis in zip(arguments, axes, strict=True))
        expected = oracles.cross_entropy(x, labels, temperature=float(t))
        assert_close(value[i], expected.losses, VALUE["float32"])


@pytest.mark.usefixtures("interpreted")
def test_tiles_of_the_linear_loss():
    kernels.check_tiles_of_the_linear_loss(NAME, 140)


LOWERED: dict[str, tuple[tuple[int, int], Any, dict[str, Any]]] = {
    "few classes": ((9, 10), jnp.float32, {}),
    "two rows of 20 bytes": ((8, 10), jnp.bfloat16, {"return_stats": True}),
    "classes": ((300, 1000), jnp.float16, {"label_smoothing": 0.1}),
    "vocabulary": ((8192, 131072), jnp.bfloat16, {}),
    "odd vocabulary": ((4, 50257), jnp.bfloat16, {"return_stats": True, **SCALARS}),
    "more than 2**31 logits": ((2**16, 2**16), jnp.bfloat16, {}),
}


def lowered_for_gpu(name: str, gradient: bool = False) -> str:
    shape, dtype, keywords = LOWERED[name]

    def total(x, y):
        leaves = jax.tree.leaves(integer_loss(x, y, **GPU, **keywords))
        return sum(jnp.sum(a) for a in leaves if a.dtype == jnp.float32)

    labels = jax.ShapeDtypeStruct(shape[:1], jnp.arange(0).dtype)
    arguments = jax.ShapeDtypeStruct(shape, dtype), labels
    function = jax.jit(jax.value_and_grad(total) if gradient else total)
    try:
        return function.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    except ImportError as error:
        pytest.skip(f"this jaxlib does not lower for GPU: {error}")


@pytest.mark.parametrize("name", LOWERED)
def test_lowers_for_gpu(name):
    assert "mosaic_gpu" in lowered_for_gpu(name)


def test_gradient_lowers_for_gpu():
    assert "mosaic_gpu" in lowered_for_gpu("odd vocabulary", gradient=True)


def test_lowers_with_64_bit_integers():
    with jax.enable_x64(True):
        assert "mosaic_gpu" in lowered_for_gpu("odd vocabulary")


def test_lowers_inside_shard_map():
    """The numbers of each row vary over the mesh as their inputs do."""
    mesh = jax.make_mesh((1,), ("devices",), axis_types=(AxisType.Auto,))

    def losses(x, y):
        return integer_loss(x, y, **GPU)

    spec = P("devices")
    sharded = jax.shard_map(losses, mesh=mesh, in_specs=(spec, spec), out_specs=spec)
    arguments = jax.ShapeDtypeStruct((8, 1000), jnp.float32), jax.ShapeDtypeStruct((8,), jnp.int32)
    text = jax.jit(sharded).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert "mosaic_gpu" in text


@pytest.mark.parametrize(("capability", "k"), [("cpu", 3), ("8.0", 4), ("gfx942", 4)])
def test_needs_a_hopper_gpu(capability, k, monkeypatch):
    """Which GPU is there is known as soon as a shape is traced; that none is, at lowering."""
    if capability != "cpu":  # which is what these tests run on
        monkeypatch.setattr(hardware, "_compute_capability", lambda: capability)
    expected = (
        f"expected a GPU of compute capability 9.0 or more for 'mosaic_gpu', got {capability}"
    )
    with pytest.raises(NotImplementedError, match=expected):
        integer_loss(jnp.zeros((2, k)), jnp.zeros(2, jnp.int32), **GPU)


@pytest.mark.parametrize(
    ("keywords", "match"),
    [
        ({"where": np.ones((2, 3), bool)}, "where: expected no mask of classes for 'mosaic_gpu'"),
        (
            {"class_weights": np.ones(3, np.float32), "label_smoothing": 0.1},
            "class_weights: expected None with label smoothing for 'mosaic_gpu'",
        ),
    ],
    ids=["classes masked", "weights and smoothing"],
)
@pytest.mark.usefixtures("interpreted")
def test_refuses_what_it_cannot(keywords, match):
    with pytest.raises(NotImplementedError, match=match):
        integer_loss(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32), **keywords, **GPU)


@pytest.mark.usefixtures("interpreted")
def test_refuses_soft_labels():
    with pytest.raises(
        NotImplementedError, match="labels: expected class indices for 'mosaic_gpu'"
    ):
        xentjax.softmax_cross_entropy(jnp.zeros((2, 3)), jnp.full((2, 3), 1 / 3), **GPU)


@pytest.mark.usefixtures("interpreted")
def test_refuses_64_bits():
    kernels.check_refuses_64_bits(NAME)


@pytest.mark.parametrize("n", [1, 7, 300, 8192, 2**20])
@pytest.mark.parametrize("k", [1, 2, 10, 33, 1000, 50257, 131072, 2**20])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_plans_cover_the_logits_and_fit_the_hardware(n, k, itemsize):
    p = tiling.plan((n, k), itemsize)
    assert p.phases * k * itemsize % 16 == 0
    assert p.row_blocks * p.rows * p.phases >= n
    assert (p.row_blocks - 1) * p.rows * p.phases < n
    part = p.tiles * p.classes
    assert p.splits * part >= k > (p.splits - 1) * part
    assert p.rows <= 256
    assert p.columns <= 256
    assert p.rows % max(8, 128 // p.lanes) == 0  # what the layout and a whole sector take
    assert p.stages <= p.tiles
    assert p.rows * p.columns * itemsize % 128 == 0
    shared_memory = p.stages * p.rows * p.classes * itemsize
    assert shared_memory <= 227 * 2**10 / 4  # four blocks on a multiprocessor


def test_rows_too_long_for_an_index_are_refused():
    with pytest.raises(NotImplementedError, match="logits: expected rows of at most"):
        tiling.plan((1, 2**28 + 1), 4)
