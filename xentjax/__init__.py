"""xentjax: cross-entropy in JAX, from a rolled die to a trained classifier."""

from importlib.metadata import version

from xentjax.categorical import (
    CategoricalFit as CategoricalFit,
    KKTCertificate as KKTCertificate,
    counts as counts,
    empirical_pmf as empirical_pmf,
    fisher_information as fisher_information,
    fit_categorical as fit_categorical,
    kkt_certificate as kkt_certificate,
    log_likelihood as log_likelihood,
    multinomial_log_likelihood as multinomial_log_likelihood,
    sample as sample,
    score as score,
    stream_counts as stream_counts,
)
from xentjax.information import (
    check_pmf as check_pmf,
    conditional_entropy as conditional_entropy,
    cross_entropy as cross_entropy,
    entropy as entropy,
    js_divergence as js_divergence,
    kl_divergence as kl_divergence,
    mutual_information as mutual_information,
    perplexity as perplexity,
)
from xentjax.losses import (
    SoftmaxStats as SoftmaxStats,
    log_softmax as log_softmax,
    logsumexp as logsumexp,
    softmax as softmax,
    softmax_cross_entropy as softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels as softmax_cross_entropy_with_integer_labels,
)

__version__ = version("xentjax")
