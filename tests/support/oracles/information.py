"""Textbook formulas of information theory in NumPy float64, over the last axis or axes."""

import numpy as np


def log(x):
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(x, np.float64))


def times(weight, x):
    """weight * x, with 0 * inf = 0."""
    weight = np.asarray(weight, np.float64)
    return np.where(weight == 0, 0, weight * np.where(weight == 0, 0, x))


def entropy(p):
    return -times(p, log(p)).sum(-1)


def cross_entropy(p, q):
    return -times(p, log(q)).sum(-1)


def kl_divergence(p, q):
    return times(p, log(p) - np.where(np.asarray(p) == 0, 0, log(q))).sum(-1)


def js_divergence(p, q):
    middle = (np.asarray(p, np.float64) + np.asarray(q, np.float64)) / 2
    return kl_divergence(p, middle) / 2 + kl_divergence(q, middle) / 2


def mutual_information(joint):
    joint = np.asarray(joint, np.float64)
    flat = joint.reshape(*joint.shape[:-2], -1)
    return entropy(joint.sum(-1)) + entropy(joint.sum(-2)) - entropy(flat)


def conditional_entropy(joint):
    joint = np.asarray(joint, np.float64)
    return entropy(joint.reshape(*joint.shape[:-2], -1)) - entropy(joint.sum(-1))
