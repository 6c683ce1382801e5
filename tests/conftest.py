"""Settings for the whole suite: strict promotion, and programs that compile fast.

Most of the suite's time is XLA compiling thousands of small programs, which takes half as long
without LLVM's optimisations. `XLA_FLAGS= pytest` compiles them as users' programs are.
"""

import ctypes
import gc
import os
import sys
from importlib.metadata import version
from pathlib import Path

FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if version("jaxlib").startswith("0.10."):  # later ones do not know it, and would not start
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("XENTJAX_COMPILE_CACHE", "off")  # the user's is not for tests

import jax  # noqa: E402 (it reads the flags as it starts)
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

PROGRAMS_MB = 1500
"""Memory from which the compiled programs are let go: jax keeps each, a megabyte or more."""


@pytest.fixture(scope="module", autouse=True)
def _bounded_memory():
    """Let the compiled programs go after a file that leaves much memory in use."""
    yield
    if not sys.platform.startswith("linux"):
        return
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    if pages * os.sysconf("SC_PAGE_SIZE") > PROGRAMS_MB * 2**20:
        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # else the C library keeps what is freed


@pytest.fixture
def unchecked_annotations():
    """Switch the checks of annotations off.

    Annotations promise arrays only. Other arguments, accepted or refused in one line, reach the
    code only without the suite's checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
