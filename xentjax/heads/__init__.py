"""Functions of a linear head, whose logits x @ kernel + bias are never stored whole."""

from xentjax.heads.cross_entropy import (
    linear_softmax_cross_entropy as linear_softmax_cross_entropy,
)
from xentjax.heads.log_probs import linear_log_probs as linear_log_probs
from xentjax.heads.loss import linear_loss as linear_loss
