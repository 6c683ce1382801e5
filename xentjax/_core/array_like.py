"""The type of arguments that are arrays, or become arrays, under a name that signatures show."""

import sys

import jax.typing

if sys.version_info >= (3, 12):
    from typing import TypeAliasType
else:
    from typing_extensions import TypeAliasType

# A union would be printed member by member, for each argument of each signature in help().
ArrayLike = TypeAliasType("ArrayLike", jax.typing.ArrayLike)
