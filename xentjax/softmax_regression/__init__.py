"""Softmax regression: the die whose probabilities depend on features, fitted by convex descent."""

from xentjax.softmax_regression.fit import (
    SoftmaxRegressionFit as SoftmaxRegressionFit,
    fit_softmax_regression as fit_softmax_regression,
)
