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
# Coverage of 1 - alpha for each class, and for all classes simultaneously.
CLASSWISE_INTERVALS = ("wald", "wilson", "agresti_coull", "jeffreys")
SIMULTANEOUS_INTERVALS = ("goodman", "quesenberry_hurst", "sison_glaz")
