"""Measurements of xentjax against baselines: `python -m benchmarks [NAME]`.

A benchmark is a module or a package here with `run(session)`; what they share is in `harness`.
"""

import experiments  # noqa: F401 (says in one line what is not installed)
