"""Arguments of every public function of `categorical` and `calibration`.

Anything that holds an array is accepted, and x64 with strict promotion (of the whole suite) finds
no mixture of dtypes."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pyarrow as pa
import pytest

import xentjax
from tests.support.columns import Column
from xentjax import calibration, categorical

COUNTS = [3, 0, 5, 2]
PMF = [0.25, 0.25, 0.375, 0.125]
TABLE = [[3, 0, 2], [1, 5, 4]]
SAMPLES = [0, 2, 2, 3]
PROBS = [[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]]
LOGITS = [[2.0, 0.0], [1.0, 0.5], [0.0, 1.0], [1.0, 0.0]]
LABELS = [0, 1, 1]

METHODS = ["wald", "wilson", "agresti_coull", "jeffreys", "goodman", "quesenberry_hurst"]
ESTIMATES = ["plug_in", "miller_madow", "chao_shen", "james_stein", "jeffreys", "laplace"]
ESTIMATES += ["perks", "minimax", "grassberger", "nsb"]
SOLVERS = ["newton", "exponentiated_gradient", "natural_gradient", optax.adam(0.1), optax.sgd(1.0)]

# Name: how it is called, arguments.
CALLS = {
    "counts": (lambda f, x, w: f(x, 4, weights=w), SAMPLES, PMF),
    "counts where": (lambda f, x, w: f(x, 4, where=w), SAMPLES, [True, False, True, True]),
    "crosstab": (lambda f, a, b: f(a, b, num_classes=(4, 2)), SAMPLES, [0, 1, 1, 0]),
    "encode": (lambda f, x: f(x), SAMPLES),
    "stream_counts": (lambda f, x: f([x], 4), SAMPLES),
    "empirical_pmf": (lambda f, c: f(c), COUNTS),
    "log_likelihood": (lambda f, q, c: f(q, c), PMF, COUNTS),
    "multinomial_log_likelihood": (lambda f, q, c: f(q, c), PMF, COUNTS),
    "score": (lambda f, q, c: f(q, c), PMF, COUNTS),
    "fisher_information": (lambda f, q, n: f(q, n), PMF, [7, 8]),
    "sample": (lambda f, q: f(jax.random.key(0), q, (5,)), PMF),
    "kkt_certificate": (lambda f, q, c: f(q, c), PMF, COUNTS),
    "g_test": (lambda f, c, q: f(c, q), COUNTS, PMF),
    "chi_squared_test": (lambda f, c, q: f(c, q), COUNTS, PMF),
    "multinomial_test": (lambda f, c, q: f(c, q), COUNTS, PMF),
    "independence_test": (lambda f, t: f(t), TABLE),
    "power": (lambda f, p, q, n: f(p, q, n), PMF, [0.5, 0.125, 0.25, 0.125], [7, 8]),
    "sample_size": (lambda f, p, q: f(p, q), PMF, [0.5, 0.125, 0.25, 0.125]),
    "fit_dirichlet": (lambda f, c: f(c), TABLE),
    "overdispersion_test": (lambda f, c: f(c), TABLE),
    "dirichlet_posterior": (lambda f, c, a: f(c, a), COUNTS, [1.5, 2.0, 1.0, 1.0]),
    "log_evidence": (lambda f, c, a: f(c, a), COUNTS, [1.5, 2.0, 1.0, 1.0]),
    "nsb_entropy": (lambda f, c: f(c), COUNTS),
    "expected_kl": (lambda f, p: f(p, 20), PMF),
    "fit_categorical": (lambda f, c, a: f(c, prior=a), COUNTS, [1.5, 2.0, 1.0, 1.0]),
    "solvers.solve": (lambda f, c: f(c, categorical.solvers.newton(), 3), COUNTS),
    "expected_calibration_error": (lambda f, p, y: f(p, y, num_bins=3), PROBS, LABELS),
    "classwise_calibration_error": (
        lambda f, p, y: f(p, y, num_bins=3, binning="mass"), PROBS, LABELS
    ),
    "reliability_curve": (
        lambda f, p, y, w: f(p, y, where=w), PROBS, LABELS, [True, True, False]
    ),
    "risk_coverage": (lambda f, p, y: f(p, y), PROBS, LABELS),
    "fit_temperature": (lambda f, a, y: f(a, y), LOGITS, [0, 1, 1, 1]),
}  # fmt: skip
CALLS |= {
    f"confidence_intervals {m}": (lambda f, c, m=m: f(c, method=m), COUNTS)
    for m in [*METHODS, "sison_glaz"]
}
CALLS |= {f"entropy_estimate {m}": (lambda f, c, m=m: f(c, method=m), COUNTS) for m in ESTIMATES}
CALLS |= {
    f"fit_categorical {i}": (lambda f, c, s=s: f(c, solver=s, max_steps=50), COUNTS)
    for i, s in enumerate(SOLVERS)
}


def find(name):
    function = categorical if hasattr(categorical, name.split()[0].split(".")[0]) else calibration
    for part in name.split()[0].split("."):
        function = getattr(function, part)
    return function


UNTYPED: Any = xentjax  # for arguments of types that it does not promise to take


class Holder:
    """A holder of an array, like flax.nnx.Param."""

    def __init__(self, value):
        self.value = jnp.asarray(value)

    def __jax_array__(self):
        return self.value


def close(result, expected, rtol):
    for got, wanted in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol, atol=rtol)


def test_every_public_function_is_called_here():
    public = {
        name
        for module in (categorical, calibration)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    assert public == {name.split()[0] for name in CALLS} - {"solvers.solve"}


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize("name", CALLS)
def test_whatever_holds_an_array_is_taken(name):
    call, *arguments = CALLS[name]
    function = find(name)
    expected = call(function, *map(np.array, arguments))
    for holder in (list, tuple, Holder, Column):
        close(call(function, *map(holder, arguments)), expected, 1e-6)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize("name", ["counts", "g_test", "independence_test", "reliability_curve"])
def test_tables_and_columns_of_pandas_and_arrow(name):
    call, *arguments = CALLS[name]
    expected = call(find(name), *map(np.array, arguments))
    kinds = [
        lambda x: pd.Series(x) if np.ndim(x) == 1 else pd.DataFrame(x),
        lambda x: (
            pd.Series(x).convert_dtypes() if np.ndim(x) == 1 else pd.DataFrame(x, dtype=object)
        ),
        lambda x: pa.array(x) if np.ndim(x) == 1 else pa.Table.from_pandas(pd.DataFrame(x)),
    ]
    for kind in kinds:
        close(call(find(name), *map(kind, arguments)), expected, 1e-6)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: UNTYPED.counts(["a", "b"], 2), "got <U1 .encode makes integers of labels.$"),
        (lambda: UNTYPED.counts(pd.Categorical(["a"])), "encode makes integers of labels"),
        (lambda: UNTYPED.counts([True], 2), "got bool .encode makes integers of labels.$"),
        (lambda: UNTYPED.counts([1.0], 2), r"got float64 \(`x.astype\(int\)`, if they"),
        (lambda: UNTYPED.empirical_pmf({"a": 1}), r"got dict \(pass `list\(x.values\(\)\)`\)$"),
        (lambda: UNTYPED.empirical_pmf({1, 2}), r"got set \(pass a list\)$"),
        (lambda: UNTYPED.counts(np.zeros(0, int)), "where there are no samples, got None"),
        (lambda: jax.jit(UNTYPED.counts)(jnp.array([1])), "samples are unknown .under jit."),
        (lambda: UNTYPED.counts(4, SAMPLES), r"of counts\(samples, num_classes\) swapped\?$"),
        (lambda: UNTYPED.sample(PMF, jax.random.key(0)), r"of sample\(key, q, shape\) swapped"),
        (lambda: UNTYPED.expected_kl(9, PMF), r"of expected_kl\(p, n\) swapped\?$"),
        (lambda: UNTYPED.fisher_information(9, PMF), r"of fisher_information\(q, n\) swapped"),
        (lambda: UNTYPED.dirichlet_posterior(1.0, COUNTS), r"\(counts, prior\) swapped\?$"),
        (lambda: UNTYPED.kkt_certificate([4.0, 2.0], [0.5, 0.5]), r"\(q, counts\) swapped\?$"),
        (lambda: UNTYPED.entropy_estimate(PMF), "; a pmf goes through entropy$"),
        (lambda: UNTYPED.fit_categorical(COUNTS, solver="adam"), "; an optax optimizer is"),
        (lambda: UNTYPED.risk_coverage(LABELS, PROBS), r"\(probs, labels\) swapped\?$"),
    ],
)  # fmt: skip
def test_an_error_says_in_one_line_what_was_meant(call, line):
    with pytest.raises((TypeError, ValueError), match=line) as error:
        call()
    assert "\n" not in str(error.value)


def test_the_number_of_classes_is_that_of_the_samples():
    for samples in (np.array([0, 2, 2]), jnp.array([0, 2, 2])):
        np.testing.assert_array_equal(categorical.counts(samples), [1, 0, 2])
    where = np.array([True, False, False])
    np.testing.assert_array_equal(categorical.counts(np.array([1, 7, -1]), where=where), [0, 1])


@pytest.mark.parametrize("name", CALLS)
def test_no_mixture_of_dtypes_under_x64(name):
    """Integer counts and labels of either width with pmfs of either precision, and half."""
    call, *arguments = CALLS[name]
    function = find(name)
    results = []
    with jax.enable_x64(True):
        for integer, floating in [("int64", "float64"), ("int32", "float32"), ("int8", "bfloat16")]:
            kinds = {"i": integer, "f": floating, "b": "bool"}
            arrays = [jnp.array(np.array(x), kinds[np.array(x).dtype.kind]) for x in arguments]
            results.append(call(function, *arrays))
    if name == "fit_temperature":  # a coarser dtype needs fewer steps
        results = [result._replace(steps=0) for result in results]
    for result in results[1:]:  # the arguments are exact in every dtype
        close(result, results[0], 2e-6)
    of_integers = ("sample", "stream_counts", "counts where", "crosstab", "encode", "sample_size")
    if "solve" not in name and name not in of_integers:
        assert any(x.dtype == np.float64 for x in jax.tree.leaves(results[0]))
