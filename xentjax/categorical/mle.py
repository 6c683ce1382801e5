"""Maximum likelihood, and maximum a posteriori, of a categorical distribution."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from xentjax._checks import check_array, check_scalar, concrete, fail
from xentjax.categorical.certificate import KKTCertificate, kkt_certificate
from xentjax.categorical.counts import check_counts, check_not_all_zero
from xentjax.categorical.likelihood import log_likelihood


class CategoricalFit(NamedTuple):
    """A fitted pmf, and what shows that it is the right one."""

    pmf: Float[Array, "*batch k"]
    """The pmf found."""
    log_likelihood: Float[Array, "*batch"]
    """Of all samples in their order under `pmf`, in nats, without the prior."""
    certificate: KKTCertificate
    """Optimality of `pmf` for the counts, or with a prior for the counts plus prior - 1."""
    steps: Int[Array, "*batch"]
    """Steps that the optimizer took; 0 for the closed form."""
    converged: Bool[Array, "*batch"]
    """Whether the certificate's duality gap is at most `tol` nats a sample."""
    history: Float[Array, "*batch steps"]
    """KL(p || q_t) in nats after each step, p the closed form; [max_steps], from entry `steps` on
    the last value again. Empty for the closed form."""


def fit_categorical(
    counts: ArrayLike,
    *,
    prior: ArrayLike | None = None,
    solver: str | optax.GradientTransformation = "closed_form",
    max_steps: int = 1000,
    tol: ArrayLike = 1e-6,
) -> CategoricalFit:
    """The pmf under which the counts are most likely.

        q* = argmax_q sum_k c_k log q_k = c / N,    N = sum_k c_k

    With a Dirichlet prior of concentrations a_k the density of the posterior is maximal instead:

        q* = argmax_q sum_k (c_k + a_k - 1) log q_k = (c + a - 1) / (N + sum_k (a_k - 1))

    a = 1 is the flat prior; a = 2 adds one imaginary sample to every class. It needs
    c_k + a_k >= 1: below that the density grows without bound towards q_k = 0.

    An optax optimizer minimises the mean negative log-likelihood (cross-entropy to c / N) over the
    logits of q = softmax(logits), from the uniform pmf, until the certificate's duality gap is at
    most `tol` nats a sample. Where every class occurs, gradient descent converges linearly: its
    error shrinks by about 1 - eta min_k c_k / N a step. A class that never occurred has no finite
    logit: its probability falls as 1 / (eta t), the gap with it, so `max_steps` may come first and
    `converged` is then False. The closed form gives it probability 0 at once, and a prior above 1
    makes it an ordinary class.

    Args:
        counts: [..., K], integer or floating.
        prior: Dirichlet concentration, one for all classes or [K]; None for maximum likelihood.
        solver: "closed_form", or an `optax.GradientTransformation` such as `optax.sgd(1.0)`. Each
            new transformation compiles anew, so make it once.
        max_steps: most steps the optimizer takes, and the length of `history`.
        tol: duality gap in nats a sample at which the optimizer stops.

    Returns:
        The fit, each field with the leading shape of `counts`. Under jit, where the values are
        unknown, counts that admit no fit give NaN.

    Raises:
        ValueError: for another solver; concrete counts that are negative, not finite or all 0; a
            concentration that is not positive, or too small for its count; shapes that do not fit.
        TypeError: for counts or a prior that are not numbers.

    Example:
        >>> fit = fit_categorical(jnp.array([2, 1, 1]))
        >>> print(fit.pmf, fit.log_likelihood)
        [0.5  0.25 0.25] -4.158883
        >>> fit_by_descent = fit_categorical(jnp.array([2, 1, 1]), solver=optax.sgd(1.0))
        >>> print(fit_by_descent.converged, fit_by_descent.history[-1] < 1e-6)
        True True
    """
    if not (solver == "closed_form" or isinstance(solver, optax.GradientTransformation)):
        fail("solver", "'closed_form' or an optax.GradientTransformation", repr(solver))
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        fail("max_steps", "an integer >= 1", repr(max_steps))
    check_scalar("tol", tol, "a number >= 0", lambda value: value >= 0)
    counts = check_counts("counts", counts)
    effective = counts if prior is None else _add_prior(counts, prior)
    check_not_all_zero("counts", effective)
    if isinstance(solver, optax.GradientTransformation):
        descend = partial(_descend, solver=solver, max_steps=max_steps, tol=tol)
        for _ in counts.shape[:-1]:
            descend = jax.vmap(descend)
        end = descend(effective)
        pmf, certificate, steps, history = end.pmf, end.certificate, end.steps, end.history
    else:
        pmf = effective / effective.sum(-1, keepdims=True)
        certificate = kkt_certificate(pmf, effective)
        steps = jnp.zeros(counts.shape[:-1], jnp.int32)
        history = jnp.zeros((*counts.shape[:-1], 0), counts.dtype)
    return CategoricalFit(
        pmf=pmf,
        log_likelihood=log_likelihood(pmf, counts),
        certificate=certificate,
        steps=steps,
        converged=certificate.duality_gap <= tol * certificate.multiplier,
        history=history,
    )


