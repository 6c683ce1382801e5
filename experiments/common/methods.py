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

NAMES = {
    "plug_in": "plug-in",
    "miller_madow": "Miller–Madow",
    "grassberger": "Grassberger",
    "chao_shen": "Chao–Shen",
    "james_stein": "James–Stein",
    "jeffreys": "Jeffreys",
    "laplace": "Laplace",
    "perks": "Perks",
    "minimax": "minimax",
    "nsb": "NSB",
    "wald": "Wald",
    "wilson": "Wilson",
    "agresti_coull": "Agresti–Coull",
    "goodman": "Goodman",
    "quesenberry_hurst": "Quesenberry–Hurst",
    "sison_glaz": "Sison–Glaz",
}
"""Names of the methods for people."""
