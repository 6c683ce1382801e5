"""xentjax: cross-entropy in JAX, from a rolled die to a trained classifier.

`help(xentjax.NAME)` has the formula, the arguments, an example and the source of each.

Losses of logits
    softmax_cross_entropy_with_integer_labels:
        Cross-entropy of class indices y and softmax(logits), in nats.
    softmax_cross_entropy: Cross-entropy of target probabilities t and softmax(logits), in nats.
    safe_softmax_cross_entropy:
        Cross-entropy of target probabilities t and softmax(logits), in nats.
    softmax_focal_loss:
        Cross-entropy with less weight on rows that are already predicted well, in nats.
    poly_loss_cross_entropy: Poly-1 loss of target probabilities t and p = softmax(logits), in nats.
    brier_score: Squared distance of p = softmax(logits) from the target pmf t.
    kl_divergence_with_logits:
        KL divergence of softmax(logits / T) from softmax(target_logits / T), in nats.
    sigmoid_binary_cross_entropy:
        Cross-entropy of each probability t of "yes" and p = sigmoid(logits), in nats.
    sigmoid_focal_loss:
        Binary cross-entropy with less weight on elements already predicted well, in nats.
    SoftmaxStats: Per-row statistics returned with a loss; 0 in masked rows.

Components of losses
    softmax: Probabilities of the classes, as `jax.nn.softmax`.
    log_softmax: Logarithm of the softmax, as `jax.nn.log_softmax`.
    logsumexp: Log normaliser of the softmax, log sum_k exp(a_k), as `jax.nn.logsumexp`.
    nll_loss: Negative log-likelihood of class indices y under given log-probabilities, in nats.
    smooth_labels: Mix the targets with the uniform distribution.

Linear heads
    linear_softmax_cross_entropy:
        Cross-entropy of labels and softmax(x @ kernel + bias), in nats, tile by tile of the logits.
    linear_log_probs:
        Log-probability of each row's label under softmax(x @ kernel + bias), tile by tile, in nats.
    linear_loss:
        Sum or mean over rows of a loss of your own, with its gradients made in the forward pass.
    linear_kl_divergence:
        KL divergence of the softmax of a linear head from that of a target head, in nats.
    linear_js_divergence: Jensen-Shannon divergence of the softmaxes of two linear heads, in nats.
    linear_top_k:
        The k largest of log softmax(x @ kernel + bias) and their classes, tile by tile, in nats.
    linear_top_k_kl_divergence:
        KL divergence of softmax(x @ kernel + bias) from a pmf with k known classes, in nats.
    linear_sample:
        Draw classes from softmax(x @ kernel + bias), and their log-probabilities, tile by tile.
    TopK: The k most probable classes of each row, the most probable first.
    Sample: Classes drawn for each row.

Information measures
    entropy: Shannon entropy, the mean surprisal of an outcome.
    cross_entropy: Cross-entropy, the mean surprisal under `q` of outcomes drawn from `p`.
    kl_divergence:
        Kullback-Leibler divergence, the mean surprisal that `q` adds to that of `p` itself.
    js_divergence: Jensen-Shannon divergence, the mean divergence of two pmfs from their mixture.
    perplexity: Perplexity, the number of equally likely outcomes that would be as surprising.
    mutual_information: Mutual information, the information that one variable gives about another.
    conditional_entropy: Conditional entropy H(Y | X), the mean surprisal of Y given X.
    check_pmf: Raise unless `p` is a pmf: p_k >= 0 and sum_k p_k = 1 along `axis`.

Counts and likelihood
    counts: Number of samples of each class.
    stream_counts: Number of samples of each class in all batches, of any total.
    empirical_pmf: The pmf of the samples themselves, which is also their maximum-likelihood pmf.
    log_likelihood: Log-likelihood of a pmf given samples in their order.
    multinomial_log_likelihood:
        Log-likelihood of a pmf given counts, whatever the order of the samples.
    score: Derivative of the log-likelihood in the logits of q = softmax(logits).
    fisher_information: Fisher information of n samples about the logits of q = softmax(logits).
    sample: Independent rolls of a die.

Estimates
    fit_categorical: Maximum-likelihood pmf of counts, or the mode of its posterior.
    kkt_certificate: The optimality conditions of maximum likelihood, evaluated at a pmf.
    confidence_intervals:
        Confidence intervals of level 1 - alpha for the probabilities of the classes.
    entropy_estimate: Entropy of the pmf that samples came from, known by their counts only.
    nsb_entropy:
        Posterior mean and standard deviation of the entropy, by Nemenman, Shafee and Bialek.
    expected_kl: Expected divergence of the pmf of n samples from the pmf that they are drawn from.
    dirichlet_posterior: Posterior of the pmf of a die, under a Dirichlet prior.
    log_evidence:
        Log-probability of counts under a Dirichlet prior, whatever the pmf (Dirichlet-multinomial).
    fit_dirichlet:
        Dirichlet distribution that the pmfs of many dice most likely come from, by their counts.
    CategoricalFit: A fitted pmf and its optimality certificate.
    KKTCertificate:
        Proof that a pmf maximises the likelihood, or a bound on how far it is from doing so.
    EntropyPosterior: Posterior of an entropy, given samples.
    DirichletPosterior:
        Dirichlet distribution of the pmf of a die, with A the sum of its concentrations a.
    DirichletFit: A fitted Dirichlet distribution, of which each die's pmf is a sample.

Tests and tables
    g_test: Likelihood-ratio test of the pmf `q`.
    chi_squared_test: Pearson's test of the pmf `q`.
    multinomial_test: Exact or simulated test of the pmf `q`, for any number of samples.
    overdispersion_test:
        Score test of one pmf for all dice, against pmfs from a Dirichlet distribution.
    power: Power of the G-test of the pmf `q` by n samples, where the truth is p.
    sample_size:
        Least number of samples with which the G-test of the pmf `q` has a power, if p is the truth.
    encode: Integers for labels of any kind, and the names that they stand for.
    crosstab: Two-way table of two columns of labels: how often each pair occurs.
    independence_test: Test of independence of the rows and columns of a two-way table.
    TestResult: Result of a test of counts against a pmf.
    MultinomialTest: Result of a test of counts against a pmf, without the chi-squared law.
    IndependenceTest: Result of a test of independence of the rows and columns of a table.

Softmax regression
    fit_softmax_regression: Maximum-likelihood softmax regression (multinomial logistic regression).
    SoftmaxRegressionFit: A fitted softmax regression; its logits are `x @ kernel + bias`.
    MarginalEffects: Average marginal effects of D features on the probabilities of K classes.
    OddsRatios:
        Factors by which a feature that is larger by 1 multiplies the odds against the baseline.

Calibration
    expected_calibration_error:
        Expected calibration error: mean distance of accuracy from confidence (MCE for norm "max").
    classwise_calibration_error:
        Calibration error of every class: distance of its probability from its frequency.
    reliability_curve:
        Confidence and accuracy of each bin, of which calibration errors are averages.
    fit_temperature: Maximum-likelihood temperature on held-out rows (temperature scaling).
    risk_coverage:
        Error rate among the rows at least as confident as each row (the risk-coverage curve).
    ReliabilityCurve:
        Confidence and accuracy by bin: a reliability diagram and a confidence histogram.
    TemperatureFit:
        The maximum-likelihood temperature; probabilities are softmax(logits / temperature).
    RiskCoverage: Rows from the most to the least confident; masked rows are last, and NaN.

Solvers
    categorical.solvers: Solvers of the categorical maximum likelihood, as init, step and pmf.
"""

