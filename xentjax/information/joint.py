"""Measures of two variables, from their joint pmf: the information that one gives about the other.

    I(X; Y) = H(Y) - H(Y | X) = KL(p(x, y) || p(x) p(y))

They are part of `xentjax.information`, whose conventions of form, unit and derivatives hold.

Source: T. M. Cover and J. A. Thomas, Elements of Information Theory, 2nd ed. (2006), chapter 2.
"""

from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.choices import Form
from xentjax.information.arguments import measures, pairs_last
from xentjax.information.units import Base, in_units


def mutual_information(
    joint: ArrayLike,
    *,
    axes: tuple[int, int] = (-2, -1),
    base: Base = None,
    where: ArrayLike | None = None,
    form: Form = "pmf",
) -> Float[Array, "..."]:
    """Mutual information, the information that one variable gives about another.

        I(X; Y) = sum_xy p(x, y) log(p(x, y) / (p(x) p(y))) = H(Y) - H(Y | X)

    Never negative, and 0 for independent variables up to rounding. The derivative is
    log(p(x, y) / (p(x) p(y))) - 1, -inf at p(x, y) = 0 where both marginals are positive.

    Args:
        joint: joint pmf along the two `axes`, [..., X, Y].
        axes: axes of x and y.
        base: unit of the result.
        where: pairs to keep, bool, broadcast to `joint`; the others count as probability 0.
        form: "pmf", "log_pmf" or "logits", what `joint` holds.

    Returns:
        [...], in units of `base`.

    Raises:
        ValueError: for concrete probabilities that are negative, NaN or not of sum 1, or axes, a
            shape, a base or a form that do not fit.
        TypeError: for a dtype that is not floating.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> print(xentjax.mutual_information(jnp.array([[0.5, 0.0], [0.0, 0.5]]), base="bits"))
        1.0
    """
    pairs, tolerance = pairs_last(axes, where, form, joint)
    return in_units(measures(form).mutual_information(pairs, tolerance), base)


def conditional_entropy(
    joint: ArrayLike,
    *,
    axes: tuple[int, int] = (-2, -1),
    base: Base = None,
    where: ArrayLike | None = None,
    form: Form = "pmf",
) -> Float[Array, "..."]:
    """Conditional entropy H(Y | X), the mean surprisal of Y given X.

        H(Y | X) = -sum_xy p(x, y) log(p(x, y) / p(x)) = H(X, Y) - H(X)

    The derivative is -log(p(x, y) / p(x)), +inf at p(x, y) = 0 < p(x).

    Args:
        joint: joint pmf along the two `axes`, [..., X, Y].
        axes: the axis of X, which is known, and that of Y.
        base: unit of the result.
        where: pairs to keep, bool, broadcast to `joint`; the others count as probability 0.
        form: "pmf", "log_pmf" or "logits", what `joint` holds.

    Returns:
        [...], in units of `base`.

    Raises:
        ValueError: for concrete probabilities that are negative, NaN or not of sum 1, or axes, a
            shape, a base or a form that do not fit.
        TypeError: for a dtype that is not floating.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> joint = jnp.array([[0.25, 0.25], [0.0, 0.5]])
        >>> print(xentjax.conditional_entropy(joint, base="bits"))
        0.5
        >>> print(xentjax.conditional_entropy(joint, axes=(-1, -2), base="bits"))
        0.6887219
    """
    pairs, _ = pairs_last(axes, where, form, joint)
    return in_units(measures(form).conditional_entropy(pairs), base)
