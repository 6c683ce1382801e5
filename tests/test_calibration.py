"""Calibration against NumPy float64 written from the definitions, scikit-learn and scipy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.calibration import calibration_curve

from tests.tolerances import VALUE
from xentjax.calibration import (
    classwise_calibration_error,
    expected_calibration_error,
    fit_temperature,
    reliability_curve,
    risk_coverage,
)

ERRORS = {"top": expected_calibration_error, "classwise": classwise_calibration_error}
# Of gaps, differences of numbers up to 1.
ATOL = {"float32": 2e-7, "float64": 1e-15}


def predictions(seed, n=60, k=4, steps=None) -> tuple[np.ndarray, np.ndarray]:
    """pmfs and labels drawn from something near them; in multiples of 1 / steps many are tied."""
    rng = np.random.default_rng(seed)
    pmfs = rng.dirichlet(np.full(k, 0.4), n)
    labels = np.array([rng.choice(k, p=0.8 * p + 0.2 / k) for p in pmfs], np.int32)
    if steps:
        pmfs = np.array([rng.multinomial(steps, p) for p in pmfs]) / steps
    return pmfs.astype(np.float32), labels


def two_class(confidence):
    """A pmf of two classes for each confidence >= 1/2, the prediction being class 0."""
    confidence = np.asarray(confidence, np.float32)
    return np.stack([confidence, 1 - confidence], -1)


def bins_of(confidence, num_bins, binning):
    """Of each confidence, one at a time."""
    n = len(confidence)
    if binning == "width":
        edges = confidence.dtype.type(np.arange(num_bins + 1) / num_bins)
        return [
            next(b for b in range(num_bins) if c <= edges[b + 1] or b == num_bins - 1)
            for c in confidence
        ]
    # The first edge that is no smaller: the ceil(j n / B)-th smallest is, if fewer are below.
    below = [(confidence < c).sum() for c in confidence]
    return [next(b for b in range(num_bins) if -(-(b + 1) * n // num_bins) > m) for m in below]


def cells(confidence, hit, num_bins, binning):
    """(rows, mean confidence, share of hits) of the bins that have any."""
    index = np.array(bins_of(confidence, num_bins, binning))
    return [
        (b, len(rows), confidence[rows].mean(dtype=np.float64), hit[rows].mean())
        for b in range(num_bins)
        if len(rows := np.flatnonzero(index == b))
    ]


def error(kind, probs, labels, num_bins=15, norm="l1", binning="width", debias=False):
    """The definition, in float64; bins by the dtype of the probabilities."""
    if kind == "top":
        pairs = [(probs.max(-1), probs.argmax(-1) == labels)]
    else:
        pairs = [(p, labels == k) for k, p in enumerate(probs.T)]
    found = [cell for c, hit in pairs for cell in cells(c, hit, num_bins, binning)]
    if norm == "max":
        return max(abs(share - mean) for _, _, mean, share in found)
    total = 0.0
    for _, rows, mean, share in found:
        term = abs(share - mean) ** (1 if norm == "l1" else 2)
        if debias:
            term = 0 if rows == 1 else term - share * (1 - share) / (rows - 1)
        total += rows * term / len(labels) / len(pairs)
    return max(total, 0) ** 0.5 if norm == "l2" else total


class TestErrors:
    @pytest.mark.parametrize(
        ("kind", "binning", "norm", "debias"),
        [
            ("top", "width", "l1", False),
            ("top", "width", "l2", True),
            ("top", "mass", "l2", False),
            ("top", "mass", "max", False),
            ("classwise", "width", "l2", False),
            ("classwise", "width", "max", False),
            ("classwise", "mass", "l1", False),
            ("classwise", "mass", "l2", True),
        ],
    )
    def test_definition(self, kind, binning, norm, debias):
        keywords = {"num_bins": 8, "norm": norm, "binning": binning, "debias": debias}
        for seed in range(6):
            probs, labels = predictions(seed, steps=16 if seed % 2 else None)
            result = ERRORS[kind](jnp.asarray(probs), labels, **keywords)
            expected = error(kind, probs, labels, **keywords)
            # A root of what has cancelled keeps half of the digits.
            atol = 2e-4 if debias and expected < 1e-3 else 1e-6 if debias else ATOL["float32"]
            np.testing.assert_allclose(result, expected, rtol=VALUE["float32"], atol=atol)
            assert result.dtype == "float32"

    @pytest.mark.parametrize("binning", ["width", "mass"])
    @pytest.mark.parametrize("kind", ERRORS)
    def test_float64_and_half_precision(self, kind, binning):
        probs, labels = predictions(0)
        with jax.enable_x64(True):
            probs = probs.astype(np.float64) / probs.sum(-1, keepdims=True, dtype=np.float64)
            result = ERRORS[kind](probs, labels, binning=binning)
            assert result.dtype == "float64"
            np.testing.assert_allclose(
                result, error(kind, probs, labels, binning=binning), rtol=1e-13
            )
        for dtype in (jnp.bfloat16, jnp.float16) if binning == "width" else ():
            rounded = jnp.asarray(probs, dtype)
            expected = error(kind, np.asarray(rounded, np.float32), labels, binning=binning)
            result = ERRORS[kind](rounded, labels, binning=binning)
            assert result.dtype == "float32"
            np.testing.assert_allclose(result, expected, rtol=1e-6)

    def test_an_accurate_mean_of_many_equal_confidences(self):
        """Added one after the other in float32 they would be off by 1 %."""
        n = 10**6 + 3
        probs = np.broadcast_to(np.array([0.9, 0.1], np.float32), (n, 2))
        labels = (np.arange(n) % 10 == 0).astype(np.int32)
        naive = np.cumsum(probs[:, 0], dtype=np.float32)[-1] / n
        assert abs(naive - probs[0, 0]) > 5e-3
        curve = reliability_curve(probs, labels)
        np.testing.assert_allclose(curve.confidence[13], probs[0, 0], rtol=5e-7)
        np.testing.assert_allclose(curve.mean_accuracy, 1 - labels.mean(), rtol=1e-7)
        assert curve.counts[13] == n

    def test_more_classes_than_a_byte_counts_and_unsigned_labels(self):
        probs, labels = predictions(0, n=30, k=260)
        labels = np.minimum(labels, 255)
        expected = error("classwise", probs, labels)
        for given in (labels.astype(np.uint8), labels.astype(np.int64)):
            result = classwise_calibration_error(probs, given)
            np.testing.assert_allclose(result, expected, rtol=1e-6)


class TestDebiasing:
    def test_the_square_is_unbiased(self):
        """At confidence 0.7 and accuracy 0.5: 0.04; the plain square's expectation is 0.04125."""
        n, draws = 200, 4000
        probs = jnp.asarray(two_class(np.full(n, 0.7)))
        labels = jax.random.bernoulli(jax.random.key(0), 0.5, (draws, n)).astype(jnp.int32)
        for debias, expected in ((True, 0.04), (False, 0.04125)):
            squares = jax.vmap(
                lambda y, debias=debias: (
                    expected_calibration_error(probs, y, norm="l2", debias=debias) ** 2
                )
            )(labels)
            np.testing.assert_allclose(squares.mean(), expected, atol=4 * 0.0142 / draws**0.5)
            assert abs(0.04125 - 0.04) > 1.3 * 4 * 0.0142 / draws**0.5

    def test_bins_of_one_row_add_nothing(self):
        """As in Kumar et al.'s library; torchmetrics, when it debiased, kept their squares."""
        probs = two_class([0.55, 0.75, 0.95])
        assert expected_calibration_error(probs, jnp.ones(3, int), norm="l2", debias=True) == 0

    def test_calibrated_rows_give_0_not_the_root_of_less(self):
        probs = two_class([0.5] * 4)
        labels = jnp.array([0, 0, 1, 1])
        for debias in (True, False):
            function = partial(expected_calibration_error, labels=labels, norm="l2", debias=debias)
            value, slope = jax.value_and_grad(function)(jnp.asarray(probs))
            assert value == 0
            np.testing.assert_array_equal(slope, 0)


