"""Divergences of two linear heads, against float64 of the whole logits."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xentjax
from tests.support.closeness import assert_close
from tests.support.compiled import temporary_bytes
from tests.support.derivatives import check_along
from tests.support.oracles.divergences import Pair, divergence
from tests.support.random_heads import D, K, N, random_head
from tests.support.random_problems import assert_within, rounding
from tests.support.tolerances import GRADIENT, RANDOM_GRADIENT, RANDOM_VALUE, VALUE
from xentjax import linear_js_divergence, linear_kl_divergence

WIDTH = 3
"""Features of the target head."""
# Rows and classes are prime: no tile divides them. All classes of 16 to 24 rows fit, or a tile.
ROWS_FIT, TILES = 20_000, 2_000
INF, NAN = np.inf, np.nan

KINDS: dict[str, Any] = {
    "kl": linear_kl_divergence,
    "reverse": partial(linear_kl_divergence, reverse=True),
    "js": linear_js_divergence,
}


@partial(jax.jit, static_argnames=("kind", "how"))
def evaluate(arrays, cotangents, *, kind, how):
    """Divergences and the gradients under a cotangent for each, or for their sum or mean."""
    moving = {n: x for n, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.floating)}
    value, pullback = jax.vjp(
        lambda moving: KINDS[kind](**{**arrays, **moving}, **dict(how)), moving
    )
    return value, pullback(cotangents if value.ndim else jnp.float32(1))[0]


def cotangents_of(n: int = N) -> np.ndarray:
    return np.random.default_rng(2).uniform(0.5, 2, n).astype(np.float32)


def exact(kind: str, arrays: dict[str, Any]) -> Pair:
    scalars = {
        n: float(arrays[n]) for n in ("temperature", "logit_soft_cap", "weight") if n in arrays
    }
    return divergence(kind, **{**arrays, **scalars})


def reduced(pair: Pair, how: dict[str, Any]) -> tuple[Any, np.ndarray]:
    """The value, and what each row's divergence is multiplied by in it."""
    keep, reduction = pair.target.keep, how.get("reduction", "none")
    if reduction == "none":
        return pair.value, cotangents_of(len(keep))
    share = 1 / max(keep.sum(), 1) if reduction == "mean" else 1
    return pair.value.sum() * share, np.full(len(keep), share)


