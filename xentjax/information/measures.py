"""The measures of one or two pmfs over the same outcomes; the package says what holds for all."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import check_scalar
from xentjax._core.choices import Form
from xentjax.information.arguments import measures, outcomes_last, parse_pmf
from xentjax.information.units import Base, in_units, nats_per_unit


def entropy(
    p: ArrayLike,
    *,
    axis: int | Sequence[int] = -1,
    base: Base = None,
    where: ArrayLike | None = None,
    form: Form = "pmf",
) -> Float[Array, "..."]:
    """Shannon entropy, the mean surprisal of an outcome.

        H(p) = -sum_k p_k log p_k,    0 log 0 = 0

    The derivative is -(1 + log p_k).

    Args:
        p: pmf along `axis`, [..., K].
        axis: axis or axes of the outcomes.
        base: unit of the result.
        where: outcomes to keep, bool, broadcast to `p`; the others count as probability 0.
        form: "pmf", "log_pmf" or "logits", what `p` holds.

    Returns:
        [...], in units of `base`.

    Raises:
        ValueError: for concrete probabilities that are negative, NaN or not of sum 1, or an axis, a
            shape, a base or a form that does not fit.
        TypeError: for a dtype that is not floating.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> print(xentjax.entropy(jnp.array([0.5, 0.25, 0.25]), base="bits"))
        1.5
    """
    pmfs, _ = outcomes_last(axis, where, form, p=p)
    return in_units(measures(form).entropy(*pmfs), base)


def cross_entropy(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: int | Sequence[int] = -1,
    base: Base = None,
    where: ArrayLike | None = None,
    form: Form = "pmf",
) -> Float[Array, "..."]:
    """Cross-entropy, the mean surprisal under `q` of outcomes drawn from `p`.

        H(p, q) = -sum_k p_k log q_k = H(p) + KL(p || q)

    It is +inf where p_k > 0 = q_k. The derivatives are -log q_k in p and -p_k / q_k in q. Those of
    +inf in the logits of p, as in `kl_divergence`, are NaN at such k.

    Args:
        p: pmf along `axis`, [..., K].
        q: pmf of the same shape, or one that broadcasts with it.
        axis: axis or axes of the outcomes.
        base: unit of the result.
        where: outcomes to keep, bool, broadcast; the others count as probability 0 in both.
        form: "pmf", "log_pmf" or "logits", what `p` and `q` hold.

    Returns:
        [...], in units of `base`.

    Raises:
        ValueError: for concrete probabilities that are negative, NaN or not of sum 1, or an axis, a
            shape, a base or a form that does not fit.
        TypeError: for a dtype that is not floating.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> p, q = jnp.array([0.5, 0.25, 0.25]), jnp.array([0.25, 0.25, 0.5])
        >>> print(xentjax.cross_entropy(p, q, base=2))
        1.75
    """
    pmfs, _ = outcomes_last(axis, where, form, p=p, q=q)
    return in_units(measures(form).cross_entropy(*pmfs), base)


def kl_divergence(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: int | Sequence[int] = -1,
    base: Base = None,
    where: ArrayLike | None = None,
    form: Form = "pmf",
) -> Float[Array, "..."]:
    """Kullback-Leibler divergence, the mean surprisal that `q` adds to that of `p` itself.

        KL(p || q) = sum_k p_k log(p_k / q_k) = H(p, q) - H(p)

    Computed as sum_k (p_k log(p_k / q_k) - p_k + q_k), whose terms are all >= 0, plus
    sum_k (p_k - q_k) where that is more than rounding. So KL(p || p) is exactly 0, no pair of pmfs
    gives a negative number, and a small divergence keeps its relative precision.

    Rounding is what `check_pmf` lets pass in each of the two sums (of float32, 2e-5 at K = 1000).
    Under jit, where nothing is checked, a q further from sum 1 is used as given, as the formula
    says, and the result may be negative.

    The name is also optax's, whose `optax.losses.kl_divergence(log_predictions, targets)` takes the
    other order and a logarithm: it is `kl_divergence(targets, predictions)` here.

    It is +inf where p_k > 0 = q_k. The derivatives are log(p_k / q_k) + 1 in p, -inf at p_k = 0 <
    q_k, and -p_k / q_k in q. Those of +inf in the logits of p are infinity less infinity, NaN,
    where p_k > 0 = q_k, and -inf at the other p_k > 0.

    Close pmfs are as good as their own rounding: give log pmfs rather than logits, whose softmax
    rounds each log p_k, where a divergence below 1e-8 (float32) is to keep its digits.

    Args:
        p: pmf along `axis`, [..., K].
        q: pmf of the same shape, or one that broadcasts with it.
        axis: axis or axes of the outcomes.
        base: unit of the result.
        where: outcomes to keep, bool, broadcast; the others count as probability 0 in both.
        form: "pmf", "log_pmf" or "logits", what `p` and `q` hold.

    Returns:
        [...], in units of `base`.

    Raises:
        ValueError: for concrete probabilities that are negative, NaN or not of sum 1, or an axis, a
            shape, a base or a form that does not fit.
        TypeError: for a dtype that is not floating.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> p, q = jnp.array([0.5, 0.25, 0.25]), jnp.array([0.25, 0.25, 0.5])
        >>> print(xentjax.kl_divergence(p, q, base="bits"), xentjax.kl_divergence(p, p))
        0.25 0.0
    """
    pmfs, tolerance = outcomes_last(axis, where, form, p=p, q=q)
    return in_units(measures(form).kl_divergence(*pmfs, tolerance), base)


def js_divergence(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: int | Sequence[int] = -1,
    base: Base = None,
    where: ArrayLike | None = None,
    form: Form = "pmf",
    weight: ArrayLike = 0.5,
) -> Float[Array, "..."]:
    """Jensen-Shannon divergence, the mean divergence of two pmfs from their mixture.

        JS_w(p, q) = w KL(p || m) + (1 - w) KL(q || m),    m = w p + (1 - w) q

    It is the information that a sample of the mixture gives about which of the two it is from: 0
    exactly where p = q, and at most the entropy of (w, 1 - w), reached by disjoint supports: 1 bit
    at the symmetric w = 1/2. The derivatives are w log(p_k / m_k) in p, (1 - w) log(q_k / m_k) in
    q, KL(p || m) - KL(q || m) in w.

    Args:
        p: pmf along `axis`, [..., K].
        q: pmf of the same shape, or one that broadcasts with it.
        axis: axis or axes of the outcomes.
        base: unit of the result.
        where: outcomes to keep, bool, broadcast; the others count as probability 0 in both.
        form: "pmf", "log_pmf" or "logits", what `p` and `q` hold.
        weight: w of `p` in [0, 1], a scalar; 0 and 1 give 0.

    Returns:
        [...], in units of `base`.

    Raises:
        ValueError: for concrete probabilities that are negative, NaN or not of sum 1, or an axis, a
            shape, a base, a form or a weight that does not fit.
        TypeError: for a dtype that is not floating.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> print(xentjax.js_divergence(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]), base="bits"))
        1.0

    Source: J. Lin, "Divergence measures based on the Shannon entropy", IEEE Transactions on
    Information Theory 37 (1991).
    """
    check_scalar("weight", weight, "a number in [0, 1]", lambda w: 0 <= w <= 1)
    pmfs, _ = outcomes_last(axis, where, form, p=p, q=q)
    weight = jnp.asarray(weight).astype(pmfs[0].dtype)
    return in_units(measures(form).js_divergence(*pmfs, weight), base)


def perplexity(
    p: ArrayLike,
    *,
    axis: int | Sequence[int] = -1,
    base: Base = None,
    where: ArrayLike | None = None,
    form: Form = "pmf",
) -> Float[Array, "..."]:
    """Perplexity, the number of equally likely outcomes that would be as surprising.

        PP(p) = base^H(p),    H(p) in units of that base

    It does not depend on the base, which is accepted as in the other measures.

    Args:
        p: pmf along `axis`, [..., K].
        axis: axis or axes of the outcomes.
        base: unit of H(p), without effect on the result.
        where: outcomes to keep, bool, broadcast to `p`; the others count as probability 0.
        form: "pmf", "log_pmf" or "logits", what `p` holds.

    Returns:
        [...], a number of outcomes between 1 and K.

    Raises:
        ValueError: for concrete probabilities that are negative, NaN or not of sum 1, or an axis, a
            shape, a base or a form that does not fit.
        TypeError: for a dtype that is not floating.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> print(xentjax.perplexity(jnp.array([0.25, 0.25, 0.25, 0.25])))
        4.0
    """
    nats_per_unit(base)  # an invalid base is an error here too
    pmfs, _ = outcomes_last(axis, where, form, p=p)
    return jnp.exp(measures(form).entropy(*pmfs))


def check_pmf(p: ArrayLike, axis: int | Sequence[int] = -1, *, atol: float | None = None) -> None:
    """Raise unless `p` is a pmf: p_k >= 0 and sum_k p_k = 1 along `axis`.

    The sum is taken in float64. Values are known for concrete arrays only: under jit, vmap and grad
    the dtype and the axis are checked and nothing else.

    Args:
        p: [..., K].
        axis: axis or axes of the outcomes.
        atol: largest |sum - 1| that passes. None is what rounding explains, by the dtype and the
            number of outcomes: max((64 + K / 8) eps_c, (5 / 4) eps), where eps_c is eps of float32
            or float64, whichever the dtype is computed in. That is 8e-6 for float32 and few
            outcomes, 0.2 % for 131,072 of them, and 0.1 % and 1 % for float16 and bfloat16.

    Raises:
        ValueError: for a negative probability, NaN, or a sum that is not 1; atol < 0.
        TypeError: for a dtype that is not floating.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> xentjax.check_pmf(jnp.array([0.5, 0.5]))
        >>> xentjax.check_pmf(jnp.array([0.5, 0.25]))
        Traceback (most recent call last):
        ValueError: p: expected probabilities with sum 1 within 7.7e-06, got sum 0.75; ...
    """
    parse_pmf("p", p, axis, atol=atol)
