"""No argument is checked twice in one call: public functions parse, and call none of each other."""

import importlib
import inspect
import pkgutil
from collections import Counter
from functools import partial, wraps

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec as P

import xentjax

COUNTS, PMF = jnp.array([3, 1, 5, 2]), jnp.array([0.25, 0.25, 0.375, 0.125])
TABLE = jnp.array([[3, 1, 2], [2, 0, 4]])
JOINT = jnp.array([[0.25, 0.25], [0.125, 0.375]])
PROBS, LABELS = jnp.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]]), jnp.array([0, 1, 1])
WHERE = jnp.array([True, True, False])
LOGITS = jnp.array([[2.0, 0.0], [1.0, 1.5], [3.0, 0.0], [0.0, 1.0]])
FEATURES = jnp.array([[0.0], [1.0], [2.0], [3.0]])
MASK = jnp.array([True, True, True, True])
ROWS, INDICES = jnp.array([True, False, True, True]), jnp.array([0, 1, 0, -1])
TARGETS, KERNEL, BIAS = jnp.full((4, 2), 0.5), jnp.array([[0.5, -1.0]]), jnp.array([1.0, 0.5])
TOP_1 = xentjax.TopK(jnp.full((4, 1), -0.5), jnp.zeros((4, 1), jnp.int32))
KEYWORDS = {
    "class_weights": BIAS,
    "label_smoothing": 0.1,
    "z_loss": 1e-3,
    "logit_soft_cap": 5.0,
    "temperature": 2.0,
    "reduction": "mean",
    "return_stats": True,
    "implementation": "xla",
}
LOGIT_KEYWORDS = {
    "where": ROWS,
    "logit_soft_cap": 5.0,
    "temperature": 2.0,
    "max_bytes": 2**20,
    "implementation": "xla",
}
HEADS = FEATURES, KERNEL, FEATURES, KERNEL
TWO_HEADS = {**LOGIT_KEYWORDS, "target_bias": BIAS, "bias": BIAS, "reduction": "mean"}
SPLIT = {**KEYWORDS, "axis_name": "classes", "num_classes": 2}


