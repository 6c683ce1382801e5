"""Eight CPU devices, and what compiled programs send between them."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

NUM_DEVICES = 8


def run_module(name: str) -> str:
    """What `python -m name` prints where there are eight devices.

    The devices have to be there before jax starts, so this takes a process of its own.
    """
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={NUM_DEVICES}",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-m", name],
        env=environment,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def collectives(hlo: str) -> list[list[tuple[int, int]]]:
    """The arrays that each collective returns: how many elements, and bytes an element."""
    name = "(?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?"
    return [
        [
            (math.prod(int(n) for n in shape.split(",") if n), int(bits or 8) // 8)
            for bits, shape in re.findall(r"(?:pred|[a-z]+(\d+))\[([\d,]*)\]", result)
        ]
        for result in re.findall(rf"= (.*?) {name}\(", hlo)
    ]
