"""The calls: each function makes the data, imports its package and returns the call to time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness.baselines import OURS

SCIPY, STATSMODELS = "scipy", "statsmodels"
Make = Callable[[], Callable[[], Any]]

COUNTS = np.array([3, 5, 9, 2, 4, 7])
PMF = COUNTS / COUNTS.sum()
UNIFORM = np.full(6, 1 / 6)
TABLE = np.array([[20, 30, 10], [25, 15, 20]])
DICE = np.random.default_rng(0).multinomial(30, [0.2, 0.3, 0.5], 12)
LABELS = np.array(["low", "high", "middle"])[np.arange(60) % 3]
GROUPS = np.array(["town", "land"])[np.arange(60) % 2]
FEATURES = np.random.default_rng(1).normal(size=(60, 3))
CLASSES = np.random.default_rng(2).integers(0, 3, 60)


class Call(NamedTuple):
    """One function of xentjax and, by package, the nearest functions of others."""

    ours: Make
    others: dict[str, Make]

    def make(self, package: str) -> Make:
        """Return the function that makes the call of a package."""
        return self.ours if package == OURS else self.others[package]


def _ours(call: Callable[[Any], Any]) -> Make:
    """Make a call after importing xentjax and one compilation, as in any JAX program."""

    def make() -> Callable[[], Any]:
        import jax

        import xentjax

        jax.block_until_ready(jax.jit(lambda x: x + 1)(np.ones(2)))
        return lambda: jax.block_until_ready(call(xentjax))

    return make


def _of_result(before: Callable[[Any], Any], call: Callable[[Any], Any]) -> Make:
    """Make a call on a result, which is computed untimed."""

    def make() -> Callable[[], Any]:
        import jax

        import xentjax

        result = before(xentjax)
        return lambda: jax.block_until_ready(call(result))

    return make


def _scipy(call: Callable[[Any], Any]) -> Make:
    def make() -> Callable[[], Any]:
        from scipy import stats

        return lambda: call(stats)

    return make


def _scipy_crosstab() -> Callable[[], Any]:
    from scipy.stats.contingency import crosstab

    return lambda: crosstab(LABELS, GROUPS)


def _proportions(call: Callable[[Any], Any]) -> Make:
    def make() -> Callable[[], Any]:
        from statsmodels.stats import proportion

        return lambda: call(proportion)

    return make


def _power(call: Callable[[Any], Any]) -> Make:
    def make() -> Callable[[], Any]:
        from statsmodels.stats.power import GofChisquarePower

        return lambda: call(GofChisquarePower())

    return make


EFFECT = float(np.sqrt(((PMF - UNIFORM) ** 2 / UNIFORM).sum()))


def _mnlogit(call: Callable[[Any], Any], *, fitted: bool = True) -> Make:
    def make() -> Callable[[], Any]:
        from statsmodels.discrete.discrete_model import MNLogit
        from statsmodels.tools import add_constant

        x = add_constant(FEATURES)

        def fit() -> Any:
            return MNLogit(CLASSES, x).fit(method="newton", disp=0)

        if not fitted:
            return lambda: call(fit())
        result = fit()
        return lambda: call(result)

    return make


def _fit(xentjax: Any) -> Any:
    return xentjax.fit_softmax_regression(FEATURES, CLASSES, num_classes=3)


def _posterior(xentjax: Any) -> Any:
    return xentjax.dirichlet_posterior(COUNTS)


def _intervals(method: str) -> Make:
    return _ours(lambda x: x.confidence_intervals(COUNTS, method=method))


def _multinomial_interval(method: str) -> dict[str, Make]:
    return {
        STATSMODELS: _proportions(lambda p: p.multinomial_proportions_confint(COUNTS, 0.05, method))
    }


CALLS = {
    "counts": Call(_ours(lambda x: x.counts(CLASSES, 3)), {}),
    "encode": Call(_ours(lambda x: x.encode(LABELS)), {}),
    "crosstab of encode": Call(
        _ours(lambda x: x.crosstab(x.encode(LABELS)[0], x.encode(GROUPS)[0])),
        {SCIPY: _scipy_crosstab},
    ),
    "entropy": Call(
        _ours(lambda x: x.entropy(PMF)), {SCIPY: _scipy(lambda stats: stats.entropy(PMF))}
    ),
    "kl_divergence": Call(
        _ours(lambda x: x.kl_divergence(PMF, UNIFORM)),
        {SCIPY: _scipy(lambda stats: stats.entropy(PMF, UNIFORM))},
    ),
    "entropy_estimate": Call(_ours(lambda x: x.entropy_estimate(COUNTS)), {}),
    "nsb_entropy": Call(_ours(lambda x: x.nsb_entropy(COUNTS)), {}),
    "expected_kl": Call(_ours(lambda x: x.expected_kl(PMF, 30)), {}),
    "multinomial_log_likelihood": Call(
        _ours(lambda x: x.multinomial_log_likelihood(PMF, COUNTS)),
        {SCIPY: _scipy(lambda stats: stats.multinomial.logpmf(COUNTS, 30, PMF))},
    ),
    "fit_categorical": Call(_ours(lambda x: x.fit_categorical(COUNTS)), {}),
    "kkt_certificate": Call(_ours(lambda x: x.kkt_certificate(PMF, COUNTS)), {}),
    "confidence_intervals, goodman": Call(_intervals("goodman"), _multinomial_interval("goodman")),
    "confidence_intervals, jeffreys": Call(
        _intervals("jeffreys"),
        {STATSMODELS: _proportions(lambda p: p.proportion_confint(COUNTS, 30, method="jeffreys"))},
    ),
    "confidence_intervals, sison_glaz": Call(
        _intervals("sison_glaz"), _multinomial_interval("sison-glaz")
    ),
    "g_test": Call(
        _ours(lambda x: x.g_test(COUNTS, UNIFORM)),
        {
            SCIPY: _scipy(
                lambda stats: stats.power_divergence(COUNTS, 30 * UNIFORM, lambda_="log-likelihood")
            )
        },
    ),
    "chi_squared_test": Call(
        _ours(lambda x: x.chi_squared_test(COUNTS, UNIFORM)),
        {SCIPY: _scipy(lambda stats: stats.chisquare(COUNTS, 30 * UNIFORM))},
    ),
    "multinomial_test": Call(_ours(lambda x: x.multinomial_test(COUNTS, UNIFORM)), {}),
    "power": Call(
        _ours(lambda x: x.power(PMF, UNIFORM, 50)),
        {STATSMODELS: _power(lambda law: law.power(EFFECT, 50, 0.05, n_bins=6))},
    ),
    "sample_size": Call(
        _ours(lambda x: x.sample_size(PMF, UNIFORM)),
        {STATSMODELS: _power(lambda law: law.solve_power(EFFECT, None, 0.05, 0.8, n_bins=6))},
    ),
    "independence_test": Call(
        _ours(lambda x: x.independence_test(TABLE)),
        {SCIPY: _scipy(lambda stats: stats.chi2_contingency(TABLE, lambda_="log-likelihood"))},
    ),
    "mutual_information_interval": Call(
        _of_result(
            lambda x: x.independence_test(TABLE), lambda test: test.mutual_information_interval()
        ),
        {},
    ),
    "dirichlet_posterior": Call(_ours(_posterior), {}),
    "credible_intervals, equal_tailed": Call(
        _of_result(_posterior, lambda posterior: posterior.credible_intervals()),
        {
            SCIPY: _scipy(
                lambda stats: stats.beta.interval(0.95, COUNTS + 1, COUNTS.sum() + 5 - COUNTS)
            )
        },
    ),
    "credible_intervals, highest_density": Call(
        _of_result(
            _posterior, lambda posterior: posterior.credible_intervals(kind="highest_density")
        ),
        {},
    ),
    "log_evidence": Call(
        _ours(lambda x: x.log_evidence(COUNTS, 1.0)),
        {SCIPY: _scipy(lambda stats: stats.dirichlet_multinomial.logpmf(COUNTS, np.ones(6), 30))},
    ),
    "fit_dirichlet": Call(_ours(lambda x: x.fit_dirichlet(DICE)), {}),
    "overdispersion_test": Call(_ours(lambda x: x.overdispersion_test(DICE)), {}),
    "fit_softmax_regression": Call(
        _ours(_fit), {STATSMODELS: _mnlogit(lambda result: result, fitted=False)}
    ),
    "summary": Call(
        _of_result(_fit, lambda fit: fit.summary()),
        {STATSMODELS: _mnlogit(lambda result: str(result.summary()))},
    ),
    "robust_covariance": Call(_of_result(_fit, lambda fit: fit.robust_covariance), {}),
    "average_marginal_effects": Call(
        _of_result(_fit, lambda fit: fit.average_marginal_effects()),
        {STATSMODELS: _mnlogit(lambda result: result.get_margeff())},
    ),
    "predict_proba": Call(
        _of_result(_fit, lambda fit: fit.predict_proba(FEATURES)),
        {STATSMODELS: _mnlogit(lambda result: result.predict())},
    ),
}
