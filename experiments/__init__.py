"""Experiments on cross-entropy; `python -m experiments` runs the tour."""

from importlib.util import find_spec

if missing := [name for name in ("flax", "matplotlib", "rich", "tyro") if find_spec(name) is None]:
    raise SystemExit(
        f"experiments and benchmarks: expected {', '.join(missing)} to be installed, got none; "
        "pip install -e '.[experiments]' installs all they need"
    )
