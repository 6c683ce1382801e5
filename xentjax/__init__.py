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
    counts: Count the samples of each class.
    stream_counts: Count the samples of each class in a stream of batches of any length.
    empirical_pmf: Compute the empirical pmf, which is also the maximum-likelihood pmf.
    log_likelihood: Compute the log-likelihood of a pmf given samples in their order.
    multinomial_log_likelihood:
        Compute the log-likelihood of a pmf given counts, in any order of the samples.
    score: Compute the derivative of the log-likelihood in the logits of q = softmax(logits).
    fisher_information:
        Compute the Fisher information of n samples about the logits of q = softmax(logits).
    sample: Draw independent samples from a pmf.

Estimates
    fit_categorical: Fit a pmf to counts by maximum likelihood, or find the mode of its posterior.
    kkt_certificate: Evaluate the optimality conditions of maximum likelihood at a pmf.
    confidence_intervals:
        Compute confidence intervals of level 1 - alpha for the probabilities of the classes.
    entropy_estimate: Estimate the entropy of a pmf from the counts of its samples.
    nsb_entropy:
        Compute the posterior of the entropy under the prior of Nemenman, Shafee and Bialek.
    expected_kl:
        Compute the expected divergence of the empirical pmf of n samples from the true pmf.
    dirichlet_posterior: Compute the posterior of a pmf under a Dirichlet prior.
    log_evidence:
        Compute the log-probability of counts under a Dirichlet prior (Dirichlet-multinomial).
    fit_dirichlet: Fit the Dirichlet distribution of the pmfs of many dice by maximum likelihood.
    CategoricalFit: A fitted pmf and its optimality certificate.
    KKTCertificate:
        Proof that a pmf maximises the likelihood, or a bound on how far it is from doing so.
    EntropyPosterior: Posterior of an entropy, given samples.
    DirichletPosterior: The Dirichlet distribution of a pmf; A is the sum of its concentrations a.
    DirichletFit: A fitted Dirichlet distribution; each die's pmf is a sample of it.

Tests and tables
    g_test: Test whether counts come from the pmf `q` by the likelihood ratio.
    chi_squared_test: Test whether counts come from the pmf `q` by Pearson's statistic.
    multinomial_test: Test whether counts come from the pmf `q`, exactly or by simulation.
    overdispersion_test:
        Test whether all dice have one pmf, against pmfs from a Dirichlet distribution.
    power: Compute the power of the G-test of the pmf `q` with n samples of the pmf p.
    sample_size:
        Find the least number of samples with which the G-test of the pmf `q` has a given power.
    encode: Turn labels of any kind into integers, and return the names they stand for.
    crosstab: Count how often each pair of labels occurs in two columns: their two-way table.
    independence_test: Test whether the rows and columns of a two-way table are independent.
    TestResult: Result of a test of counts against a pmf.
    MultinomialTest: Result of an exact or simulated test of counts against a pmf.
    IndependenceTest: Result of a test of independence of the rows and columns of a table.

Softmax regression
    fit_softmax_regression:
        Fit a softmax regression (multinomial logistic regression) by maximum likelihood.
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
