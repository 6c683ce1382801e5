"""log_softmax, softmax and logsumexp in NumPy float64."""

from typing import Any

import numpy as np


def normalized(name, logits, axis: Any = -1, where: Any = True):
    """The definition over the classes of the mask."""
    a = np.where(where, np.asarray(logits, np.float64), -np.inf)
    with np.errstate(all="ignore"):
        m = np.max(a, axis, keepdims=True)
        m = np.where(np.isfinite(m), m, 0)
        log_sum = np.log(np.sum(np.exp(a - m), axis, keepdims=True))
        if name == "logsumexp":
            return np.squeeze(m + log_sum, axis)
        log_p = np.where(where, (a - m) - log_sum, -np.inf)
    return log_p if name == "log_softmax" else np.exp(log_p)


def softmax(row):
    """Softmax of one row."""
    e = np.exp(np.asarray(row, np.float64) - np.max(row))
    return e / e.sum()
