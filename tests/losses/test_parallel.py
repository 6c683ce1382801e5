"""Losses and counts over eight virtual devices, in processes of their own; bad arguments on one."""

import json
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec as P

from tests.programs.parallel import CHECKS
from tests.support.virtual_devices import run_module
from xentjax import (
    counts,
    linear_softmax_cross_entropy,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)
from xentjax._core.axis_name import parse_axis_name


@cache
def failures():
    """The traceback of each check that failed."""
    return json.loads(run_module("tests.programs.parallel"))


@pytest.mark.slow
@pytest.mark.devices
@pytest.mark.parametrize("name", CHECKS)
def test_eight_devices(name):
    failed = failures()[name]
    assert not failed, failed


@pytest.mark.slow
@pytest.mark.devices
@pytest.mark.kernels
def test_kernels_of_slices():
    """jax's interpreter of GPU kernels has one memory for all devices (jax 0.10 to 0.12).

    A device that ends while another one still runs may find the other's barriers and abort.
    """
    for attempts_left in (2, 1, 0):
        try:
            run_module("tests.programs.interpreted_devices")
            return
        except AssertionError as error:
            if "Barrier remains allocated" not in str(error) or not attempts_left:
                raise


LOGITS, X, KERNEL = jnp.zeros((4, 5)), jnp.zeros((4, 3)), jnp.zeros((3, 5))
LABELS, BIAS = jnp.zeros(4, jnp.int32), jnp.zeros(5)
PMFS = jnp.full((4, 5), 0.2)


def on_one_device(function, *arrays):
    mesh = Mesh(np.array(jax.devices()[:1]), ("classes",))
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=P(), out_specs=P()))(*arrays)


def loss_of(logits=LOGITS, labels=LABELS, **keywords):
    keywords = {"axis_name": "classes", **keywords}
    indices = jnp.issubdtype(labels.dtype, jnp.integer)
    loss = softmax_cross_entropy_with_integer_labels if indices else softmax_cross_entropy
    return on_one_device(lambda x, y: loss(x, y, **keywords), logits, labels)


def linear_loss_of(x=X, kernel=KERNEL, labels=LABELS, bias=BIAS, **keywords):
    keywords = {"axis_name": "classes", **keywords}
    return on_one_device(
        lambda *arrays: linear_softmax_cross_entropy(*arrays, **keywords),
        x,
        kernel,
        labels,
        bias,
    )


def counts_of(samples=LABELS, num_classes=5, **keywords):
    keywords = {"axis_name": "classes", **keywords}
    return on_one_device(lambda x: counts(x, num_classes, **keywords), samples)


