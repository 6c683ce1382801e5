"""The environment of a run: what its numbers depend on besides the configuration."""

import functools
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("xentjax", "jax", "jaxlib", "numpy", "flax", "optax", "scikit-learn")


def environment(started: datetime) -> dict[str, Any]:
    """Record command, time, revision, versions and device."""
    devices = jax.devices()
    return {
        "command": shlex.join(sys.orig_argv),
        "started": started.isoformat(timespec="seconds"),
        "revision": revision(),
        "versions": versions(PACKAGES),
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
        },
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of these packages, or "not installed"."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # also xentjax, run from its source tree
            found[package] = "not installed"
    return found


def revision() -> str | None:
    """Return the commit of this source tree, "-dirty" if it was modified; None outside of git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def processor() -> str:
    """The processor's model name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def processor_flags() -> frozenset[str]:
    """Return the processor's instruction sets as Linux names them; none if it lists none."""
    return frozenset((_cpuinfo("flags") or "").split())


@functools.cache
def _cpuinfo(field: str) -> str | None:
    """Return a field of the first processor that Linux lists, if there is one."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    return None


def cores() -> int:
    """The number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
