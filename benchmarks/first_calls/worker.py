"""A new process that times the first call of a function, and the calls after it."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.first_calls.calls import CALLS
from benchmarks.harness.baselines import OURS

WARM_CALLS = 20


def times(name: str, package: str) -> tuple[float, float]:
    """Return the seconds of the first and of a warm call, in a new process."""
    command = [sys.executable, "-m", "benchmarks.first_calls.worker", name, package]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
        capture_output=True,
        text=True,
        check=True,
    )
    first, warm = json.loads(done.stdout.splitlines()[-1])
    return first, warm


def measure(name: str, package: str = OURS) -> tuple[float, float]:
    """Time the first call, and the median of later ones, in this process."""
    call = CALLS[name].make(package)()
    seconds = []
    for _ in range(1 + WARM_CALLS):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return seconds[0], statistics.median(seconds[1:])


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
