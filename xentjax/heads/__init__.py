"""Functions of a linear head, whose logits x @ kernel + bias are never stored whole."""

from xentjax.heads.cross_entropy import (
    linear_softmax_cross_entropy as linear_softmax_cross_entropy,
)
from xentjax.heads.divergences import (
    linear_js_divergence as linear_js_divergence,
    linear_kl_divergence as linear_kl_divergence,
)
from xentjax.heads.log_probs import linear_log_probs as linear_log_probs
from xentjax.heads.loss import linear_loss as linear_loss
from xentjax.heads.sample import Sample as Sample, linear_sample as linear_sample
from xentjax.heads.top_k import TopK as TopK, linear_top_k as linear_top_k
from xentjax.heads.top_k_kl_divergence import (
    linear_top_k_kl_divergence as linear_top_k_kl_divergence,
)
