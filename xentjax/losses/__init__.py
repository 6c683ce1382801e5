"""Public losses: short expressions over the row statistics of `xentjax.ops`."""

from xentjax.losses.brier import brier_score as brier_score
from xentjax.losses.cross_entropy import (
    SoftmaxStats as SoftmaxStats,
    safe_softmax_cross_entropy as safe_softmax_cross_entropy,
    softmax_cross_entropy as softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels as softmax_cross_entropy_with_integer_labels,
)
from xentjax.losses.distillation import kl_divergence_with_logits as kl_divergence_with_logits
from xentjax.losses.focal import softmax_focal_loss as softmax_focal_loss
from xentjax.losses.nll import nll_loss as nll_loss
from xentjax.losses.poly import poly_loss_cross_entropy as poly_loss_cross_entropy
from xentjax.losses.sigmoid import (
    sigmoid_binary_cross_entropy as sigmoid_binary_cross_entropy,
    sigmoid_focal_loss as sigmoid_focal_loss,
)
from xentjax.losses.smoothing import smooth_labels as smooth_labels
from xentjax.losses.softmax import (
    log_softmax as log_softmax,
    logsumexp as logsumexp,
    softmax as softmax,
)
