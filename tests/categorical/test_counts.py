"""Counts against np.bincount: exact at any size, and nothing out of range slips in."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec as P

from xentjax import counts, empirical_pmf, stream_counts
from xentjax._core.sums import BLOCK, MANY, add_in_blocks
from xentjax.categorical.counts import _FEW_CLASSES, _HOST_BLOCK, _count_by_comparison


def rolls(n, k, dtype=np.int32):
    return np.random.default_rng(0).integers(0, k, n).astype(dtype)


class TestCounts:
    @pytest.mark.parametrize("k", [1, 3, 1000])
    @pytest.mark.parametrize("wrap", [np.asarray, jnp.array], ids=["numpy", "jax"])
    def test_agrees_with_bincount(self, k, wrap):
        samples = rolls(500, k)
        result = counts(wrap(samples), k)
        assert result.dtype == jnp.int32
        np.testing.assert_array_equal(result, np.bincount(samples, minlength=k))

    @pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint32", "int64", "uint64"])
    @pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"])
    def test_every_integer_dtype_and_more_classes_than_it_holds(self, dtype, x64):
        samples = rolls(200, 100, dtype)
        with jax.enable_x64(x64):
            np.testing.assert_array_equal(
                counts(samples, 300), np.bincount(samples.astype(int), minlength=300)
            )

    def test_any_shape_and_no_samples(self):
        np.testing.assert_array_equal(counts(jnp.array([[0, 1], [1, 1]]), 2), [1, 3])
        np.testing.assert_array_equal(counts(jnp.int32(1), 2), [0, 1])
        np.testing.assert_array_equal(counts(jnp.zeros(0, jnp.int32), 2), [0, 0])
        np.testing.assert_array_equal(counts(np.zeros(0, np.int64), 2), [0, 0])

    def test_exact_past_the_integers_of_float32(self):
        n = 2**24 + 3
        np.testing.assert_array_equal(counts(jnp.ones(n, jnp.int8), 2), [0, n])

    def test_where_hides_samples_even_out_of_range_ones(self):
        samples = jnp.array([0, 1, -5, 99, 1])
        where = jnp.array([True, True, False, False, False])
        np.testing.assert_array_equal(counts(samples, 2, where=where), [1, 1])
        rows = counts(jnp.array([[0, 7], [1, 7]]), 2, where=jnp.array([[True, False]]))
        np.testing.assert_array_equal(rows, [1, 1])

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
    def test_weights(self, dtype):
        with jax.enable_x64(dtype == "float64"):
            weights = jnp.array([0.5, 2.0, 0.25, 1.0], dtype)
            result = counts(jnp.array([0, 1, 0, 2]), 3, weights=weights)
            assert result.dtype == ("float64" if dtype == "float64" else "float32")
            np.testing.assert_array_equal(result, [0.75, 2.0, 1.0])
            hidden = jnp.array([True, True, False, True])
            hidden = counts(jnp.array([0, 1, 9, 2]), 3, weights=weights, where=hidden)
            np.testing.assert_array_equal(hidden, [0.5, 2.0, 1.0])

    def test_under_jit_and_vmap_a_sample_outside_is_not_counted(self):
        samples = jnp.array([[0, -1, 2, 3], [-3, 1, 1, 2**30]])
        expected = [[1, 0, 1], [0, 2, 0]]
        count = jax.jit(counts, static_argnums=1)
        np.testing.assert_array_equal([count(row, 3) for row in samples], expected)
        np.testing.assert_array_equal(jax.vmap(lambda row: counts(row, 3))(samples), expected)
        np.testing.assert_array_equal(count(jnp.array([255, 1], jnp.uint8), 3), [0, 1, 0])
        weighted = jax.jit(lambda x, w: counts(x, 3, weights=w))(samples[0], jnp.ones(4))
        np.testing.assert_array_equal(weighted, [1, 0, 1])

    @pytest.mark.parametrize("n", [MANY, MANY + 1, MANY + 3 * BLOCK])
    def test_many_samples_are_counted_block_by_block(self, n):
        samples = rolls(2 * n, 9).reshape(2, n) - 1
        expected = [np.bincount(row[(row >= 0) & (row < 7)], minlength=7) for row in samples]
        count = jax.jit(lambda row: counts(row, 7))
        np.testing.assert_array_equal([count(row) for row in jnp.array(samples)], expected)
        np.testing.assert_array_equal(jax.vmap(count)(samples), expected)
        hidden = counts(jnp.array(samples), 7, where=jnp.array((samples >= 0) & (samples < 7)))
        np.testing.assert_array_equal(hidden, np.sum(expected, axis=0))

    @pytest.mark.parametrize("k", [6, _FEW_CLASSES])
    @pytest.mark.parametrize(
        "count",
        [lambda index, k: add_in_blocks(jnp.zeros(k, jnp.int32), index, 1), _count_by_comparison],
        ids=["blocks", "comparison"],
    )
    def test_every_way_to_count_drops_what_is_outside(self, count, k):
        index = rolls(BLOCK + 5, k + 2) - 1
        expected = np.bincount(index[(index >= 0) & (index < k)], minlength=k)
        result = jax.jit(count, static_argnums=1)(index, k)
        assert result.dtype == jnp.int32
        np.testing.assert_array_equal(result, expected)

    def test_long_arrays_of_the_host(self):
        samples = rolls(_HOST_BLOCK + 3, 5)
        np.testing.assert_array_equal(counts(samples, 6), np.bincount(samples, minlength=6))
        samples[-1] = 7
        with pytest.raises(ValueError, match=r"samples: expected integers 0\.\.4, got 7"):
            counts(samples, 5)

    @pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap], ids=["", "jit", "vmap"])
    @pytest.mark.parametrize("n", [2**24 + 2**15, 1000])
    def test_no_weight_is_lost_in_a_large_sum(self, transform, n):
        """float32 sums added one by one stop at 2^24 ones, and at a tenth drift by 9 %."""
        samples = jnp.arange(n, dtype=jnp.int32) % 3 % 2
        count = transform(lambda w: counts(samples, 2, weights=w))
        weights = jnp.ones(n) if transform is not jax.vmap else jnp.ones((1, n))
        for weight in (1.0, 0.1):
            exact = np.bincount(samples) * float(np.float32(weight))
            np.testing.assert_allclose(count(weight * weights).ravel(), exact, rtol=1e-7)

    def test_sums_of_many_weights_have_every_derivative(self):
        n = MANY + BLOCK + 7
        samples = jnp.arange(n, dtype=jnp.int32) % 3 - 1
        weights = jnp.full(n, 0.1)
        count = jax.jit(lambda w: counts(samples, 2, weights=w))
        exact = [(n + 1 - k) // 3 for k in range(1, 3)]
        np.testing.assert_array_equal(jax.jvp(count, [weights], [jnp.ones(n)])[1], exact)
        gradient = jax.grad(lambda w: count(w)[1])(weights)
        np.testing.assert_array_equal(gradient, samples == 1)
        twice = jax.jvp(jax.grad(lambda w: (count(w) ** 2).sum()), [weights], [jnp.ones(n)])[1]
        np.testing.assert_array_equal(twice, np.array([0, *exact])[samples + 1] * 2)

    def test_a_masked_sample_is_not_counted_in_silence(self):
        masked = np.ma.array([1, 2], mask=[False, True])
        for call in (counts, lambda samples, k: stream_counts([samples], k)):
            with pytest.raises(TypeError, match="expected an array without a mask"):
                call(masked, 3)

    def test_weights_are_differentiable(self):
        samples = jnp.array([0, 1, 0])
        gradient = jax.grad(lambda w: counts(samples, 2, weights=w)[0])(jnp.ones(3))
        np.testing.assert_array_equal(gradient, [1, 0, 1])

    @pytest.mark.parametrize(
        "samples",
        [
            jnp.array([0, 3]),
            jnp.array([-1, 0]),
            np.array([0, 2**32], np.int64),  # 0 once it wraps around into 32 bits
            np.array([0, 2**64 - 1], np.uint64),
            jnp.array([[0], [200]], jnp.uint8),
        ],
        ids=["above", "negative", "int64", "uint64", "uint8"],
    )
    @pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
    def test_a_concrete_sample_outside_is_an_error(self, samples, weighted):
        weights = jnp.zeros(samples.shape) if weighted else None
        outside = int(samples.ravel()[0] if samples.ravel()[0] < 0 else samples.ravel()[1])
        with pytest.raises(ValueError, match=rf"samples: expected integers 0\.\.2, got {outside}"):
            counts(samples, 3, weights=weights)

    @pytest.mark.parametrize(
        ("num_classes", "error"),
        [(0, ValueError), (-1, ValueError), (True, TypeError), (2**31, ValueError)],
    )
    def test_number_of_classes(self, num_classes, error):
        with pytest.raises(error, match=r"num_classes: expected an integer( 1\.\.|, got True)"):
            counts(jnp.array([0]), num_classes)
        with pytest.raises(error, match=r"num_classes: expected an integer( 1\.\.|, got True)"):
            stream_counts([], num_classes)

    @pytest.mark.parametrize(
        "bad", [jnp.ones(2), jnp.array([True]), [0, 1.5], [[0], [1, 2]], 2.0, None, "01"], ids=repr
    )
    def test_samples_must_be_integers(self, bad):
        with pytest.raises(TypeError):
            counts(bad, 2)

    @pytest.mark.parametrize(
        ("keywords", "error", "message"),
        [
            ({"weights": jnp.array([1, 2])}, TypeError, "weights: expected a floating dtype"),
            ({"weights": jnp.ones(3)}, ValueError, r"weights: expected .* got \(3,\)"),
            ({"weights": jnp.array([1.0, -1.0])}, ValueError, r"weights: .*>= 0, got -1\.0"),
            ({"weights": jnp.array([1.0, np.inf])}, ValueError, "weights: expected .*, got inf"),
            ({"where": jnp.ones(2)}, TypeError, "where: expected a bool array"),
            ({"where": jnp.ones(3, bool)}, ValueError, r"where: expected .* got \(3,\)"),
        ],
    )
    def test_bad_keywords(self, keywords, error, message):
        with pytest.raises(error, match=message):
            counts(jnp.array([0, 1]), 2, **keywords)

    def test_a_list_inside_shard_map(self, unchecked_annotations):
        mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
        count = jax.shard_map(
            lambda x: counts(cast(Any, [x[0], x[1]]), 3, axis_name="data"),
            mesh=mesh,
            in_specs=P("data"),
            out_specs=P(),
        )
        np.testing.assert_array_equal(count(jnp.array([2, 1])), [0, 1, 1])

    def test_a_second_call_does_not_trace_again(self):
        counts(jnp.array([0, 1]), 4)
        with jax.no_tracing():
            counts(jnp.array([1, 1]), 4)


class TestStreamCounts:
    def test_adds_batches_of_any_shape_dtype_and_kind(self):
        batches = [np.array([[0, 1]]), jnp.array([2, 2]), np.array([], np.int8), np.uint64(1)]
        result = stream_counts(iter(batches), 4)
        assert result.dtype == np.int64
        np.testing.assert_array_equal(result, [1, 2, 2, 0])

    def test_no_batches(self):
        np.testing.assert_array_equal(stream_counts([], 2), [0, 0])

    @pytest.mark.parametrize("bad", [-1, 3, 2**40])
    def test_a_sample_outside_is_an_error(self, bad):
        with pytest.raises(ValueError, match=rf"batches: expected integers 0\.\.2, got {bad}"):
            stream_counts([np.array([0]), np.array([1, bad])], 3)

    @pytest.mark.parametrize("bad", [np.ones(2), np.array([True])], ids=["float", "bool"])
    def test_batches_are_arrays_of_integers(self, bad):
        with pytest.raises(TypeError, match="batches: expected an integer dtype, got"):
            stream_counts([bad], 3)


class TestEmpiricalPmf:
    @pytest.mark.parametrize(
        "c", [[1, 2, 5], np.array([2**40, 2**41, 5 * 2**40]), jnp.array([0.5, 1.0, 2.5])], ids=str
    )
    def test_counts_over_their_total(self, c):
        c = jnp.array(c) if isinstance(c, list) else c
        result = empirical_pmf(c)
        assert result.dtype == jnp.float32
        np.testing.assert_allclose(result, np.array([1, 2, 5]) / 8, rtol=1e-7)

    @pytest.mark.parametrize("n", [41, 47, 10**12, 2**53 - 1])
    def test_all_samples_in_one_class(self, n):
        for pmf in (empirical_pmf, jax.jit(empirical_pmf)):
            np.testing.assert_array_equal(pmf(np.array([n, 0], float)), [1, 0])
            with jax.enable_x64(True):
                np.testing.assert_array_equal(pmf(np.array([n, 0])), [1, 0])

    def test_gradient_where_one_class_has_all(self):
        gradient = jax.grad(lambda c: empirical_pmf(c)[0])(jnp.array([40.0, 0.0]))
        np.testing.assert_allclose(gradient, [0, -1 / 40], rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"])
    def test_each_share_is_rounded_once(self, x64):
        c = np.random.default_rng(0).integers(0, 10**12, 1000)
        with jax.enable_x64(x64):
            result = np.asarray(empirical_pmf(c))
        np.testing.assert_allclose(
            result, c / c.sum(), np.finfo(result.dtype).eps / (1 + (not x64))
        )

    def test_batches_and_gradient(self):
        c = jnp.array([[1.0, 3.0], [0.0, 2.0]])
        np.testing.assert_array_equal(empirical_pmf(c), [[0.25, 0.75], [0, 1]])
        np.testing.assert_array_equal(jax.vmap(empirical_pmf)(c), empirical_pmf(c))
        gradient = jax.jit(jax.grad(lambda c: empirical_pmf(c)[0]))(c[0])
        np.testing.assert_allclose(gradient, [3 / 16, -1 / 16], rtol=1e-6)

    def test_float64(self):
        with jax.enable_x64(True):
            for c in (jnp.array([1, 2]), jnp.array([1.0, 2.0])):
                assert empirical_pmf(c).dtype == jnp.float64

    @pytest.mark.parametrize(
        ("c", "message"),
        [
            (jnp.zeros(3), "counts: expected at least one count > 0, got all 0"),
            (
                jnp.array([[1, 1], [0, 0]]),
                "counts: expected at least one count > 0, got all 0 in row 1",
            ),
            (np.eye(3)[None, :, :2], "counts: .* got all 0 in row 0, 2"),
            (jnp.array([1, -2]), r"counts: expected finite numbers >= 0, got -2"),
            (jnp.array([1, np.nan]), "counts: expected finite numbers >= 0, got nan"),
            (jnp.zeros(0), r"counts: expected at least one class, got shape \(0,\)"),
            (jnp.array(3), r"counts: expected at least one class, got shape \(\)"),
        ],
        ids=["zeros", "zero-row", "zero-rows", "negative", "nan", "no-class", "scalar"],
    )
    def test_bad_counts(self, c, message):
        with pytest.raises(ValueError, match=message):
            empirical_pmf(c)

    def test_counts_must_be_numbers(self):
        with pytest.raises(TypeError, match="counts: expected integer or floating"):
            empirical_pmf(jnp.array([True, False]))
