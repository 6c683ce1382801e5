"""xentjax: cross-entropy in JAX, from a rolled die to a trained classifier."""

from importlib.metadata import version

from xentjax import categorical as categorical
from xentjax.calibration import (
    ReliabilityCurve as ReliabilityCurve,
    RiskCoverage as RiskCoverage,
    TemperatureFit as TemperatureFit,
    classwise_calibration_error as classwise_calibration_error,
    expected_calibration_error as expected_calibration_error,
    fit_temperature as fit_temperature,
    reliability_curve as reliability_curve,
    risk_coverage as risk_coverage,
)
from xentjax.categorical import (
    CategoricalFit as CategoricalFit,
    EntropyPosterior as EntropyPosterior,
    KKTCertificate as KKTCertificate,
    TestResult as TestResult,
    chi_squared_test as chi_squared_test,
    confidence_intervals as confidence_intervals,
    counts as counts,
    empirical_pmf as empirical_pmf,
    entropy_estimate as entropy_estimate,
    expected_kl as expected_kl,
    fisher_information as fisher_information,
    fit_categorical as fit_categorical,
    g_test as g_test,
    kkt_certificate as kkt_certificate,
    log_likelihood as log_likelihood,
    multinomial_log_likelihood as multinomial_log_likelihood,
    nsb_entropy as nsb_entropy,
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
    brier_score as brier_score,
    kl_divergence_with_logits as kl_divergence_with_logits,
    linear_softmax_cross_entropy as linear_softmax_cross_entropy,
    log_softmax as log_softmax,
    logsumexp as logsumexp,
    nll_loss as nll_loss,
    poly_loss_cross_entropy as poly_loss_cross_entropy,
    safe_softmax_cross_entropy as safe_softmax_cross_entropy,
    sigmoid_binary_cross_entropy as sigmoid_binary_cross_entropy,
    sigmoid_focal_loss as sigmoid_focal_loss,
    smooth_labels as smooth_labels,
    softmax as softmax,
    softmax_cross_entropy as softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels as softmax_cross_entropy_with_integer_labels,
    softmax_focal_loss as softmax_focal_loss,
)
from xentjax.softmax_regression import (
    SoftmaxRegressionFit as SoftmaxRegressionFit,
    fit_softmax_regression as fit_softmax_regression,
)

__version__ = version("xentjax")
