"""Choices of keywords: types for signatures, whose `get_args` the checks use."""

from typing import Literal

Reduction = Literal["none", "sum", "mean"]
ScalarReduction = Literal["sum", "mean"]

Unit = Literal["nats", "bits", "hartleys"]
Form = Literal["pmf", "log_pmf", "logits"]

SolverName = Literal["closed_form", "exponentiated_gradient", "natural_gradient", "newton"]
IntervalMethod = Literal[
    "wald",
    "wilson",
    "agresti_coull",
    "jeffreys",
    "goodman",
    "quesenberry_hurst",
    "sison_glaz",
]
EntropyMethod = Literal[
    "plug_in",
    "miller_madow",
    "chao_shen",
    "james_stein",
    "jeffreys",
    "laplace",
    "perks",
    "minimax",
    "grassberger",
    "nsb",
]
Computation = Literal["auto", "exact", "monte_carlo"]
Order = Literal["probability", "g", "chi_squared"]
Statistic = Literal["g", "chi_squared"]
CredibleKind = Literal["equal_tailed", "highest_density"]

Norm = Literal["l1", "l2", "max"]
Binning = Literal["width", "mass"]
