"""Names and packages that the implementations under comparison have in common."""

import importlib
from types import ModuleType

from benchmarks.harness import machine

OURS = "xentjax"
NAIVE = "naive"
TORCH = "torch eager"
NO_TORCH = (
    "torch is not installed: the extra [benchmarks] brings it, on Linux with CUDA's libraries, "
    "5.5 GB in all; its build for CPUs, 0.2 GB, is on PyTorch's own index, named on its "
    "installation page"
)


def load_torch() -> ModuleType | None:
    """Import torch, on as many threads as XLA has; None where it is not installed."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return None
    torch.set_num_threads(machine.cores())
    return torch


def load_if_installed(name: str) -> ModuleType | None:
    """Import a package; None where that fails."""
    try:
        return importlib.import_module(name)
    except Exception:  # a baseline whose import breaks must not stop the others
        return None
