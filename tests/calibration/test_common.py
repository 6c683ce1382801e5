"""Properties that all of calibration shares: transformations, hidden rows, refused arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.oracles.calibration import predictions
from xentjax.calibration import (
    classwise_calibration_error,
    expected_calibration_error,
    fit_temperature,
    reliability_curve,
    risk_coverage,
)

ERRORS = {"top": expected_calibration_error, "classwise": classwise_calibration_error}


def all_of(probs, labels, **keywords):
    """Every number this package finds in probabilities."""
    return [
        expected_calibration_error(probs, labels, num_bins=6, **keywords),
        classwise_calibration_error(
            probs, labels, num_bins=6, norm="l2", binning="mass", debias=True, **keywords
        ),
        *reliability_curve(probs, labels, num_bins=6, binning="mass", **keywords),
        *risk_coverage(probs, labels, **keywords)[3:],
    ]


@jax.jit
def unknown(probs, labels, where):
    """Compute measures under jit, where no value can be checked."""
    keywords = [{"norm": "max"}, {"norm": "l2", "debias": True, "num_bins": 100}]
    return (
        [expected_calibration_error(probs, labels, where=where, **these) for these in keywords]
        + [classwise_calibration_error(probs, labels, where=where)],
        reliability_curve(probs, labels, where=where),
        risk_coverage(probs, labels, where=where)[2:],
    )


class TestTransformations:
    def test_vmap_and_jit_are_loops(self):
        probs, labels = map(np.stack, zip(*(predictions(s, n=20) for s in range(6)), strict=True))
        rows = [all_of(p, y) for p, y in zip(probs, labels, strict=True)]
        together = jax.jit(jax.vmap(all_of))(probs, labels)
        for batched, *alone in zip(together, *rows, strict=True):
            np.testing.assert_allclose(batched, np.stack(alone), rtol=1e-6, atol=1e-6)

    def test_hidden_rows_may_hold_anything(self):
        probs, labels = predictions(0, n=40)
        where = np.arange(40) % 3 > 0
        expected = all_of(probs[where], labels[where])
        probs, labels = probs.copy(), labels.copy()
        probs[0], probs[3], labels[6] = np.nan, 7, 99
        result = all_of(probs, labels, where=where)
        for ours, theirs in zip(result, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
        curve = risk_coverage(probs, labels, where=where)
        assert (np.isnan(curve.risk) == (np.arange(40) >= where.sum())).all()

    @pytest.mark.parametrize("bad", ["label", "negative label", "probability", "all hidden"])
    def test_unknown_bad_values_give_nan(self, bad):
        probs, labels = map(np.copy, predictions(0, n=40))
        where = np.ones(40, bool)
        if bad == "probability":
            probs[5, 1] = np.nan
        elif bad == "all hidden":
            where[:] = False
        else:
            labels[5] = 4 if bad == "label" else -1

        found, curve, risks = unknown(probs, labels, where)
        assert np.isnan(found).all()
        assert all(np.isnan(x).all() for x in risks)
        assert jnp.isnan(curve.mean_accuracy)
        assert jnp.isnan(curve.mean_confidence)
        if "label" in bad:  # no other bin is touched
            clean = reliability_curve(*predictions(0, n=40))
            touched = jnp.isnan(curve.accuracy) & ~jnp.isnan(clean.accuracy)
            assert touched.sum() == 1
            np.testing.assert_array_equal(curve.counts, clean.counts)

    @pytest.mark.parametrize(("kind", "norm"), [("top", "max"), ("top", "l1"), ("classwise", "l2")])
    def test_gradient(self, kind, norm):
        with jax.enable_x64(True):
            probs, labels = predictions(2, n=12)
            probs = probs.astype(np.float64) / probs.sum(-1, keepdims=True, dtype=np.float64)
            function = jax.jit(lambda p: ERRORS[kind](p, labels, norm=norm, num_bins=3))
            direction = np.random.default_rng(0).normal(size=probs.shape)
            slope = jax.grad(function)(probs)
            step = 1e-6 * direction
            expected = (function(probs + step) - function(probs - step)) / 2e-6
            np.testing.assert_allclose((slope * direction).sum(), expected, rtol=1e-6, atol=1e-9)


GOOD = jnp.array([[0.5, 0.5], [0.25, 0.75]])


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("function", "arguments", "keywords", "message"),
    [
        ("ece", (GOOD * 100, [0, 1]), {}, "probs: expected probabilities with sum 1 within"),
        ("ece", (GOOD * 1.00005, [0, 1]), {}, "probs: .* got sum 1.0000499; logits go"),
        ("ece", (GOOD - 1, [0, 1]), {}, r"probs: expected probabilities >= 0, got -0\.5"),
        ("ece", (GOOD * jnp.nan, [0, 1]), {}, "probs: expected probabilities >= 0, got nan"),
        ("ece", (GOOD[0], [0, 1]), {}, r"probs: expected shape \[N, K\] .*, got shape \(2,\)"),
        ("ece", (GOOD[:0], []), {}, r"probs: expected shape \[N, K\] with N >= 1 .* \(0, 2\)"),
        ("ece", (GOOD, [0]), {}, r"labels: expected shape \(2,\), one for each .* \(1,\)"),
        ("ece", (GOOD, [0, 2]), {}, r"labels: expected integers 0\.\.1, got 2"),
        ("ece", (GOOD, [-1, 0]), {}, r"labels: expected integers 0\.\.1, got -1"),
        ("ece", (GOOD, [0, 2**40]), {}, r"labels: expected integers 0\.\.1, got 1099511627776"),
        ("ece", (GOOD, [0, 1]), {"num_bins": 0}, "num_bins: expected an integer >= 1, got 0"),
        ("ece", (GOOD, [0, 1]), {"norm": "l3"}, "norm: expected one of 'l1', 'l2', 'max', got"),
        ("ece", (GOOD, [0, 1]), {"binning": "x"}, "binning: expected one of 'width', 'mass', got"),
        ("ece", (GOOD, [0, 1]), {"debias": True}, "debias: expected False with norm 'l1'.*True"),
        ("ece", (GOOD, [0, 1]), {"where": np.zeros(2, bool)}, "where: expected at least one row"),
        ("ece", (GOOD, [0, 1]), {"where": np.ones(3, bool)}, r"where: expected shape \(2,\), one"),
        ("classwise", (GOOD, [0, 2]), {}, r"labels: expected integers 0\.\.1, got 2"),
        ("curve", (GOOD * 2, [0, 1]), {}, "probs: expected probabilities with sum 1 within"),
        ("risk", (GOOD * 2, [0, 1]), {}, "probs: expected probabilities with sum 1 within"),
        ("fit", (GOOD, [0, 2]), {}, r"labels: expected integers 0\.\.1, got 2"),
        ("fit", (GOOD * jnp.inf, [0, 1]), {}, "logits: expected finite numbers or -inf, got inf"),
        ("fit", (-GOOD * jnp.inf, [0, 1]), {}, "logits: expected finite numbers at the labels"),
        ("fit", (GOOD[None], [0, 1]), {}, r"logits: expected shape \[N, K\] .* \(1, 2, 2\)"),
    ],
)
def test_bad_values(function, arguments, keywords, message):
    functions = {
        "ece": expected_calibration_error,
        "classwise": classwise_calibration_error,
        "curve": reliability_curve,
        "risk": risk_coverage,
        "fit": fit_temperature,
    }
    rows, labels = arguments
    with pytest.raises(ValueError, match=f"^{message}") as raised:
        functions[function](rows, np.array(labels, int), **keywords)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("probs", "labels", "where", "message"),
    [
        (jnp.ones((2, 2), int), jnp.zeros(2, int), None, "probs: expected a floating dtype, got"),
        (GOOD, jnp.zeros(2), None, "labels: expected an integer dtype, got float32"),
        (GOOD, jnp.zeros(2, int), jnp.ones(2), "where: expected a bool array, got float32"),
    ],
)
def test_bad_types(probs, labels, where, message):
    with pytest.raises(TypeError, match=f"^{message}"):
        expected_calibration_error(probs, labels, where=where)
    with pytest.raises(TypeError, match=r"^num_bins: expected an integer, got True"):
        expected_calibration_error(GOOD, jnp.zeros(2, int), num_bins=True)
