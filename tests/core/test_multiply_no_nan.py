"""The product in which a tangent of 0 wins over an infinite derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec as P

from xentjax._core.multiply_no_nan import multiply_no_nan

INF, NAN = np.inf, np.nan


class TestMultiplyNoNan:
    slope = np.array([INF, -INF, INF, 2.0, NAN, NAN], np.float32)
    tangent = np.array([0.0, -0.0, -1.0, 3.0, 0.0, 1.0], np.float32)
    product = np.array([0.0, 0.0, -INF, 6.0, 0.0, NAN], np.float32)

    @pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.vmap], ids=["plain", "jit", "vmap"])
    def test_a_zero_tangent_wins_over_any_derivative(self, wrap):
        result = wrap(multiply_no_nan)(jnp.array(self.slope), jnp.array(self.tangent))
        np.testing.assert_array_equal(result, self.product)

    def test_is_linear_in_the_tangent_in_both_modes(self):
        def linear(t):
            return multiply_no_nan(jnp.array(self.slope), t)

        zeros, t = jnp.zeros(6), jnp.array(self.tangent)
        np.testing.assert_array_equal(jax.jvp(linear, (zeros,), (t,))[1], self.product)
        np.testing.assert_array_equal(jax.linear_transpose(linear, zeros)(t)[0], self.product)

    def test_is_differentiable_in_the_derivative(self):
        slope, tangent = jnp.array([2.0, 3.0]), jnp.array([0.0, 5.0])

        def total(s):
            return multiply_no_nan(s, tangent).sum()

        np.testing.assert_array_equal(jax.grad(total)(slope), [0, 5])
        slope_dot = jnp.array([INF, 1.0])  # the slope's own slope may be infinite as well
        np.testing.assert_array_equal(jax.jvp(total, (slope,), (slope_dot,))[1], 5)

    def test_vmap_over_one_argument(self):
        slope, tangents = jnp.array([INF, 2.0]), jnp.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
        expected = [[0, 2], [INF, 0], [0, 0]]
        batched = jax.vmap(multiply_no_nan, in_axes=(None, 1), out_axes=1)
        np.testing.assert_array_equal(batched(slope, tangents.T).T, expected)

    @pytest.mark.parametrize(
        "tangent", [jnp.ones(3), jnp.ones(2, jnp.float16)], ids=["shape", "dtype"]
    )
    def test_shapes_and_dtypes_must_agree(self, tangent):
        with pytest.raises(TypeError):
            multiply_no_nan(jnp.ones(2), tangent)

    def test_a_replicated_tangent_meets_a_sharded_derivative(self):
        """The result varies over the mesh, so that transposition sums over it."""
        mesh = Mesh(np.array(jax.devices()[:1]), ("rows",))

        def mapped(out_specs):
            in_specs = (P("rows"), P())
            return jax.shard_map(multiply_no_nan, mesh=mesh, in_specs=in_specs, out_specs=out_specs)

        slope, tangent = jnp.array([INF, 2.0]), jnp.array([0.0, 3.0])
        np.testing.assert_array_equal(mapped(P("rows"))(slope, tangent), [0, 6])
        with pytest.raises(ValueError, match="out_specs"):
            mapped(P())(slope, tangent)
