"""A column of a table, such as pandas has."""

from typing import Any

import numpy as np


class Column:
    """A column that can only be converted to an array."""

    def __init__(self, values: Any):
        self.values = np.asarray(values)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        del copy
        return self.values if dtype is None else self.values.astype(dtype)
