"""The type of arguments that are arrays, or become arrays, under a name that signatures show."""

import sys

import jax.typing

if sys.version_info >= (3, 12):
    from typing import TypeAliasType

    # help() would print a union member by member, for each argument of each signature.
    ArrayLike = TypeAliasType("ArrayLike", jax.typing.ArrayLike)
else:
    ArrayLike = jax.typing.ArrayLike