class TestBins:
    def test_edges_belong_to_the_bin_below_as_for_guo_et_al(self):
        """numpy.histogram, whose bins are [lo, hi), puts them above. Searched from the right, as
        torchmetrics does, a confidence of 1 even falls into a bin of its own behind the last."""
        confidence = np.array([0.5, 0.75, 0.75, 1.0], np.float32)
        curve = reliability_curve(two_class(confidence), jnp.zeros(4, int), num_bins=4)
        np.testing.assert_array_equal(curve.counts, [0, 1, 2, 1])
        np.testing.assert_array_equal(np.histogram(confidence, curve.edges)[0], [0, 0, 1, 3])
        from_right = np.searchsorted(np.asarray(curve.edges), confidence, side="right") - 1
        np.testing.assert_array_equal(from_right, [2, 3, 3, 4])

    @pytest.mark.parametrize("num_bins", [1, 15, 100])
    def test_every_edge_lies_in_the_bin_below_it_in_float32(self, num_bins):
        """confidence * num_bins rounded up would miss some: 0.56 * 100 is 56.000004."""
        edges = (np.arange(num_bins + 1) / num_bins).astype(np.float32)
        upper = edges[edges >= 0.5]
        for confidence in (upper, np.minimum(np.nextafter(upper, np.float32(2)), np.float32(1))):
            curve = reliability_curve(
                two_class(confidence), np.zeros(len(confidence), int), num_bins=num_bins
            )
            bins = np.array([np.flatnonzero(c <= edges)[0] - 1 for c in confidence])
            np.testing.assert_array_equal(curve.counts, np.bincount(bins, minlength=num_bins))
            np.testing.assert_array_equal(curve.edges, edges)

    @pytest.mark.parametrize("binning", ["width", "mass"])
    def test_probabilities_of_0_and_1_are_counted(self, binning):
        probs = jnp.array([[1.0, 0.0]] * 4)
        labels = jnp.array([0, 0, 1, 1])
        assert expected_calibration_error(probs, labels, binning=binning) == 0.5
        # Without the class of probability 0 it would be half of this.
        assert classwise_calibration_error(probs, labels, binning=binning) == 0.5
        curve = reliability_curve(probs, labels, binning=binning)
        assert curve.counts.sum() == 4
        assert curve.edges[0] == 0
        assert curve.edges[-1] == 1

    def test_equal_mass_is_equal_to_within_one_row(self):
        for n, num_bins in ((60, 7), (61, 15)):
            confidence = np.random.default_rng(n).uniform(0.5, 1, n)
            curve = reliability_curve(
                two_class(confidence), np.zeros(n, int), num_bins=num_bins, binning="mass"
            )
            assert set(np.asarray(curve.counts)) <= {n // num_bins, -(-n // num_bins)}

    def test_equal_confidences_share_a_bin_whatever_the_order(self):
        """Split by rank instead, sorted rows could make any accuracy of the parts."""
        rng = np.random.default_rng(0)
        confidence = np.concatenate([np.ones(60), np.full(17, 0.6), rng.uniform(0.5, 1, 23)])
        labels = rng.integers(0, 2, 100)
        results = []
        for order in [np.argsort(labels), np.argsort(-labels), *map(rng.permutation, [100] * 5)]:
            probs = two_class(confidence)[order]
            curve = reliability_curve(probs, labels[order], num_bins=10, binning="mass")
            value = expected_calibration_error(probs, labels[order], num_bins=10, binning="mass")
            results.append([*curve.counts, *curve.accuracy, *curve.edges, value])
        np.testing.assert_allclose(results, np.broadcast_to(results[0], (7, 32)), atol=1e-7)
        last = np.flatnonzero(results[0][:10])[-1]
        assert results[0][last] >= 60
        assert results[0][last + 1 : 10] == [0] * (9 - last)  # their edges are 1 as well

    def test_all_confidences_equal(self):
        probs = two_class(np.full(12, 0.75))
        labels = jnp.arange(12) % 2
        for num_bins in (1, 20):
            value = expected_calibration_error(probs, labels, num_bins=num_bins, binning="mass")
            np.testing.assert_allclose(value, 0.25, rtol=1e-6)

    @pytest.mark.parametrize("binning", ["width", "mass"])
    @pytest.mark.parametrize("n", [1, 5])
    def test_fewer_rows_than_bins(self, n, binning):
        probs, labels = predictions(n, n=n)
        for kind, function in ERRORS.items():
            result = function(probs, labels, binning=binning)
            expected = error(kind, probs, labels, binning=binning)
            np.testing.assert_allclose(result, expected, rtol=1e-6)


class TestReliabilityCurve:
    @pytest.mark.parametrize("binning", ["width", "mass"])
    def test_definition(self, binning):
        for seed in range(4):
            probs, labels = predictions(seed, steps=16 if seed % 2 else None)
            confidence, hit = probs.max(-1), probs.argmax(-1) == labels
            curve = reliability_curve(probs, labels, num_bins=8, binning=binning)
            found = cells(confidence, hit, 8, binning)
            counts, mean, share = np.zeros(8, int), np.full(8, np.nan), np.full(8, np.nan)
            for b, *values in found:
                counts[b], mean[b], share[b] = values
            np.testing.assert_array_equal(curve.counts, counts)
            np.testing.assert_allclose(curve.confidence, mean, rtol=1e-6)
            np.testing.assert_allclose(curve.accuracy, share, rtol=1e-6)
            np.testing.assert_allclose(curve.mean_confidence, confidence.mean(), rtol=1e-6)
            np.testing.assert_allclose(curve.mean_accuracy, hit.mean(), rtol=1e-6)

    @pytest.mark.parametrize(
        ("num_bins", "strategy", "steps"),
        [(8, "uniform", 16), (15, "uniform", None), (12, "quantile", None), (12, "quantile", 16)],
    )
    def test_scikit_learn_agrees(self, num_bins, strategy, steps):
        """Also in quantiles where bins divide rows; it leaves empty bins out."""
        probs, labels = predictions(1, steps=steps)
        share, mean = calibration_curve(
            probs.argmax(-1) == labels, probs.max(-1), n_bins=num_bins, strategy=strategy
        )
        binning = {"uniform": "width", "quantile": "mass"}[strategy]
        curve = reliability_curve(probs, labels, num_bins=num_bins, binning=binning)
        kept = curve.counts > 0
        np.testing.assert_allclose(curve.accuracy[kept], share, rtol=1e-6)
        np.testing.assert_allclose(curve.confidence[kept], mean, rtol=1e-6)

    def test_scikit_learn_interpolates_quantiles(self):
        """So that of 10 rows in 4 bins its third has 2 and its last 3."""
        confidence = np.linspace(0.5, 0.95, 10, dtype=np.float32)
        _, theirs = calibration_curve(np.arange(10) % 2, confidence, n_bins=4, strategy="quantile")
        curve = reliability_curve(
            two_class(confidence), np.zeros(10, int), num_bins=4, binning="mass"
        )
        np.testing.assert_array_equal(curve.counts, [3, 2, 3, 2])
        np.testing.assert_allclose(theirs[2], confidence[5:7].mean(), rtol=1e-6)
        np.testing.assert_allclose(curve.confidence[2], confidence[5:8].mean(), rtol=1e-6)


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
    """What is found where no value can be checked."""
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


def mean_nll(logits, labels, temperature):
    rows = np.arange(len(labels))
    shifted = np.asarray(logits, np.float64) - np.asarray(logits, np.float64).max(-1, keepdims=True)
    return -log_softmax(shifted / temperature, axis=-1)[rows, labels].mean()


def best_temperature(logits, labels):
    found = minimize_scalar(
        lambda log: mean_nll(logits, labels, np.exp(log)), bracket=(-1, 1), tol=1e-14
    )
    return np.exp(found.x), found.fun


def network(seed, temperature, n=200, k=5):
    """Logits that are calibrated once divided by the temperature, and labels."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, k))
    labels = np.array([rng.choice(k, p=np.exp(row)) for row in log_softmax(logits, axis=-1)])
    return logits * temperature, labels


class TestTemperature:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("offset", [0.0, 1e5])
    @pytest.mark.parametrize("temperature", [0.05, 0.5, 1.0, 2.5, 40.0])
    def test_scipy_agrees(self, temperature, offset, dtype):
        logits, labels = network(0, temperature)
        logits = (logits + offset).astype(dtype)
        expected, nll = best_temperature(logits, labels)
        with jax.enable_x64(dtype == "float64"):
            fit = fit_temperature(jnp.asarray(logits), labels)
            assert {fit.temperature.dtype, fit.nll.dtype, fit.nll_before.dtype} == {
                jnp.dtype(dtype)
            }
            fit = jax.tree.map(np.asarray, fit)
        assert fit.converged
        assert fit.steps <= 8
        assert 0.8 < fit.temperature / temperature < 1.25
        np.testing.assert_allclose(fit.temperature, expected, rtol=1e-6)
        np.testing.assert_allclose(fit.nll, nll, rtol=1e-6)
        np.testing.assert_allclose(fit.nll_before, mean_nll(logits, labels, 1), rtol=1e-6)

    def test_half_precision(self):
        logits, labels = network(0, 0.5)
        logits = jnp.asarray(logits, jnp.bfloat16)
        fit = fit_temperature(logits, labels)
        assert fit.temperature.dtype == "float32"
        expected, _ = best_temperature(np.asarray(logits, np.float32), labels)
        np.testing.assert_allclose(fit.temperature, expected, rtol=1e-6)

    @pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e25])
    def test_any_scale(self, scale):
        logits, labels = network(0, 1.0)
        expected, nll = best_temperature(logits, labels)
        fit = fit_temperature((logits * scale).astype(np.float32), labels)
        np.testing.assert_allclose(fit.temperature, expected * scale, rtol=2e-6)
        np.testing.assert_allclose(fit.nll, nll, rtol=1e-6)

    @pytest.mark.parametrize("margin", [1e-6, 1e-3, 0.1, 10.0, 300.0])
    def test_one_wrong_row(self, margin):
        """Nearly separable for a small margin, nearly useless for a large one."""
        logits = np.zeros((200, 3), np.float32)
        logits[:, 0] = np.linspace(1, 3, 200)
        logits[7, 1] = logits[7, 0] + np.float32(margin)
        labels = np.zeros(200, int)
        fit = fit_temperature(logits, labels)
        with jax.enable_x64(True):
            exact = jax.tree.map(float, fit_temperature(logits.astype(np.float64), labels))
        assert exact.converged
        assert exact.steps < 30
        for change in (0.999, 1.001):
            assert mean_nll(logits, labels, exact.temperature * change) > exact.nll
        assert fit.converged
        np.testing.assert_allclose(fit.temperature, exact.temperature, rtol=1e-5)

    @pytest.mark.filterwarnings("ignore:logits")
    def test_random_hard_rows(self):
        """Heavy tails and few rows: every end is a minimum or a limit that is said."""
        rng = np.random.default_rng(0)
        kinds = []
        with jax.enable_x64(True):
            for _ in range(60):
                logits = rng.standard_t(1, size=(6, 3)) * 10.0 ** rng.uniform(-3, 3)
                labels = np.where(rng.uniform(size=6) < 0.8, logits.argmax(-1), 0)
                fit = jax.tree.map(float, fit_temperature(logits, labels))
                kinds.append((fit.temperature > 0) + (fit.temperature == np.inf))
                assert fit.converged == (0 < fit.temperature < np.inf)
                middle = min(max(fit.temperature, 1e-12), 1e12)
                np.testing.assert_allclose(
                    mean_nll(logits, labels, middle), fit.nll, rtol=1e-9, atol=1e-9
                )
                for other in middle * np.array([1e-2, 0.9, 0.999, 1.001, 1.1, 1e2]):
                    assert mean_nll(logits, labels, other) >= fit.nll * (1 - 1e-9)
        assert set(kinds) == {0, 1, 2}

    def test_separable_rows_have_temperature_0(self):
        logits = jnp.array([[3.0, 0.0, -1.0], [0.0, 2.0, 2.0], [1.0, 0.5, 4.0]])
        labels = jnp.array([0, 1, 2])
        with pytest.warns(UserWarning, match="logits: every label has the largest logit"):
            fit = fit_temperature(logits, labels)
        assert fit.temperature == 0
        assert not fit.converged
        np.testing.assert_allclose(fit.nll, np.log(2) / 3, rtol=1e-6)  # a tie of two stays
        np.testing.assert_allclose(fit.nll_before, mean_nll(logits, labels, 1), rtol=1e-6)
        assert jax.jit(fit_temperature)(logits, labels).temperature == 0  # and no warning

    @pytest.mark.parametrize("logits", [[[0.0, 1.0], [0.0, 3.0]], [[2.0, 2.0], [5.0, 5.0]]])
    def test_useless_logits_have_temperature_inf(self, logits):
        logits, labels = jnp.array(logits), jnp.array([0, 0])
        with pytest.warns(UserWarning, match="logits: no better than equal probabilities"):
            fit = fit_temperature(logits, labels)
        assert fit.temperature == jnp.inf
        assert not fit.converged
        np.testing.assert_allclose(fit.nll, np.log(2), rtol=1e-6)
        np.testing.assert_array_equal(jax.nn.softmax(logits / fit.temperature), 0.5)

    def test_a_class_with_logit_minus_inf_takes_no_part(self):
        logits, labels = network(0, 0.5, k=4)
        extended = np.insert(logits, [1, 4], -np.inf, axis=1)
        fit = fit_temperature(np.asarray(logits, np.float32), labels)
        other = fit_temperature(extended.astype(np.float32), labels + (labels >= 1))
        np.testing.assert_allclose(other.temperature, fit.temperature, rtol=1e-6)
        np.testing.assert_allclose(other.nll, fit.nll, rtol=1e-6)
        slope = jax.grad(lambda a: fit_temperature(a, labels + (labels >= 1)).temperature)(
            jnp.asarray(extended, jnp.float32)
        )
        assert jnp.isfinite(slope).all()
        np.testing.assert_array_equal(slope[:, 1], 0)

    def test_hidden_rows_vmap_and_bad_rows(self):
        logits, labels = network(0, 2.0, n=90)
        logits = logits.astype(np.float32)
        where = np.arange(90) % 3 > 0
        expected = fit_temperature(logits[where], labels[where])
        hidden, bad = logits.copy(), labels.copy()
        hidden[0], hidden[3], bad[6] = np.nan, np.inf, 99
        for function in (fit_temperature, jax.jit(fit_temperature)):
            fit = function(hidden, bad, where=where)
            np.testing.assert_allclose(fit[:3], expected[:3], rtol=1e-6)
            assert fit.converged

        others = np.stack([logits, logits * 3, logits * 0, logits, hidden])
        many = np.stack([labels, labels, labels, bad, labels])
        fits = jax.vmap(fit_temperature)(others, many)
        alone = fit_temperature(logits, labels)
        np.testing.assert_allclose(
            fits.temperature / alone.temperature, [1, 3, np.inf, np.nan, np.nan], rtol=2e-6
        )
        np.testing.assert_array_equal(fits.converged, [True, True, False, False, False])
        np.testing.assert_array_equal(np.isnan(fits.nll), [False, False, False, True, True])
        empty = jax.jit(fit_temperature)(logits, labels, where=np.zeros(90, bool))
        assert jnp.isnan(empty.temperature)

    def test_derivatives_of_the_optimum(self):
        with jax.enable_x64(True):
            logits, labels = network(0, 0.5, n=20, k=3)
            direction = np.random.default_rng(1).normal(size=logits.shape)

            def along(t):
                return fit_temperature(logits + t * direction, labels)[:2]

            @jax.jit
            def derivatives(t):
                return jax.jacfwd(along)(t), jax.jacfwd(jax.jacfwd(along))(t)

            step = 1e-4
            above, at, below = (np.array(along(t)) for t in (step, 0.0, -step))
            first, second = derivatives(0.0)
            np.testing.assert_allclose(first, (above - below) / (2 * step), rtol=1e-6)
            np.testing.assert_allclose(second, (above - 2 * at + below) / step**2, rtol=1e-4)
            slope, nll_slope = jax.jacrev(lambda a: fit_temperature(a, labels)[:2])(logits)
            np.testing.assert_allclose((slope * direction).sum(), first[0], rtol=1e-10)
            # At the optimum the temperature's own part vanishes.
            temperature = at[0]
            p = np.exp(log_softmax(logits / temperature, axis=-1))
            expected = (p - np.eye(3)[labels]) / temperature / 20
            np.testing.assert_allclose(nll_slope, expected, rtol=1e-8, atol=1e-12)

    @pytest.mark.parametrize("labels", [[0, 1], [1, 0]], ids=["separable", "useless"])
    def test_slope_at_a_limit_is_0(self, labels):
        slope = jax.grad(lambda a: jax.jit(fit_temperature)(a, jnp.array(labels)).temperature)(
            jnp.array([[2.0, 0.0], [0.0, 1.0]])
        )
        np.testing.assert_array_equal(slope, 0)


class TestRiskCoverage:
    @pytest.mark.parametrize("steps", [None, 8])
    def test_definition(self, steps):
        for seed in range(3):
            probs, labels = predictions(seed, steps=steps)
            confidence, wrong = probs.max(-1), probs.argmax(-1) != labels
            accepted = confidence >= np.sort(confidence)[::-1, None]
            risk = (accepted * wrong).sum(-1) / accepted.sum(-1)
            best = np.mean(np.cumsum(np.sort(wrong)) / np.arange(1, len(wrong) + 1))
            curve = risk_coverage(probs, labels)
            np.testing.assert_array_equal(curve.threshold, np.sort(confidence)[::-1])
            np.testing.assert_allclose(curve.coverage, accepted.mean(-1), rtol=1e-6)
            np.testing.assert_allclose(curve.risk, risk, rtol=1e-6)
            np.testing.assert_allclose(curve.aurc, risk.mean(), rtol=1e-6)
            np.testing.assert_allclose(curve.excess_aurc, risk.mean() - best, rtol=1e-5, atol=1e-7)

    def test_order_of_rows_has_no_effect(self):
        probs, labels = predictions(0, steps=4)
        by_error = np.argsort(probs.argmax(-1) != labels)
        expected = risk_coverage(probs, labels)
        for order in (by_error, by_error[::-1]):
            for ours, theirs in zip(
                risk_coverage(probs[order], labels[order]), expected, strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)

    def test_confidence_that_tells_nothing_or_everything(self):
        labels = jnp.array([0, 1, 0, 0, 1])
        constant = risk_coverage(two_class([0.75] * 5), labels)
        np.testing.assert_allclose([*constant.risk, constant.aurc], 0.4, rtol=1e-6)
        np.testing.assert_array_equal(constant.coverage, 1)
        perfect = risk_coverage(two_class([0.9, 0.6, 0.8, 0.95, 0.55]), labels)
        np.testing.assert_allclose(perfect.risk, [0, 0, 0, 1 / 4, 2 / 5], rtol=1e-6)
        assert perfect.excess_aurc == 0
        one = risk_coverage(two_class([0.9]), jnp.array([1]))
        assert (one.risk, one.coverage, one.aurc, one.excess_aurc) == (1, 1, 1, 0)

    def test_a_million_rows_in_float32(self):
        n = 10**6
        rng = np.random.default_rng(0)
        confidence = rng.uniform(0.5, 1, n).astype(np.float32)
        labels = (rng.uniform(size=n) > confidence).astype(np.int32)
        order = np.argsort(-confidence, kind="stable")
        _, first, size = np.unique(-confidence[order], return_index=True, return_counts=True)
        ends = first + size
        risk = np.cumsum(labels[order])[ends - 1] / ends
        curve = risk_coverage(two_class(confidence), labels)
        np.testing.assert_allclose(curve.aurc, (risk * size).sum() / n, rtol=5e-7)


GOOD = jnp.array([[0.5, 0.5], [0.25, 0.75]])


@pytest.mark.parametrize(
    ("function", "arguments", "keywords", "message"),
    [
        ("ece", (GOOD * 100, [0, 1]), {}, "probs: expected probabilities with sum 1 within"),
        ("ece", (GOOD - 1, [0, 1]), {}, r"probs: expected probabilities >= 0, got -0\.5"),
        ("ece", (GOOD * jnp.nan, [0, 1]), {}, "probs: expected probabilities >= 0, got nan"),
        ("ece", (GOOD[0], [0, 1]), {}, r"probs: expected shape \[N, K\] .*, got shape \(2,\)"),
        ("ece", (GOOD[:0], []), {}, r"probs: expected shape \[N, K\] with N >= 1 .* \(0, 2\)"),
        ("ece", (GOOD, [0]), {}, r"labels: expected shape \(2,\), one for each .* \(1,\)"),
        ("ece", (GOOD, [0, 2]), {}, r"labels: expected integers 0\.\.1, got 2"),
        ("ece", (GOOD, [-1, 0]), {}, r"labels: expected integers 0\.\.1, got -1"),
        ("ece", (GOOD, [0, 2**40]), {}, r"labels: expected integers 0\.\.1, got 1099511627776"),
        ("ece", (GOOD, [0, 1]), {"num_bins": 0}, "num_bins: expected an integer >= 1, got 0"),
        ("ece", (GOOD, [0, 1]), {"num_bins": True}, "num_bins: expected an integer >= 1, got Tr"),
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
