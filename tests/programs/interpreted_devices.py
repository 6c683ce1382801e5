"""Kernels that two devices interpret, apart from the checks of `parallel`: it may be repeated.

`python -m tests.programs.interpreted_devices` ends with 0 if the losses are right.
"""

import jax

from tests.programs.parallel_linear_devices import kernels_of_slices

if __name__ == "__main__":
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    kernels_of_slices()