from xentjax import categorical
from xentjax._core.signatures import shorten_signatures as _shorten_signatures
from xentjax.calibration import (
    ReliabilityCurve,
    RiskCoverage,
    TemperatureFit,
    classwise_calibration_error,
    expected_calibration_error,
    fit_temperature,
    reliability_curve,
    risk_coverage,
)
from xentjax.categorical import (
    CategoricalFit,
    DirichletFit,
    DirichletPosterior,
    EntropyPosterior,
    IndependenceTest,
    KKTCertificate,
    MultinomialTest,
    TestResult,
    chi_squared_test,
    confidence_intervals,
    counts,
    crosstab,
    dirichlet_posterior,
    empirical_pmf,
    encode,
    entropy_estimate,
    expected_kl,
    fisher_information,
    fit_categorical,
    fit_dirichlet,
    g_test,
    independence_test,
    kkt_certificate,
    log_evidence,
    log_likelihood,
    multinomial_log_likelihood,
    multinomial_test,
    nsb_entropy,
    overdispersion_test,
    power,
    sample,
    sample_size,
    score,
    stream_counts,
)
from xentjax.heads import (
    Sample,
    TopK,
    linear_js_divergence,
    linear_kl_divergence,
    linear_log_probs,
    linear_loss,
    linear_sample,
    linear_softmax_cross_entropy,
    linear_top_k,
    linear_top_k_kl_divergence,
)
from xentjax.information import (
    check_pmf,
    conditional_entropy,
    cross_entropy,
    entropy,
    js_divergence,
    kl_divergence,
    mutual_information,
    perplexity,
)
from xentjax.losses import (
    SoftmaxStats,
    brier_score,
    kl_divergence_with_logits,
    log_softmax,
    logsumexp,
    nll_loss,
    poly_loss_cross_entropy,
    safe_softmax_cross_entropy,
    sigmoid_binary_cross_entropy,
    sigmoid_focal_loss,
    smooth_labels,
    softmax,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
    softmax_focal_loss,
)
from xentjax.softmax_regression import (
    MarginalEffects,
    OddsRatios,
    SoftmaxRegressionFit,
    fit_softmax_regression,
)

