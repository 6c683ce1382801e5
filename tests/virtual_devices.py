"""Eight CPU devices, and what compiled programs send between them."""

import json
import math
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import jax

NUM_DEVICES = 8

# Code that is compiled faster and runs slower: the arrays of the checks are small.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


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


def run_checks(checks: Mapping[str, Callable[[], None]]) -> None:
    """Print one JSON object, in a process of `run_module`: for each check its traceback or ""."""
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    assert jax.device_count() == NUM_DEVICES
    results = {}
    for name, run in checks.items():
        try:
            run()
            results[name] = ""
        except Exception:
            results[name] = traceback.format_exc()
    print(json.dumps(results))


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


def sent_once(hlo: str) -> list[tuple[int, int]]:
    """The arrays that all collectives return, in order; no loop may hold one."""
    loops, _, entry = hlo.partition("\nENTRY ")
    assert not collectives(loops), "a collective in every tile"
    return sorted(array for arrays in collectives(entry) for array in arrays)
