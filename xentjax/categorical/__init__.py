"""Categorical distributions: counts, maximum likelihood, intervals and tests.

The first argument is the one that a function describes: the pmf in `log_likelihood(q, counts)`,
the counts in `g_test(counts, q)`. Known values in the wrong order are an error that names the right
one.
"""

from xentjax.categorical import solvers as solvers
from xentjax.categorical.certificate import (
    KKTCertificate as KKTCertificate,
    kkt_certificate as kkt_certificate,
)
from xentjax.categorical.counts import (
    counts as counts,
    empirical_pmf as empirical_pmf,
    stream_counts as stream_counts,
)
from xentjax.categorical.dirichlet import (
    DirichletFit as DirichletFit,
    fit_dirichlet as fit_dirichlet,
)
from xentjax.categorical.entropy_estimation import (
    EntropyPosterior as EntropyPosterior,
    entropy_estimate as entropy_estimate,
    nsb_entropy as nsb_entropy,
)
from xentjax.categorical.expected_kl import expected_kl as expected_kl
from xentjax.categorical.independence import (
    IndependenceTest as IndependenceTest,
    independence_test as independence_test,
)
from xentjax.categorical.intervals import confidence_intervals as confidence_intervals
from xentjax.categorical.likelihood import (
    fisher_information as fisher_information,
    log_likelihood as log_likelihood,
    multinomial_log_likelihood as multinomial_log_likelihood,
    sample as sample,
    score as score,
)
from xentjax.categorical.mle import (
    CategoricalFit as CategoricalFit,
    fit_categorical as fit_categorical,
)
from xentjax.categorical.multinomial import (
    MultinomialTest as MultinomialTest,
    multinomial_test as multinomial_test,
)
from xentjax.categorical.overdispersion import overdispersion_test as overdispersion_test
from xentjax.categorical.posterior import (
    DirichletPosterior as DirichletPosterior,
    dirichlet_posterior as dirichlet_posterior,
    log_evidence as log_evidence,
)
from xentjax.categorical.power import power as power, sample_size as sample_size
from xentjax.categorical.tests_of_fit import (
    TestResult as TestResult,
    chi_squared_test as chi_squared_test,
    g_test as g_test,
)
from xentjax.categorical.two_way import crosstab as crosstab, encode as encode