BOTH = [
    ({"axis_name": "rows"}, ValueError, "axis_name"),
    ({"axis_name": ("classes", "rows")}, ValueError, "axis_name"),
    ({"num_classes": 6}, ValueError, "num_classes"),
    ({"num_classes": 0}, ValueError, "num_classes"),
    ({"labels": jnp.zeros(3, jnp.int32)}, ValueError, "labels"),
    ({"labels": jnp.zeros((4, 6))}, ValueError, "labels"),
    ({"labels": jnp.zeros((4, 5), complex)}, TypeError, "labels"),
    ({"where": np.ones(4)}, TypeError, "where"),
    ({"where": np.ones((4, 6), bool)}, ValueError, "where"),
    ({"class_weights": np.ones(6, np.float32)}, ValueError, "class_weights"),
    ({"class_weights": np.ones(5, np.float32), "num_classes": 4}, ValueError, "class_weights"),
    ({"class_weights": np.ones(5, np.int32)}, TypeError, "class_weights"),
    ({"label_smoothing": 2.0}, ValueError, "label_smoothing"),
    ({"z_loss": -1.0}, ValueError, "z_loss"),
    ({"logit_soft_cap": 0.0}, ValueError, "logit_soft_cap"),
    ({"temperature": 0.0}, ValueError, "temperature"),
    ({"reduction": "average"}, ValueError, "reduction"),
    ({"implementation": "fast"}, ValueError, "implementation"),
]
CASES = [
    *((loss, *case) for loss in (loss_of, linear_loss_of) for case in BOTH),
    (loss_of, {"logits": jnp.zeros((4, 5), jnp.int32)}, TypeError, "logits"),
    (loss_of, {"logits": jnp.zeros(())}, ValueError, "logits"),
    (loss_of, {"logits": jnp.zeros((4, 0))}, ValueError, "logits"),
    (linear_loss_of, {"x": jnp.zeros((4, 3), jnp.int32)}, TypeError, "x"),
    (linear_loss_of, {"x": jnp.zeros(())}, ValueError, "x"),
    (linear_loss_of, {"kernel": jnp.zeros((2, 5))}, ValueError, "kernel"),
    (linear_loss_of, {"kernel": jnp.zeros((3, 0))}, ValueError, "kernel"),
    (linear_loss_of, {"kernel": jnp.zeros((3, 5), jnp.int32)}, TypeError, "kernel"),
    (linear_loss_of, {"bias": jnp.zeros(6)}, ValueError, "bias"),
    (linear_loss_of, {"bias": jnp.zeros(5, jnp.int32)}, TypeError, "bias"),
    (linear_loss_of, {"max_bytes": 0}, ValueError, "max_bytes"),
    (linear_loss_of, {"labels": PMFS, "ignore_index": -1}, ValueError, "ignore_index"),
    (
        linear_loss_of,
        {"gradients_in_forward": True, "reduction": "sum"},
        ValueError,
        "gradients_in_forward",
    ),
    (loss_of, {"axis_name": None, "num_classes": 5}, ValueError, "num_classes"),
    (linear_loss_of, {"axis_name": None, "num_classes": 5}, ValueError, "num_classes"),
    (counts_of, {"axis_name": "rows"}, ValueError, "axis_name"),
    (counts_of, {"num_classes": 0}, ValueError, "num_classes"),
    (counts_of, {"samples": jnp.zeros(4)}, TypeError, "samples"),
    (counts_of, {"weights": np.ones(4, np.int32)}, TypeError, "weights"),
    (counts_of, {"weights": np.ones(3, np.float32)}, ValueError, "weights"),
    (counts_of, {"where": np.ones(4)}, TypeError, "where"),
]


def test_the_other_arguments_are_good():
    for loss in (loss_of, linear_loss_of):
        np.testing.assert_allclose(loss(num_classes=5), np.log(5), rtol=1e-6)
    np.testing.assert_array_equal(counts_of(), [4, 0, 0, 0, 0])


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(("function", "arguments", "error", "name"), CASES)
def test_errors_name_the_argument(function, arguments, error, name):
    # After the line comes jax's notice of the frames that it removed.
    with pytest.raises(error, match=rf"^{name}: expected [^\n]+, got [^\n]+(\n---|$)"):
        function(**arguments)


SPLIT_LOGITS = P(None, "classes")
ARGUMENTS: dict[str, Any] = {
    "logits": (np.zeros((4, 6), np.float32), SPLIT_LOGITS),
    "labels": (np.zeros(4, np.int32), P()),
    "x": (np.zeros((4, 3), np.float32), P()),
    "kernel": (np.zeros((3, 6), np.float32), SPLIT_LOGITS),
    "bias": (np.zeros(6, np.float32), P("classes")),
}
SCALARS = ("temperature", "logit_soft_cap", "label_smoothing", "z_loss")


