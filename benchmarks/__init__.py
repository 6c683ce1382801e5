"""Measurements of xentjax against baselines: `python -m benchmarks [NAME]`.

A benchmark is a module or a package here with `run(session)`; what they share is in `harness`.
"""