def over_devices(function):
    """Return the function inside `shard_map`, over one device."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("classes",))

    @wraps(function)
    def mapped(*arguments, **keywords):
        call = jax.shard_map(
            lambda: function(*arguments, **keywords), mesh=mesh, in_specs=(), out_specs=P()
        )
        return jax.jit(call)()  # else each operation of it would be compiled alone

    return mapped


CALLS = [
    partial(xentjax.entropy, PMF, base=2, where=MASK),
    partial(xentjax.cross_entropy, PMF, PMF, form="pmf"),
    partial(xentjax.kl_divergence, jnp.log(PMF), jnp.log(PMF), form="log_pmf"),
    partial(xentjax.js_divergence, PMF, PMF, weight=0.25),
    partial(xentjax.perplexity, PMF, base="bits"),
    partial(xentjax.mutual_information, JOINT),
    partial(xentjax.conditional_entropy, JOINT),
    partial(xentjax.check_pmf, PMF, atol=1e-3),
    partial(xentjax.counts, LABELS, 2, weights=jnp.ones(3), where=WHERE),
    partial(xentjax.crosstab, LABELS, LABELS, num_classes=(2, 3)),
    partial(xentjax.encode, ["b", "a"]),
    partial(xentjax.stream_counts, [np.array([0, 1])], 2),
    partial(xentjax.empirical_pmf, COUNTS),
    partial(xentjax.log_likelihood, PMF, COUNTS, base=2),
    partial(xentjax.multinomial_log_likelihood, PMF, COUNTS),
    partial(xentjax.score, PMF, COUNTS),
    partial(xentjax.fisher_information, PMF, 4),
    partial(xentjax.sample, jax.random.key(0), PMF, (3,)),
    partial(xentjax.kkt_certificate, PMF, COUNTS),
    partial(xentjax.fit_categorical, COUNTS, prior=2.0, tol=1e-3),
    partial(xentjax.fit_categorical, COUNTS, solver="newton", max_steps=3),
    partial(xentjax.fit_categorical, COUNTS, solver=optax.sgd(1.0), max_steps=3),
    partial(xentjax.categorical.solvers.solve, COUNTS, xentjax.categorical.solvers.newton(), 3),
    partial(xentjax.confidence_intervals, COUNTS, alpha=0.1),
    partial(xentjax.confidence_intervals, COUNTS, method="sison_glaz"),
    partial(xentjax.g_test, COUNTS, PMF),
    partial(xentjax.chi_squared_test, COUNTS, PMF),
    partial(xentjax.multinomial_test, COUNTS, PMF, order="g", num_samples=10),
    partial(xentjax.independence_test, TABLE, statistic="chi_squared"),
    partial(xentjax.power, PMF, jnp.full(4, 0.25), 20, alpha=0.1),
    partial(xentjax.sample_size, PMF, jnp.full(4, 0.25), power=0.9, alpha=0.1),
    partial(xentjax.fit_dirichlet, TABLE),
    partial(xentjax.overdispersion_test, TABLE),
    partial(xentjax.dirichlet_posterior, COUNTS, 0.5),
    partial(xentjax.log_evidence, COUNTS, 0.5),
    partial(xentjax.entropy_estimate, COUNTS, base=2),
    partial(xentjax.nsb_entropy, COUNTS, base=2),
    partial(xentjax.expected_kl, PMF, 5, base=2),
    partial(xentjax.expected_calibration_error, PROBS, LABELS, where=WHERE),
    partial(xentjax.classwise_calibration_error, PROBS, LABELS, norm="l2", debias=True),
    partial(xentjax.reliability_curve, PROBS, LABELS),
    partial(xentjax.risk_coverage, PROBS, LABELS),
    partial(xentjax.fit_temperature, LOGITS, jnp.array([0, 1, 0, 0])),
    partial(
        xentjax.fit_softmax_regression,
        FEATURES,
        jnp.array([0, 1, 0, 1]),
        2,
        sample_weight=jnp.ones(4),
        baseline=1,
    ),
    partial(xentjax.softmax_cross_entropy, LOGITS, TARGETS, where=ROWS, **KEYWORDS),
    partial(
        xentjax.softmax_cross_entropy_with_integer_labels,
        LOGITS,
        INDICES,
        where=ROWS,
        ignore_index=-1,
        **KEYWORDS,
    ),
    partial(
        xentjax.linear_softmax_cross_entropy,
        FEATURES,
        KERNEL,
        INDICES,
        BIAS,
        where=ROWS,
        ignore_index=-1,
        max_bytes=2**20,
        gradients_in_forward=True,
        **KEYWORDS,
    ),
    partial(xentjax.linear_softmax_cross_entropy, FEATURES, KERNEL, TARGETS, BIAS),
    partial(
        xentjax.linear_log_probs,
        FEATURES,
        KERNEL,
        INDICES,
        BIAS,
        ignore_index=-1,
        **LOGIT_KEYWORDS,
        return_entropy=True,
    ),
    partial(
        xentjax.linear_loss,
        lambda stats, weight: (-weight * stats.label_log_prob, stats.predicted),
        FEATURES,
        KERNEL,
        INDICES,
        BIAS,
        inputs=(jnp.ones(4),),
        has_aux=True,
        ignore_index=-1,
        reduction="sum",
        **LOGIT_KEYWORDS,
    ),
    partial(xentjax.linear_kl_divergence, *HEADS, **TWO_HEADS, reverse=True),
    partial(xentjax.linear_js_divergence, *HEADS, **TWO_HEADS, weight=0.25),
    partial(xentjax.linear_top_k, FEATURES, KERNEL, 2, BIAS, **LOGIT_KEYWORDS),
    partial(
        xentjax.linear_sample,
        jax.random.key(0),
        FEATURES,
        KERNEL,
        BIAS,
        num_samples=2,
        **LOGIT_KEYWORDS,
    ),
    partial(
        xentjax.linear_top_k_kl_divergence,
        TOP_1,
        FEATURES,
        KERNEL,
        BIAS,
        reverse=True,
        reduction="mean",
        **LOGIT_KEYWORDS,
    ),
    partial(xentjax.brier_score, LOGITS, INDICES, where=ROWS, ignore_index=-1, reduction="sum"),
    partial(xentjax.brier_score, LOGITS, TARGETS, implementation="xla"),
    partial(xentjax.kl_divergence_with_logits, LOGITS, LOGITS, 2.0, where=ROWS),
    partial(xentjax.nll_loss, LOGITS, INDICES, class_weights=BIAS, ignore_index=-1),
    partial(xentjax.poly_loss_cross_entropy, LOGITS, TARGETS, epsilon=1.5, class_weights=BIAS),
    partial(xentjax.softmax_focal_loss, LOGITS, INDICES, gamma=1.5, class_weights=BIAS),
    partial(xentjax.smooth_labels, TARGETS, 0.25),
    partial(xentjax.sigmoid_binary_cross_entropy, LOGITS, TARGETS, pos_weight=BIAS),
    partial(xentjax.sigmoid_focal_loss, LOGITS, TARGETS, alpha=TARGETS, gamma=BIAS),
    partial(xentjax.log_softmax, LOGITS, where=TARGETS > 0.5),
    partial(xentjax.softmax, LOGITS, -1),
    partial(xentjax.logsumexp, LOGITS, keepdims=True),
    partial(over_devices(xentjax.softmax_cross_entropy), LOGITS, TARGETS, where=ROWS, **SPLIT),
    partial(
        over_devices(xentjax.softmax_cross_entropy_with_integer_labels),
        LOGITS,
        INDICES,
        ignore_index=-1,
        **SPLIT,
    ),
    partial(
        over_devices(xentjax.linear_softmax_cross_entropy),
        FEATURES,
        KERNEL,
        INDICES,
        BIAS,
        ignore_index=-1,
        max_bytes=2**20,
        **SPLIT,
    ),
    partial(
        over_devices(xentjax.linear_log_probs),
        FEATURES,
        KERNEL,
        INDICES,
        BIAS,
        ignore_index=-1,
        axis_name="classes",
        num_classes=2,
        **LOGIT_KEYWORDS,
    ),
    partial(
        over_devices(xentjax.linear_loss),
        lambda stats: stats.entropy,
        FEATURES,
        KERNEL,
        INDICES,
        BIAS,
        ignore_index=-1,
        axis_name="classes",
        num_classes=2,
        **LOGIT_KEYWORDS,
    ),
    partial(over_devices(xentjax.linear_kl_divergence), *HEADS, axis_name="classes", **TWO_HEADS),
    partial(over_devices(xentjax.linear_js_divergence), *HEADS, axis_name="classes", **TWO_HEADS),
    partial(
        over_devices(xentjax.linear_top_k),
        FEATURES,
        KERNEL,
        2,
        BIAS,
        axis_name="classes",
        **LOGIT_KEYWORDS,
    ),
    partial(
        over_devices(xentjax.linear_sample),
        jax.random.key(0),
        FEATURES,
        KERNEL,
        BIAS,
        axis_name="classes",
        **LOGIT_KEYWORDS,
    ),
    partial(
        over_devices(xentjax.linear_top_k_kl_divergence),
        TOP_1,
        FEATURES,
        KERNEL,
        BIAS,
        axis_name="classes",
        **LOGIT_KEYWORDS,
    ),
    partial(over_devices(xentjax.counts), LABELS, 2, axis_name="classes"),
]


NAMED = {"nats_per_unit": "base", "parse_axis_name": "axis_name"}
"""Arguments that a check of their own is for."""


@pytest.fixture
def checks(monkeypatch):
    """Count the runs of each check for each argument, by the name that its errors begin with."""
    seen = Counter()

    def counted(function):
        @wraps(function)
        def check(*args, **keywords):
            name = NAMED.get(function.__name__, args[0])
            if isinstance(name, str):
                seen[function.__name__, name] += 1
            return function(*args, **keywords)

        return check

    wrappers = {}
    for found in pkgutil.walk_packages(xentjax.__path__, "xentjax."):
        module = importlib.import_module(found.name)
        for name, value in list(vars(module).items()):
            if name == "check_pmf":  # which is public
                continue
            if name.startswith(("check_", "_check_", "parse_", "nats_per_unit")):
                monkeypatch.setattr(module, name, wrappers.setdefault(value, counted(value)))
    return seen


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.func.__name__)
def test_each_argument_is_checked_once(call, checks):
    jax.clear_caches()  # a call that compiles traces its inner functions too
    call()
    arguments = inspect.signature(call.func).parameters
    assert checks
    assert {c: n for c, n in checks.items() if n > 1 and c[1] in arguments} == {}
    assert checks["parse_axis_name", "axis_name"] == ("axis_name" in call.keywords)


def test_every_function_is_called():
    """Every function of the packages that this file is about has a call in its table."""
    packages = (
        "information",
        "categorical",
        "calibration",
        "softmax_regression",
        "losses",
        "heads",
    )
    for name in xentjax.__all__:
        value = getattr(xentjax, name)
        if inspect.isfunction(value) and value.__module__.split(".")[1] in packages:
            assert any(call.func is value for call in CALLS), name