def abstract_loss(linear, changed, num_devices=2):
    """Trace the loss over devices that need not be there."""
    arrays = {**ARGUMENTS, **changed}
    for name in ("logits",) if linear else ("x", "kernel", "bias"):
        del arrays[name]

    def loss(arrays, scalars):
        scalars = {name: x[0] for name, x in scalars.items()}
        if linear:
            return linear_softmax_cross_entropy(**arrays, **scalars, axis_name="classes")
        indices = arrays["labels"].ndim == 1
        loss = softmax_cross_entropy_with_integer_labels if indices else softmax_cross_entropy
        return loss(**arrays, **scalars, axis_name="classes")

    scalars = {name: arrays.pop(name) for name in SCALARS if name in arrays}
    mapped = jax.shard_map(
        loss,
        mesh=AbstractMesh((num_devices,), ("classes",), axis_types=(AxisType.Auto,)),
        in_specs=tuple({name: spec for name, (_, spec) in a.items()} for a in (arrays, scalars)),
        out_specs=P(),
    )
    jax.eval_shape(mapped, *({name: x for name, (x, _) in a.items()} for a in (arrays, scalars)))


WHOLE = {
    **{name: np.full(2, 0.5, np.float32) for name in SCALARS},
    "class_weights": np.ones(12, np.float32),
    "where": np.ones(8, bool),
}
SPLIT = {"labels": np.full((4, 3), 1 / 6, np.float32), "where": np.ones((4, 3), bool)}


@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
@pytest.mark.parametrize("name", WHOLE)
def test_what_devices_share_is_the_same_on_all(linear, name):
    value = WHOLE[name]
    message = rf"^{name}: expected the same array on all devices of 'classes', got one split"
    with pytest.raises(ValueError, match=message):
        abstract_loss(linear, {name: (value, P("classes"))})
    abstract_loss(linear, {name: (value[: len(value) // 2], P())})


@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
@pytest.mark.parametrize("name", SPLIT)
def test_what_has_classes_is_split_like_them(linear, name):
    value = SPLIT[name]
    with pytest.raises(ValueError, match=rf"^{name}: expected an array split over 'classes'"):
        abstract_loss(linear, {name: (value, P())})
    abstract_loss(linear, {name: (np.tile(value, 2), SPLIT_LOGITS)})


@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
def test_a_mask_without_a_class_axis_of_its_own_is_whole(linear):
    """One column masks whole rows, whether a device has one class or several."""
    mask = {"where": (np.ones((4, 1), bool), P())}
    abstract_loss(linear, mask)
    abstract_loss(linear, mask, num_devices=6)


BAD_NAMES = [
    *((), [], ("classes", "classes"), ("classes", 0), ("classes", "rows")),
    *(0, 3, None, "rows", {"classes"}, np.zeros((2, 2))),
]


@pytest.mark.parametrize("axis_name", BAD_NAMES, ids=str)
def test_axis_name_is_that_of_the_shard_map_around(axis_name, unchecked_annotations):
    message = (
        r"^axis_name: expected a mesh axis of the shard_map around this call, or a tuple of "
        r"distinct ones, got [^\n]+(\n---|$)"
    )
    with pytest.raises(ValueError, match=message):
        parse_axis_name(axis_name)  # outside of shard_map
    if axis_name is None:  # no axis at all
        return
    for function in (loss_of, linear_loss_of, counts_of):
        with pytest.raises(ValueError, match=message):
            function(axis_name=axis_name)


def test_a_list_of_axes_is_a_tuple(unchecked_annotations):
    for function in (loss_of, linear_loss_of, counts_of):
        np.testing.assert_array_equal(function(axis_name=["classes"]), function())


@pytest.mark.parametrize(
    "call",
    [
        lambda: softmax_cross_entropy_with_integer_labels(LOGITS, LABELS, axis_name="classes"),
        lambda: linear_softmax_cross_entropy(X, KERNEL, LABELS, axis_name="classes"),
        lambda: counts(LABELS, 5, axis_name="classes"),
    ],
)
def test_outside_of_shard_map(call):
    with pytest.raises(ValueError, match=r"^axis_name: expected a mesh axis .*, got 'classes'$"):
        call()
