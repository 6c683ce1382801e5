"""The posterior of a pmf under a Dirichlet prior, and the evidence for the prior."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma
from jaxtyping import Array, Float, PRNGKeyArray

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import (
    broadcasts,
    check_alpha,
    check_choice,
    check_key,
    is_key,
    naming_order,
    raise_value_error,
    scalar_first,
)
from xentjax._core.choices import CredibleKind
from xentjax._core.dtypes import in_float64
from xentjax._core.multiply_no_nan import multiply_no_nan, nan_unless
from xentjax._core.varying import explicit_spec, on_auto_axes, sharded_alike
from xentjax.categorical._arguments import (
    check_shape,
    parse_counts,
    parse_pmf_of_classes,
    parse_prior,
)
from xentjax.categorical._highest_density import highest_density
from xentjax.categorical._nsb import digamma_excess
from xentjax.categorical._tails import beta_quantile_odds
from xentjax.categorical.counts import ComparedCounts, shares, shares_of, with_others_of
from xentjax.categorical.likelihood import factorial_remainder
from xentjax.information.pmf import entropy, kl_divergence, sum_tolerance
from xentjax.information.units import Base, in_units_of, nats_per_unit


class DirichletPosterior(NamedTuple):
    """The Dirichlet distribution of a pmf; A is the sum of its concentrations a.

    The marginal distribution of the probability of a class is Beta(a_k, A - a_k).

    Attributes:
        concentration: Concentrations: counts plus those of the prior.
    """

    concentration: Float[Array, "*batch k"]

    @property
    def mean(self) -> Float[Array, "*batch k"]:
        """Mean of the pmf, a / A."""
        return shares(self.concentration)

    @property
    def predictive(self) -> Float[Array, "*batch k"]:
        """The pmf of the next sample, which equals `mean`."""
        return self.mean

    @property
    def mode(self) -> Float[Array, "*batch k"]:
        """The pmf of largest density, (a - 1) / (A - K); NaN where the density has no maximum.

        That is where some a_k < 1, or all are 1.
        """
        return _mode(self.concentration)

    @property
    def sd(self) -> Float[Array, "*batch k"]:
        """Standard deviation of each probability, sqrt(a_k (A - a_k) / (A^2 (A + 1)))."""
        return _sd(self.concentration)

    @property
    def covariance(self) -> Float[Array, "*batch k k"]:
        """Covariance of the probabilities, (diag(m) - m m^T) / (A + 1) for the mean m."""
        return _covariance(self.concentration)

    def credible_intervals(
        self, alpha: ArrayLike = 0.05, kind: CredibleKind = "equal_tailed"
    ) -> Float[Array, "*batch k 2"]:
        """Compute intervals that contain a class's probability with probability 1 - alpha.

        Args:
            alpha: probability outside of an interval, in (0, 1).
            kind: "equal_tailed", with alpha / 2 on either side, or "highest_density", the shortest.
                The latter ends at 0 where a_k <= 1, and at 1 where A - a_k <= 1.

        Returns:
            [..., K, 2], lower and upper end. Those of highest density have no derivatives.

        Raises:
            ValueError: for another kind, or an alpha outside (0, 1).
            TypeError: for an alpha that is not a number, or a derivative of "highest_density".
        """
        check_choice("kind", kind, CredibleKind)
        alpha = check_alpha(alpha)
        intervals = _shortest if kind == "highest_density" else _equal_tailed
        return intervals(self.concentration, jnp.asarray(alpha, self.concentration.dtype))

    def sample(
        self, key: PRNGKeyArray, shape: tuple[int, ...] = ()
    ) -> Float[Array, "*shape_batch k"]:
        """Draw independent pmfs from the posterior.

        Args:
            key: random key.
            shape: of the samples of each die.

        Returns:
            Pmfs, of shape (*shape, ..., K).

        Raises:
            ValueError: for a shape with a negative size.
            TypeError: for a key that is not a random key, or a shape that is not a tuple of
            integers.
        """
        with naming_order("sample(key, shape)", lambda: is_key(shape)):
            check_key("key", key)
            check_shape("shape", shape)
        return _sample(key, self.concentration, shape)

    def expected_entropy(self, *, base: Base = None) -> Float[Array, "..."]:
        """Compute the posterior mean of the entropy of the pmf.

            E H(p) = psi(A + 1) - sum_k m_k psi(a_k + 1),    m the mean

        Args:
            base: unit of the result: None or "nats", 2 or "bits", 10 or "hartleys", any positive
                real except 1.

        Returns:
            [...].

        Raises:
            ValueError: for another base.

        Source: D. H. Wolpert and D. R. Wolf, "Estimating functions of probability distributions
        from a finite set of samples" (1995).
        """
        unit = nats_per_unit(base)
        return in_units_of(_expected_entropy(self.concentration), unit)

    def expected_kl(self, q: ArrayLike, *, base: Base = None) -> Float[Array, "..."]:
        """Compute the posterior mean of the divergence KL(p || q) of the pmf from a given one.

            E KL(p || q) = KL(m || q) + H(m) - E H(p),    m the mean

        Args:
            q: pmf, [..., K], broadcast to the concentrations.
            base: unit of the result, as in `expected_entropy`.

        Returns:
            [...]; a small result keeps its relative precision.

        Raises:
            ValueError: for a concrete `q` that is not a pmf, a shape that does not fit, or another
                base.
            TypeError: for q that is not floating.
        """
        unit = nats_per_unit(base)
        pmf, shape = parse_pmf_of_classes("q", q), self.concentration.shape
        if not broadcasts(pmf.shape, shape):
            raise_value_error("q", f"a shape that broadcasts to {shape}", pmf.shape)
        rounding = sum_tolerance(pmf.dtype, pmf.shape[-1])
        with jax.enable_x64(True):
            pair = sharded_alike(self.concentration, jnp.broadcast_to(pmf, shape))
        return in_units_of(_expected_kl(*pair, rounding=rounding), unit)


def dirichlet_posterior(counts: ArrayLike, prior: ArrayLike = 1.0) -> DirichletPosterior:
    """Compute the posterior of a pmf under a Dirichlet prior.

        p ~ Dirichlet(a),  c ~ Multinomial(N, p)    =>    p | c ~ Dirichlet(a + c)

    The prior a = 1 is flat, a = 1/2 is Jeffreys', and a = 1 / K is Perks'.

    Args:
        counts: [..., K], integer or floating; if all are 0, the posterior is the prior.
        prior: concentration, one for all classes or [K].

    Returns:
        The posterior, with mean, mode, sd, covariance and predictive pmf as attributes and the
        methods `credible_intervals`, `sample`, `expected_entropy` and `expected_kl`.

    Raises:
        ValueError: for concrete counts that are negative or not finite, a concentration that is not
            positive and finite, or shapes that do not fit.
        TypeError: for counts or a prior that are not numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import xentjax
        >>> posterior = xentjax.dirichlet_posterior(jnp.array([7, 2, 0]))
        >>> print(np.asarray(posterior.mean).round(3), np.asarray(posterior.sd).round(3))
        [0.667 0.25  0.083] [0.131 0.12  0.077]
        >>> print(posterior.credible_intervals(kind="highest_density").round(3)[2])
        [0.    0.238]

    Source: A. Gelman et al., "Bayesian Data Analysis", 3rd ed. (2013), section 3.4.
    """
    call = "dirichlet_posterior(counts, prior)"
    return DirichletPosterior(_posterior(*_parse(call, counts, prior)))


def log_evidence(counts: ArrayLike, prior: ArrayLike) -> Float[Array, "..."]:
    """Compute the log-probability of counts under a Dirichlet prior (Dirichlet-multinomial).

        log N! Gamma(A) / Gamma(N + A) prod_k Gamma(c_k + a_k) / (c_k! Gamma(a_k))

    The log-gammas are of order N log N and nearly cancel. With log x! = x log x - x + r(x) they
    become the following sum, which is what the code computes:

        r(N) + r(A) - r(N + A) - sum_k (r(c_k) + r(a_k) - r(c_k + a_k))
        + log(1 + N / A) - sum_k log(1 + c_k / a_k) - N KL(c / N || m) - A KL(a / A || m)

    where m = (c + a) / (N + A). The difference between two priors is the logarithm of a Bayes
    factor. The derivative with respect to the prior can fit it to many dice.

    Args:
        counts: [..., K], integer or floating; x! is Gamma(x + 1).
        prior: concentration a, one for all classes or [K].

    Returns:
        [...], in nats.

    Raises:
        ValueError: for concrete counts that are negative or not finite, a concentration that is not
            positive and finite, or shapes that do not fit.
        TypeError: for counts or a prior that are not numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> evidence = xentjax.log_evidence(jnp.array([2, 0, 1]), 1.0)
        >>> print(f"{jnp.exp(evidence):.3f}, one of 10 alike")
        0.100, one of 10 alike

    Source: J. E. Mosimann, "On the compound multinomial distribution" (1962); C. Loader, "Fast and
    accurate computation of binomial probabilities" (2000).
    """
    return _log_evidence(*sharded_alike(*_parse("log_evidence(counts, prior)", counts, prior)))


def _parse(call: str, counts: ArrayLike, prior: ArrayLike) -> tuple[Array, Array]:
    with naming_order(call, lambda: scalar_first(counts, prior)):
        parsed = parse_counts("counts", counts)
    return parsed, parse_prior("prior", prior, parsed)


@in_float64
def _posterior(counts: Array, prior: Array) -> Array:
    return counts + prior


@in_float64
def _mode(a: Array) -> Array:
    excess = a - 1
    has_maximum = (excess >= 0).all(-1, keepdims=True) & (excess > 0).any(-1, keepdims=True)
    return shares_of(excess) + nan_unless(has_maximum, a.dtype)


def _variance(a: ComparedCounts) -> Array:
    return (a.own / a.n) * (a.others / a.n) / (a.n + 1)


@in_float64
def _sd(a: Array) -> Array:
    return jnp.sqrt(_variance(with_others_of(a)))


@in_float64
def _covariance(a: Array) -> Array:
    compared = with_others_of(a)
    mean = a / compared.n
    unit = jnp.expand_dims(jnp.eye(mean.shape[-1], dtype=bool), range(mean.ndim - 1))
    product = mean[..., :, None] * mean[..., None, :] / (compared.n[..., None] + 1)
    return jnp.where(unit, _variance(compared)[..., None], -product)


@in_float64
def _equal_tailed(a: Array, alpha: Array) -> Array:
    own, others, _ = with_others_of(a)
    _, alpha = sharded_alike(a, jnp.full_like(a, alpha))
    # The upper end is 1 minus the lower end of all other classes together.
    pair = jnp.stack([own, others])
    alone = others == 0
    safe = jnp.where(alone[None], 1, pair)
    odds = beta_quantile_odds(safe, safe[::-1], jnp.stack([alpha, alpha]) / 2)
    ends = jnp.stack([odds[0] / (1 + odds[0]), 1 / (1 + odds[1])], -1)
    return jnp.where(alone[..., None], 1, ends)


@jax.custom_jvp
def _shortest(a: Array, alpha: Array) -> Array:
    return _highest_density(a, alpha)


@_shortest.defjvp
def _(_primals, _tangents):
    raise TypeError("kind: expected 'equal_tailed' for derivatives, got 'highest_density'")


@in_float64
def _highest_density(a: Array, alpha: Array) -> Array:
    own, others, _ = with_others_of(a)
    _, alpha = sharded_alike(a, jnp.full_like(a, alpha))
    return on_auto_axes(highest_density, explicit_spec(a)[:-1])(own, others, alpha)


@partial(jax.jit, static_argnames="shape")
def _sample(key: PRNGKeyArray, a: Array, shape: tuple[int, ...]) -> Array:
    def draw(key: PRNGKeyArray, a: Array) -> Array:
        return jax.nn.softmax(_log_gamma(key, jnp.broadcast_to(a, (*shape, *a.shape))))

    return on_auto_axes(draw, (*(None for _ in shape), *explicit_spec(a)[:-1]))(key, a)


@jax.custom_jvp
def _log_gamma(key: PRNGKeyArray, a: Array) -> Array:
    """Draw logarithms of gamma variables of shapes `a` by rejection.

    One loop draws all of them: `jax.random.loggamma` has a loop for each, which takes longer to
    compile than to run. A variable of shape a < 1 is U^(1 / a) times one of shape a + 1.

    Source: G. Marsaglia and W. W. Tsang, "A simple method for generating gamma variables" (2000).
    """
    small = a < 1
    d = jnp.where(small, a + 1, a) - 1 / 3
    of_loop, of_small = jax.random.split(key)

    def attempt(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        step, log_v, drawn = state
        keys = jax.random.split(jax.random.fold_in(of_loop, step))
        x = jax.random.normal(keys[0], a.shape, a.dtype)
        root = 1 + x / jnp.sqrt(9 * d)
        new = 3 * jnp.log(jnp.maximum(root, jnp.finfo(a.dtype).tiny))
        limit = x**2 / 2 + d * (1 - root**3 + new)
        accepted = (root > 0) & (-jax.random.exponential(keys[1], a.shape, a.dtype) < limit)
        return step + 1, jnp.where(drawn, log_v, new), drawn | accepted

    start = jnp.zeros((), jnp.int32), jnp.zeros_like(a), jnp.isnan(a)
    log_v = jax.lax.while_loop(lambda state: ~state[2].all(), attempt, start)[1]
    log_u = -jax.random.exponential(of_small, a.shape, a.dtype)
    return jnp.log(d) + log_v + jnp.where(small, log_u / a, 0)


@_log_gamma.defjvp
def _(primals, tangents):
    """Move each variable with its quantile: by minus d P(X < x) / da over the density."""
    key, a = primals
    log_x = _log_gamma(key, a)
    x = jnp.maximum(jnp.exp(log_x), float(jnp.finfo(a.dtype).tiny))
    slope = jax.lax.random_gamma_grad(a, x)  # pyright: ignore[reportCallIssue] (no dtype needed)
    return log_x, slope / x * tangents[1]


@in_float64
def _expected_entropy(a: Array) -> Array:
    mean = shares_of(a)
    return entropy(mean) - _entropy_loss(a, mean)


@in_float64
def _expected_kl(a: Array, q: Array, *, rounding: float) -> Array:
    mean = shares_of(a)
    return kl_divergence(mean, q, rounding) + _entropy_loss(a, mean)


def _entropy_loss(a: Array, mean: Array) -> Array:
    """Compute H(m) - E H(p), about (K - 1) / (2 A), as a sum of terms >= 0."""
    total = digamma_excess(a.sum(-1, keepdims=True))[0]
    return (mean * (digamma_excess(a)[0] - total)).sum(-1)


@in_float64
def _log_evidence(counts: Array, prior: Array) -> Array:
    return _dirichlet_multinomial(counts, prior)


@jax.custom_jvp
def _dirichlet_multinomial(c: Array, a: Array) -> Array:
    n, total = c.sum(-1, keepdims=True), a.sum(-1, keepdims=True)
    mean = (c + a) / (n + total)
    # One call for all, so that each function is compiled once.
    remainders = factorial_remainder(jnp.concatenate([c, a, c + a, n, total, n + total], -1))
    k = c.shape[-1]
    signs = np.repeat([-1, -1, 1, 1, 1, -1], [k, k, k, 1, 1, 1])
    rises = jnp.concatenate([-jnp.log1p(c / a), jnp.log1p(n / total)], -1)
    both, of_mean = jnp.concatenate([c, a], -1), jnp.concatenate([n * mean, total * mean], -1)
    signed = jnp.where(jnp.expand_dims(signs > 0, range(c.ndim - 1)), remainders, -remainders)
    return signed.sum(-1) + rises.sum(-1) - kl_divergence(both, of_mean, jnp.inf)


@_dirichlet_multinomial.defjvp
def _(primals, tangents):
    c, a = primals
    n, total = c.sum(-1, keepdims=True), a.sum(-1, keepdims=True)
    by_counts = digamma(n + 1) - digamma(n + total) + digamma(c + a) - digamma(c + 1)
    by_prior = _digamma_rise(a, c) - _digamma_rise(total, n)
    dot = multiply_no_nan(by_counts, tangents[0]) + multiply_no_nan(by_prior, tangents[1])
    return _dirichlet_multinomial(c, a), dot.sum(-1)


def _digamma_rise(x: Array, step: Array) -> Array:
    """Compute psi(x + step) - psi(x), precisely for small steps too."""
    y = x + step
    excess = digamma_excess(y)[0] - digamma_excess(x)[0]
    return jnp.log1p(step / x) + excess + step / (x * y)
