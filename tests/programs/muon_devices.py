"""Steps of Muon on eight devices beside those on one, for `cifar10/training/test_muon.py`."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cifar10.backend import data_mesh
from experiments.cifar10.training.muon import muon

SHAPES = {"shared": (3, 3, 8, 5), "whole": (3, 3, 3, 5), "wide": (1, 1, 8, 30)}  # 72, 27, 8 rows


def main() -> None:
    rng = np.random.default_rng(0)
    kernels, gradient = (
        {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}
        for _ in range(2)
    )
    steps = []
    for devices in (1, 8):
        init, update = muon(lambda step: 0.1 / (1 + step), 0.6, data_mesh(8, devices))
        compiled = jax.jit(update).lower(gradient, init(kernels), kernels).compile()
        assert ("all-reduce" in str(compiled.as_text())) == (devices == 8)
        updates, _ = compiled(gradient, init(kernels), kernels)
        steps.append(jax.tree.map(np.asarray, updates))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), *steps)


if __name__ == "__main__":
    main()
