"""Risk and coverage against their definition."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.oracles.calibration import predictions, two_class
from xentjax.calibration import risk_coverage


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
