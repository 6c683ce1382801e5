"""Optimality of a pmf: the Karush-Kuhn-Tucker conditions of maximum likelihood, and the gap."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.dtypes import in_float64
from xentjax._core.largest import largest
from xentjax.categorical._arguments import parse_pmf_and_counts
from xentjax.information.pmf import kl_divergence, sum_tolerance, times_power


class KKTCertificate(NamedTuple):
    """Proof that a pmf maximises the likelihood, or a bound on how far it is from doing so.

    Everything except the multipliers is 0 at the maximum. The unit is counts, or nats for the gap:
    to compare fits of different sizes, divide by N, which is `multiplier`.

    Attributes:
        multiplier: Multiplier of the constraint sum_k q_k = 1: N, at the maximum and as the dual
            point.
        inequality_multipliers: mu_k >= 0 of the constraints q_k >= 0: N where c_k = 0, else 0.
        stationarity: max_k |-c_k / q_k + multiplier - mu_k|.
        primal_residual: max(|sum_k q_k - 1|, max_k -q_k): distance of q from a pmf.
        dual_residual: max_k -mu_k, at least 0: how far the multipliers are from feasible ones.
        complementarity: max_k |mu_k q_k|: N times the largest probability of a class that never
            occurred.
        duality_gap: Bound on L* - L(q) in nats, L the log-likelihood and L* its maximum over all
            pmfs.
    """

    multiplier: Float[Array, "*batch"]
    inequality_multipliers: Float[Array, "*batch k"]
    stationarity: Float[Array, "*batch"]
    primal_residual: Float[Array, "*batch"]
    dual_residual: Float[Array, "*batch"]
    complementarity: Float[Array, "*batch"]
    duality_gap: Float[Array, "*batch"]


def kkt_certificate(q: ArrayLike, counts: ArrayLike) -> KKTCertificate:
    """Evaluate the optimality conditions of maximum likelihood at a pmf.

        maximise L(q) = sum_k c_k log q_k    subject to    sum_k q_k = 1,  q_k >= 0

    has the conditions -c_k / q_k + lambda - mu_k = 0, mu_k >= 0, mu_k q_k = 0. Multiplying the
    first by q_k and summing gives lambda = N, hence mu_k = N where c_k = 0 and mu_k = 0 elsewhere.
    At this dual point the dual value sum_k c_k log(c_k / N) bounds L from above, so that

        L* - L(q) <= gap = sum_k c_k log(c_k / (N q_k)) = N KL(c / N || q)

    and the bound is tight, by strong duality.

    Args:
        q: pmf, [..., K]; otherwise `primal_residual` is its distance from one.
        counts: [..., K], integer or floating; counts of 0 are allowed.

    Returns:
        The multipliers, the residuals of each condition and the gap. Where q_k = 0 < c_k
        stationarity and gap are +inf; at q_k = c_k = 0 the quotient c_k / q_k counts as 0.

    Raises:
        ValueError: for concrete counts that are negative, not finite or all 0, or shapes that do
            not fit.
        TypeError: for q that is not floating or counts that are not numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> counts = jnp.array([2, 2, 0])
        >>> certificate = xentjax.kkt_certificate(jnp.array([0.5, 0.5, 0.0]), counts)
        >>> print(certificate.multiplier, certificate.inequality_multipliers)
        4.0 [0. 0. 4.]
        >>> print(certificate.duality_gap)
        0.0

    Source: S. Boyd and L. Vandenberghe, Convex Optimization (2004), sections 5.2 and 5.5.
    """
    call = "kkt_certificate(q, counts)"
    q, counts = parse_pmf_and_counts(call, q, counts, normalised=False, some=True)
    return _certificate(q, counts, rounding=sum_tolerance(q.dtype, q.shape[-1]))


def certificate_of(q: Array, counts: Array, *, rounding: float) -> KKTCertificate:
    """Compute `kkt_certificate` of checked arguments; q's sum may be off by `rounding`."""
    n = counts.sum(-1, keepdims=True)
    multipliers = jnp.where(counts == 0, n, jnp.zeros_like(counts))
    stationarity = -times_power(counts, q, -1) + n - multipliers
    return KKTCertificate(
        multiplier=n[..., 0],
        inequality_multipliers=multipliers,
        stationarity=largest(jnp.abs(stationarity)),
        primal_residual=jnp.maximum(jnp.abs(q.sum(-1) - 1), largest(-q)),
        dual_residual=jnp.maximum(largest(-multipliers), 0),
        complementarity=largest(jnp.abs(multipliers * q)),
        duality_gap=kl_divergence(counts, n * q, rounding),
    )


_certificate = in_float64(certificate_of)
