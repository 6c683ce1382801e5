"""Names and packages that several benchmarks' implementations share."""

import importlib
from types import ModuleType

from experiments.common.optional_torch import NO_TORCH as NO_TORCH, load_torch as load_torch

OURS = "xentjax"
NAIVE = "naive"
TORCH = "torch eager"
INSTALL = {
    "tokamax": "pip install -e '.[experiments]' tokamax==0.0.17, in an environment of its own with "
    "Python 3.12",
    "jax-cce": "pip install jax-cce",
    "statsmodels": "pip install statsmodels",
    "liger-kernel": "pip install liger-kernel",
    "cut-cross-entropy": "pip install cut-cross-entropy",
    "quack-kernels": "pip install quack-kernels",
}


def how_to_install(package: str) -> str:
    """Return a line that says that a baseline is missing and how to install it."""
    return f"{package} is not installed, or fails to import: {INSTALL[package]}"


def load_if_installed(name: str) -> ModuleType | None:
    """Import a package; return None if this fails."""
    try:
        return importlib.import_module(name)
    except Exception:  # one broken import must not stop the other baselines
        return None
