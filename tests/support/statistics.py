"""Statistics of rows of counts, of pmfs and of samples, for arrays that devices share by rows.

Each is a call as in `tests.support.transformations`. Its `rows` are the arguments that are split:
of two arguments the other one may be whole, or broadcast.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import xentjax
from tests.support.transformations import LOGITS, PAIR, PMF, Call, D, Draw, K, N, Rng
from xentjax import calibration


def _counts(rng: Rng) -> np.ndarray:
    return rng.integers(1, 9, (N, K)).astype(np.float32)


def _whole_counts(rng: Rng) -> np.ndarray:
    return rng.integers(1, 9, (N, K)).astype(np.int32)


def _tables(rng: Rng) -> np.ndarray:
    return rng.integers(1, 9, (N, 2, K)).astype(np.float32)


def _labels(rng: Rng) -> np.ndarray:
    return rng.permutation(np.arange(N) % K).astype(np.int32)


def _two_labels(rng: Rng) -> np.ndarray:
    return rng.permutation(np.arange(N) % 2).astype(np.int32)


def _features(rng: Rng) -> np.ndarray:
    return rng.standard_normal((N, D)).astype(np.float32)


def _weights(rng: Rng) -> np.ndarray:
    return rng.uniform(0.5, 2, N).astype(np.float32)


def _one_pmf(rng: Rng) -> np.ndarray:
    return PMF["p"](rng)[0]


COUNTS: dict[str, Draw] = {"counts": _counts}
AGAINST: dict[str, Draw] = {**COUNTS, "q": _one_pmf}
WEIGHTED: dict[str, Draw] = {"samples": _labels, "weights": _weights}
TWO_LOGITS: dict[str, Draw] = {"p": LOGITS["logits"], "q": LOGITS["logits"]}
PREDICTIONS: dict[str, Draw] = {"probs": PMF["p"], "labels": _labels}


def _number(samples: jax.Array) -> jax.Array:
    return xentjax.counts(samples, K).astype(jnp.float32)


def _weighted(samples: jax.Array, weights: jax.Array) -> jax.Array:
    return xentjax.counts(samples, K, weights=weights)


def _two_way(a: jax.Array, b: jax.Array) -> jax.Array:
    return xentjax.crosstab(a, b, num_classes=(K, 2)).astype(jnp.float32)


def _regression(x: jax.Array, labels: jax.Array) -> list[jax.Array]:
    fit = xentjax.fit_softmax_regression(x, labels, 2, l2=0.5)
    return [fit.kernel, fit.bias, fit.log_likelihood]


def _temperature(logits: jax.Array, labels: jax.Array) -> calibration.TemperatureFit:
    """Fit logits that are right in more rows than others, but not in all."""
    return calibration.fit_temperature(logits + jax.nn.one_hot(labels, K), labels)


def _fit(counts: jax.Array, **keywords) -> list[jax.Array]:
    fit = xentjax.fit_categorical(counts, **keywords)
    return [fit.pmf, fit.log_likelihood]


def _posterior(counts: jax.Array) -> list[jax.Array]:
    prior = jnp.full(K, 0.5)
    posterior = xentjax.dirichlet_posterior(counts, prior)
    intervals = posterior.credible_intervals()
    shortest = jax.lax.stop_gradient(posterior).credible_intervals(kind="highest_density")
    return [
        *(posterior.mode, posterior.sd, posterior.covariance, intervals, shortest),
        *(posterior.expected_entropy(), xentjax.log_evidence(counts, prior)),
        jax.lax.stop_gradient(posterior).sample(jax.random.key(0), (2,)),
    ]


def _of_dice(counts: jax.Array) -> list[jax.Array]:
    counts = jax.lax.stop_gradient(counts)
    fit, test = xentjax.fit_dirichlet(counts), xentjax.overdispersion_test(counts)
    return [fit.mean, fit.correlation, fit.log_likelihood, test.statistic, test.p_value]


def _rolls_of_0(q: jax.Array) -> jax.Array:
    return (xentjax.sample(jax.random.key(0), q, (2, 3)) == 0).astype(jnp.float32)


STATISTICS = (
    Call("counts", _number, {"samples": _labels}, ("samples",)),
    Call("weighted counts", _weighted, WEIGHTED, ("samples", "weights")),
    Call("weighted counts", _weighted, WEIGHTED, ("samples",)),
    Call("table", _two_way, {"a": _labels, "b": _two_labels}, ("a",)),
    Call("fit", _fit, COUNTS, ("counts",)),
    Call("fit with a prior", partial(_fit, prior=np.full(K, 2.0)), COUNTS, ("counts",)),
    Call("fit by steps", partial(_fit, solver="newton", max_steps=20), COUNTS, ("counts",)),
    *(
        Call(m, partial(xentjax.confidence_intervals, method=m), COUNTS, ("counts",))
        for m in ("wald", "jeffreys", "goodman")
    ),
    Call(
        "sison_glaz",
        partial(xentjax.confidence_intervals, method="sison_glaz"),
        {"counts": _whole_counts},
        ("counts",),
    ),
    Call("nsb", xentjax.nsb_entropy, COUNTS, ("counts",)),
    Call("G-test", lambda q, counts: xentjax.g_test(counts, q), AGAINST, ("counts",)),
    Call("independence", xentjax.independence_test, {"table": _tables}, ("table",)),
    Call("power", partial(xentjax.power, n=3), {**PAIR}, ("p",)),
    Call("dirichlet", _of_dice, {"counts": _tables}, ("counts",)),
    Call("posterior", _posterior, COUNTS, ("counts",)),
    Call("log likelihood", xentjax.log_likelihood, AGAINST, ("counts",)),
    Call("multinomial", xentjax.multinomial_log_likelihood, AGAINST, ("counts",)),
    Call("KKT certificate", xentjax.kkt_certificate, AGAINST, ("counts",)),
    Call("Fisher information", partial(xentjax.fisher_information, n=3), {"q": PMF["p"]}, ("q",)),
    Call("rolls", _rolls_of_0, {"q": PMF["p"]}, ("q",)),
    Call("expected KL", partial(xentjax.expected_kl, n=7), PMF, ("p",)),
    *(
        Call(measure.__name__, partial(measure, form=form), draws, (split,))
        for measure in (xentjax.cross_entropy, xentjax.kl_divergence, xentjax.js_divergence)
        for form, draws, split in (("pmf", PAIR, "p"), ("logits", TWO_LOGITS, "q"))
    ),
    Call("kl, one q for all", xentjax.kl_divergence, {**PMF, "q": _one_pmf}, ("p",)),
    Call("mutual information", lambda p: xentjax.mutual_information(p / N), PMF, ("p",)),
    *(
        Call(call.__name__, call, PREDICTIONS, split)
        for call, split in (
            (calibration.expected_calibration_error, ("probs", "labels")),
            (calibration.expected_calibration_error, ("probs",)),
            (calibration.classwise_calibration_error, ("probs", "labels")),
            (calibration.risk_coverage, ("probs", "labels")),
        )
    ),
    *(
        Call("temperature", _temperature, {**LOGITS, "labels": _labels}, split)
        for split in (("logits", "labels"), ("logits",))
    ),
    *(
        Call("regression", _regression, {"x": _features, "labels": _two_labels}, split)
        for split in (("x", "labels"), ("x",))
    ),
)
