"""Public losses: short expressions over the row statistics of `xentjax.ops`."""

from xentjax.losses.cross_entropy import (
    SoftmaxStats as SoftmaxStats,
    softmax_cross_entropy as softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels as softmax_cross_entropy_with_integer_labels,
)
from xentjax.losses.normalized import (
    log_softmax as log_softmax,
    logsumexp as logsumexp,
    softmax as softmax,
)