def check(kind: str, arrays: dict[str, Any], how: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Values and gradients against the oracle; both are returned."""
    arrays = {n: np.asarray(x) for n, x in arrays.items()}
    pair = exact(kind, arrays)
    expected, cotangents = reduced(pair, how)
    value, gradient = evaluate(
        arrays, cotangents.astype(np.float32), kind=kind, how=tuple(how.items())
    )
    assert_close(value, expected, VALUE["float32"])
    true = pair.gradients(cotangents)
    for name, got in gradient.items():
        assert_close(got, true[name], GRADIENT["float32"])
    return value, gradient


def plain(n: int = N, width: int = WIDTH, d: int = D, k: int = K) -> dict[str, Any]:
    rng = np.random.default_rng((n, width, d, k))
    shapes = {
        "target_x": (n, width), "target_kernel": (width, k), "target_bias": (k,),
        "x": (n, d), "kernel": (d, k), "bias": (k,),
    }  # fmt: skip
    arrays: dict[str, Any] = {n: rng.standard_normal(s) for n, s in shapes.items()}
    arrays["target_x"] /= np.sqrt(width)
    arrays["x"] /= np.sqrt(d)
    return {n: a.astype(np.float32) for n, a in arrays.items()}


def random_pair(kind: str, dtypes: str, options: str, seed: int) -> dict[str, Any]:
    """Two heads of different width and scale, perhaps of different dtype."""
    dtype, target_dtype = dtypes.split()
    arrays: dict[str, Any] = random_head(dtype, options, None, seed)
    target = random_head(target_dtype, "", None, seed + 1000)
    del arrays["labels"]
    arrays["target_x"], arrays["target_kernel"] = target["x"][:, :WIDTH], target["kernel"][:WIDTH]
    arrays["target_bias"] = target["bias"]
    arrays["target_x"][np.isnan(arrays["x"]).any(-1)] = np.inf
    if kind == "js":
        arrays["weight"] = np.float32(np.random.default_rng(seed).uniform(0.01, 0.99))
    return arrays


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dtypes", "options", "how"),
    [
        ("float32 float32", "cap temperature rows", {"max_bytes": ROWS_FIT}),
        ("float32 float32", "temperature classes", {"max_bytes": TILES}),
        ("float32 bfloat16", "cap rows", {"max_bytes": ROWS_FIT, "reduction": "mean"}),
        ("float16 float16", "temperature shared", {"reduction": "sum"}),
    ],
)
def test_200_random_configurations(kind, dtypes, options, how):
    """Each of four compiled functions meets 50 draws of numbers, masks and scalars."""
    for seed in range(50):
        arrays = random_pair(kind, dtypes, options, seed)
        pair = exact(kind, arrays)
        expected, cotangents = reduced(pair, how)
        value, gradient = evaluate(
            arrays, cotangents.astype(np.float32), kind=kind, how=tuple(how.items())
        )
        assert value.dtype == jnp.float32
        assert (np.asarray(value) >= 0).all()
        # The logits are rounded in float32, and reach what they are for by its derivative.
        sizes = pair.target.size, pair.prediction.size
        slopes = [np.abs(s).sum(-1) * size for s, size in zip(pair.slopes, sizes, strict=True)]
        # Those of tiles are made twice, and may be rounded in two ways: so may the sums of pmfs.
        twice = sum(sizes) if how.get("max_bytes") == TILES else 0
        allowed = RANDOM_VALUE * (1 + pair.value * (1 + twice) + sum(slopes))
        if value.ndim == 0:
            allowed = np.sum(allowed * cotangents)
        assert_within(value, expected, allowed)
        moved = RANDOM_GRADIENT + 4 * RANDOM_VALUE * sum(sizes)
        true, within = pair.gradients(cotangents), pair.gradient_sizes(moved * cotangents)
        for name, got in gradient.items():
            assert got.dtype == arrays[name].dtype
            # XLA takes a pmf below the normal float32 for 0; log ratios and features multiply it.
            tiny = 1000 * np.finfo(np.float32).tiny
            least = float(max(jnp.finfo(got.dtype).smallest_subnormal, tiny))
            rounded = rounding(str(got.dtype)) * np.abs(true[name]) + least
            assert_within(got, true[name], within[name] + rounded)


@pytest.mark.parametrize("kind", ["kl", "js"])
@pytest.mark.parametrize(
    "how",
    [{"max_bytes": TILES}, {"max_bytes": ROWS_FIT, "reduction": "sum"}],
    ids=["rows", "sum"],
)
def test_every_derivative(kind, how):
    """Forward mode and two second derivatives, against differences of the oracle's gradient."""
    rng = np.random.default_rng(5)
    arrays = {**plain(37), "temperature": np.float32(1.5), "logit_soft_cap": np.float32(3)}
    if kind == "js":
        arrays["weight"] = np.float32(0.3)
    cotangents = np.ones(37, np.float32) if "reduction" in how else cotangents_of(37)

    def total(arrays):
        value = KINDS[kind](**arrays, **how)
        return jnp.vdot(cotangents, value) if value.ndim else value

    def true_gradient(at):
        return exact(kind, at).gradients(cotangents)

    check_along(total, true_gradient, arrays, rng)


def test_reference_and_leading_axes():
    """The logits of 'reference' are stored; leading axes are those of x, or none."""
    arrays = plain(6)
    for kind in KINDS:
        value, _ = check(kind, arrays, {"implementation": "reference"})
        of_axes = {n: a.reshape(2, 3, -1) if n.endswith("x") else a for n, a in arrays.items()}
        assert_close(KINDS[kind](**of_axes), value.reshape(2, 3), VALUE["float32"])
        of_one = {n: a[5] if n.endswith("x") else a for n, a in arrays.items()}
        assert_close(KINDS[kind](**of_one), value[5], VALUE["float32"])


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 1, 2, 4), (3, 2, 1, 1), (0, 3, 2, 4)], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_one_row_feature_or_class_and_no_rows(shape, reduction):
    check("kl", plain(*shape), {"reduction": reduction})


