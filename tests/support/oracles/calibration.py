"""Calibration errors from their definition, one row at a time in NumPy float64."""

import numpy as np


def predictions(seed, n=60, k=4, steps=None) -> tuple[np.ndarray, np.ndarray]:
    """Pmfs and labels drawn from similar pmfs; in multiples of 1 / steps many are tied."""
    rng = np.random.default_rng(seed)
    pmfs = rng.dirichlet(np.full(k, 0.4), n)
    labels = np.array([rng.choice(k, p=0.8 * p + 0.2 / k) for p in pmfs], np.int32)
    if steps:
        pmfs = np.array([rng.multinomial(steps, p) for p in pmfs]) / steps
    return pmfs.astype(np.float32), labels


def two_class(confidence):
    """A pmf of two classes for each confidence >= 1/2, the prediction being class 0."""
    confidence = np.asarray(confidence, np.float32)
    return np.stack([confidence, 1 - confidence], -1)


def bins_of(confidence, num_bins, binning):
    """Bin of each confidence, one at a time."""
    n = len(confidence)
    if binning == "width":
        edges = confidence.dtype.type(np.arange(num_bins + 1) / num_bins)
        return [
            next(b for b in range(num_bins) if c <= edges[b + 1] or b == num_bins - 1)
            for c in confidence
        ]
    # The first edge that is no smaller: the ceil(j n / B)-th smallest is, if fewer are below.
    below = [(confidence < c).sum() for c in confidence]
    return [next(b for b in range(num_bins) if -(-(b + 1) * n // num_bins) > m) for m in below]


def cells(confidence, hit, num_bins, binning):
    """(rows, mean confidence, share of hits) of the bins that have any."""
    index = np.array(bins_of(confidence, num_bins, binning))
    return [
        (b, len(rows), confidence[rows].mean(dtype=np.float64), hit[rows].mean())
        for b in range(num_bins)
        if len(rows := np.flatnonzero(index == b))
    ]


def error(kind, probs, labels, num_bins=15, norm="l1", binning="width", debias=False):
    """The definition, in float64; bins by the dtype of the probabilities."""
    if kind == "top":
        pairs = [(probs.max(-1), probs.argmax(-1) == labels)]
    else:
        pairs = [(p, labels == k) for k, p in enumerate(probs.T)]
    found = [cell for c, hit in pairs for cell in cells(c, hit, num_bins, binning)]
    if norm == "max":
        return max(abs(share - mean) for _, _, mean, share in found)
    total = 0.0
    for _, rows, mean, share in found:
        term = abs(share - mean) ** (1 if norm == "l1" else 2)
        if debias:
            term = 0 if rows == 1 else term - share * (1 - share) / (rows - 1)
        total += rows * term / len(labels) / len(pairs)
    return max(total, 0) ** 0.5 if norm == "l2" else total
