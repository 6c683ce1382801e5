"""Programs for platforms that are not here: what they contain, and where they are refused."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import xentjax
from tests.support.closeness import assert_close
from tests.support.oracles import cross_entropy as oracles
from tests.support.tolerances import GRADIENT, VALUE

integer_loss: Any = xentjax.softmax_cross_entropy_with_integer_labels
linear_loss: Any = xentjax.linear_softmax_cross_entropy
PLATFORM = {"mosaic_tpu": "tpu", "mosaic_gpu": "cuda"}
CALL_OF_KERNEL = {"mosaic_tpu": "@tpu_custom_call", "mosaic_gpu": "@mosaic_gpu"}
REFUSED = {
    "mosaic_tpu": "^implementation: expected a TPU for 'mosaic_tpu', got {}",
    "mosaic_gpu": "^implementation: expected a GPU of compute capability 9.0 or more for "
    "'mosaic_gpu', got {}",
}
KERNELS = list(PLATFORM)


def numbers(*shape: int, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


LABELS = np.array([0, 7, 31, 3], np.int32)
LOGITS = numbers(4, 32), LABELS
LAYER = numbers(4, 64, dtype=jnp.bfloat16), numbers(64, 32, dtype=jnp.bfloat16), LABELS


def gradients(loss: Any, **keywords: Any) -> Any:
    def value_and_gradients(*at, **more):
        total = partial(loss, reduction="mean", **keywords, **more)
        return jax.value_and_grad(total, tuple(range(len(at) - 1)))(*at)

    return value_and_gradients


def batched(loss: Any) -> Any:
    return lambda *at, **keywords: jax.vmap(partial(loss, **keywords))(*(x[None] for x in at))


CALLS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "logits": (integer_loss, LOGITS),
    "gradient": (gradients(integer_loss), LOGITS),
    "batch": (batched(integer_loss), LOGITS),
    "statistics": (partial(integer_loss, return_stats=True), LOGITS),
    "softmax": (xentjax.softmax, LOGITS[:1]),
    "layer": (linear_loss, LAYER),
    "gradients of a layer": (gradients(linear_loss), LAYER),
    "gradients in forward": (gradients(linear_loss, gradients_in_forward=True), LAYER),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", CALLS)
def test_kernels_by_name(name, kernel):
    """Kernels are exported for their platform, and refused for others before compilation."""
    if (name, kernel) == ("softmax", "mosaic_gpu"):
        pytest.skip("GPUs have none of softmax")
    function, arguments = CALLS[name]
    function = jax.jit(partial(function, implementation=kernel))
    exported = export.export(function, platforms=[PLATFORM[kernel]])(*arguments)
    assert CALL_OF_KERNEL[kernel] in exported.mlir_module()
    text = function.trace(*arguments).lower(lowering_platforms=(PLATFORM[kernel],)).as_text()
    assert CALL_OF_KERNEL[kernel] in text
    for platforms in (["cpu"], [PLATFORM[kernel], "cpu"]):
        with pytest.raises(NotImplementedError, match=REFUSED[kernel].format("cpu")):
            export.export(function, platforms=platforms)(*arguments)
    with pytest.raises(NotImplementedError, match=REFUSED[kernel].format("rocm")):
        export.export(function, platforms=["rocm"])(*arguments)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("how", ["eager", "jit", "disable_jit"])
@pytest.mark.parametrize("name", ["logits", "layer"])
def test_kernels_do_not_run_elsewhere(name, how, kernel):
    function, arguments = CALLS[name]
    function = partial(function, implementation=kernel)
    if how == "jit":
        function = jax.jit(function)
    arguments = [jnp.asarray(x) for x in arguments]
    with (
        jax.disable_jit(how == "disable_jit"),
        pytest.raises(NotImplementedError, match=REFUSED[kernel].format("cpu")),
    ):
        function(*arguments)


# Of the forms for CPUs: rows in windows, the logits of some rows in its cache, one pass.
FOR_CPU: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "stablehlo.reduce_window": ((2, 8192), {}),
    "stablehlo.while": ((600, 1000), {"logit_soft_cap": 3.0}),
    "dense<3.200000e+01>": ((2, 3), {}),  # how far from the label the maximum may be
}


@pytest.mark.parametrize("operation", FOR_CPU)
@pytest.mark.parametrize("implementation", [None, "xla"])
def test_forms_for_cpus_are_in_programs_for_cpus_alone(operation, implementation):
    shape, keywords = FOR_CPU[operation]
    arguments = jnp.zeros(shape), jnp.zeros(shape[0], jnp.int32)
    traced = jax.jit(partial(integer_loss, implementation=implementation, **keywords)).trace(
        *arguments
    )
    for platform in ("cpu", "cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert (operation in text) == (platform == "cpu"), platform


def test_products_in_half_precision_are_named_for_accelerators_alone():
    """CPUs do not support every name."""
    traced = jax.jit(gradients(linear_loss)).trace(*LAYER)
    for platform in ("cpu", "cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("algorithm = <lhs_precision_type = bf16" in text) == (platform != "cpu"), platform


@pytest.mark.parametrize("shape", [(4, 32), (5, 9000)], ids=str)
def test_one_program_for_several_platforms(shape):
    logits = numbers(*shape)
    labels = np.arange(shape[0], dtype=np.int32)
    function = jax.jit(gradients(integer_loss, label_smoothing=0.1))
    exported = export.export(function, platforms=["cpu", "cuda", "tpu"])(logits, labels)
    value, (gradient,) = exported.call(logits, labels)
    expected = oracles.cross_entropy(logits, labels, label_smoothing=0.1)
    assert_close(value, expected.losses.mean(), VALUE["float32"])
    assert_close(gradient, expected.gradient / shape[0], GRADIENT["float32"])


def test_one_layer_for_several_platforms():
    exported = export.export(jax.jit(gradients(linear_loss)), platforms=["tpu", "cpu"])(*LAYER)
    value, (d_x, d_kernel) = exported.call(*LAYER)
    x, kernel = (np.asarray(a, np.float64) for a in LAYER[:2])
    expected = oracles.cross_entropy(x @ kernel, LABELS)
    assert_close(value, expected.losses.mean(), VALUE["bfloat16"])
    assert_close(d_x, expected.gradient @ kernel.T / 4, GRADIENT["bfloat16"])
    assert_close(d_kernel, x.T @ expected.gradient / 4, GRADIENT["bfloat16"])


def test_a_symbolic_number_of_rows_for_another_platform(unchecked_annotations):
    (n,) = export.symbolic_shape("n")
    arguments = jax.ShapeDtypeStruct((n, 9000), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.int32)
    exported = export.export(jax.jit(integer_loss), platforms=["tpu"])(*arguments)
    assert "stablehlo.reduce_window" not in exported.mlir_module()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["logits", "layer"])
def test_kernels_refuse_a_symbolic_number_of_rows(name, kernel, unchecked_annotations):
    function, arguments = CALLS[name]
    (n,) = export.symbolic_shape("n")
    shapes = [
        jax.ShapeDtypeStruct((n, *x.shape[1:]) if len(x) == 4 else x.shape, x.dtype)
        for x in arguments
    ]
    expected = r"^(logits|x): expected a shape of known sizes for 'mosaic_.pu', got \(n, \d+\)"
    with pytest.raises(NotImplementedError, match=expected):
        export.export(
            jax.jit(partial(function, implementation=kernel)), platforms=[PLATFORM[kernel]]
        )(*shapes)
