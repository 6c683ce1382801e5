"""PyTorch for comparisons, if it is installed."""

import importlib
from types import ModuleType

from experiments.common.environment import cores

NO_TORCH = (
    "torch is not installed: pip install -e '.[benchmarks]', on Linux with CUDA's libraries, "
    "5.5 GB in all; its build for CPUs, 0.2 GB, is on PyTorch's own index, named on its "
    "installation page"
)


def load_torch() -> ModuleType | None:
    """Import torch and give it as many threads as XLA has; return None if it is not installed."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return None
    torch.set_num_threads(cores())
    return torch
