"""Eight CPU devices, processes that share some, and what programs send between devices."""

import math
import os
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from tests.support.paths import ROOT

NUM_DEVICES = 8
TIMEOUT = 1200  # seconds; a minute on an idle machine, but suites run beside each other


def run_module(name: str, *arguments: str) -> str:
    """Run `python -m name ARGUMENTS` on eight virtual devices and return what it prints.

    The number of devices is fixed when jax starts, so this takes a process of its own.
    """
    (printed,) = _run([[name, *arguments]], NUM_DEVICES)
    return printed


def run_optimised(name: str) -> str:
    """Run `python -m name` on one device, compiled as for users, and return what it prints."""
    (printed,) = _run([[name]], 1, flags="")
    return printed


def run_processes(name: str, *arguments: str, number: int, devices: int) -> list[str]:
    """Run processes of `python -m name PORT PROCESS ARGUMENTS` and return what each prints.

    Args:
        name: of a module that connects the processes at that port of this machine.
        *arguments: the same for all.
        number: of processes.
        devices: of each process.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return _run([[name, port, str(i), *arguments] for i in range(number)], devices)


def _run(commands: list[list[str]], devices: int, flags: str | None = None) -> list[str]:
    """Run commands and return what they print; if one fails or time is up, all are killed."""
    # Behind a proxy, processes would not find each other.
    environment = {name: v for name, v in os.environ.items() if "proxy" not in name.lower()}
    if flags is None:
        flags = environment.get("XLA_FLAGS", "")  # those of conftest.py, which compile fast
    environment |= {
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", *command],
                    env=environment,
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for command in commands
        ]
        with ThreadPoolExecutor(len(processes)) as readers:
            outputs = [readers.submit(process.communicate) for process in processes]
            try:
                deadline = time.monotonic() + TIMEOUT
                while time.monotonic() < deadline:
                    codes = [process.poll() for process in processes]
                    if None not in codes or any(codes):
                        break
                    time.sleep(0.05)
            finally:
                for process in processes:
                    process.kill()
            printed, errors = zip(*(output.result() for output in outputs), strict=True)
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(errors)
    return list(printed)


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
