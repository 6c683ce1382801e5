"""Softmax regression: the die whose probabilities depend on features, fitted by convex descent."""

from xentjax.softmax_regression.effects import MarginalEffects as MarginalEffects
from xentjax.softmax_regression.fit import fit_softmax_regression as fit_softmax_regression
from xentjax.softmax_regression.result import (
    OddsRatios as OddsRatios,
    SoftmaxRegressionFit as SoftmaxRegressionFit,
)
