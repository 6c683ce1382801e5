"""Values that back-ends read while they are traced.

They are made with the package, whichever back-end is used: jax compares all of them when it looks
for a trace, and one that is made later would have it trace every function once more.
"""

import jax

one_cpu = jax.make_user_context(False)
"""Whether the program is for one CPU, where it pays to split arrays."""

interpret_for_tpu = jax.make_user_context(False)
"""The argument `interpret` of `pallas_call`: `with interpret_for_tpu(True):` runs kernels on any
machine."""

interpret_for_gpu = jax.make_user_context(None)
"""The argument `interpret` of `plgpu.kernel`: `with interpret_for_gpu(InterpretGPUParams(...)):`
runs kernels on any machine. Reads beyond an array have to be "uninitialized" there, not an error.
"""
