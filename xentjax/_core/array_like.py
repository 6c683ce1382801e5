"""The type of arguments that are arrays, or become arrays, under a name that signatures show."""

import sys
from typing import TYPE_CHECKING, get_args

import jax.typing

# help() would print a union member by member, for each argument of each signature.
if TYPE_CHECKING:
    from jax.typing import ArrayLike as ArrayLike
elif sys.version_info >= (3, 12):
    from typing import TypeAliasType

    ArrayLike = TypeAliasType("ArrayLike", jax.typing.ArrayLike)
else:

    class _Union(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, get_args(jax.typing.ArrayLike))

    class ArrayLike(metaclass=_Union):
        """An array of jax or NumPy, or a number."""
