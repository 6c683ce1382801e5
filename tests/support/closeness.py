"""Comparison of arrays relative to the largest entry, or to 1 if that is more."""

import numpy as np


def assert_close(got, expected, tolerance):
    expected = np.asarray(expected, np.float64)
    finite = expected[np.isfinite(expected)]
    atol = tolerance * max(1.0, float(np.max(np.abs(finite), initial=0)))
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=tolerance, atol=atol)
