"""xentjax: cross-entropy in JAX, from a rolled die to a trained classifier."""

from importlib.metadata import version

from xentjax.losses import (
    SoftmaxStats as SoftmaxStats,
    log_softmax as log_softmax,
    logsumexp as logsumexp,
    softmax as softmax,
    softmax_cross_entropy as softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels as softmax_cross_entropy_with_integer_labels,
)

__version__ = version("xentjax")
