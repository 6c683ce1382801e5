"""Evaluation of a trained network, and its figures and numbers."""
