"""Maximum likelihood, and maximum a posteriori, of a categorical distribution."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import (
    check_choice,
    check_num_steps,
    check_scalar,
    concrete,
    raise_value_error,
)
from xentjax._core.choices import SolverName
from xentjax._core.dtypes import in_float64, result_dtype
from xentjax._core.multiply_no_nan import nan_unless
from xentjax._core.varying import explicit_spec, on_auto_axes, pvary_all
from xentjax.categorical._arguments import check_not_all_zero, parse_counts, parse_prior
from xentjax.categorical.certificate import KKTCertificate, certificate_of
from xentjax.categorical.counts import shares, shares_of
from xentjax.categorical.likelihood import log_likelihood_of
from xentjax.categorical.solvers import (
    Solver,
    divergence,
    exponentiated_gradient,
    gradient_descent,
    natural_gradient,
    newton,
)
from xentjax.information.pmf import sum_tolerance

_SOLVERS = {
    "exponentiated_gradient": exponentiated_gradient,
    "natural_gradient": natural_gradient,
    "newton": newton,
}


class CategoricalFit(NamedTuple):
    """A fitted pmf and its optimality certificate.

    Attributes:
        pmf: The pmf found.
        log_likelihood: Log-likelihood of all samples in their order under `pmf`, in nats, without
            the prior.
        certificate: Optimality of `pmf` for the counts, or with a prior for the counts plus prior -
            1.
        steps: Number of steps that the solver took; 0 for the closed form.
        converged: Whether KL(p || q), the duality gap per sample, is at most `tol`.
        history: KL(p || q_t) in nats after each step, where p is the closed form, [max_steps]. The
            last value is repeated from entry `steps` on. Empty for the closed form.
    """

    pmf: Float[Array, "*batch k"]
    log_likelihood: Float[Array, "*batch"]
    certificate: KKTCertificate
    steps: Int[Array, "*batch"]
    converged: Bool[Array, "*batch"]
    history: Float[Array, "*batch steps"]


def fit_categorical(
    counts: ArrayLike,
    *,
    prior: ArrayLike | None = None,
    solver: SolverName | Solver | optax.GradientTransformation = "closed_form",
    max_steps: int = 1000,
    tol: ArrayLike | None = None,
) -> CategoricalFit:
    """Fit a pmf to counts by maximum likelihood, or find the mode of its posterior.

        q* = argmax_q sum_k c_k log q_k = c / N,    N = sum_k c_k

    With a Dirichlet prior of concentrations a_k, the density of the posterior is maximised instead:

        q* = argmax_q sum_k (c_k + a_k - 1) log q_k = (c + a - 1) / (N + sum_k (a_k - 1))

    a = 1 is the flat prior; a = 2 adds one imaginary sample to every class. The mode exists if
    c_k + a_k >= 1: below that the density grows without bound towards q_k = 0.

    The solvers other than the closed form start at the uniform pmf and take steps until the duality
    gap is at most `tol` nats per sample. The default is 1e-6, and 1e-4 / N for more than 100
    samples: 1e-4 nats in all, or 0.014 standard errors of a probability, but at least 4 eps^2, the
    resolution of the dtype. "natural_gradient" takes 1 step. "newton" and "exponentiated_gradient"
    with step size 1 are the same method, and rarely take more than 25. An optax optimizer minimises
    the cross-entropy to c / N over the logits of q = softmax(logits). If every class occurs,
    gradient descent converges linearly: its error shrinks by about 1 - eta min_k c_k / N per step.
    A class that never occurred has no finite logit. With gradient descent its probability, and the
    gap, fall as 1 / (eta t), so that `max_steps` may come first and `converged` is then False. The
    closed form gives it probability 0 at once, and a prior above 1 makes it an ordinary class. The
    rates of all solvers are in the module `solvers`.

    Args:
        counts: [..., K], integer or floating.
        prior: Dirichlet concentration, one for all classes or [K]; None for maximum likelihood.
        solver: "closed_form", "natural_gradient", "exponentiated_gradient", "newton", another
            `Solver`, or an `optax.GradientTransformation` such as `optax.sgd(1.0)`. Every new
            object is compiled anew, so reuse it.
        max_steps: largest number of steps, and the length of `history`.
        tol: duality gap in nats per sample at which the solver stops. None:
            max(min(1e-6, 1e-4 / N), 4 eps^2), with the eps of the dtype.

    Returns:
        The fit, each field with the leading shape of `counts`. Under jit, where the values are
        unknown, counts that have no fit give NaN. The derivatives of `pmf` are those of the
        maximum, whichever solver found it; `history` has no derivative.

    Raises:
        ValueError: for another solver; concrete counts that are negative, not finite or all 0; a
            concentration that is not positive, or too small for its count; shapes that do not fit.
        TypeError: for counts or a prior that are not numbers, or a number of steps that is not an
            integer.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> import xentjax
        >>> fit = xentjax.fit_categorical(jnp.array([2, 1, 1]))
        >>> print(fit.pmf, fit.log_likelihood)
        [0.5  0.25 0.25] -4.158883
        >>> fit_by_descent = xentjax.fit_categorical(jnp.array([2, 1, 1]), solver=optax.sgd(1.0))
        >>> print(fit_by_descent.converged, fit_by_descent.history[-1] < 1e-6)
        True True
        >>> print(xentjax.fit_categorical(jnp.array([2, 1, 1]), solver="newton").steps)
        2
    """
    if not isinstance(solver, Solver | optax.GradientTransformation):
        hint = "; an optax optimizer is passed itself, such as optax.adam(0.1)"
        check_choice("solver", solver, SolverName, hint=hint)
    check_num_steps("max_steps", max_steps)
    if tol is not None:
        tol = check_scalar("tol", tol, "a number >= 0", lambda value: value >= 0)
    counts = parse_counts("counts", counts, some=prior is None)
    effective = counts if prior is None else _add_prior(counts, prior)
    dtype = result_dtype(effective)
    rounding = sum_tolerance(dtype, counts.shape[-1])
    if isinstance(solver, str) and solver == "closed_form":
        return _closed_form(counts, effective, dtype=dtype, rounding=rounding)
    p = shares(effective)
    limit = _default_tol(effective) if tol is None else jnp.asarray(tol)
    limit = jnp.broadcast_to(limit.astype(dtype), p.shape[:-1])
    pmf, steps, history = _fitted_rows(solver, max_steps, p, limit)
    found, certificate = _judged(pmf, counts, effective, rounding=rounding)
    return CategoricalFit(pmf, found, certificate, steps, divergence(p, pmf) <= limit, history)


@in_float64
def _closed_form(
    counts: Array, effective: Array, *, dtype: DTypeLike, rounding: float
) -> CategoricalFit:
    # Certify the pmf as it is returned, after rounding.
    pmf = shares_of(effective).astype(dtype).astype(counts.dtype)
    batch = pmf.shape[:-1]
    return CategoricalFit(
        pmf=pmf,
        log_likelihood=log_likelihood_of(pmf, counts),
        certificate=certificate_of(pmf, effective, rounding=rounding),
        steps=jnp.zeros(batch, jnp.int32),
        converged=(pmf >= 0).all(-1),  # False for NaN too
        history=jnp.zeros((*batch, 0), pmf.dtype),
    )


@in_float64
def _judged(
    pmf: Array, counts: Array, effective: Array, *, rounding: float
) -> tuple[Array, KKTCertificate]:
    return log_likelihood_of(pmf, counts), certificate_of(pmf, effective, rounding=rounding)


def _add_prior(counts: Array, prior: ArrayLike) -> Array:
    """Return c_k + a_k - 1, the counts whose maximum likelihood is the mode of the posterior."""
    concentration = parse_prior("prior", prior, counts)
    with jax.enable_x64(True):  # integers become float64
        effective = counts.astype(concentration.dtype) + (concentration - 1)
        known = concrete(effective)
        if known is not None:
            if (known < 0).any():
                raise_value_error("prior", "counts + prior >= 1 in every class", known.min() + 1)
            check_not_all_zero("counts", known)
        return effective + nan_unless((effective >= 0).all(-1, keepdims=True), effective.dtype)


def _default_tol(counts: Array) -> Array:
    dtype = result_dtype(counts)
    n = jax.lax.stop_gradient(counts).astype(dtype).sum(-1)
    resolved = 4 * float(jnp.finfo(dtype).eps) ** 2
    return jnp.maximum(jnp.minimum(1e-6, 1e-4 / n), resolved)


class _Iterate(NamedTuple):
    state: Any
    kl: Float[Array, ""]
    steps: Int[Array, ""]
    history: Float[Array, " max_steps"]


@partial(jax.jit, static_argnums=(0, 1))
def _fitted_rows(
    solver: str | Solver | optax.GradientTransformation, max_steps: int, p: Array, tol: Array
) -> tuple[Array, Array, Array]:
    iterate = partial(_fitted, solver, max_steps)
    for _ in p.shape[:-1]:
        iterate = jax.vmap(iterate)
    return on_auto_axes(iterate, explicit_spec(p)[:-1])(p, tol)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _fitted(
    solver: str | Solver | optax.GradientTransformation, max_steps: int, p: Array, tol: Array
) -> tuple[Array, Array, Array]:
    return _iterate(solver, max_steps, p, tol)


@partial(_fitted.defjvp, symbolic_zeros=True)
def _(solver, max_steps, primals, tangents):
    """Differentiate the maximum q = p, since reverse mode cannot pass through the search."""
    pmf, steps, history = _fitted(solver, max_steps, *primals)
    # They vary over a mesh as the primals do.
    zeros = map(SymbolicZero.from_primal_value, (steps, history))
    return (pmf, steps, history), (tangents[0], *zeros)


@partial(jax.jit, static_argnums=(0, 1))
def _iterate(
    solver: str | Solver | optax.GradientTransformation, max_steps: int, p: Array, tol: Array
) -> tuple[Array, Array, Array]:
    """Step until KL(p || q) <= tol; return the pmf, the number of steps and all divergences."""
    # Made inside jit: outside, it would be a new object in each call, to be compiled again.
    solver = _as_solver(solver)

    def unfinished(iterate: _Iterate) -> Array:
        return (iterate.kl > tol) & (iterate.steps < max_steps)

    def advance(iterate: _Iterate) -> _Iterate:
        state = solver.step(p, iterate.state)
        kl = divergence(p, solver.pmf(state))
        history = iterate.history.at[iterate.steps].set(kl)
        return _Iterate(state, kl, iterate.steps + 1, history)

    state = solver.init(p)
    kl, steps = divergence(p, solver.pmf(state)), jnp.zeros((), jnp.int32)
    start = _Iterate(state, kl, steps, jnp.zeros(max_steps, p.dtype))
    start, tol = pvary_all((start, tol))  # constants vary over no mesh
    end = jax.lax.while_loop(unfinished, advance, start)
    history = jnp.where(jnp.arange(max_steps, dtype=jnp.int32) < end.steps, end.history, end.kl)
    # Counts without a fit give NaN, not the uniform pmf of the start.
    pmf = jnp.where(jnp.isnan(p), p, solver.pmf(end.state))
    return pmf, end.steps, history


def _as_solver(solver: str | Solver | optax.GradientTransformation) -> Solver:
    if isinstance(solver, str):
        return _SOLVERS[solver]()
    return solver if isinstance(solver, Solver) else gradient_descent(solver)
