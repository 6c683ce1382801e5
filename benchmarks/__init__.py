"""Measurements of xentjax against its rivals: `python -m benchmarks [NAME]`."""
