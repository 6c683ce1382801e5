"""The methods that the experiments compare, by the names that xentjax gives them."""

ENTROPY_ESTIMATORS = (
    "plug_in",
    "miller_madow",
    "grassberger",
    "chao_shen",
    "james_stein",
    "jeffreys",
    "laplace",
    "perks",
    "minimax",
    "nsb",
)
# Right with probability 1 - alpha for one class, and for all classes together.
CLASSWISE_INTERVALS = ("wald", "wilson", "agresti_coull", "jeffreys")
SIMULTANEOUS_INTERVALS = ("goodman", "quesenberry_hurst", "sison_glaz")