__version__ = "0.2.0"

__all__ = [
    "CategoricalFit",
    "DirichletFit",
    "DirichletPosterior",
    "EntropyPosterior",
    "IndependenceTest",
    "KKTCertificate",
    "MarginalEffects",
    "MultinomialTest",
    "OddsRatios",
    "ReliabilityCurve",
    "RiskCoverage",
    "Sample",
    "SoftmaxRegressionFit",
    "SoftmaxStats",
    "TemperatureFit",
    "TestResult",
    "TopK",
    "brier_score",
    "categorical",
    "check_pmf",
    "chi_squared_test",
    "classwise_calibration_error",
    "conditional_entropy",
    "confidence_intervals",
    "counts",
    "cross_entropy",
    "crosstab",
    "dirichlet_posterior",
    "empirical_pmf",
    "encode",
    "entropy",
    "entropy_estimate",
    "expected_calibration_error",
    "expected_kl",
    "fisher_information",
    "fit_categorical",
    "fit_dirichlet",
    "fit_softmax_regression",
    "fit_temperature",
    "g_test",
    "independence_test",
    "js_divergence",
    "kkt_certificate",
    "kl_divergence",
    "kl_divergence_with_logits",
    "linear_js_divergence",
    "linear_kl_divergence",
    "linear_log_probs",
    "linear_loss",
    "linear_sample",
    "linear_softmax_cross_entropy",
    "linear_top_k",
    "linear_top_k_kl_divergence",
    "log_evidence",
    "log_likelihood",
    "log_softmax",
    "logsumexp",
    "multinomial_log_likelihood",
    "multinomial_test",
    "mutual_information",
    "nll_loss",
    "nsb_entropy",
    "overdispersion_test",
    "perplexity",
    "poly_loss_cross_entropy",
    "power",
    "reliability_curve",
    "risk_coverage",
    "safe_softmax_cross_entropy",
    "sample",
    "sample_size",
    "score",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "smooth_labels",
    "softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "softmax_focal_loss",
    "stream_counts",
]


def __dir__() -> list[str]:
    """Names for completion: the public ones, without the packages that implement them."""
    return [*__all__, "__doc__", "__version__"]


_shorten_signatures(globals()[name] for name in __all__)
