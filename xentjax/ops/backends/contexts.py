"""Values that back-ends read while they are traced.

They are created when the package is imported, whichever back-end is used: jax compares all of them
when it looks for a cached trace, so creating one later would make it trace every function again.
"""

import jax

one_cpu = jax.make_user_context(False)
"""Whether the program is for one CPU, on which splitting arrays makes it faster."""

interpret_for_tpu = jax.make_user_context(False)
"""The argument `interpret` of `pallas_call`: `with interpret_for_tpu(True):` runs kernels on any
machine."""

interpret_for_gpu = jax.make_user_context(None)
"""The argument `interpret` of `plgpu.kernel`: `with interpret_for_gpu(InterpretGPUParams(...)):`
runs kernels on any machine. Reads beyond an array have to be "uninitialized" there, not an error.
"""
