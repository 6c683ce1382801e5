"""Statistics of a die, as calls of xentjax and of each baseline.

Every implementation gets its own kind of array, made beforehand, and returns its own kind.
"""

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats

from benchmarks.harness import cases, timing
from benchmarks.harness.baselines import OURS, TORCH
from xentjax import (
    confidence_intervals,
    counts,
    entropy,
    entropy_estimate,
    g_test,
    kl_divergence,
    multinomial_log_likelihood,
    nsb_entropy,
)

Thunks = dict[str, timing.Thunk]

EAGER, HOST = f"{OURS} eager", f"{OURS} of NumPy"
BINCOUNT, JNP = "np.bincount", "jnp.bincount"
NUMPY, SCIPY, REL_ENTR = "numpy", "scipy", "scipy rel_entr"
STATSMODELS = "statsmodels"


def jitted(function: Callable[..., Any], *args: Any) -> timing.Thunk:
    """Make a call of the compiled function on these arguments."""
    return partial(timing.compile_ahead_of_time(function, *args).call, *args)


def count_thunks(case: cases.CountCase, torch: ModuleType | None) -> Thunks:
    """Make calls that count uniform samples."""
    n, k = case
    samples = np.random.default_rng(0).integers(k, size=n)
    x = jnp.asarray(samples, jnp.int32)
    thunks = {
        OURS: jitted(lambda x: counts(x, k), x),
        EAGER: lambda: counts(x, k),
        HOST: lambda: counts(samples, k),
        BINCOUNT: lambda: np.bincount(samples, minlength=k),
        JNP: jitted(lambda x: jnp.bincount(x, length=k), x),
    }
    if torch is not None:
        tensor = torch.from_numpy(samples)
        thunks[TORCH] = lambda: torch.bincount(tensor, minlength=k)
    return thunks


def pmfs(rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Make two arrays of pmfs, float32, all probabilities positive."""
    weights = np.random.default_rng(0).exponential(size=(2, rows, classes)) + 1e-3
    p, q = (weights / weights.sum(-1, keepdims=True)).astype(np.float32)
    return p, q


def entropy_thunks(shape: tuple[int, int], torch: ModuleType | None) -> Thunks:
    """Make calls that compute the entropy of every row, in nats."""
    p, _ = pmfs(*shape)
    thunks = {
        OURS: jitted(entropy, jnp.asarray(p)),
        NUMPY: lambda: -(p * np.log(p)).sum(-1),
        SCIPY: lambda: scipy.stats.entropy(p, axis=-1),
    }
    if torch is not None:
        x = torch.from_numpy(p)
        thunks[TORCH] = lambda: torch.distributions.Categorical(x).entropy()
    return thunks


def kl_thunks(shape: tuple[int, int], torch: ModuleType | None) -> Thunks:
    """Make calls that compute the KL divergence of every row, in nats."""
    p, q = pmfs(*shape)
    thunks = {
        OURS: jitted(kl_divergence, jnp.asarray(p), jnp.asarray(q)),
        NUMPY: lambda: (p * np.log(p / q)).sum(-1),
        SCIPY: lambda: scipy.stats.entropy(p, q, axis=-1),
        REL_ENTR: lambda: scipy.special.rel_entr(p, q).sum(-1),
    }
    if torch is not None:
        x, y = torch.from_numpy(p), torch.from_numpy(q)
        die = torch.distributions.Categorical
        thunks[TORCH] = lambda: torch.distributions.kl_divergence(die(x), die(y))
    return thunks


def roll(rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return counts of 20 K rolls of a die in each row, and the pmf of the die."""
    rng = np.random.default_rng(0)
    q = rng.dirichlet(np.full(classes, 10.0))
    return rng.multinomial(20 * classes, q, size=rows), q


def interval_thunks(classes: int, method: Any) -> Thunks:
    """Make calls for simultaneous intervals of one die; by statsmodels only if installed."""
    (c,), _ = roll(1, classes)
    x = jnp.asarray(c, jnp.int32)
    thunks = {
        OURS: jitted(partial(confidence_intervals, method=method), x),
        EAGER: lambda: confidence_intervals(x, method=method),
    }
    if importlib.util.find_spec("statsmodels") is not None:
        module = importlib.import_module("statsmodels.stats.proportion")
        name = method.replace("_", "-")
        thunks[STATSMODELS] = lambda: module.multinomial_proportions_confint(c, method=name)
    return thunks


def g_test_thunks(shape: tuple[int, int]) -> Thunks:
    """Make calls that compute statistic and p-value of every row."""
    c, q = roll(*shape)
    expected = c.sum(-1, keepdims=True) * q
    x, y = jnp.asarray(c, jnp.int32), jnp.asarray(q, jnp.float32)
    return {
        OURS: jitted(g_test, x, y),
        EAGER: lambda: g_test(x, y),
        SCIPY: lambda: scipy.stats.power_divergence(c, expected, axis=-1, lambda_="log-likelihood"),
    }


def likelihood_thunks(shape: tuple[int, int], torch: ModuleType | None) -> Thunks:
    """Make calls that compute the multinomial log-likelihood of every row."""
    c, q = roll(*shape)
    n = int(c[0].sum())
    x, y = jnp.asarray(c, jnp.int32), jnp.asarray(q, jnp.float32)
    thunks = {
        OURS: jitted(multinomial_log_likelihood, y, x),
        EAGER: lambda: multinomial_log_likelihood(y, x),
        SCIPY: lambda: scipy.stats.multinomial.logpmf(c, n, q),
    }
    if torch is not None:
        tensor, pmf = torch.tensor(c, dtype=torch.float32), torch.tensor(q, dtype=torch.float32)
        thunks[TORCH] = lambda: torch.distributions.Multinomial(n, pmf).log_prob(tensor)
    return thunks


def estimate_thunks(shape: tuple[int, int], method: Any) -> Thunks:
    """Make calls that estimate entropy from counts; SciPy has only the plug-in estimate."""
    c, _ = roll(*shape)
    x = jnp.asarray(c, jnp.int32)
    if method == "nsb":
        return {OURS: jitted(nsb_entropy, x)}
    thunks = {OURS: jitted(partial(entropy_estimate, method=method), x)}
    if method == "plug_in":
        thunks[SCIPY] = lambda: scipy.stats.entropy(c, axis=-1)
    return thunks
