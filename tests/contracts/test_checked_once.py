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

import xentjax

COUNTS, PMF = jnp.array([3, 1, 5, 2]), jnp.array([0.25, 0.25, 0.375, 0.125])
JOINT = jnp.array([[0.25, 0.25], [0.125, 0.375]])
PROBS, LABELS = jnp.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]]), jnp.array([0, 1, 1])
WHERE = jnp.array([True, True, False])
LOGITS = jnp.array([[2.0, 0.0], [1.0, 1.5], [3.0, 0.0], [0.0, 1.0]])
FEATURES = jnp.array([[0.0], [1.0], [2.0], [3.0]])
MASK = jnp.array([True, True, True, True])

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
    partial(xentjax.entropy_estimate, COUNTS, base=2),
    partial(xentjax.nsb_entropy, COUNTS, base=2),
    partial(xentjax.expected_kl, PMF, 5, base=2),
    partial(xentjax.expected_calibration_error, PROBS, LABELS, where=WHERE),
    partial(xentjax.classwise_calibration_error, PROBS, LABELS, norm="l2", debias=True),
    partial(xentjax.reliability_curve, PROBS, LABELS),
    partial(xentjax.risk_coverage, PROBS, LABELS),
    partial(xentjax.fit_temperature, LOGITS, jnp.array([0, 1, 0, 0])),
    partial(xentjax.fit_softmax_regression, FEATURES, jnp.array([0, 1, 0, 1]), 2),
]


@pytest.fixture
def checks(monkeypatch):
    """Count the runs of each check for each argument, by the name that its errors begin with."""
    seen = Counter()

    def counted(function):
        @wraps(function)
        def check(*args, **keywords):
            name = "base" if function.__name__ == "nats_per_unit" else args[0]
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


def test_every_function_is_called():
    """Every function of the packages that this file is about has a call in its table."""
    packages = ("information", "categorical", "calibration", "softmax_regression")
    for name, value in vars(xentjax).items():
        if inspect.isfunction(value) and value.__module__.split(".")[1] in packages:
            assert any(call.func is value for call in CALLS), name
