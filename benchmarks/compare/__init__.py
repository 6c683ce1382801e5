"""Comparison of two revisions of xentjax: `python -m benchmarks compare BASE [HEAD]`."""
