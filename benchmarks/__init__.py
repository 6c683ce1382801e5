"""Measurements of xentjax against baselines: `python -m benchmarks [NAME]`.

A benchmark is a module or package here with `run(session)`; `harness` has their common parts.
"""

import experiments  # noqa: F401 (says in one line what is not installed)