def _add_prior(counts: Array, prior: ArrayLike) -> Array:
    """c_k + a_k - 1: the counts whose maximum likelihood is the mode of the posterior."""
    concentration = check_array("prior", prior)
    if concentration.dtype == jnp.bool_:
        raise TypeError("prior: expected numbers, got bool")
    if concentration.ndim and concentration.shape != counts.shape[-1:]:
        fail("prior", f"a scalar or shape ({counts.shape[-1]},)", f"shape {concentration.shape}")
    known = concrete(concentration)
    if known is not None and not (valid := (known > 0) & (known < jnp.inf)).all():
        fail("prior", "finite concentrations > 0", known[~valid][0])
    effective = counts + (concentration.astype(counts.dtype) - 1)
    known = concrete(effective)
    if known is not None and (known < 0).any():
        fail("prior", "counts + prior >= 1 in every class", known.min() + 1)
    return jnp.where((effective < 0).any(-1, keepdims=True), jnp.nan, effective)


class _Descent(NamedTuple):
    logits: Float[Array, " k"]
    state: optax.OptState
    pmf: Float[Array, " k"]
    certificate: KKTCertificate
    steps: Int[Array, ""]
    history: Float[Array, " max_steps"]


@partial(jax.jit, static_argnames=("solver", "max_steps"))
def _descend(
    counts: Array, *, solver: optax.GradientTransformation, max_steps: int, tol: ArrayLike
) -> _Descent:
    """Descent of H(counts / N, softmax(logits)) until the certificate is good enough."""
    optimizer = optax.with_extra_args_support(solver)
    n = counts.sum()

    def loss(logits: Array) -> Array:
        return -(counts / n * jax.nn.log_softmax(logits)).sum()

    def at(logits: Array) -> tuple[Array, KKTCertificate]:
        pmf = jax.nn.softmax(logits)
        return pmf, kkt_certificate(pmf, counts)

    def unfinished(descent: _Descent) -> Array:
        certificate = descent.certificate
        unproven = certificate.duality_gap > tol * certificate.multiplier
        return unproven & (descent.steps < max_steps)

    def advance(descent: _Descent) -> _Descent:
        logits, state, _, _, steps, history = descent
        value, gradient = jax.value_and_grad(loss)(logits)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam fails under "strict"
            updates, state = optimizer.update(
                gradient, state, logits, value=value, grad=gradient, value_fn=loss
            )
        logits = jnp.asarray(optax.apply_updates(logits, updates))
        pmf, certificate = at(logits)
        history = history.at[steps].set(certificate.duality_gap / n)
        return _Descent(logits, state, pmf, certificate, steps + 1, history)

    logits = jnp.zeros_like(counts)
    history, steps = jnp.zeros(max_steps, counts.dtype), jnp.zeros((), jnp.int32)
    start = _Descent(logits, optimizer.init(logits), *at(logits), steps, history)
    end = jax.lax.while_loop(unfinished, advance, start)
    last = end.certificate.duality_gap / n
    history = jnp.where(jnp.arange(max_steps) < end.steps, end.history, last)
    return end._replace(history=history)
