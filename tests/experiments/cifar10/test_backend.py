"""The choices that depend on the processor."""

import jax.numpy as jnp
import pytest

from experiments.cifar10 import backend
from experiments.cifar10.backend import BLOCK, current_backend


@pytest.mark.parametrize(
    ("flags", "factor_dtype", "kernels"),
    [
        ({"fpu", "avx512_bf16"}, jnp.bfloat16, "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"),
        ({"amx_bf16", "avx2"}, jnp.bfloat16, "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"),
        ({"fpu", "avx2", "avx512f"}, jnp.float32, ""),
        (set(), jnp.float32, ""),
    ],
)
def test_a_cpu_multiplies_bfloat16_only_where_it_can(monkeypatch, flags, factor_dtype, kernels):
    monkeypatch.setattr(backend, "processor_flags", lambda: frozenset(flags))
    chosen = current_backend()
    assert chosen.factor_dtype == factor_dtype
    assert chosen.compiler_options == {"xla_cpu_experimental_ynn_fusion_type": kernels}
    assert chosen.dtype == jnp.float32


def test_a_step_has_blocks_of_memory_unless_an_array_is_larger_than_one():
    chosen = current_backend()
    limit = "xla_multiheap_size_constraint_per_heap"
    assert chosen.step_options(BLOCK)[limit] == str(BLOCK)
    assert limit not in chosen.step_options(BLOCK + 1)
