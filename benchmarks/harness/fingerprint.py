"""The conditions of a run that affect its times, for every JSON."""

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import jax

from experiments.common.environment import cores, processor, revision

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def fingerprint() -> dict[str, Any]:
    """Record processor, load, settings of kernel and XLA, revision and command.

    Values that this system does not give are None. `clean` is whether the files tracked by git are
    unchanged from the revision.
    """
    commit = revision()
    return {
        "processor": processor(),
        "cores": cores(),
        "load_at_start": load(),
        "huge_pages": _huge_pages(),
        "governor": _first_line(GOVERNOR),
        "jax": jax.__version__,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "revision": commit and commit.removesuffix("-dirty"),
        "clean": commit and not commit.endswith("-dirty"),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),  # without a path of this machine
    }


def load() -> float | None:
    """Return the number of processes that ran or waited to run, averaged over a minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # not on Windows


def _huge_pages() -> str | None:
    """Return the policy in brackets, as in "always [madvise] never"."""
    found = re.search(r"\[(\w+)\]", _first_line(HUGE_PAGES) or "")
    return found and found[1]


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text().partition("\n")[0]
    except OSError:
        return None