@pytest.mark.parametrize("kind", KINDS)
def test_float64_stays_and_spreads(kind):
    """A float64 head makes both float64."""
    arrays = plain(7)
    arrays["target_x"] = arrays["target_x"].astype(np.float64)
    with jax.enable_x64(True):
        value = KINDS[kind](**arrays)
        gradient = jax.grad(lambda x: KINDS[kind](**{**arrays, "x": x}, reduction="sum"))(
            jnp.asarray(arrays["x"])
        )
    assert value.dtype == np.float64
    assert gradient.dtype == np.float32
    pair = exact(kind, arrays)
    assert_close(value, pair.value, VALUE["float64"])
    assert_close(gradient, pair.gradients(np.ones(7))["x"], GRADIENT["float32"])


@pytest.mark.parametrize("how", [{}, {"max_bytes": ROWS_FIT}, {"max_bytes": TILES}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_equal_heads_are_exactly_0(kind, how):
    """The gradients of both sides too, whatever the logits' size."""
    arrays = plain()
    arrays |= {n: 30 * arrays[n] for n in ("x", "bias")}
    arrays |= {f"target_{n}": arrays[n] for n in ("x", "kernel", "bias")}
    results = evaluate(arrays, cotangents_of(), kind=kind, how=tuple(how.items()))
    for result in jax.tree.leaves(results):
        np.testing.assert_array_equal(result, 0)


@pytest.mark.parametrize("distance", [1e-4, 1e-2, 0.3, 3.0, 100.0])
def test_close_heads_are_accurate_and_never_negative(distance):
    """H(p, q) - H(p) in float32 is negative for half of all rows at a distance of 1e-3."""
    rng = np.random.default_rng(0)
    target = np.round(64 * rng.standard_normal((200, 9))) / 64
    step = np.exp2(np.round(np.log2(distance)))
    prediction = target + step * np.round(4 * rng.standard_normal(target.shape)) / 4
    # An identity makes the logits of the features; all are exact in float32.
    heads = {"target_x": target, "target_kernel": np.eye(9), "x": prediction, "kernel": np.eye(9)}
    heads = {n: a.astype(np.float32) for n, a in heads.items()}
    for kind, function in KINDS.items():
        got = function(**heads)
        expected = exact(kind, heads).value
        np.testing.assert_allclose(got, expected, rtol=max(3e-6, 1e-6 / distance), err_msg=kind)
        assert (np.asarray(got) > 0).all()
        assert_close(function(**heads, reduction="mean"), expected.mean(), VALUE["float32"])


def test_rows_of_one_program_equal_those_of_logits():
    arrays = plain(20)
    logits = [
        a @ b + c[None]
        for a, b, c in (
            [jnp.asarray(arrays[f"{p}{n}"]) for n in ("x", "kernel", "bias")]
            for p in ("target_", "")
        )
    ]
    expected = xentjax.kl_divergence_with_logits(*logits, temperature=1.5)
    assert_close(linear_kl_divergence(**arrays, temperature=1.5), expected, VALUE["float32"])


HOWS = [
    {},
    {"max_bytes": TILES},
    {"max_bytes": ROWS_FIT, "reduction": "sum"},
]


@pytest.mark.parametrize("how", HOWS, ids=["rows", "tiles", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_impossible_classes(kind, how):
    """-inf on both sides is exact; of one side alone, +inf where the other needs the class."""
    arrays = plain()
    arrays["bias"][[0, 7]] = arrays["target_bias"][[0, 7]] = -INF
    arrays["where"] = np.ones((N, K), bool)
    arrays["where"][2] = arrays["where"][4, 8:20] = False
    possible = "target_bias" if kind == "reverse" else "bias"
    check(kind, arrays, how)
    arrays[possible][3] = -INF
    value, gradient = evaluate(arrays, cotangents_of(), kind=kind, how=tuple(how.items()))
    if kind == "js":
        check(kind, arrays, how)
        return
    assert value.ndim == 0 or (value[2] == 0 and np.isinf(np.delete(value, 2)).all())
    assert value.ndim or value == INF
    own = "target_" if kind == "reverse" else ""
    for n in ("x", "kernel", "bias"):
        assert np.isfinite(gradient[f"{own}{n}"]).all()
    arrays["where"][:, 3] = False
    check(kind, arrays, how)


@pytest.mark.parametrize("how", HOWS, ids=["rows", "tiles", "sum"])
@pytest.mark.parametrize("kind", ["kl", "js"])
def test_bad_values(kind, how):
    """Masked rows may hold anything; NaN stays in its row; a row without a class is NaN."""
    arrays = plain()
    where = arrays["where"] = np.arange(N) % 3 != 1
    value, gradient = check(kind, arrays, how)
    x, target_x = arrays["x"].copy(), arrays["target_x"].copy()
    x[~where], target_x[1] = NAN, INF
    spoiled = {**arrays, "x": x, "target_x": target_x}
    again = evaluate(spoiled, cotangents_of(), kind=kind, how=tuple(how.items()))
    jax.tree.map(np.testing.assert_array_equal, again, (value, gradient))

    x[0, 1], target_x[65, 0] = NAN, NAN
    spoiled |= {"x": x, "target_x": target_x}
    bad = np.isin(np.arange(N), [0, 65])
    got, slopes = evaluate(spoiled, cotangents_of(), kind=kind, how=tuple(how.items()))
    assert np.isnan(got[bad] if got.ndim else got).all()
    for n in ("x", "target_x"):
        assert np.isnan(slopes[n][bad]).all()
        assert_close(slopes[n][~bad], gradient[n][~bad], GRADIENT["float32"])
    nothing = np.full(K, -INF, np.float32)
    assert np.isnan(KINDS[kind](**{**arrays, "bias": nothing}, **how)).any()
    none = {**spoiled, "bias": nothing, "where": np.zeros(N, bool)}
    for result in jax.tree.leaves(
        evaluate(none, cotangents_of(), kind=kind, how=tuple(how.items()))
    ):
        np.testing.assert_array_equal(result, 0)


@pytest.mark.parametrize("axes", ["rows", "kernel", "weight"])
def test_vmap(axes):
    """Rows with the same kernels are more rows; kernels and weights are batched too."""
    arrays: dict[str, Any] = plain(14) | {"weight": np.float32(0.3)}
    batched = {"rows": ("x", "target_x"), "kernel": ("kernel",), "weight": ("weight",)}[axes]
    second: dict[str, Any] = plain(14) | {"weight": np.float32(0.9)}
    stacked = {n: np.stack([a, second[n][::-1] if second[n].ndim else second[n]])
               if n in batched else a for n, a in arrays.items()}  # fmt: skip
    in_axes = ({n: 0 if n in batched else None for n in arrays},)

    @jax.jit
    def both(arrays):
        def mean(arrays):
            return linear_js_divergence(**arrays, max_bytes=ROWS_FIT).mean()

        values = jax.vmap(lambda a: linear_js_divergence(**a, max_bytes=ROWS_FIT), in_axes)(arrays)
        return values, jax.vmap(jax.grad(mean), in_axes)(arrays)

    values, gradients = both(stacked)
    for i in range(2):
        at = {n: a[i] if n in batched else a for n, a in stacked.items()}
        pair = exact("js", at)
        assert_close(values[i], pair.value, VALUE["float32"])
        for n, true in pair.gradients(np.full(14, 1 / 14)).items():
            if n in gradients:
                assert_close(gradients[n][i], true, GRADIENT["float32"])


@pytest.mark.parametrize(
    "how", [{"max_bytes": 6000}, {"max_bytes": 6000, "reduction": "sum"}], ids=["rows", "sum"]
)
def test_rows_that_do_not_count_cost_no_products(products, how):
    # No other test has this shape: see `products`.
    x, kernel, target_x = jnp.ones((525, 5)), jnp.ones((5, 11)), jnp.zeros((525, 5))

    @jax.jit
    def gradient(x, where):
        return jax.grad(
            lambda x: jnp.sum(linear_kl_divergence(target_x, kernel, x, kernel, where=where, **how))
        )(x)

    tenth = np.arange(525) % 10 == 3
    assert products(gradient, x, np.zeros(525, bool)) == 0
    some, every = (products(gradient, x, w) for w in (tenth, np.ones(525, bool)))
    assert 0 < 4 * some <= every


def test_a_frozen_target_costs_only_its_logits(products):
    """One block of rows: the logits of both, then two products for each head that moves."""
    arrays = {n: jnp.asarray(a) for n, a in plain(29, 4, 6, 13).items()}

    def mean(arrays):
        return linear_kl_divergence(**arrays, reduction="mean")

    def frozen(arrays):
        return mean({n: jax.lax.stop_gradient(a) if "target" in n else a
                     for n, a in arrays.items()})  # fmt: skip

    assert products(jax.jit(mean), arrays) == 2
    assert products(jax.jit(jax.value_and_grad(frozen)), arrays) == 4
    assert products(jax.jit(jax.value_and_grad(mean)), arrays) == 6


@pytest.mark.parametrize(
    ("kind", "shape", "megabytes"),
    [
        ("kl", (2048, 768, 512, 32768), 120),
        ("kl", (4096, 768, 768, 50304), 150),
        ("js", (2048, 768, 512, 32768), 120),
    ],
    ids=str,
)
def test_memory_of_language_models(kind, shape, megabytes):
    """The logits of one head take 268 and 824 MB."""
    n, width, d, k = shape
    shapes = [
        jax.ShapeDtypeStruct(s, jnp.float32) for s in ((n, width), (width, k), (n, d), (d, k))
    ]

    def mean(*arrays):
        return KINDS[kind](*arrays, reduction="mean")

    assert temporary_bytes(jax.value_and_grad(mean, (2, 3)), *shapes) <= megabytes * 10**6


X, KERNEL = jnp.zeros((2, 3)), jnp.zeros((3, 4))


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "target_x: expected a floating dtype, got int32",
         lambda: linear_kl_divergence(X.astype(jnp.int32), KERNEL, X, KERNEL)),
        (ValueError, "target_x: expected the leading axes of x, (2,), got shape (1, 3)",
         lambda: linear_kl_divergence(X[:1], KERNEL, X, KERNEL)),
        (ValueError, "target_kernel: expected shape (3, K), the features of target_x by at least "
         "one class, got shape (4, 3)", lambda: linear_kl_divergence(X, KERNEL.T, X, KERNEL)),
        (ValueError, "target_kernel: expected the 4 classes of kernel, got shape (3, 2)",
         lambda: linear_kl_divergence(X, KERNEL[:, :2], X, KERNEL)),
        (ValueError, "target_bias: expected one number a class, shape (4,), got shape (3,)",
         lambda: linear_kl_divergence(X, KERNEL, X, KERNEL, target_bias=jnp.zeros(3))),
        (ValueError, "weight: expected a number in [0, 1], got 1.5",
         lambda: linear_js_divergence(X, KERNEL, X, KERNEL, weight=1.5)),
        (ValueError, "temperature: expected a finite number > 0, got 0.0",
         lambda: linear_js_divergence(X, KERNEL, X, KERNEL, temperature=0.0)),
        (ValueError, "max_bytes: expected an integer >= 1 or None, got 0",
         lambda: linear_js_divergence(X, KERNEL, X, KERNEL, max_bytes=0)),
        (NotImplementedError, "implementation: expected None, 'xla' or 'reference' (no kernel "
         "makes this), got 'mosaic_gpu'",
         lambda: linear_kl_divergence(X, KERNEL, X, KERNEL, implementation="mosaic_gpu")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_wrong_arguments_say_what_was_expected(error, message, call):
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == message
