"""Which rows, categories and orders a survey is read with, and one clear line for what is wrong."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from experiments.common.command import UserError
from experiments.survey.config import Config
from experiments.survey.data import Number, Variable, read

LIKERT = ["never", "sometimes", "always"]


def found(config: Config) -> Any:
    """Read without the types of columns that a survey may lack."""
    return read(config)


def csv(folder, text):
    path = folder / "data.csv"
    path.write_text(text, encoding="utf-8")
    return path


def parquet(folder, columns):
    path = folder / "data.parquet"
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


def test_rows_of_all_columns_belong_together(tmp_path):
    path = csv(tmp_path, "z;x;y\n1,5;b;u\n2;;v\n;a;\nNA;a;u\n")
    survey = found(Config(data=path, column="x", by="y", features=("z", "y")))
    assert survey.answers == Variable("x", ("a", "b"), survey.answers.codes)
    np.testing.assert_array_equal(survey.answers.codes, [1, -1, 0, 0])
    np.testing.assert_array_equal(survey.groups.codes, [0, 1, -1, 0])
    z, y = survey.features
    # 1,5 is no number in Python's way of writing
    assert isinstance(z, Variable)
    assert z.categories == ("1,5", "2")
    np.testing.assert_array_equal(y.codes, survey.groups.codes)


@pytest.mark.parametrize("name", ["data.csv", "data.parquet"])
def test_numbers_are_features_as_they_are(tmp_path, name):
    if name.endswith("csv"):
        path = csv(tmp_path, "x,y,z\na,1.5,1\nb,,2\na,-2e3,1\n")
    else:
        columns = {"x": ["a", "b", "a"], "y": pa.array([1.5, None, -2000.0]), "z": [1, 2, 1]}
        path = parquet(tmp_path, columns)
    features = found(
        Config(data=path, column="x", features=("y", "z"), categorical=("z",))
    ).features
    assert isinstance(features[0], Number)
    np.testing.assert_array_equal(features[0].values, [1.5, np.nan, -2000])
    assert features[1] == Variable("z", ("1", "2"), features[1].codes)


def test_booleans_and_declared_categories_are_no_numbers(tmp_path):
    codes = pa.DictionaryArray.from_arrays(pa.array([1, None, 0], pa.int8()), ["10", "2"])
    path = parquet(tmp_path, {"x": ["a", "b", "a"], "y": [True, False, None], "z": codes})
    y, z = found(Config(data=path, column="x", features=("y", "z"))).features
    assert y == Variable("y", ("false", "true"), y.codes)
    assert z == Variable("z", ("10", "2"), z.codes)  # in the dictionary's order
    np.testing.assert_array_equal(z.codes, [1, -1, 0])


def test_order_is_that_of_a_categorical_column_and_of_the_option(tmp_path):
    labels = pa.DictionaryArray.from_arrays(pa.array([2, 0, 2, None], pa.int8()), LIKERT)
    path = parquet(tmp_path, {"x": labels, "y": ["b", "a", "b", "b"]})
    answers = found(Config(data=path, column="x")).answers
    assert answers.categories == tuple(LIKERT)
    np.testing.assert_array_equal(answers.codes, [2, 0, 2, -1])
    order = ("always", "often", "never")
    survey = found(Config(data=path, column="x", by="y", order=order, by_order=("b", "a", "c")))
    assert survey.answers.categories == order
    np.testing.assert_array_equal(survey.answers.codes, [0, 2, 0, -1])
    np.testing.assert_array_equal(survey.groups.codes, [0, 1, 0, 0])


def test_texts_are_sorted_as_numbers_where_they_are(tmp_path):
    answers = found(Config(data=csv(tmp_path, "x,y\n10,1\n9,1\n-1,1\n"), column="x")).answers
    assert answers.categories == ("-1", "9", "10")


def test_without_a_file_the_survey_of_1996_is_found():
    survey = found(Config())
    assert (survey.answers.name, survey.groups.name) == ("PID", "educ")
    assert [feature.name for feature in survey.features] == ["selfLR", "age", "income"]
    # counts and means that statsmodels' documentation and R's faraway::nes96 have
    np.testing.assert_array_equal(
        np.bincount(survey.answers.codes), [200, 180, 108, 37, 94, 150, 175]
    )
    np.testing.assert_array_equal(
        np.bincount(survey.groups.codes), [13, 52, 248, 187, 90, 227, 127]
    )
    vote = found(Config(column="vote", features=("age",)))
    assert vote.answers.categories == ("Clinton", "Dole")
    np.testing.assert_array_equal(np.bincount(vote.answers.codes), [551, 393])
    assert vote.groups is None
    with pytest.raises(UserError, match=r"--by to be one of popul, .*, vote, got 'party'"):
        found(Config(by="party"))


BAD = {
    "no such group": ({"by": "w"}, "expected --by to be one of x, y, z, got 'w'"),
    "no such feature": ({"features": ("z", "w")}, "--features to be one of x, y, z, got 'w'"),
    "an answer without a place": (
        {"order": ("a", "c")},
        "--order: expected all categories of x, got none that is 'b'",
    ),
    "a group without a place": (
        {"by": "y", "by_order": ("1",)},
        "--by-order: expected all categories of y, got none that is '2'",
    ),
    "infinite": ({"features": ("z",)}, "data.csv, z: expected finite numbers, got inf"),
    "too many groups": (
        {"by": "y", "max_categories": 2},
        r"y: expected at most 2 categories \(--max-categories\), got 3",
    ),
}


@pytest.mark.parametrize(("options", "line"), BAD.values(), ids=BAD)
def test_what_does_not_fit_the_file_is_one_line(tmp_path, options, line):
    path = csv(tmp_path, "x,y,z\na,1,1\nb,2,inf\na,3,2\n")
    with pytest.raises(UserError, match=line) as caught:
        found(Config(data=path, column="x", **options))
    assert "\n" not in str(caught.value)


def test_answers_that_are_all_missing_are_one_line(tmp_path):
    with pytest.raises(UserError, match="x: expected answers, got 2 missing values"):
        found(Config(data=csv(tmp_path, "x,y\n,1\nNA,2\n"), column="x"))
