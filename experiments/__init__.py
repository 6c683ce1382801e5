"""Experiments on cross-entropy; `python -m experiments` runs the tour."""
