"""Calibration errors and reliability curves against their definition and scikit-learn."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from tests.support.oracles.calibration import cells, error, predictions, two_class
from tests.support.tolerances import VALUE
from xentjax._core.choices import Binning
from xentjax._core.sums import accurate_segment_sum, accurate_sum
from xentjax.calibration import (
    classwise_calibration_error,
    expected_calibration_error,
    reliability_curve,
)
from xentjax.calibration._bins import BinSums, equal_mass
from xentjax.calibration.errors import _error

ERRORS = {"top": expected_calibration_error, "classwise": classwise_calibration_error}
# Of gaps, differences of numbers up to 1.
ATOL = {"float32": 2e-7, "float64": 1e-15}


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
        """The mean would be off by 1 % if confidences were added one after the other in float32."""
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
        """Confidence 0.7 and accuracy 0.5 give 0.04; the plain square's expectation is 0.04125."""
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
        """Kumar et al.'s library does so; torchmetrics, when it debiased, kept their squares."""
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
        """The bins of numpy.histogram, [lo, hi), put them in the bin above.

        Searched from the right, as torchmetrics does, a confidence of 1 even falls into a bin of
        its own behind the last.
        """
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
        """Quantiles agree too if bins divide rows evenly; scikit-learn leaves out empty bins."""
        probs, labels = predictions(1, steps=steps)
        share, mean = calibration_curve(
            probs.argmax(-1) == labels, probs.max(-1), n_bins=num_bins, strategy=strategy
        )
        binning: Binning = "width" if strategy == "uniform" else "mass"
        curve = reliability_curve(probs, labels, num_bins=num_bins, binning=binning)
        kept = curve.counts > 0
        np.testing.assert_allclose(curve.accuracy[kept], share, rtol=1e-6)
        np.testing.assert_allclose(curve.confidence[kept], mean, rtol=1e-6)

    def test_scikit_learn_interpolates_quantiles(self):
        """Interpolation puts 2 of 10 rows into the third of 4 bins, and 3 into the last."""
        confidence = np.linspace(0.5, 0.95, 10, dtype=np.float32)
        _, theirs = calibration_curve(np.arange(10) % 2, confidence, n_bins=4, strategy="quantile")
        curve = reliability_curve(
            two_class(confidence), np.zeros(10, int), num_bins=4, binning="mass"
        )
        np.testing.assert_array_equal(curve.counts, [3, 2, 3, 2])
        np.testing.assert_allclose(theirs[2], confidence[5:7].mean(), rtol=1e-6)
        np.testing.assert_allclose(curve.confidence[2], confidence[5:8].mean(), rtol=1e-6)


@pytest.mark.parametrize(("norm", "expected"), [("l1", 0.25), ("l2", 0.25), ("max", 0.25)])
def test_more_rows_times_classes_than_int32_holds(norm, expected):
    """The bins' totals as of 2^30 rows of 5 classes, which add up to more than 2^31."""
    rows = jnp.full((5, 1), 2**30, jnp.int32)
    sums = BinSums(jnp.zeros((5, 2)), rows, rows // 2, jnp.full((5, 1), 0.75 * 2**30))
    np.testing.assert_allclose(_error(sums, norm, False), expected, 1e-6)


def test_ranks_of_very_many_bins():
    """j times the remainder of N / B passes 2^31 from 46,341 bins on."""
    n, num_bins = 150_001, 60_000
    confidence = jnp.arange(n, dtype=jnp.float32) / n
    edges = jax.jit(equal_mass, static_argnums=0)(num_bins, confidence, jnp.ones(n, bool))
    rank = -(-np.arange(1, num_bins, dtype=np.int64) * n // num_bins)
    np.testing.assert_array_equal(edges[1:-1], confidence[rank - 1])


def test_many_rows_of_the_same_confidence():
    n = 3_000_000
    index = jnp.zeros(n, jnp.int32)
    for x64 in (False, True):
        with jax.enable_x64(x64):
            total = jax.jit(accurate_segment_sum, static_argnums=2)(jnp.full(n, 0.7), index, 2)
            exact = n * float(np.float32(0.7) if not x64 else 0.7)
            np.testing.assert_allclose(total, [exact, 0], 1e-7)
            np.testing.assert_allclose(jax.jit(accurate_sum)(jnp.full(n, 0.7)), exact, 1e-7)
