"""Tables of two columns against NumPy's, and codes of labels of every kind."""

import datetime
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from xentjax import crosstab, encode, independence_test


def table_of(a, b, r, c):
    table = np.zeros((r, c), np.int64)
    np.add.at(table, (a.ravel(), b.ravel()), 1)
    return table


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64"])
def test_the_host_and_the_device_count_alike(dtype):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, 500), rng.integers(0, 5, 500)
    expected = table_of(a, b, 3, 5)
    host = crosstab(a.astype(dtype), b.astype(dtype))
    assert host.dtype == jnp.int32
    np.testing.assert_array_equal(host, expected)
    if dtype not in ("int64", "uint64"):
        columns = jnp.array(a, dtype), jnp.array(b, dtype)
        np.testing.assert_array_equal(crosstab(*columns), expected)
        np.testing.assert_array_equal(crosstab(columns[0], b), expected)


def test_many_labels_in_any_shape():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 40, (2, 70_000)), rng.integers(0, 30, (2, 70_000))
    expected = table_of(a, b, 41, 30)
    np.testing.assert_array_equal(crosstab(a, b, num_classes=(41, 30)), expected)


def test_labels_outside_are_not_counted_under_jit():
    a, b = jnp.array([0, 1, -1, 1, 2, 0]), jnp.array([0, 2, 1, 3, 0, -1])
    table = jax.jit(lambda a, b: crosstab(a, b, num_classes=(2, 3)))(a, b)
    np.testing.assert_array_equal(table, [[1, 0, 0], [0, 0, 1]])
    batched = jax.vmap(lambda a, b: crosstab(a, b, num_classes=(2, 3)))(
        *jnp.array([[a, a], [b, b]])
    )
    np.testing.assert_array_equal(batched, [table, table])


def test_no_labels():
    none = np.zeros(0, int)
    np.testing.assert_array_equal(crosstab(none, none, num_classes=(2, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="num_classes: expected two integers where there are no"):
        crosstab(none, none)


@pytest.mark.parametrize(
    ("a", "b", "num_classes", "message"),
    [
        ([0, 2], [0, 1], (2, 2), r"a: expected integers 0\.\.1, got 2"),
        ([0, 1], [0, -1], (2, 2), r"b: expected integers 0\.\.1, got -1"),
        ([0, 1], [0, -3], None, r"b: expected integers 0\.\.0, got -3"),
        ([0, 1], [0, 1, 1], None, r"b: expected the shape of a, \(2,\), got \(3,\)"),
        ([0, 1], [0, 1], (0, 2), r"num_classes\[0\]: expected an integer 1\.\.2147483647, got 0"),
        ([0, 1], [0, 1], (2**16, 2**16), r"num_classes: expected at most 2147483647 pairs"),
    ],
)
def test_bad_columns(a, b, num_classes, message):
    for array in (np.array, jnp.array):
        with pytest.raises(ValueError, match=message):
            crosstab(array(a), array(b), num_classes=num_classes)


@pytest.mark.usefixtures("unchecked_annotations")
def test_columns_that_are_not_integers():
    with pytest.raises(TypeError, match=r"a: expected an integer dtype, got <U1 \(encode makes"):
        crosstab(np.array(["x", "y"]), np.array([0, 1]))
    with pytest.raises(TypeError, match="b: expected an integer dtype, got float64"):
        crosstab(np.array([0, 1]), np.array([0.0, 1.0]))
    number: Any = 3
    with pytest.raises(TypeError, match=r"num_classes: expected two integers \(R, C\), got 3"):
        crosstab(np.array([0, 1]), np.array([0, 1]), num_classes=number)
    with pytest.raises(ValueError, match="num_classes: expected two integers where labels are unk"):
        jax.jit(crosstab)(jnp.array([0, 1]), jnp.array([0, 1]))


@pytest.mark.parametrize(
    "labels",
    [
        ["b", "a", "c", "a"],
        [["b", "a"], ["a", "c"]],
        np.array(["b", "a", "a"]),
        np.array([3, -1, 3]),
        np.array([0.5, -0.5, 0.5]),
        [True, False, True],
        pd.Series(["b", "a", "b"]),
        pd.Series(["b", "a", "b"], dtype=object),
        np.array(["2026-01-02", "2025-01-02"], "datetime64[D]"),
        [datetime.date(2026, 1, 2), datetime.date(2025, 1, 2)],
        jnp.array([4, 2, 2]),
        [],
    ],
    ids=str,
)
def test_names_of_codes_are_the_labels(labels):
    codes, names = encode(labels)
    assert codes.dtype == np.int32
    assert codes.shape == np.shape(labels)
    np.testing.assert_array_equal(names[codes], np.asarray(labels))
    assert names.tolist() == sorted(set(np.ravel(np.asarray(labels)).tolist()))


@pytest.mark.parametrize("holder", [pd.Categorical, pd.Series, pd.CategoricalIndex])
def test_categoricals_keep_their_order(holder):
    likert = ["never", "often", "always", "ever"]
    values = pd.Categorical(["often", "never", "always", "often"], likert, ordered=True)
    codes, names = encode(holder(values))
    np.testing.assert_array_equal(codes, [1, 0, 2, 1])
    np.testing.assert_array_equal(names, likert)


@pytest.mark.parametrize(
    "labels",
    [
        ["a", None, "b"],
        ["a", float("nan"), "b"],
        np.array([0.5, np.nan]),
        np.array(["2026-01-02", "NaT"], "datetime64[D]"),
        pd.Series(["a", None]),
        pd.Series(["a", pd.NA], dtype="string"),
        pd.Series([1, None], dtype="Int64"),
        pd.Categorical(["a", None]),
        pd.Series(["a", None], dtype="category"),
    ],
    ids=str,
)
def test_missing_labels_are_refused(labels):
    with pytest.raises(
        ValueError, match="labels: expected no missing label, got 1, the first at 1"
    ):
        encode(labels)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("yes", "labels: expected an array of labels, got str"),
        (None, "labels: expected an array of labels, got NoneType"),
        (["a", 1], "labels: expected labels that can be sorted, got '<' not supported between"),
        (np.ma.array([1, 2], mask=[False, True]), "labels: expected an array without a mask"),
    ],
)
def test_what_is_no_column_of_labels(labels, message):
    with pytest.raises(TypeError, match=message):
        encode(labels)


def test_from_answers_to_a_test():
    answers = pd.DataFrame({"sex": list("fmfmffmm"), "vote": list("aabbabba")})
    (a, _), (b, _) = encode(answers["sex"]), encode(answers["vote"])
    table = crosstab(a, b)
    np.testing.assert_array_equal(table, pd.crosstab(answers["sex"], answers["vote"]))
    assert independence_test(table).dof == 1
